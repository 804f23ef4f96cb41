"""Shows downloads while they run: bars on a terminal, a plain line every ten seconds in a log.

    with shown(files=101, about_bytes=10.1e9) as transfers:
        watch = transfers.begin("shard_00007.parquet", about_bytes=100e6)
        watch.moved(done=20_000_000, total=99_000_000)
        watch.ended(arrived=True)

Prints to stderr and writes nothing. Any number of threads may have a watch.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from nanochat.progress import SECONDS_BETWEEN_LINES, format_seconds

LONG_WAIT = 2.0  # seconds from which on a wait is worth a line


class Stopped(Exception):
    """Ctrl-C: a transfer ends at its next chunk, and its part stays."""


class Watch:
    """What one transfer tells of itself: bytes that are here, and that were here before."""

    def __init__(self, transfers: "Transfers", name: str, about_bytes: float) -> None:
        self.name, self.total = name, about_bytes
        self.done = self.known = 0
        self.runs = True
        self._transfers = transfers
        self._before = self._known_before = 0
        self._in_all: int | None = None

    def next_of(self, total: int) -> None:
        """The next one follows of several files, which are so large together."""
        self._before, self._known_before, self._in_all = self.done, self.known, total

    def resumed(self, done: int) -> None:
        """So many bytes lay there already; 0 where what lay there is of no use."""
        self.done, self.known = self._before + done, self._known_before + done

    def moved(self, done: int, total: int | None) -> None:
        """`done` bytes are here; called for every chunk. Raises Stopped."""
        self.done = self._before + done
        self.total = self._in_all or total or max(self.total, done)
        self._transfers.go_on()

    def wait(self, seconds: float, why: str) -> None:
        """Sleeps before another attempt. Raises Stopped."""
        if seconds >= LONG_WAIT:
            self._transfers.say(f"{self.name}: {why}; trying again in {seconds:.0f} s")
        self._transfers.stop.wait(seconds)
        self._transfers.go_on()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._transfers.say(f"{self.name}: {text}")

    def ended(self, arrived: bool) -> None:
        """This transfer is over; what did not arrive counts as planned no longer."""
        self.runs = False
        self.total = self.done if arrived else 0
        self.done = self.done if arrived else 0


class Transfers:
    """All transfers of a process; what is printed of them is the display's."""

    def __init__(self, files: int, about_bytes: float) -> None:
        self.files, self._unbegun = files, about_bytes
        self.stop = Event()
        """Set, it ends every transfer."""
        self.watches: list[Watch] = []
        self.started = time.monotonic()
        self._lock = Lock()
        self.display: _Lines | _Bars = _Lines()

    def begin(self, name: str, about_bytes: float) -> Watch:
        """A new transfer, as large as planned until the server says its size."""
        watch = Watch(self, name, about_bytes)
        with self._lock:
            self.watches.append(watch)
            self._unbegun -= about_bytes
        return watch

    def go_on(self) -> None:
        """Raises Stopped where this is to end."""
        if self.stop.is_set():
            raise Stopped

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        self.display.say(text)

    @property
    def ended(self) -> int:
        """Number of transfers that are over."""
        return sum(not watch.runs for watch in self.watches)

    @property
    def done(self) -> float:
        """Bytes that are here."""
        return sum(watch.done for watch in self.watches)

    @property
    def total(self) -> float:
        """Bytes of all files, those not begun as large as planned."""
        return max(self._unbegun, 0) + sum(max(each.total, each.done) for each in self.watches)

    @property
    def rate(self) -> float:
        """Bytes a second since the start."""
        came = self.done - sum(watch.known for watch in self.watches)
        return max(came, 0) / (time.monotonic() - self.started + 1e-9)


@contextmanager
def shown(files: int, about_bytes: float) -> Iterator[Transfers]:
    """Transfers that are displayed on stderr while the block runs."""
    transfers = Transfers(files, about_bytes)
    if sys.stderr.isatty():
        transfers.display = _Bars(transfers)
    display, over = transfers.display, Event()

    def tick() -> None:
        while not over.wait(display.seconds):
            display.show(transfers)

    ticker = Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield transfers
    finally:
        over.set()
        ticker.join()
        display.close(transfers)


class _Lines:
    """A line for all of them every ten seconds, for a log."""

    seconds = SECONDS_BETWEEN_LINES

    def show(self, transfers: Transfers) -> None:
        self.say(progress_line(transfers))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def close(self, transfers: Transfers) -> None:
        pass


class _Bars:
    """A bar for all files and one for each that runs, for a terminal."""

    seconds = 0.2

    def __init__(self, transfers: Transfers) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.bars: dict[Watch, TaskID] = {}
        self.whole = self.progress.add_task("", visible=transfers.files > 1)
        self.progress.start()

    def show(self, transfers: Transfers) -> None:
        """The finished ones' bars go; a long run would fill the screen with them."""
        for watch in list(transfers.watches):
            if watch.runs and watch not in self.bars:
                self.bars[watch] = self.progress.add_task(watch.name, completed=watch.known)
            elif not watch.runs and watch in self.bars:
                self.progress.remove_task(self.bars.pop(watch))
            if watch in self.bars:
                self.progress.update(self.bars[watch], completed=watch.done, total=watch.total)
        text = f"{transfers.ended} of {transfers.files} files"
        self.progress.update(
            self.whole, description=text, completed=transfers.done, total=transfers.total
        )

    def say(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self, transfers: Transfers) -> None:
        self.show(transfers)
        self.progress.stop()


def progress_line(transfers: Transfers) -> str:
    """`3 of 101 files: 310.0 of 10,100.0 MB (3 %), 31.0 MB/s, ETA 5m15s`."""
    done, total, rate = transfers.done, transfers.total, transfers.rate
    name = f"{transfers.ended} of {transfers.files} files"
    if transfers.files == 1 and transfers.watches:
        name = transfers.watches[0].name
    left = format_seconds((total - done) / rate) if rate else "unknown"
    return (
        f"{name}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB ({100 * done / max(total, 1):.0f} %), "
        f"{rate / 1e6:,.1f} MB/s, ETA {left}"
    )
