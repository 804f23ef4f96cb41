"""Where a training's wall-clock time went: every second of it, from the journal alone.

    account = account_of(read_events(disk.journal), "base")
    account.goodput, account.seconds["lost"]

An attempt is what follows a `start`. What an event says that something took is drawn from the
seconds that have passed in its attempt and that nothing else has drawn; so the parts add up to the
wall time whatever the clocks did. Of journals of older versions, which say less, more is `other`.
Pure: a list of events in, a dataclass out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

Event = Mapping[str, Any]

PARTS = ("useful", "data", "save", "evaluation", "start", "lost", "queue", "other")
"""What `Account.seconds` is by:

useful      steps that count, less what follows
data        in these: waiting for their rows
save        standing still for a save: for its copy, and where a disk was slow, for its writing
evaluation  measuring validation bits per byte
start       from the process's beginning to its first step: imports, loading, resuming; and what the
            first step took longer than the others, which is compiling
lost        steps that had to be made again, that were skipped, or that never ended
queue       between an attempt's last line and the next one's beginning: the queue, and what a
            process that was killed did after its last line
other       between all these: agreeing, logging, leaving
"""
ALERTS = ("save_failed", "spike", "rollback", "out_of_memory", "hang")
CLEAN_ENDS = ("stop", "end")
SUDDEN_ENDS = ("hang", "diverged")
NEVER_ENDED = ("hang", "diverged", "rollback")
"""Events that come in place of a step's end."""
STEPS_TO_COMPARE = 4
"""With fewer others, it cannot be told what of an attempt's first step was compiling."""


@dataclass(frozen=True)
class Alert:
    """Events of one kind that a person should know of."""

    kind: str
    """One of ALERTS."""
    count: int
    last: str
    """What the last one said."""
    time: float
    """When that was, in seconds since 1970."""


@dataclass(frozen=True)
class Account:
    """A training's time. Seconds; times since 1970."""

    stage: str
    began: float
    """When its first process did."""
    ended: float
    """Its last line in the journal."""
    seconds: dict[str, float]
    """By PARTS."""
    attempts: int
    failures: int
    """Attempts that ended without a word, hung or diverged. The last attempt, which may be running,
    is not among them for its silence alone."""
    hangs: int
    rollbacks: int
    steps: int
    """Steps made that count."""
    lost_steps: int
    """Steps made that had to be made again, or were skipped."""
    alerts: tuple[Alert, ...]

    @property
    def wall(self) -> float:
        """All of its seconds, those in queues too."""
        return sum(self.seconds.values())

    @property
    def running(self) -> float:
        """Seconds in which a process of it ran."""
        return self.wall - self.seconds["queue"]

    @property
    def goodput(self) -> float:
        """Useful step time / wall time; 0 where there is none."""
        return self.seconds["useful"] / self.wall if self.wall else 0.0


def account_of(events: Iterable[Event], stage: str, training: str | None = None) -> Account | None:
    """The account of a stage's training: of the one that the journal knew last, where none is
    named; None where the journal has nothing of it."""
    attempts = attempts_of(events, stage, training)
    if not attempts:
        return None
    ledger = _Ledger(_began(attempts[0]))
    lines = [event for attempt in attempts for event in attempt]
    counting = _counts(lines)
    steps = [counts for event, counts in zip(lines, counting, strict=True) if _is(event, "step")]
    marks = iter(counting)
    for attempt in attempts:
        ledger.add(attempt, list(islice(marks, len(attempt))))
    return Account(
        stage=stage,
        began=_began(attempts[0]),
        ended=ledger.now,
        seconds=ledger.seconds,
        attempts=len(attempts),
        failures=sum(map(_failed, attempts[:-1])) + _ended_suddenly(attempts[-1]),
        hangs=sum(_is(event, "hang") for event in lines),
        rollbacks=sum(_is(event, "rollback") for event in lines),
        steps=sum(steps),
        lost_steps=len(steps) - sum(steps),
        alerts=tuple(_alerts(lines)),
    )


def attempts_of(
    events: Iterable[Event], stage: str, training: str | None = None
) -> list[list[Event]]:
    """The events of a training by attempt; for `training` see account_of."""
    own = [event for event in events if event.get("stage") == stage]
    wanted = training if training is not None or not own else own[-1].get("training")
    attempts: list[list[Event]] = []
    for event in own:
        if event.get("training") == wanted:
            if _is(event, "start") or not attempts:
                attempts.append([])
            attempts[-1].append(event)
    return attempts


def number_of(event: Event, name: str, default: float = 0.0) -> float:
    """A finite number of 0 or more in an event; `default` where it has no such thing."""
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return max(0.0, float(value)) if math.isfinite(value) else default


def step_seconds(step: Event) -> float:
    """Seconds of a step. Older journals tell only tokens, of all steps so far, and their rate."""
    rate, number = number_of(step, "tokens_per_second"), number_of(step, "step")
    told = number_of(step, "tokens") / number / rate if rate and number else 0.0
    return number_of(step, "seconds", default=told)


