"""A process that stands still is shown and ended; one that is merely slow, or stopped, is not.

Every case is a process of its own, with limits of a second where a training has ten minutes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from nanochat.train import watchdog as watchdog_module
from nanochat.train.watchdog import HANG_EXIT_CODE, Section, Watchdog

START = """
import json, os, sys, time
from dataclasses import asdict
from pathlib import Path
from nanochat.train import watchdog
from nanochat.train.watchdog import Section, Watchdog

folder = Path(sys.argv[1])
watchdog.PATIENCE = 0.5

def watch(rank=0, world_size=1, minimum=0.4, on_hang=None):
    return Watchdog(folder, "base", rank, world_size, minimum, on_hang)

def standing_still():
    time.sleep(600)

def again(dog, section, step):
    "As a section that does not run for the first time."
    dog.enter(section, step)
    dog.enter(section, step)
"""


class Ended(NamedTuple):
    code: int
    error: str

    @property
    def sentence(self) -> str:
        return self.error.splitlines()[-1]


def begin(folder: Path, body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + body, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    _, error = process.communicate(timeout=60)
    return Ended(process.returncode, error)


def run(folder: Path, body: str) -> Ended:
    return end(begin(folder, body))


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n", end(process).error


HANG_IN_DATA = """
def tell(hang):
    (folder / "told").write_text(json.dumps(asdict(hang)))

with watch(rank=3, on_hang=tell) as dog:
    again(dog, Section.DATA, 120)
    standing_still()
"""


def test_a_process_that_stands_still_is_ended_and_says_where(tmp_path: Path) -> None:
    ended = run(tmp_path, HANG_IN_DATA)
    assert ended.code == HANG_EXIT_CODE
    assert ended.sentence.startswith("error: base rank 3 on ")
    assert "has been in section data of step 120 for" in ended.sentence
    assert f"see where it stands in {tmp_path}/hang-base-rank-3.txt" in ended.sentence
    assert "in standing_still" in ended.error


def test_a_hang_leaves_the_stacks_in_a_file_and_is_told_to_whoever_asked(tmp_path: Path) -> None:
    ended = run(tmp_path, HANG_IN_DATA)
    stacks = (tmp_path / "hang-base-rank-3.txt").read_text()
    assert f"error: {stacks.splitlines()[0]}" == ended.sentence
    assert "in standing_still" in stacks
    told = json.loads((tmp_path / "told").read_text())
    assert (told["stage"], told["section"], told["step"]) == ("base", "data", 120)
    assert (told["rank"], told["found_by"]) == (3, 3)
    assert told["host"] == os.uname().nodename
    assert told["seconds"] > 0.4
    assert told["sentence"] == stacks.splitlines()[0]


@pytest.mark.parametrize(
    "on_hang", ["lambda hang: time.sleep(600)", "lambda hang: 1 / 0", "lambda hang: sys.exit(0)"]
)
def test_it_leaves_whatever_becomes_of_the_telling(tmp_path: Path, on_hang: str) -> None:
    body = (
        f"with watch(on_hang={on_hang}) as dog:\n    again(dog, Section.DATA, 1)\n    time.sleep(9)"
    )
    ended = run(tmp_path, body)
    assert ended.code == HANG_EXIT_CODE
    assert "error: base rank 0" in ended.error


def test_it_leaves_where_nobody_reads_its_standard_error(tmp_path: Path) -> None:
    body = """
os.set_blocking(2, False)
try:
    while True: os.write(2, b"x" * 1000)
except BlockingIOError:
    os.set_blocking(2, True)
with watch() as dog:
    again(dog, Section.DATA, 1)
    standing_still()
"""
    process = begin(tmp_path, body)
    assert process.wait(timeout=60) == HANG_EXIT_CODE
    end(process)
    assert "in standing_still" in (tmp_path / "hang-base-rank-0.txt").read_text()


def test_a_section_may_take_long_the_first_time(tmp_path: Path) -> None:
    body = "with watch(minimum=0.8) as dog:\n    dog.enter(Section.FORWARD, 1)\n    time.sleep(1.6)"
    assert run(tmp_path, body) == (0, "")


def test_a_section_may_take_longer_than_it_ever_did_and_another_may_not(tmp_path: Path) -> None:
    body = """
