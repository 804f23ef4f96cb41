"""A rank that stands still is found, shown and ended, so that a job does not idle to its limit.

    with Watchdog(folder, "base", group.rank, group.world_size, minimum_seconds=600) as watchdog:
        watchdog.enter(Section.FORWARD, step)

The main thread says which section of a step it enters. A thread looks every second, and where a
section lasts several times longer than it ever did, the process says who holds up whom, shows the
stacks of all its threads and leaves with exit code 79. A rank that waits for the others gets more
time, so that the rank that hangs speaks first; where that one cannot, the waiting rank names it
from its heartbeat file.

Time is counted in looks: while a process is stopped (a laptop asleep, SLURM's suspension) nothing
passes. That is why faulthandler.dump_traceback_later is not the backstop for code that holds the
interpreter's lock for ever: its clock runs on, and a job that SLURM resumes would end at once. Such
a rank's heartbeat stops, and the others name it; alone, it runs into the job's time limit.

A hang inside NCCL shows where it waits with TORCH_NCCL_TRACE_BUFFER_SIZE=2000 and
TORCH_NCCL_DUMP_ON_TIMEOUT=1 in the environment; nothing here sets them.

Writes <folder>/<stage>-rank-R.json (train/heartbeats.py), and hang-<stage>-rank-R.txt on a hang.
"""

import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn, Self

from nanochat.errors import DiskError, HangDetected
from nanochat.files import atomic_write
from nanochat.train.heartbeats import (
    Blame,
    Heartbeat,
    culprit,
    read_heartbeats,
    remove_heartbeat,
    write_heartbeat,
)

HANG_EXIT_CODE = HangDetected.exit_code
LOOK_SECONDS = 1.0
BEAT_SECONDS = 10.0
TIMES_THE_SLOWEST = 5.0
TIMES_AT_FIRST = 3.0
"""Of the minimum: what runs for the first time may be compiled first."""
TIMES_WAITING, SECONDS_WAITING = 1.5, 30.0
PATIENCE = 5.0
"""Seconds for each of finding out and telling: a disk or a pipe may be what hangs."""
COLLECTIVES = (os.path.join("torch", "distributed", ""), os.path.join("train", "distributed.py"))
"""Who stands in such a file waits for other ranks."""


class Section(StrEnum):
    """The parts of a training that can hang, in the order of a step."""

    START = "start"
    DATA = "data"
    FORWARD = "forward"
    BACKWARD = "backward"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    AGREE = "agree"
    SAVE = "save"
    LAST_SAVE = "last save"
    """Before leaving: nothing goes on beside it."""
    EVALUATE = "evaluate"
    LEAVE = "leave"


WAITING = frozenset({Section.GRADIENTS, Section.AGREE, Section.LEAVE})
"""Where a rank does little but wait for the others."""


@dataclass(frozen=True)
class Hang:
    """What the watchdog found. Rank, host, section and seconds are the culprit's where it is known,
    else of the rank that speaks."""

    stage: str
    section: str
    step: int
    rank: int
    host: str
    seconds: float
    found_by: int
    """The rank that speaks."""
    sentence: str


class Moment(NamedTuple):
    """Where the main thread is."""

    section: Section
    step: int
    since: float
    """By the watchdog's clock."""
    allowed: float = 0.0


