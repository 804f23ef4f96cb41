"""Whether there is room for what is about to be written: free space, free files, quotas.

    room = require_room(disk.base_dir, bytes_needed=18e9, files_needed=500)
    room.bytes_left, room.files_left, room.notes

Asks the file system, and the programs `quota` and `lfs` (Lustre) where these are installed; one
that gives no answer in five seconds is left behind with a note. Writes nothing.
"""

import grp
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

from nanochat.errors import DiskError

HEADROOM = 1.05
"""What is written along the way, and what others write meanwhile."""
ANSWER_SECONDS = 5.0
QUOTA = ("quota", "--no-wrap", "--raw-grace", "--show-mntpoint", "--hide-device")
HEADER = re.compile(r"Disk quotas for (user|usr|group|grp) (\S+) ")
ALLOWANCE = r"\[?(\d+)[]*]*\s+(\d+)\s+(\d+)\s+(\S+)"
LINE = re.compile(rf"\s*(/.*?)\s+{ALLOWANCE}\s+{ALLOWANCE}\s*")


@dataclass(frozen=True)
class Allowance:
    """Bytes, or files, of a quota. A limit of 0 is none."""

    used: int
    soft: int
    hard: int
    grace: str
    """When the grace for being over the soft limit ends (`quota`: seconds since 1970), or how much
    of it is left (`lfs`: 6d23h, `none`, `expired`); `0` or `-` where it has not begun."""

    def left(self, now: float) -> int | None:
        """How much more may be written at the time `now`; None: as much as there is."""
        limits = [self.hard] if self.hard else []
        if self.soft and self.used > self.soft and self._is_over(now):
            limits.append(self.soft)
        return max(0, min(limits) - self.used) if limits else None

    def _is_over(self, now: float) -> bool:
        if self.grace.isdigit():
            return 0 < int(self.grace) <= now
        return self.grace in ("none", "expired")


@dataclass(frozen=True)
class Quota:
    """What one user or group may keep on a file system."""

    whose: str
    """`user alice` or `group students`."""
    filesystem: Path
    """Where it is mounted, or what was asked about."""
    bytes: Allowance
    files: Allowance


@dataclass(frozen=True)
class Room:
    """What may still be written below a folder."""

    folder: Path
    free_bytes: int
    free_files: int | None
    """None: the file system does not count its files."""
    quotas: tuple[Quota, ...]
    notes: tuple[str, ...] = ()
    """What could not be asked, and which soft limits will be passed."""

    def limits(self) -> Iterator[tuple[str, int | None, int | None]]:
        """Who says so, bytes left, files left; None: unknown or unlimited."""
        now = time.time()
        yield "its file system", self.free_bytes, self.free_files
        for quota in self.quotas:
            yield f"the quota of {quota.whose}", quota.bytes.left(now), quota.files.left(now)

    @property
    def bytes_left(self) -> int:
        """The smallest of the limits."""
        return min(size for _, size, _ in self.limits() if size is not None)

    @property
    def files_left(self) -> int | None:
        """The smallest of the limits; None where there is none."""
        return min((files for *_, files in self.limits() if files is not None), default=None)

    def require(self, bytes_needed: float, files_needed: int) -> "Room":
        """This, with a note for each soft limit that will be passed; raises DiskError where there
        is less room than needed and 5 % more."""
        size, files = HEADROOM * bytes_needed, int(HEADROOM * files_needed)
        for who, bytes_left, files_left in self.limits():
            few_bytes = bytes_left is not None and size > bytes_left
            few_files = files_left is not None and files > files_left
            if few_bytes or few_files:
                left = format_bytes(bytes_left or 0) if few_bytes else f"{files_left:,} files"
                raise DiskError(
                    f"{self.folder} has to take {format_bytes(size)} in {files:,} files (5 % to "
                    f"spare), but {who} has room for {left}: free some space there, or set "
                    "NANOCHAT_BASE_DIR to a folder with more"
                )
        return replace(self, notes=(*self.notes, *_soft_limits(self, size, files)))


