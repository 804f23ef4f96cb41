"""How often a training should save: where saves and failures together cost it least.

    advice = advise(attempts_of(events, "base"), account, save_every_minutes=15)
    print(advice.sentence())

A save costs C; a failure costs half an interval T on average; failures come every M. The share lost
is C/T + T/(2M), least at T = sqrt(2CM): J. W. Young, "A first order approximation to the optimum
checkpoint interval", CACM 17(9), 1974; J. T. Daly, "A higher order estimate of the optimum
checkpoint interval for restart dumps", FGCS 22(3), 2006, equation 1; good while T is far below M.
Pure.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import median

from nanochat.track.goodput import Account, Event, number_of, own_seconds, stall_of

LEAST_TIME_WITHOUT_FAILURE = 24 * 3600.0
"""Where none was seen, one is assumed at the end of what was, but no sooner than after this."""
STEPS_TO_COMPARE = 8
"""With fewer steps outside of saves, it cannot be told whether those beside them are slower."""
WORTH_A_CHANGE = 1.1
"""Advice that would spare less than this factor is not given."""


@dataclass(frozen=True)
class Advice:
    """An interval between saves. Seconds; shares are of the time that the training runs."""

    save_cost: float
    """What a save takes from training: standing still, and slower steps while it is written."""
    failure_every: float
    failures: int
    """Failures and rollbacks seen; with 0, `failure_every` is assumed."""
    best: float
    """Never shorter than a step or than the writing of a save."""
    lost_at_best: float
    now: float | None
    """What the config says; None where it was not told."""
    lost_now: float | None

    def sentence(self) -> str:
        """For people."""
        seen = "a failure every" if self.failures else "no failure seen, one assumed every"
        why = f"a save costs {_span(self.save_cost)}, {seen} {_span(self.failure_every)}"
        best = f"{_span(self.best)} would lose least ({why})"
        if self.now is None or self.lost_now is None:
            return f"checkpoint interval: {best}: {_share(self.lost_at_best)} of the time"
        if self.lost_now < WORTH_A_CHANGE * self.lost_at_best:
            near = f"{_span(self.now)} now, as good as the best, {_span(self.best)}"
            return (
                f"checkpoint interval: {near} ({why}): it loses {_share(self.lost_now)} of the time"
            )
        lost = f"{_share(self.lost_at_best)} of the time in place of {_share(self.lost_now)}"
        return f"checkpoint interval: {_span(self.now)} now; {best}: {lost}"


def advise(
    attempts: Sequence[Sequence[Event]], account: Account, save_every_minutes: float | None
) -> Advice | None:
    """What the attempts that `account` is of teach; None before their first checkpoint."""
    saves = list(_saves(attempts))
    if not saves:
        return None
    failures = account.failures + account.rollbacks
    every = account.running / failures if failures else account.running
    every = max(every, 1.0 if failures else LEAST_TIME_WITHOUT_FAILURE)
    outside = [own for attempt in attempts for own in _outside(attempt)]
    usual = median(outside) if outside else 0.0
    cost = median(save.stall for save in saves)
    if len(outside) >= STEPS_TO_COMPARE:
        cost += max(0.0, median(sum(own - usual for own in save.beside) for save in saves))
    least = max(usual, median(save.writing for save in saves), 0.001)
    best = max(least, math.sqrt(2 * cost * every))
    now = None if save_every_minutes is None else max(least, save_every_minutes * 60)
    return Advice(
        save_cost=cost,
        failure_every=every,
        failures=failures,
        best=best,
        lost_at_best=_lost(best, cost, every),
        now=now,
        lost_now=None if now is None else _lost(now, cost, every),
    )


@dataclass(frozen=True)
class _Save:
    stall: float
    writing: float
    beside: list[float]
    """Own seconds of the steps that were made while it was written."""


def _saves(attempts: Sequence[Sequence[Event]]) -> Iterator[_Save]:
    for attempt in attempts:
        for index, event in enumerate(attempt):
            if event["event"] == "checkpoint":
                beside = [own_seconds(step) for step in _beside(attempt, index)]
                yield _Save(stall_of(event), number_of(event, "seconds"), beside)


def _beside(attempt: Sequence[Event], index: int) -> list[Event]:
    """Steps between a checkpoint's step and its event: the save was written beside them."""
    saved = number_of(attempt[index], "step")
    back = (attempt[place] for place in range(index - 1, -1, -1))
    steps = (event for event in back if event["event"] == "step")
    return list(takewhile(lambda step: number_of(step, "step") > saved, steps))


def _outside(attempt: Sequence[Event]) -> list[float]:
    """Own seconds of the steps that no save was written beside, but for the first: it compiles."""
    beside = {
        id(step)
        for index, event in enumerate(attempt)
        if event["event"] == "checkpoint"
        for step in _beside(attempt, index)
    }
    steps = [event for event in attempt if event["event"] == "step"]
    return [own_seconds(step) for step in steps[1:] if id(step) not in beside]


def _lost(interval: float, cost: float, every: float) -> float:
    """Young's first order, and no more than all."""
    return min(1.0, cost / interval + interval / (2 * every))


def _span(seconds: float) -> str:
    """`0.4 s`, `4.2 min`, `6.1 h`."""
    if seconds < 59.95:
        return f"{_short(seconds)} s"
    return f"{_short(seconds / 60)} min" if seconds < 3597 else f"{_short(seconds / 3600)} h"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number >= 0.05 or number == 0 else f"{number:.1g}"


def _share(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.095 else f"{100 * share:.0f} %"