class Watchdog:
    """One a rank; `minimum_seconds` is the least that any section may take, 0 for no watchdog."""

    def __init__(
        self,
        folder: Path,
        stage: str,
        rank: int,
        world_size: int,
        minimum_seconds: float,
        on_hang: Callable[[Hang], None] | None = None,
    ) -> None:
        self.folder, self.stage, self.rank, self.world_size = folder, stage, rank, world_size
        self.minimum = minimum_seconds
        self.on_hang = on_hang
        self.host = platform.node()
        self._look_seconds = min(LOOK_SECONDS, minimum_seconds / 5)
        self._beat_seconds = min(BEAT_SECONDS, minimum_seconds / 5)
        self._clock = 0.0
        """Seconds in which this process ran."""
        self._moment = self._last = Moment(Section.START, 0, 0.0)
        self._elapsed = 0.0
        self._ended: set[Section] = set()
        self._slowest: dict[Section, float] = {}
        self._beats = 0
        self._before: tuple[Moment, dict[int, Heartbeat]] | None = None
        self._over = threading.Event()
        self._main = threading.get_ident()
        self._threads = [
            threading.Thread(target=self._watch, daemon=True, name="watchdog"),
            threading.Thread(target=self._keep_beating, daemon=True, name="heartbeat"),
        ]

    def __enter__(self) -> Self:
        self._main = threading.get_ident()
        if self.minimum > 0:
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(PATIENCE)  # no longer: its disk may hang

    def enter(self, section: Section, step: int) -> None:
        """The main thread begins a section, and with that ends the one before."""
        self._ended.add(self._moment.section)
        self._moment = Moment(section, step, self._clock)

    def allow(self, seconds: float) -> None:
        """The section that runs may take `seconds` from now on, this time."""
        self._moment = self._moment._replace(since=self._clock, allowed=seconds)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over.wait(self._look_seconds):
            now = time.monotonic()
            self._clock += min(now - last, 2 * self._look_seconds)
            last = now
            self._look()

    def _look(self) -> None:
        moment = self._moment
        if moment is not self._last:
            self._learn()
            self._last = moment
        self._elapsed = self._clock - moment.since
        waits = self._waits(moment)
        if self._elapsed > self._limit(moment, waits):
            self._give_up(moment, waits)

    def _learn(self) -> None:
        """From the moment that is over, as long as it was when last looked at."""
        section, allowed = self._last.section, self._last.allowed
        if not allowed:
            self._slowest[section] = max(self._elapsed, self._slowest.get(section, 0.0))

    def _limit(self, moment: Moment, waits: bool) -> float:
        limit = max(self.minimum, TIMES_THE_SLOWEST * self._slowest.get(moment.section, 0.0))
        if moment.section not in self._ended:
            limit = max(limit, TIMES_AT_FIRST * self.minimum)
        limit = max(limit, moment.allowed)
        return TIMES_WAITING * limit + min(SECONDS_WAITING, self.minimum) if waits else limit

    def _waits(self, moment: Moment) -> bool:
        """Whether the main thread waits for other ranks, by its section or by its stack."""
        if moment.section in WAITING:
            return True
        frame = sys._current_frames().get(self._main)
        while frame is not None:
            if any(part in frame.f_code.co_filename for part in COLLECTIVES):
                return True
            frame = frame.f_back
        return False

    def _keep_beating(self) -> None:
        """In a thread of its own, since a disk that hangs must not hold up the looks."""
        while True:
            moment = self._moment
            write_heartbeat(self.folder, self._heartbeat(moment, self._waits(moment)))
            half_way = self._limit(moment, self._waits(moment)) / 2
            if self._elapsed > half_way and (self._before is None or self._before[0] is not moment):
                self._before = moment, self._others()
            if self._over.wait(self._beat_seconds):
                break
        remove_heartbeat(self.folder, self.stage, self.rank)

    def _heartbeat(self, moment: Moment, waits: bool) -> Heartbeat:
        self._beats += 1
        return Heartbeat(
            rank=self.rank,
            host=self.host,
            pid=os.getpid(),
            stage=self.stage,
            section=moment.section.value,
            step=moment.step,
            since=round(self._clock - moment.since, 3),
            waits=waits,
            beat=self._beats,
            time=round(time.time(), 3),
        )

    def _others(self) -> dict[int, Heartbeat]:
        return read_heartbeats(self.folder, self.stage, self.world_size)

    def _give_up(self, moment: Moment, waits: bool) -> None:
        """Leaves, unless the section ends while the others' heartbeats are read."""
        blame: list[Blame | None] = []
        _patiently(lambda: blame.append(self._culprit(moment, waits)))
        if self._moment is moment and not self._over.is_set():
            self._leave(self._hang(moment, waits, blame[0] if blame else None))

    def _culprit(self, moment: Moment, waits: bool) -> Blame | None:
        before = self._before[1] if self._before and self._before[0] is moment else {}
        own = self._heartbeat(moment, waits)
        return culprit(own, before, self._others(), self.world_size)

    def _hang(self, moment: Moment, waits: bool, blame: Blame | None) -> Hang:
        section, step = moment.section.value, moment.step
        limit = self._limit(moment, waits)
        sentence = (
            f"{self.stage} rank {self.rank} on {self.host} has {'waited' if waits else 'been'} in "
            f"section {section} of step {step} for {self._elapsed:.0f} s, where {limit:.0f} s are "
            f"allowed: {f'{blame.what}; ' if blame else ''}see where it stands in "
            f"{self._stacks_file()}, and run again to continue from the last checkpoint"
        )
        return Hang(
            stage=self.stage,
            section=(blame and blame.section) or section,
            step=step,
            rank=blame.rank if blame else self.rank,
            host=(blame.host or "unknown") if blame else self.host,
            seconds=round((blame and blame.seconds) or self._elapsed, 3),
            found_by=self.rank,
            sentence=sentence,
        )

    def _leave(self, hang: Hang) -> NoReturn:
        _patiently(
            lambda: self._write_stacks(hang),
            lambda: self._print(hang),
            lambda: self.on_hang(hang) if self.on_hang else None,
        )
        os._exit(HANG_EXIT_CODE)

    def _stacks_file(self) -> Path:
        return self.folder / f"hang-{self.stage}-rank-{self.rank}.txt"

    def _write_stacks(self, hang: Hang) -> None:
        with suppress(DiskError, OSError), atomic_write(self._stacks_file()) as handle:
            handle.write(f"{hang.sentence}\n\n{stacks()}".encode())

    def _print(self, hang: Hang) -> None:
        """Past sys.stderr, whose lock the thread that hangs may hold."""
        os.write(2, f"{stacks()}error: {hang.sentence}\n".encode())


def stacks() -> str:
    """Where every thread stands, the innermost call first.

    Without faulthandler, which holds the interpreter's lock while it writes: a pipe that nobody
    reads would hold up the end of the process. Reads no files, since a disk may be what hangs.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda each: each[0] != main)
    for ident, frame in frames:  # the main thread, which hangs, first
        lines.append(f"Thread {names.get(ident, ident)} (most recent call first):")
        here: FrameType | None = frame
        while here is not None:
            code = here.f_code
            lines.append(f'  File "{code.co_filename}", line {here.f_lineno} in {code.co_qualname}')
            here = here.f_back
        lines.append("")
    return "\n".join(lines) + "\n"


def _patiently(*acts: Callable[[], object]) -> None:
    """Runs each in a thread of its own, and waits no longer than PATIENCE for all of them."""
    threads = [threading.Thread(target=act, daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
