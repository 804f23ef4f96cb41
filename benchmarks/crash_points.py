"""Where a process may be killed: at every call by which it changes a disk.

    points = DiskCalls(kill)         # kill: (number, moment), or None to count them only
    points.install()
    points.armed = True              # from here on they are numbered

A moment is `before` the call, `after` it or, of a write, `half`: half the bytes have been written.
Counted are calls of the training's own thread and of the threads that save; the lease's heartbeat
comes when it likes. SIGKILL takes nothing from the page cache, so that a kill around an fsync shows
that the order of names is right, not what a power cut would leave.
"""

import builtins
import io
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir", "write")
COUNTED_THREADS = ("MainThread", "saver")


class Kill(NamedTuple):
    """The call at which a process dies."""

    number: int
    moment: str


class DiskCalls:
    """The calls of this process, numbered from 0 while `armed`."""

    def __init__(self, kill: Kill | None = None) -> None:
        self.kill = kill
        self.armed = False
        self.seen: list[str] = []
        """Name of each call, in order."""

    def install(self) -> None:
        """Puts itself in front of what Python calls to change a disk, in this process for good."""
        for name in CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        builtins.open = io.open = self._opening(open)  # type: ignore[assignment]

    def _counted(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            number = self._next(name)
            self._die_at(number, "before")
            if name == "write" and self.kill == (number, "half"):
                act(args[0], args[1][: len(args[1]) // 2])
            self._die_at(number, "half")
            try:
                return act(*args, **options)
            finally:
                self._die_at(number, "after")

        return call

    def _opening(self, honest: Callable[..., Any]) -> Callable[..., Any]:
        """Files that are written without a buffer of Python's are none of ours."""

        def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if mode != "wb":
                return honest(file, mode, *rest, **options)
            create = self._counted("open", _CountedFile)
            return io.BufferedWriter(create(file, self._counted))

        return opened

    def _next(self, name: str) -> int | None:
        if not self.armed or threading.current_thread().name not in COUNTED_THREADS:
            return None
        self.seen.append(name)
        return len(self.seen) - 1

    def _die_at(self, number: int | None, moment: str) -> None:
        if number is not None and self.kill == (number, moment):
            os.kill(os.getpid(), signal.SIGKILL)


class _CountedFile(io.FileIO):
    """A file whose every write(2) is counted."""

    def __init__(
        self, file: Any, counted: Callable[[str, Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        super().__init__(file, "w")
        plain = super().write
        self._write = counted("write", lambda _, data: plain(data))

    def write(self, data: Any) -> int:
        written: int = self._write(self.fileno(), data)
        return written
