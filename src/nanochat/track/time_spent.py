"""A training's account and the advice that follows from it, as JSON values.

    time_spent(read_events(disk.journal), "base", save_every_minutes=15)

What `nanochat goodput --json` prints, and what the report's section is made of. Pure.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from nanochat.track.goodput import Event, account_of, attempts_of
from nanochat.track.save_interval import advise


def time_spent(
    events: Iterable[Event],
    stage: str,
    save_every_minutes: float | None,
    training: str | None = None,
) -> dict[str, Any] | None:
    """Of a stage's training, for which see `account_of`; None where the journal has nothing of it.

    Times are in seconds, or in seconds since 1970; `advice` is None before the first checkpoint.
    """
    attempts = attempts_of(events, stage, training)
    account = account_of((event for attempt in attempts for event in attempt), stage, training)
    if account is None:
        return None
    advice = advise(attempts, account, save_every_minutes)
    return {
        **asdict(account),
        "wall": account.wall,
        "goodput": account.goodput,
        "advice": {**asdict(advice), "sentence": advice.sentence()} if advice else None,
    }
