"""Where a download arrives: a folder beside its target, for one process at a time.

    with alone(target, watch.say) as workspace:
        ...
        publish(workspace / target.name, target)

Its name is `.part-<name>`. What a killed process leaves in it is what the next one goes on from.
"""

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanochat.errors import DiskError
from nanochat.files import NO_LOCKS_HERE, disk_errors, fsync_directory, make_directory

PART = ".part-"
"""How the names of these folders begin."""
LOCK = "lock"
NOTE = ".from"
"""How the name of the file ends that says of which content a part is."""
POLL_SECONDS = 0.2


def bytes_so_far(target: Path) -> int:
    """Bytes of `target` that have arrived already in an earlier attempt."""
    files = target.parent.glob(f"{PART}{target.name}/[!.]*")
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != NOTE)


def is_unfinished(target: Path) -> bool:
    """Whether somebody downloads it, or was killed at that."""
    return target.with_name(PART + target.name).exists()


@contextmanager
def alone(target: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """The folder in which `target` may arrive, for one process at a time; others wait for it.

    The folder stays after an error, so that the next attempt goes on from there, and is removed
    when all went well. On a file system without locks it is this process's own, and never stays.
    """
    make_directory(target.parent)
    workspace = target.with_name(f"{PART}{target.name}")
    descriptor = _locked(workspace, say)
    if descriptor is None:
        workspace = target.with_name(f"{workspace.name}-{platform.node()}-{os.getpid()}")
    of_use = False  # for another attempt
    try:
        with disk_errors(target):
            workspace.mkdir(exist_ok=True)
            yield workspace
    except DiskError:
        raise  # so that others have its space
    except BaseException:
        of_use = descriptor is not None and bytes_so_far(target) > 0
        raise
    finally:
        if not of_use:  # once: without its lock it is the next one's
            _remove(workspace)
        if descriptor is not None:
            os.close(descriptor)


def publish(part: Path, target: Path) -> None:
    """Gives what is whole its name: a file, or a folder, in place of what may be there."""
    with disk_errors(target):
        for path in [part, *part.rglob("*")]:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if target.is_dir() and not target.is_symlink():
            os.replace(target, part.with_name(f"{part.name}.old"))
        os.replace(part, target)
        fsync_directory(target.parent)


def _locked(workspace: Path, say: Callable[[str], None]) -> int | None:
    """Takes the lock in the workspace; waits as long as another process has it.

    None on a file system without locks.
    """
    told = False
    while True:
        with disk_errors(workspace):
            try:
                workspace.mkdir(exist_ok=True)
                path = workspace / LOCK
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # the other process has just removed the folder
                continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            if not told:
                say("another process is downloading it: waiting for that")
            told = True
            time.sleep(POLL_SECONDS)
        except FileNotFoundError:
            pass
        except OSError as exc:
            if exc.errno not in NO_LOCKS_HERE:
                raise
            os.close(descriptor)
            shutil.rmtree(workspace, ignore_errors=True)
            return None
        os.close(descriptor)


def _remove(workspace: Path) -> None:
    """The lock goes last, since who takes it next uses the same names."""
    with suppress(OSError):
        for path in workspace.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink()
        (workspace / LOCK).unlink(missing_ok=True)
        workspace.rmdir()