with watch(minimum=0.6) as dog:
    dog.enter(Section.DATA, 1)
    time.sleep(1.1)
    dog.enter(Section.BACKWARD, 1)
    dog.enter(Section.DATA, 2)
    time.sleep(1.8)
    dog.enter(Section.BACKWARD, 2)
    time.sleep(1.8)
"""
    ended = run(tmp_path, body)
    assert ended.code == HANG_EXIT_CODE
    assert "in section backward of step 2" in ended.sentence


def test_a_longer_limit_holds_for_one_section_only(tmp_path: Path) -> None:
    body = """
with watch() as dog:
    again(dog, Section.SAVE, 5)
    dog.allow(30)
    time.sleep(1.6)
    dog.enter(Section.SAVE, 6)
    time.sleep(4)
"""
    ended = run(tmp_path, body)
    assert ended.code == HANG_EXIT_CODE
    assert "in section save of step 6" in ended.sentence


def test_a_rank_that_waits_gets_more_time_than_one_that_hangs(tmp_path: Path) -> None:
    """The limit is 0.8 s; for a rank that waits, half as much again and 0.8 s."""
    body = "with watch(minimum=0.8) as dog:\n    again(dog, Section.{}, 1)\n    time.sleep(1.4)"
    assert run(tmp_path, body.format("AGREE")).code == 0
    assert run(tmp_path, body.format("DATA")).code == HANG_EXIT_CODE


def test_a_process_that_was_stopped_and_continued_has_not_hung(tmp_path: Path) -> None:
    body = """