def require_room(folder: Path, bytes_needed: float, files_needed: int) -> Room:
    """Raises DiskError where not as much, and 5 % more, may be written below `folder`; else returns
    what may. The folder need not be there yet."""
    return room_at(folder).require(bytes_needed, files_needed)


def room_at(folder: Path) -> Room:
    """Asks what may be written below `folder`, or below the first of its parents that is there."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    system = os.statvfs(existing)
    quotas, notes = _quotas(existing)
    return Room(
        folder,
        free_bytes=system.f_bavail * system.f_frsize,
        free_files=system.f_favail if system.f_files else None,
        quotas=tuple(quotas),
        notes=tuple(notes),
    )


def parse_quotas(text: str, whose: str = "") -> list[Quota]:
    """Reads what `quota` or `lfs quota` printed, in blocks of 1 KiB. `whose` is for `lfs quota -q`,
    which prints no header; `lfs` puts a long path on a line of its own."""
    quotas, waiting = [], ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            whose = f"{'user' if header[1].startswith('us') else 'group'} {header[2]}"
        elif row := LINE.fullmatch(waiting + line):
            size, files = row.groups()[1:5], row.groups()[5:9]
            quotas.append(Quota(whose, Path(row[1]), _allowance(size, 1024), _allowance(files, 1)))
        waiting = line if line.startswith("/") and not LINE.fullmatch(line) else ""
    return quotas


def format_bytes(size: float) -> str:
    """`18.2 GB`, `4.2 MB`, `12 kB`, `7 bytes`; a GB is 10^9 bytes."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= 0.9995 * unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.0f} kB" if size >= 1000 else f"{size:.0f} bytes"


def _allowance(fields: Sequence[str], unit: int) -> Allowance:
    used, soft, hard = (unit * int(field) for field in fields[:3])
    return Allowance(used, soft, hard, fields[3])


def _soft_limits(room: Room, size: float, files: int) -> Iterator[str]:
    for quota in room.quotas:
        for allowance, more in ((quota.bytes, size), (quota.files, files)):
            if more and allowance.soft and allowance.used + more > allowance.soft:
                yield (
                    f"this goes over the soft limit of {quota.whose}'s quota on "
                    f"{quota.filesystem}: it can stay there for the grace period only"
                )
                break


def _quotas(folder: Path) -> tuple[list[Quota], list[str]]:
    """The quotas that count what this process writes in `folder`, and what gave no answer."""
    user, group = _name_of_user(), _name_of_group(folder)
    questions = [
        ((*QUOTA, "--user"), ""),
        ((*QUOTA, "--group", group), ""),
        (("lfs", "quota", "-q", "-u", user, str(folder)), f"user {user}"),
        (("lfs", "quota", "-q", "-g", group, str(folder)), f"group {group}"),
    ]
    asked = [(command, whose) for command, whose in questions if shutil.which(command[0])]
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = list(pool.map(_ask, [command for command, _ in asked]))
    quotas, notes = [], []
    for (command, whose), answer in zip(asked, answers, strict=True):
        if answer is None:
            shown = " ".join(word for word in command if not word.startswith("--"))
            notes.append(f"`{shown}` gave no answer: the quota there is not known")
            continue
        found = parse_quotas(answer, whose)
        if command[0] == "quota":  # which tells of all file systems
            found = [quota for quota in found if _is_on(folder, quota.filesystem)]
        quotas += found
    return quotas, notes


def _ask(command: Sequence[str]) -> str | None:
    """What `command` prints; None where it gives no answer in time."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        # Its exit status says as well that a quota is used up, so it is not looked at.
        return process.communicate(timeout=ANSWER_SECONDS)[0]
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # What waits for a dead file server cannot be killed, and is not waited for here.
        Thread(target=process.communicate, daemon=True).start()
        return None


def _is_on(folder: Path, mount: Path) -> bool:
    """Whether `folder` is on the file system that is mounted at `mount`."""
    with suppress(OSError):
        return folder.stat().st_dev == mount.stat().st_dev
    return False


def _name_of_user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _name_of_group(folder: Path) -> str:
    """Of the group that new files in `folder` belong to."""
    status = folder.stat()
    number = status.st_gid if status.st_mode & stat.S_ISGID else os.getegid()
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)
