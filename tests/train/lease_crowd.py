"""Processes that all want one lease, and are killed now and then, inside it or anywhere.

    python lease_crowd.py FOLDER CONTENDERS ROUNDS KILLS SEED

Each holder writes `enter`, some `inside` and `leave` with its process id to FOLDER/log: one write
for a line, to a file opened for appending, so that the order of lines is that of the writes. Who is
killed gets a successor for its rounds. After a minute all end.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from nanochat.train import lease

PATIENCE_SECONDS = 60


def main() -> None:
    folder, contenders, rounds, kills, seed = Path(sys.argv[1]), *map(int, sys.argv[2:])
    lease.POLL_SECONDS, lease.HEARTBEAT_SECONDS = 0.004, 0.01
    lease.SECONDS_BETWEEN_NOTICES = 600.0
    log, chance = folder / "log", random.Random(seed)
    log.touch()
    signal.alarm(PATIENCE_SECONDS)
    left = {start(folder, rounds, chance): rounds for _ in range(contenders)}
    next_kill = 0.0
    while left:
        time.sleep(0.002)
        if kills and time.monotonic() > next_kill:
            os.kill(chance.choice(list(left)), signal.SIGKILL)
            kills, next_kill = kills - 1, time.monotonic() + chance.uniform(0.0, 0.1)
        while left and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            remaining = left.pop(pid) - log.read_text().count(f"enter {pid}\n")
            if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
                sys.exit(f"a contender ended with status {status}")
            if remaining:
                left[start(folder, remaining, chance)] = remaining


def start(folder: Path, rounds: int, chance: random.Random) -> int:
    """Process id of a contender."""
    seed = chance.random()
    pid = os.fork()
    if pid == 0:
        contend(folder, rounds, random.Random(seed))
        os._exit(0)
    return pid


def contend(folder: Path, rounds: int, chance: random.Random) -> None:
    signal.alarm(PATIENCE_SECONDS)  # a fork inherits none
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)

    def say(word: str) -> None:
        os.write(descriptor, f"{word} {os.getpid()}\n".encode())

    for _ in range(rounds):
        with lease.one_writer(folder / "checkpoints") as held:
            say("enter")
            for _ in range(4):
                time.sleep(chance.uniform(0.0, 0.004))
                say("inside" if held.is_mine() else "lost")
            if chance.random() < 0.125:
                os.kill(os.getpid(), signal.SIGKILL)
            say("leave")


if __name__ == "__main__":
    main()
