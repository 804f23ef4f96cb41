"""Saves that are killed at one system call after the other.

    python killed_saves.py FOLDER

For each kind of system call that changes a disk, and each of its occurrences in a save: a child is
stopped, strace told to kill it there, and the child told to go on. Then it starts again, as a
training would, and what it finds is compared with what was saved. Forks, since a start of torch
costs more than a save. Prints what happened as JSON. Needs strace.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nanochat.train.checkpoints import Retention

sys.path.insert(0, str(Path(__file__).parent))
from tiny_checkpoints import assert_holds, newest, save, store_at

CHANGES = ("mkdir", "write", "rename", "unlink", "unlinkat", "rmdir")
"""Without open and fsync: what a kill there leaves, a kill at the next of these leaves too."""
KEEP = Retention(last=2)


def prepared(folder: Path) -> Path:
    """Three checkpoints, of which the next save prunes one and, of step 3, replaces another."""
    store = store_at(folder)
    for step in (1, 2, 3):
        save(store, step)
    return folder


def killed_at(call: str, occurrence: int, act: Callable[[], object]) -> bool:
    """Runs `act` in a child that is killed at an occurrence of a system call; False: it was not."""
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        act()
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    inject = f"inject={call}:signal=KILL:when={occurrence}"
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject, "-p", str(child)]
    with subprocess.Popen(command) as tracer:
        status = Path(f"/proc/{child}/status")
        while f"TracerPid:\t{tracer.pid}\n" not in status.read_text():
            assert tracer.poll() is None, "strace could not attach"
            time.sleep(0.001)
        os.kill(child, signal.SIGCONT)
        ended = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(ended):
        assert os.WEXITSTATUS(ended) == 0
        return False
    assert os.WTERMSIG(ended) == signal.SIGKILL
    return True


def save_one(folder: Path, step: int) -> None:
    store = store_at(folder, KEEP, world_size=1 if step == 3 else 2, attempt=1)
    store.clean()
    assert newest(store) is not None
    save(store, step)


def survived(folder: Path, step: int) -> int:
    """Starts again: the newest is whole, and it is that of `step` or the one before it."""
    store = store_at(folder, KEEP, attempt=2)
    store.clean()
    for each in store.steps():
        store.verify(each)
    found = newest(store)
    assert found is not None and found.step in (3, step), found
    assert_holds(found, found.step)
    names = sorted(os.listdir(store.folder))
    assert names == [*(["LATEST.json"]), *(store.path(each).name for each in store.steps())], names
    latest = json.loads((store.folder / "LATEST.json").read_text())
    assert latest["step"] == found.step
    save(store, step + 1)
    assert_holds(newest(store), step + 1)
    assert store.steps() == [found.step, step + 1], store.steps()
    return found.step


def main() -> None:
    folder, kills, outcomes = Path(sys.argv[1]), {}, {}
    prepared(folder / "before")
    for step in (3, 4):  # 3 is there already: it is replaced
        for call in CHANGES:
            occurrence = 0
            while True:
                occurrence += 1
                here = folder / f"{step}-{call}-{occurrence}"
                shutil.copytree(folder / "before", here)
                if not killed_at(call, occurrence, lambda at=here, of=step: save_one(at, of)):
                    break
                found = survived(here, step)
                outcomes[found] = outcomes.get(found, 0) + 1
                shutil.rmtree(here)
            kills[f"{step} {call}"] = occurrence - 1
    print(json.dumps({"kills": kills, "continued_from": outcomes}))


if __name__ == "__main__":
    main()
