"""One writer: two processes never train into the same checkpoint folder.

    with one_writer(folder, job_id): ...

The kernel holds the lock and drops it when the process dies, however it dies. A second process says
who holds the lock and waits: after a crash of the workflow alone, its orphaned trainer finishes,
and the waiting one finds everything done. On some shared file systems such a lock does not reach
other nodes; so the file names its holder's SLURM job too, and while SLURM says that that one runs,
it holds the lock. An attempt of the same job on another node may still take it over: whoever holds
it can see that (`HeldLock.is_mine`). Writes `lock` (process id, host and job).
"""

import fcntl
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.errors import SlurmUnavailable
from nanochat.files import NO_LOCKS_HERE, disk_errors, make_directory
from nanochat.hpc import slurm

POLL_SECONDS = 1.0
SECONDS_BETWEEN_QUERIES = 10.0
SECONDS_BETWEEN_NOTICES = 30.0
JOB = re.compile(r" in SLURM job (\S+)")


class HeldLock:
    """The lock, in the hands of this process."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def is_mine(self) -> bool:
        """False where another process has taken the lock over, which it can only on a file system
        whose locks do not reach other nodes."""
        return self.path.read_text(encoding="utf-8", errors="replace") == self.text


def may_be_running(job_id: str) -> bool:
    """What SLURM says; True while it gives no answer, since two writers are worse than a wait."""
    if not slurm.slurm_is_here():
        return False
    try:
        return slurm.job_is_running(job_id)
    except SlurmUnavailable:
        return True


@contextmanager
def one_writer(
    folder: Path, job_id: str | None = None, job_is_running: Callable[[str], bool] = may_be_running
) -> Iterator[HeldLock]:
    """Holds the folder's lock during the block; waits for it as long as another process has it.

    `job_id` is this process's SLURM job, None outside SLURM.
    """
    path = make_directory(folder) / "lock"
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        notice = _Notice(path)
        while not _is_free(descriptor):
            notice.give()
            time.sleep(POLL_SECONDS)
        while (holder := _job_named(path)) not in (None, job_id) and job_is_running(str(holder)):
            notice.give()
            time.sleep(SECONDS_BETWEEN_QUERIES)
        job = f" in SLURM job {job_id}" if job_id else ""
        started = f"since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        held = HeldLock(path, f"process {os.getpid()} on {platform.node()}{job} {started}\n")
        _write(descriptor, path, held.text)
        try:
            yield held
        finally:
            if held.is_mine():  # its job may run on, with other things to do
                _write(descriptor, path, "")
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Takes the lock if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:  # then the job named in the file is all there is
        if exc.errno not in NO_LOCKS_HERE:
            raise
    return True


def _job_named(path: Path) -> str | None:
    match = JOB.search(path.read_text(encoding="utf-8", errors="replace"))
    return match[1] if match else None


def _write(descriptor: int, path: Path, text: str) -> None:
    with disk_errors(path):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
        os.fsync(descriptor)  # other nodes read it


class _Notice:
    """Says for whom this process waits, at first and every half minute."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.next = 0.0

    def give(self) -> None:
        if time.monotonic() < self.next:
            return
        holder = self.path.read_text(encoding="utf-8").strip() or "another process"
        print(f"{holder} is training into {self.path.parent}: waiting for it", file=sys.stderr)
        self.next = time.monotonic() + SECONDS_BETWEEN_NOTICES