with watch(minimum=1) as dog:
    again(dog, Section.DATA, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(0.4)  # two looks
"""
    process = begin(tmp_path, body)
    wait_for(process, "ready")
    assert process.stdin is not None
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    process.stdin.write("\n")
    process.stdin.flush()
    process.send_signal(signal.SIGCONT)
    assert end(process) == (0, "")


def test_a_hang_that_ends_while_it_is_looked_into_is_none(tmp_path: Path) -> None:
    """Reading the other rank's heartbeat takes as long as one pleases: it is a pipe."""
    os.mkfifo(tmp_path / "base-rank-1.json")
    body = """
watchdog.PATIENCE = 0.8
with watch(world_size=2) as dog:
    again(dog, Section.DATA, 1)
    time.sleep(0.9)
    dog.enter(Section.DATA, 2)
    time.sleep(0.8)
"""
    assert run(tmp_path, body) == (0, "")


def wait_for_heartbeat(file: Path, section: str) -> None:
    while not file.exists() or json.loads(file.read_text())["section"] != section:
        time.sleep(0.02)


OTHER_RANK = """
with watch(rank=1, world_size=2, minimum=60) as dog:
    dog.enter(Section.FORWARD, 7)
    print("ready", flush=True)
    sys.stdin.readline()
"""
WAITING_RANK = """
with watch(world_size=2) as dog:
    again(dog, Section.AGREE, 7)
    standing_still()
"""


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_rank_that_waits_names_the_one_it_waits_for(tmp_path: Path, is_stopped: bool) -> None:
    other = begin(tmp_path, "watchdog.BEAT_SECONDS = 0.05\n" + OTHER_RANK)
    wait_for(other, "ready")
    wait_for_heartbeat(tmp_path / "base-rank-1.json", "forward")
    if is_stopped:
        other.send_signal(signal.SIGSTOP)
    ended = run(tmp_path, WAITING_RANK)
    other.send_signal(signal.SIGCONT)
    assert end(other).code == 0
    assert ended.code == HANG_EXIT_CODE
    trouble = "is frozen or gone, its heartbeat stopped" if is_stopped else "is behind,"
    assert "base rank 0 on " in ended.sentence
    assert " has waited in section agree of step 7 for " in ended.sentence
    assert f": rank 1 on {os.uname().nodename} {trouble} in section forward of step 7 for" in (
        ended.sentence
    )


TWO_GLOO_RANKS = """
import signal
import torch.distributed as dist, torch

def main(rank):
    address = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    with watch(rank, 2, minimum=0.8 if rank == 0 else 60) as dog:
        again(dog, Section.EVALUATE, 7)
        dist.barrier()
        if rank == 1:
            while json.loads((folder / "base-rank-1.json").read_text())["section"] != "evaluate":
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.all_reduce(torch.zeros(1))

watchdog.BEAT_SECONDS = 0.05
rank = 0 if os.fork() else 1
if rank == 0:
    main(0)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
(folder / "pid").write_text(str(os.getpid()))
main(1)
"""


def test_a_rank_in_a_collective_waits_whatever_its_section(tmp_path: Path) -> None:
    """Two ranks over gloo, of which the second one freezes."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + TWO_GLOO_RANKS, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, error = process.communicate(timeout=60)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert process.returncode == HANG_EXIT_CODE
    assert "base rank 0 on " in error.splitlines()[-1]
    assert "has waited in section evaluate of step 7 for" in error.splitlines()[-1]
    assert ": rank 1 on " in error.splitlines()[-1]
    assert "is frozen or gone, its heartbeat stopped in section evaluate" in error.splitlines()[-1]


def occupied_by_a_file(folder: Path) -> Path:
    (folder / "taken").write_text("")
    return folder / "taken"


def stuck(folder: Path) -> Path:
    """Whoever writes a heartbeat here is never heard of again: its temporary file is a pipe."""
    os.mkfifo(folder / ".tmp-base-rank-0.json")
    return folder


@pytest.mark.parametrize("trouble", [occupied_by_a_file, stuck])
def test_a_disk_in_trouble_neither_stops_training_nor_the_watchdog(tmp_path: Path, trouble) -> None:  # type: ignore[no-untyped-def]
    folder = trouble(tmp_path)
    body = "with watch() as dog:\n    again(dog, Section.DATA, 1)\n    time.sleep({})"
    assert run(folder, body.format(0.1)) == (0, "")
    ended = run(folder, body.format(600))
    assert ended.code == HANG_EXIT_CODE
    assert "has been in section data of step 1" in ended.sentence


def test_a_full_disk_neither_stops_training_nor_the_watchdog(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 2**22)
    test_a_disk_in_trouble_neither_stops_training_nor_the_watchdog(
        small_disk, lambda folder: folder
    )


def test_a_heartbeat_tells_what_the_rank_does_and_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "BEAT_SECONDS", 0.05)
    file = tmp_path / "mid-rank-2.json"
    with Watchdog(tmp_path, "mid", 2, 4, minimum_seconds=600) as watchdog:
        watchdog.enter(Section.GRADIENTS, 9)
        wait_for_heartbeat(file, "gradients")
        first, second = json.loads(file.read_text()), json.loads(file.read_text())
        while second["beat"] == first["beat"]:
            second = json.loads(file.read_text())
        watchdog.enter(Section.DATA, 10)
        wait_for_heartbeat(file, "data")
    assert list(tmp_path.iterdir()) == []
    assert {name: first[name] for name in ("rank", "stage", "step", "pid", "host", "waits")} == {
        "rank": 2,
        "stage": "mid",
        "step": 9,
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "waits": True,
    }
    assert second["since"] >= first["since"]
    assert second["time"] >= first["time"]


def test_an_error_in_training_ends_the_watch_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Watchdog(tmp_path, "base", 0, 1, 60):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    assert {thread.name for thread in threading.enumerate()}.isdisjoint({"watchdog", "heartbeat"})


def test_a_minimum_of_zero_is_no_watchdog(tmp_path: Path) -> None:
    with Watchdog(tmp_path, "base", 0, 1, minimum_seconds=0) as watchdog:
        watchdog.enter(Section.DATA, 1)
        watchdog.allow(1.0)
        names = {thread.name for thread in threading.enumerate()}
        assert names.isdisjoint({"watchdog", "heartbeat"})
    assert list(tmp_path.iterdir()) == []