def own_seconds(step: Event) -> float:
    """Seconds of a step in which it waited neither for data nor for a save."""
    waited = number_of(step, "data_seconds") + number_of(step, "stall_seconds")
    return max(0.0, step_seconds(step) - waited)


def stall_of(save: Event) -> float:
    """Seconds that training stood still for a save, those in steps too. In older journals it did
    so for all of it."""
    return number_of(save, "stall_seconds", default=number_of(save, "seconds"))


class _Ledger:
    """Seconds by part, and those of the present attempt that nothing has drawn yet."""

    def __init__(self, began: float) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.now, self.idle = began, 0.0

    def add(self, attempt: Sequence[Event], counting: Sequence[bool]) -> None:
        """Accounts for an attempt, and for the time before it. `counting` says which of its events
        are steps that count."""
        self._pass_to(_began(attempt))
        self._draw("queue", self.idle)
        compiling = _compiling(attempt)
        starts, told_by_steps = True, 0.0
        for event, counts in zip(attempt, counting, strict=True):
            name = event["event"]
            passed = self._pass_to(number_of(event, "time", default=self.now))
            if name == "step":
                if starts:
                    self._draw("start", compiling)
                self._step(event, step_seconds(event) - compiling * starts, counts)
                told_by_steps += number_of(event, "stall_seconds")
            elif name == "validation":
                self._draw("evaluation", number_of(event, "seconds"))
            elif name in ("checkpoint", "save_failed"):
                self._draw("save", stall_of(event) - told_by_steps)
                told_by_steps = 0.0
            elif name in NEVER_ENDED:
                self._draw("lost", passed)
            if starts and name in ("step", "validation"):
                self._draw("start", self.idle)
                starts = False
        self._draw("start" if starts else "other", self.idle)

    def _step(self, step: Event, seconds: float, counts: bool) -> None:
        if not counts:
            self._draw("lost", seconds)
            return
        left = seconds - self._draw("data", min(seconds, number_of(step, "data_seconds")))
        left -= self._draw("save", min(left, number_of(step, "stall_seconds")))
        self._draw("useful", left)

    def _pass_to(self, time: float) -> float:
        """Seconds since the event before; 0 where a clock was set back."""
        passed = max(0.0, time - self.now)
        self.now, self.idle = max(self.now, time), self.idle + passed
        return passed

    def _draw(self, part: str, seconds: float) -> float:
        drawn = min(max(0.0, seconds), self.idle)
        self.seconds[part] += drawn
        self.idle -= drawn
        return drawn


def _began(attempt: Sequence[Event]) -> float:
    """When the attempt's process did: an older journal has only the `start`."""
    noted = number_of(attempt[0], "time")
    return min(noted, number_of(attempt[0], "process_started", default=noted))


def _counts(events: Sequence[Event]) -> list[bool]:
    """Of each event, whether it is a step that was made and that nothing has undone since: no
    attempt or rollback has begun before it, and no later line is of the same step."""
    counting, undone_after = [], math.inf
    for event in reversed(events):
        name, step = event["event"], number_of(event, "step")
        counting.append(name == "step" and step <= undone_after and not event.get("skipped"))
        if name == "step":
            undone_after = min(undone_after, step - 1)
        elif name in ("start", "rollback"):
            undone_after = min(undone_after, step, number_of(event, "from_step", step))
    return counting[::-1]


def _compiling(attempt: Sequence[Event]) -> float:
    """What the attempt's first step took longer than is usual in it."""
    own = [own_seconds(event) for event in attempt if _is(event, "step")]
    if len(own) <= STEPS_TO_COMPARE:
        return 0.0
    return max(0.0, own[0] - median(own[1:]))


def _is(event: Event, *names: str) -> bool:
    return event["event"] in names


def _failed(attempt: Sequence[Event]) -> bool:
    return not any(_is(event, *CLEAN_ENDS) for event in attempt)


def _ended_suddenly(attempt: Sequence[Event]) -> bool:
    return _failed(attempt) and any(_is(event, *SUDDEN_ENDS) for event in attempt)


def _alerts(events: Sequence[Event]) -> Iterable[Alert]:
    for kind in ALERTS:
        found = [event for event in events if _is(event, kind)]
        if found:
            yield Alert(kind, len(found), alert_words(found[-1]), number_of(found[-1], "time"))


def alert_words(event: Event) -> str:
    """What an event of ALERTS says, for people."""

    def said(name: str) -> Any:
        return event.get(name, "?")

    if _is(event, "spike"):
        loss, usual = number_of(event, "loss"), number_of(event, "median")
        return f"the loss of step {said('step')} was {loss:.3f}, where {usual:.3f} was usual"
    if _is(event, "rollback"):
        return f"from step {said('from_step')} back to {said('step')}: {said('reason')}"
    if _is(event, "out_of_memory"):
        return f"{said('rows_before')} rows at once did not fit: {said('rows_now')} from then on"
    if _is(event, "hang"):
        where = f"rank {said('rank')} on {said('host')}, in {said('section')}"
        return f"{where} of step {said('step')} for {number_of(event, 'seconds'):.0f} s"
    return str(said("reason"))
