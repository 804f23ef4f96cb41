"""The journal of a run: append-only JSONL, the source of truth for report and tracker.

    journal = Journal(path)
    journal.write("step", stage="base", step=10, loss=3.2)
    for event in read_events(path): ...

One JSON object a line, with `event` and `time` (seconds since 1970). A line is one write, so that a
killed process leaves at most one torn line, at the end; the next writer starts a fresh line and
readers pass over the torn one. After a resume, steps since the checkpoint are run again: the last
line of a (stage, step) counts. While the disk takes nothing, lines wait in memory: a full disk, or
a server that is away, must not end a training.
"""

import json
import math
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.errors import MissingArtefact
from nanochat.files import disk_errors, make_directory

START_OF_START = b'{"event": "start",'


class Journal:
    """Appends events to a JSONL file; several threads may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""
        self._is_blocked = False
        self._lock = threading.Lock()
        make_directory(path.parent)
        with disk_errors(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(path, flags, 0o644)
            if _ends_in_a_torn_line(path):
                self._waiting = b"\n"

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event. A value JSON has no word for (NaN, infinity) raises ValueError."""
        line = json.dumps(
            {"event": event, "time": round(time.time(), 3), **fields}, allow_nan=False
        )
        with self._lock:
            self._waiting += line.encode() + b"\n"
            try:
                self._append()
                self._is_blocked = False
            except OSError as exc:
                self._warn(exc)

    def close(self) -> None:
        """Makes what was written durable and closes the file; raises DiskError where it is not."""
        with self._lock, disk_errors(self.path):
            try:
                self._append()
                os.fsync(self._descriptor)
            finally:
                os.close(self._descriptor)

    def _append(self) -> None:
        while self._waiting:
            written = os.write(self._descriptor, self._waiting)
            self._waiting = self._waiting[written:]

    def _warn(self, exc: OSError) -> None:
        if not self._is_blocked:
            print(f"warning: {self.path} waits for the disk: {exc.strerror}", file=sys.stderr)
        self._is_blocked = True


class SilentJournal(Journal):
    """For all ranks but the first: a run has one writer."""

    def __init__(self) -> None:
        pass

    def write(self, event: str, **fields: Any) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Nothing is open."""


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a journal in the order they were written; a torn line is passed over."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                event = parse_event(line)
                if event is not None:
                    yield event
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no journal {path}: run `make run` first") from exc


def last_events(path: Path, tail_bytes: int = 131_072) -> list[dict[str, Any]]:
    """The events in the last bytes of a journal, and the `start` that they follow on, however far
    back it lies; empty where there is no journal. Takes as long for a big journal as for a small.
    """
    try:
        with open(path, "rb") as handle:
            if os.fstat(handle.fileno()).st_size == 0:
                return []
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as journal:
                tail = journal.rfind(b"\n", 0, max(0, len(journal) - tail_bytes)) + 1
                start = journal.rfind(START_OF_START, 0, tail)
                before = [] if start < 0 else [journal[start : journal.find(b"\n", start)]]
                lines = [*before, *journal[tail:].splitlines()]
    except FileNotFoundError:
        return []
    events = (parse_event(line.decode(errors="replace")) for line in lines)
    return [event for event in events if event is not None]


def parse_event(line: str) -> dict[str, Any] | None:
    """One line of a journal as a dict; None where a killed writer left it torn."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and _is_event(event) else None


def _is_event(event: dict[str, Any]) -> bool:
    """What every reader relies on; anything else is no line of a journal's."""
    moment, step = event.get("time", 0.0), event.get("step", 0)
    return (
        isinstance(event.get("event"), str)
        and isinstance(moment, int | float)
        and math.isfinite(moment)
        and type(step) is int
    )


def _ends_in_a_torn_line(path: Path) -> bool:
    with open(path, "rb") as handle:
        if handle.seek(0, os.SEEK_END) == 0:
            return False
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) != b"\n"
