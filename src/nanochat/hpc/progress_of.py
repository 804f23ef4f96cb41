"""How far a training is, from the journal's events: the step, the speed, and the time left.

    progress = progress_of(last_events(disk.journal), "base")

Only events of the present attempt count: those from the stage's last `start` on. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from nanochat.hpc.alerts import alerts_of

STEPS_AVERAGED = 50


@dataclass(frozen=True)
class Progress:
    """Where a training's last attempt stands."""

    step: int
    steps: int | None
    """None where the journal's tail does not say."""
    tokens_per_second: float | None
    """Mean over the last steps, in steps only."""
    eta_seconds: float | None
    """From the mean time of the last steps, with the saving and validating among them."""
    began: datetime
    last: datetime
    """Time of its last event."""
    saved: bool
    """True where the last thing it did was to save a checkpoint of its last step, or to stop. A
    checkpoint is journaled when it is whole, which may be some steps after its own."""
    stopped: str = ""
    """Why it stopped, where that is the last thing it journaled."""
    alerts: tuple[str, ...] = ()
    """What a person should know of it while it runs, a phrase each."""

    def standing(self) -> "Progress":
        """The same of a training that is not running: no speed, no time left and no alerts."""
        return replace(self, tokens_per_second=None, eta_seconds=None, alerts=())

    def alerting(self, words: str) -> "Progress":
        """The same with one alert more."""
        return replace(self, alerts=(*self.alerts, words))


def progress_of(events: Sequence[Mapping[str, Any]], stage: str) -> Progress | None:
    """The stage's last attempt; None where no event is of it."""
    attempt = _last_attempt([event for event in events if event.get("stage") == stage])
    if not attempt:
        return None
    first, last = attempt[0], attempt[-1]
    steps = first.get("steps") if first["event"] == "start" else None
    made = [event for event in attempt if event["event"] == "step"][-STEPS_AVERAGED - 1 :]
    step = int(made[-1]["step"] if made else first.get("step", 0))
    rates = [event["tokens_per_second"] for event in made if "tokens_per_second" in event]
    eta = None
    if steps is not None and len(made) > 1:
        eta = (made[-1]["time"] - made[0]["time"]) / (len(made) - 1) * (steps - step)
    return Progress(
        step=step,
        steps=steps,
        tokens_per_second=sum(rates) / len(rates) if rates else None,
        eta_seconds=eta,
        began=_time(first),
        last=_time(last),
        saved=last["event"] == "stop" or (last["event"] == "checkpoint" and last["step"] >= step),
        stopped=str(last.get("reason", "stopped")) if last["event"] == "stop" else "",
        alerts=alerts_of(attempt),
    )


def _last_attempt(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    starts = [index for index, event in enumerate(events) if event["event"] == "start"]
    return events[starts[-1] :] if starts else events


def _time(event: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(event["time"]).astimezone()
