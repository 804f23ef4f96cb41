"""Fetches one file so that it arrives whole, or not at all.

    with alone(target, watch.say) as workspace:
        arrived = fetch(Remote(url), workspace / target.name, watch, check=is_it_parquet)
        publish(workspace / target.name, target)

Bytes are hashed as they arrive. A broken connection is taken up where it broke, and so is a process
that was killed: a note beside the bytes says of which content they are. Only a file of the stated
size and SHA-256 that passes `check` comes back. After $HF_HUB_DOWNLOAD_TIMEOUT seconds without data
(30 if not set) an attempt ends; patience.py says how often there is another.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import DamagedArtefact, DownloadError
from nanochat.fetch.display import Watch
from nanochat.fetch.patience import (
    ANOTHER_SPEAKER,
    FEW,
    MANY,
    Trouble,
    Unreachable,
    broken,
    patiently,
    seconds_of,
    stalled,
    wrong,
)
from nanochat.fetch.web import SHA256, Answer, Remote, ask, ask_json, is_html, refuse_offline
from nanochat.fetch.workspace import NOTE
from nanochat.files import disk_errors, read_json, write_json

PROGRESS = 0.01  # share of a file that an attempt has to bring to count as progress
ETAG = "etag "  # how a note begins of content whose SHA-256 nobody stated
SLOWEST = 100  # bytes a second that are as good as none

Check = Callable[[Path, bool], None]
"""Looks at a whole file, given whether its SHA-256 was stated; raises DownloadError."""


@dataclass(frozen=True)
class Arrived:
    """What came, and how."""

    remote: Remote
    size: int
    sha256: str
    commit: str | None
    attempts: int
    seconds: float
    resumed: int
    """Bytes that did not have to come again when an attempt went on from an earlier one."""


def fetch(remote: Remote, part: Path, watch: Watch, check: Check | None = None) -> Arrived:
    """Fetches a file to `part`, in the workspace that `alone` gives.

    Raises DownloadError, or DiskError, after which the part is gone.
    """
    refuse_offline(remote.shown)
    with _opened(part, watch) as opened:
        transfer = _Transfer(remote, opened, watch, check)
        patiently(transfer.attempt, remote.shown, watch, lambda: transfer.brought)
    return transfer.arrived()


def fetch_json(url: str, watch: Watch) -> Any:
    """A list that the hub gives; raises DownloadError."""
    remote = Remote(url, hub=True)
    refuse_offline(remote.shown)
    found: list[object] = []
    stall = stall_seconds()
    patiently(lambda: found.append(ask_json(remote, stall)), remote.shown, watch, lambda: 0)
    return found[-1]


def stall_seconds() -> float:
    """Seconds without data after which an attempt ends."""
    return seconds_of("HF_HUB_DOWNLOAD_TIMEOUT", 30)


class _Part:
    """The bytes of a file that are here, their hash, and a note of which content they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note_path = path.with_name(path.name + NOTE)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.note: dict[str, Any] = {}
        self.size = 0
        self.hash = hashlib.sha256()

    def read_again(self) -> None:
        """What an earlier process left."""
        with suppress(OSError, DamagedArtefact):
            if self.note_path.exists():
                self.note = read_json(self.note_path, "")
        if not self.note.get("content"):
            return self.start()
        while chunk := os.read(self.descriptor, 1 << 20):
            self.hash.update(chunk)
            self.size += len(chunk)

    def start(self, content: str | None = None, size: int | None = None) -> None:
        """Begins anew, with bytes of `content`; None: what has no name cannot be resumed."""
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self.size, self.hash = 0, hashlib.sha256()
        self.note = {"content": content, "size": size}
        if content:
            write_json(self.note_path, self.note)
        else:
            self.note_path.unlink(missing_ok=True)

    def add(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            left = left[os.write(self.descriptor, left) :]
        self.hash.update(chunk)
        self.size += len(chunk)


@contextmanager
def _opened(path: Path, watch: Watch) -> Iterator[_Part]:
    with disk_errors(path):
        part = _Part(path)
        try:
            part.read_again()
            watch.resumed(part.size)
            yield part
        finally:
            os.close(part.descriptor)


class _Transfer:
    """One file on its way, over as many attempts as it takes."""

    def __init__(self, remote: Remote, part: _Part, watch: Watch, check: Check | None) -> None:
        self.remote, self.part, self.watch, self.check = remote, part, watch, check
        self.stall = stall_seconds()
        self.started = time.monotonic()
        self.attempts = 0
        self.resumed = 0
        self.furthest = part.size
        self.commit: str | None = None
        content = part.note.get("content") or ""
        self.stated = remote.sha256 or (content if SHA256.fullmatch(content) else None)
        self.answered = False
        if self.stated and content not in ("", self.stated):
            self._start()

    @property
    def brought(self) -> float:
        """The furthest byte ever reached, in hundredths of the file."""
        size = self.part.note.get("size") or 100 * 2**16
        return self.furthest / (PROGRESS * size)

    def attempt(self) -> None:
        """Asks for what is missing, and looks at the whole; raises Trouble or DownloadError."""
        self.attempts += 1
        try:
            if not self.part.size or self.part.size != self.part.note.get("size"):
                self._receive()
            self._examine()
        except Trouble as trouble:
            if trouble.start_anew:
                self._start()
            if self.answered and trouble.error is Unreachable:  # it was there, and may be again
                trouble.patience, trouble.error = MANY, DownloadError
            raise

    def arrived(self) -> Arrived:
        return Arrived(
            self.remote,
            self.part.size,
            self.part.hash.hexdigest(),
            self.commit,
            self.attempts,
            time.monotonic() - self.started,
            self.resumed,
        )

    def _receive(self) -> None:
        part, known = self.part, self.part.note.get("content")
        first = part.size if known else 0
        etag = known.removeprefix(ETAG) if known and known.startswith(ETAG) else None
        with ask(self.remote, self.stall, first, etag) as answer:
            self.answered, self.commit = True, answer.commit or self.commit
            self.stated = answer.sha256
            content = answer.sha256 or (ETAG + answer.etag if answer.etag else None)
            if answer.first and content != known:
                raise Trouble("the file has changed meanwhile", patience=FEW, start_anew=True)
            if answer.first:
                self.resumed += part.size
            else:
                self._start(content, answer.size)
            self._take(answer)

    def _take(self, answer: Answer) -> None:
        """Writes the body; raises Trouble where it is too slow, too short or too long."""
        part, size, offered = self.part, answer.size, answer.offered
        if None not in (size, offered) and size != offered:
            raise wrong(f"{offered:,} bytes are offered where {size:,} were stated")
        since, before = time.monotonic(), part.size
        for chunk in answer.chunks(self.stall):
            if part.size == 0 and is_html(chunk):
                raise wrong("it came as an HTML page")
            part.add(chunk)
            self.furthest = max(self.furthest, part.size)
            self.watch.moved(part.size, size)
            if size is not None and part.size > size:
                raise wrong(f"more than the {size:,} bytes came that were stated")
            now = time.monotonic()
            if now - since > self.stall:
                if part.size - before < SLOWEST * self.stall:
                    raise stalled(self.stall)
                since, before = now, part.size
        if size is not None and part.size < size:
            raise broken(f"{part.size:,} of {size:,} bytes came")

    def _examine(self) -> None:
        seen = self.part.hash.hexdigest()
        if self.stated and seen != self.stated:
            raise wrong(f"it came damaged: SHA-256 {seen[:12]}..., stated is {self.stated[:12]}...")
        if self.check is None:
            return
        try:
            self.check(self.part.path, self.stated is not None)
        except DownloadError as exc:
            if self.stated is None:  # it may have been damaged on its way
                raise wrong(str(exc)) from exc
            self._start()
            seen = f"{self.remote.shown} came, but {exc}"
            raise DownloadError(f"{seen}: {ANOTHER_SPEAKER}") from exc

    def _start(self, content: str | None = None, size: int | None = None) -> None:
        self.part.start(content, size)
        self.watch.resumed(0)
