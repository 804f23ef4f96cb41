"""How files appear: whole, or not at all.

`atomic_write` and `atomic_directory` are the only ways this project creates a file or folder that
somebody else reads: a temporary name beside the target, fsync, rename, fsync of the folder. A
process killed at any instant leaves the old content, the new content, or a `.tmp-` leftover that
nobody reads.

A full, read-only or unwritable disk becomes a `DiskError` here, and nowhere else.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact

DISK_TROUBLE = {
    errno.ENOSPC: "the disk is full: free some space there, or set NANOCHAT_BASE_DIR elsewhere",
    errno.EDQUOT: "your quota is used up: free some space, or set NANOCHAT_BASE_DIR elsewhere",
    errno.EROFS: "the file system is read-only: set NANOCHAT_BASE_DIR to a writable folder",
    errno.EACCES: "permission denied: set NANOCHAT_BASE_DIR to a folder you may write to",
    errno.EPERM: "not permitted: set NANOCHAT_BASE_DIR to a folder you may write to",
    errno.ENOTDIR: "a part of the path is a file: set NANOCHAT_BASE_DIR to a folder",
    errno.EIO: "the device reports an I/O error: have the disk checked, then run again",
}


NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system answers that has no locks: Lustre without `flock`, NFS without lockd."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of the disk's own into a DiskError that says what to do."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in DISK_TROUBLE:
            raise
        raise DiskError(f"cannot write {path}: {DISK_TROUBLE[exc.errno]}") from exc


def temporary_name(path: Path) -> Path:
    """A sibling of `path`, unique to this call, that no reader looks for."""
    return path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:12]}")


def fsync_directory(path: Path) -> None:
    """Makes a rename inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> Path:
    """Creates `path` and its parents; raises DiskError where it may not."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def require_writable(folder: Path) -> None:
    """Raises DiskError where `folder` cannot be written or made; creates nothing."""
    existing = folder.absolute()
    while not existing.exists():  # False as well where a part of the path is a file
        existing = existing.parent
    with disk_errors(folder):
        if not existing.is_dir():
            raise OSError(errno.ENOTDIR, "not a directory")
        if not os.access(existing, os.W_OK | os.X_OK):
            read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if read_only else errno.EACCES, "not writable")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary name; what is written there is called `path` when the block ends well."""
    path = Path(path)
    make_directory(path.parent)
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
            fsync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that gets the name `path` when the block ends without an exception."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        yield handle


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that gets the name `path` when the block ends without an exception.

    The files in it are fsynced before the rename. An existing `path` is replaced.
    """
    path = Path(path)
    make_directory(path.parent)
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.iterdir():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
            fsync_directory(temporary)
            if path.exists():
                doomed = temporary_name(path)
                os.replace(path, doomed)
                os.replace(temporary, path)
                shutil.rmtree(doomed)
            else:
                os.replace(temporary, path)
            fsync_directory(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_write(path) as handle:
        handle.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN and infinity are refused (ValueError)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Reads a JSON file; `made_by` is the command that makes it, for the error's advice."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no file {path}: run `{made_by}` first") from exc
    except ValueError as exc:
        message = f"{path} is not valid JSON ({exc}): delete it and run `{made_by}` again"
        raise DamagedArtefact(message) from exc


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 (hex) of a JSON-like value: the identity of whatever `value` determines."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
