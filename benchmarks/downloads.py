"""How fast files arrive from a server that is no limit, hashed and checked, beside curl.

    python benchmarks/downloads.py [--output FILE] [--folder FOLDER]

Eight files of 100 MB come from a small server on loopback, which sends them with sendfile from a
process of its own; four at a time, in turns, to the same folder (a temporary one, or FOLDER;
/dev/shm takes the disk out of it): by `download_all`, which hashes what arrives, compares that with
a stated SHA-256 and fsyncs the file; by `xargs -P 4 curl`, which does none of that; and by curl,
sha256sum and sync one after the other, which is the same work. Needs curl.

On an unlimited loopback, server, clients and hashing share the cores: on two of them hashing alone
costs about a third of the rate (results/downloads.json). On a line of 8 Gbit/s nothing is lost
(results/downloads-8gbit.json), made as root with

    unshare --net bash -c 'ip link set lo up;
        tc qdisc add dev lo root tbf rate 8gbit burst 4mb latency 50ms;
        python benchmarks/downloads.py --folder /dev/shm'
"""

import argparse
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import publish

from nanochat.fetch.download import download_all
from nanochat.fetch.externals import External
from nanochat.registry import PlainFile

FILES = 8
MEGABYTES = 100
CONNECTIONS = 4
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--folder", type=Path)
    with tempfile.TemporaryDirectory(dir=parser.parse_known_args()[0].folder) as scratch:
        publish("downloads", bench(Path(scratch)))


def bench(scratch: Path) -> dict[str, Any]:
    served, arrived = scratch / "host", scratch / "arrived"
    served.mkdir()
    wanted = [make(served / f"file{number}", arrived) for number in range(FILES)]
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(scratch)],
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert server.stdout
    url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    os.environ |= {"NANOCHAT_MIRROR": url, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    names = "\n".join(external.path.name for external in wanted)
    curl = f"curl -s -o {arrived}/{{}} {url}/host/{{}}"
    check = f"sha256sum {arrived}/{{}} > {arrived}/{{}}.sha256 && sync {arrived}/{{}}"

    def by_shell(command: str) -> None:
        parallel = ["xargs", "-P", str(CONNECTIONS), "-I", "{}", "sh", "-c", command]
        subprocess.run(parallel, input=names, text=True, check=True)

    ways: dict[str, Callable[[], None]] = {
        "ours": lambda: download_all(wanted, CONNECTIONS),
        "curl": lambda: by_shell(curl),
        "curl_and_check": lambda: by_shell(f"{curl} && {check}"),
    }
    try:
        seconds = in_turns(ways, arrived)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    rates = {name: rate(each) for name, each in seconds.items()}
    return {
        "files": FILES,
        "megabytes_each": MEGABYTES,
        "connections": CONNECTIONS,
        "rounds": ROUNDS,
        "target": file_system(scratch),
        "megabytes_per_second": rates,
        "ratio": rates["ours"]["median"] / rates["curl"]["median"],
        "ratio_to_the_same_work": rates["ours"]["median"] / rates["curl_and_check"]["median"],
    }


def make(path: Path, arrived: Path) -> External:
    """A file of random bytes for the server, and what asks for it."""
    content = os.urandom(MEGABYTES * 1_000_000)
    path.write_bytes(content)
    source = PlainFile(
        path.name,
        f"https://host/{path.name}",
        path.name,
        MEGABYTES,
        licence="",
        used_by="",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return External(source, "", arrived / path.name, arrived / f"{path.name}.record.json")


def in_turns(ways: dict[str, Callable[[], None]], arrived: Path) -> dict[str, list[float]]:
    """Seconds of each, one after the other in every round; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, run in ways.items():
            shutil.rmtree(arrived, ignore_errors=True)
            arrived.mkdir()
            os.sync()  # what the one before wrote is not to be paid for by the next
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def rate(seconds: list[float]) -> dict[str, float]:
    megabytes = FILES * MEGABYTES
    return {
        "median": megabytes / statistics.median(seconds),
        "slowest": megabytes / max(seconds),
        "fastest": megabytes / min(seconds),
    }


def file_system(folder: Path) -> str:
    """Its kind, as df names it."""
    command = ["df", "--output=fstype", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def serve(folder: Path) -> None:
    """Answers every GET with a file, by sendfile; prints the port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listening.getsockname()[1], flush=True)
    while True:
        connection = listening.accept()[0]
        threading.Thread(target=answer, args=(connection, folder), daemon=True).start()


def answer(connection: socket.socket, folder: Path) -> None:
    asked = b""
    with connection:
        while chunk := connection.recv(1 << 16):
            asked += chunk
            if not asked.endswith(b"\r\n\r\n"):
                continue
            name, asked = asked.split(b" ", 2)[1].decode().lstrip("/"), b""
            with open(folder / name, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                connection.sendfile(file)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        main()
