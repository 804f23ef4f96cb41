"""One writer: two processes never train into the same checkpoint folder.

    with one_writer(folder): ...

The kernel holds the lock and drops it when the process dies, however it dies. A second process says
who holds the lock and waits: after a crash of the workflow alone, its orphaned trainer finishes,
and the waiting one finds everything done. Writes `lock` (process id and host, for people).
"""

import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.files import disk_errors, make_directory

POLL_SECONDS = 1.0
SECONDS_BETWEEN_NOTICES = 30.0


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock during the block; waits for it as long as another process has it."""
    path = make_directory(folder) / "lock"
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait_for(descriptor, path)
        with disk_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path) -> None:
    next_notice = 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= next_notice:
                holder = path.read_text(encoding="utf-8").strip() or "another process"
                print(f"{holder} is training into {path.parent}: waiting for it", file=sys.stderr)
                next_notice = time.monotonic() + SECONDS_BETWEEN_NOTICES
            time.sleep(POLL_SECONDS)
