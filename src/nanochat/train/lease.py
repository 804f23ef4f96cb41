"""One writer: two processes never train into the same checkpoint folder.

    with one_writer(folder, job_id, restarts) as held:
        ...
        if held.is_mine(): ...  # right before what a second writer would ruin

No lock of a file system's is used: many shared ones carry none to other nodes. A file in the folder
(train/lease_file.py) names the holder's host, process and SLURM job, and a thread of the holder's
counts a heartbeat up in it.

Another process takes over what was released, what a process of its own machine left and is gone,
and what a SLURM job left that does not run any more or was started again. Where there is nobody to
ask, it takes over when the heartbeat stood still for STALE_SECONDS by its own clock; clocks of two
machines are never compared. A holder that slept meanwhile sees it before its next commit.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nanochat.errors import DiskError, SlurmUnavailable
from nanochat.files import disk_errors, make_directory
from nanochat.hpc import slurm
from nanochat.hpc.processes import Process
from nanochat.train.lease_file import (
    Lease,
    Seen,
    ask_the_server_again,
    claim,
    is_held,
    lease_path,
    newest,
    sweep,
    write_over,
)

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 90.0
POLL_SECONDS = 1.0
SECONDS_BETWEEN_QUERIES = 10.0
SECONDS_BETWEEN_NOTICES = 30.0


class HeldLease:
    """The lease, in the hands of this process."""

    def __init__(self, folder: Path, number: int, lease: Lease) -> None:
        self.folder, self.number, self.lease = folder, number, lease
        self.lost = False
        """What the last look said, one heartbeat old at most; a lost lease stays lost."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def is_mine(self) -> bool:
        """False where another process has taken over, or somebody deleted the file.

        Looks at the disk; any thread may call it. Raises DiskError where the disk does not answer.
        """
        try:
            if not self.lost and not is_held(self.folder, self.number, self.lease.token):
                self.lost = True
        except OSError as exc:
            raise DiskError(
                f"cannot see whether {self.folder} is still this process's ({exc.strerror}): have "
                "that file system checked, then run again"
            ) from exc
        return not self.lost

    def start(self) -> None:
        """Begins the heartbeat."""
        sweep(self.folder, self.number)
        self._thread.start()

    def release(self) -> None:
        """Ends the heartbeat with a last one that lets the next process start at once.

        A disk that hangs holds nobody up: it may be written later, or the others see how this
        process ends.
        """
        self._over.set()
        self._thread.join(HEARTBEAT_SECONDS)

    def _renew(self) -> None:
        over = False
        while not over and not self.lost:
            over = self._over.wait(HEARTBEAT_SECONDS)
            with suppress(OSError, DiskError):  # a full disk, a server that is away: tried again
                if self.is_mine():
                    self._beat(released=over)

    def _beat(self, released: bool) -> None:
        self.lease = replace(self.lease, heartbeat=self.lease.heartbeat + 1, released=released)
        write_over(self.folder, self.number, self.lease)
        sweep(self.folder, self.number)


def may_be_running(job_id: str) -> bool | None:
    """What SLURM says; True while it gives no answer, since two writers are worse than a wait.
    None where there is no SLURM to ask."""
    if not slurm.slurm_is_here():
        return None
    try:
        return slurm.job_is_running(job_id)
    except SlurmUnavailable:
        return True


@contextmanager
def one_writer(
    folder: Path,
    job_id: str | None = None,
    restarts: int | None = None,
    job_is_running: Callable[[str], bool | None] = may_be_running,
) -> Iterator[HeldLease]:
    """Holds the folder's lease during the block; waits for it as long as another process has it.

    `job_id` is this process's SLURM job and `restarts` how often that was requeued; None outside
    SLURM. Raises DiskError where the folder cannot be written.
    """
    own = Lease.own(make_directory(folder), job_id, restarts)
    held = _wait_for(folder, own, job_is_running)
    held.start()
    try:
        yield held
    finally:
        held.release()


def holder(folder: Path) -> str | None:
    """Who trains into `folder`, in words; None where nobody does. Asks SLURM nothing, and writes
    nothing.

    A process of another machine counts as alive while its file is younger than STALE_SECONDS.
    """
    try:
        seen = newest(folder)
        age = time.time() - lease_path(folder, seen.number).stat().st_mtime
    except FileNotFoundError:
        return None
    lease, alive = Lease.parse(seen.content), age < STALE_SECONDS
    if lease is None:
        return "another process" if alive else None
    if lease.process.is_near(Process.own()):
        alive = not lease.process.has_ended()
    return lease.words() if alive and not lease.released else None


def _wait_for(folder: Path, own: Lease, ask: Callable[[str], bool | None]) -> HeldLease:
    wait = _Wait(folder, own, ask)
    while True:
        with disk_errors(folder):
            ask_the_server_again(folder)
            seen = newest(folder)
        if not wait.is_over(seen):
            wait.give_notice(seen)
        elif claim(folder, seen.number + 1, own):
            return HeldLease(folder, seen.number + 1, own)
        time.sleep(POLL_SECONDS)


class _Wait:
    """What a waiting process saw, for how long, and what SLURM told it."""

    def __init__(self, folder: Path, own: Lease, ask: Callable[[str], bool | None]) -> None:
        self.folder, self.own, self.ask = folder, own, ask
        self.seen = Seen(0, b"")
        self.looked = self.stood_still = self.next_query = self.next_notice = 0.0
        self.job_runs: bool | None = None

    def is_over(self, seen: Seen) -> bool:
        """Whether the lease is free, as far as anybody can know."""
        still = self._stood_still(seen)
        lease = Lease.parse(seen.content)
        if seen.number == 0:
            return True
        if lease is None:  # torn: its writer may be about to write it again
            return still
        near = lease.process.is_near(self.own.process)
        if lease.released or (near and lease.process.has_ended()):
            return True
        if lease.folder != self.own.folder:
            return still
        if lease.job_id and lease.job_id == self.own.job_id:
            if self._is_of_an_earlier_attempt(lease):
                return True
        elif lease.job_id and (runs := self._job_runs(lease.job_id)) is not None:
            return not runs
        return still and not near

    def give_notice(self, seen: Seen) -> None:
        """Says for whom this process waits, at first and every half minute."""
        if time.monotonic() < self.next_notice:
            return
        lease = Lease.parse(seen.content)
        who = lease.words() if lease else "another process"
        print(f"{who} is training into {self.folder}: waiting for it", file=sys.stderr)
        self.next_notice = time.monotonic() + SECONDS_BETWEEN_NOTICES

    def _stood_still(self, seen: Seen) -> bool:
        """Whether the same was seen for long enough. What lies between two looks counts as two
        intervals at most: if this process slept, the holder may have slept with it."""
        now = time.monotonic()
        if seen.number != self.seen.number:
            self.next_query = now  # whatever was asked was about another holder
        if seen == self.seen:
            self.stood_still += min(now - self.looked, 2 * POLL_SECONDS)
        else:
            self.stood_still = 0.0
        self.seen, self.looked = seen, now
        return self.stood_still >= STALE_SECONDS

    def _is_of_an_earlier_attempt(self, lease: Lease) -> bool:
        """True where SLURM has since started the job of both again: the earlier one is gone, or
        lives on behind a broken network and will see that it has lost the lease."""
        if lease.restarts is None or self.own.restarts is None:
            return False
        return lease.restarts < self.own.restarts

    def _job_runs(self, job_id: str) -> bool | None:
        if time.monotonic() >= self.next_query:
            self.job_runs = self.ask(job_id)
            self.next_query = time.monotonic() + SECONDS_BETWEEN_QUERIES
        return self.job_runs
