"""The files of a lease (train/lease.py): `lease-000007.json`, of which the highest number counts.

    seen = newest(folder)
    if claim(folder, seen.number + 1, Lease.own(folder, job_id, restarts)): ...

The highest number is never deleted, so that numbers only go up. A new one is made by a hard link,
which fails for all contenders but one, on NFS too; then it is written over in place. Functions
raise OSError unless they say otherwise.
"""

import errno
import json
import os
import platform
import re
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Self

from nanochat.files import disk_errors, temporary_name
from nanochat.hpc.processes import Process

NAME = re.compile(r"lease-(\d{6,})\.json")
FILE_BYTES = 1024
"""Each file is filled up to this size, so that nothing of what was written over stays."""
NO_LINKS_HERE = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Lease:
    """What a file says."""

    host: str
    process: Process
    job_id: str | None
    """The SLURM job."""
    restarts: int | None
    """How often that job had been requeued; None where nobody knew."""
    folder: int
    """The folder's inode: in a copied folder the lease speaks of another one."""
    token: str
    since: str
    """For people."""
    heartbeat: int = 0
    released: bool = False

    @classmethod
    def own(cls, folder: Path, job_id: str | None, restarts: int | None) -> Self:
        """This process's lease of `folder`."""
        return cls(
            host=platform.node(),
            process=Process.own(),
            job_id=job_id,
            restarts=restarts,
            folder=folder.stat().st_ino,
            token=secrets.token_hex(16),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
        )

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """The lease in a file; None where it is torn, or written by another version of this."""
        try:
            fields = json.loads(content)
            lease = cls(**{**fields, "process": Process(*fields["process"])})
        except (ValueError, TypeError, KeyError):
            return None
        numbers = (lease.process.pid, lease.restarts or 0)
        return lease if all(type(number) is int for number in numbers) else None

    def content(self) -> bytes:
        """The file's bytes."""
        return json.dumps(asdict(self)).encode().ljust(FILE_BYTES - 1) + b"\n"

    def words(self) -> str:
        """Who holds it, for people."""
        job = f" in SLURM job {self.job_id}" if self.job_id else ""
        return f"process {self.process.pid} on {self.host}{job} since {self.since}"


class Seen(NamedTuple):
    """The lease that counts, as it stands on the disk; number 0 where there is none yet."""

    number: int
    content: bytes


def newest(folder: Path) -> Seen:
    """The lease that counts. While another process takes over it may be an older one, which
    `claim` then notices."""
    for number in sorted(_numbers(folder), reverse=True):
        try:
            return Seen(number, lease_path(folder, number).read_bytes())
        except OSError as exc:  # swept by a successor since
            if exc.errno not in (errno.ENOENT, errno.ESTALE):
                raise
    return Seen(0, b"")


def claim(folder: Path, number: int, lease: Lease) -> bool:
    """Tries to be the one that makes the file of this number. Raises DiskError.

    Reading it back decides: on NFS the answer to a link that was made may get lost, and the link
    be refused when it is sent again; and who slept may make a number that is not the highest now.
    """
    path = lease_path(folder, number)
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            _write_new(temporary, lease.content())
            _link(temporary, path, lease.content())
        except (FileExistsError, FileNotFoundError):  # another was first, and may have swept
            pass
        finally:
            temporary.unlink(missing_ok=True)
        return is_held(folder, number, lease.token)


def is_held(folder: Path, number: int, token: str) -> bool:
    """Whether this number is the highest, and its file has this token."""
    try:
        ask_the_server_again(folder)
        highest = number == max(_numbers(folder), default=0)
        return highest and token.encode() in lease_path(folder, number).read_bytes()
    except FileNotFoundError:
        return False


def ask_the_server_again(folder: Path) -> None:
    """A node may go by an old list of a folder on NFS for a minute, but not after a change that it
    makes itself."""
    os.utime(folder)


def write_over(folder: Path, number: int, lease: Lease) -> None:
    """Writes in place: so it needs no space, cannot bring back what a successor has swept, and no
    name is missing for a moment from what others list."""
    descriptor = os.open(lease_path(folder, number), os.O_WRONLY)
    try:
        os.pwrite(descriptor, lease.content(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, number: int) -> None:
    """Deletes the leases below the one that counts, and what killed processes left; never fails."""
    with suppress(OSError):
        for lower in _numbers(folder):
            if lower < number:
                lease_path(folder, lower).unlink(missing_ok=True)
        for leftover in folder.glob(".tmp-lease-*"):
            leftover.unlink(missing_ok=True)


def lease_path(folder: Path, number: int) -> Path:
    """File of a number."""
    return folder / f"lease-{number:06d}.json"


def _numbers(folder: Path) -> list[int]:
    return [int(match[1]) for name in os.listdir(folder) if (match := NAME.fullmatch(name))]


def _link(temporary: Path, path: Path, content: bytes) -> None:
    """Gives the file its name; where there are no links, makes it anew. Fails if it is there."""
    try:
        os.link(temporary, path)
    except OSError as exc:
        if exc.errno not in NO_LINKS_HERE:
            raise
        _write_new(path, content)


def _write_new(path: Path, content: bytes) -> None:
    """Makes a file that was not there; leaves none where the disk refuses its content."""
    with open(path, "xb") as handle:
        try:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        except OSError:
            path.unlink()
            raise
