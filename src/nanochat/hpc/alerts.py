"""What a person should know of a training that runs: from its journal, and from what its ranks say
of themselves.

    alerts_of(attempt)
    standing_rank(heartbeats_in(disk.run / "heartbeats", "base"), began, now)

Reads the heartbeat files that a training's watchdogs renew; writes nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median_low
from typing import Any

Event = Mapping[str, Any]

SLOW = 1.2
"""A rank that takes this many times what the median rank takes holds the others up."""
LONG_IN_A_SECTION = 60.0
"""Seconds."""


def alerts_of(attempt: Sequence[Event]) -> tuple[str, ...]:
    """One phrase for each thing; `attempt` holds the events of a stage from its last `start` on."""
    found = {name: [event for event in attempt if event["event"] == name] for name in _WORDS}
    return tuple(
        words
        for name, say in _WORDS.items()
        if found[name] and (words := say(found[name], attempt)) is not None
    )


def _failed_save(failed: Sequence[Event], attempt: Sequence[Event]) -> str | None:
    last = [event for event in attempt if event["event"] in ("checkpoint", "save_failed")][-1]
    if last["event"] == "checkpoint":
        return None
    at = datetime.fromtimestamp(last["time"]).astimezone()
    return f"the last save failed ({at:%Y-%m-%d %H:%M}): {last.get('reason', 'no reason given')}"


def _rollbacks(rollbacks: Sequence[Event], attempt: Sequence[Event]) -> str:
    last = rollbacks[-1]
    where = f"to step {last.get('step', '?')}: {last.get('reason', 'no reason given')}"
    return f"{_count(rollbacks, 'rollback')}, the last {where}"


def _spikes(spikes: Sequence[Event], attempt: Sequence[Event]) -> str:
    return f"{_count(spikes, 'loss spike')}, the last at step {spikes[-1].get('step', '?')}"


def _backed_off(failures: Sequence[Event], attempt: Sequence[Event]) -> str:
    before, now = (failures[-1].get(name, "?") for name in ("rows_before", "rows_now"))
    return f"out of memory with {before} rows at once: {now} from then on"


def _slowest(told: Sequence[Event], attempt: Sequence[Event]) -> str | None:
    last = told[-1]
    computing, waiting = last.get("seconds") or [], last.get("data_seconds") or []
    waiting = waiting if len(waiting) == len(computing) else [0.0] * len(computing)
    ranks = [sum(pair) for pair in zip(computing, waiting, strict=True)]
    rank = last.get("slowest")
    if not isinstance(rank, int) or not 0 <= rank < len(ranks):
        return None
    usual = median_low(ranks)  # of two, the fast one
    if ranks[rank] <= SLOW * usual:
        return None
    took = f"{ranks[rank]:.2f} s a step where the median is {usual:.2f} s"
    return f"rank {rank} on {last.get('host', '?')} is the slowest: {took}"


_WORDS = {
    "save_failed": _failed_save,
    "rollback": _rollbacks,
    "spike": _spikes,
    "out_of_memory": _backed_off,
    "ranks": _slowest,
}


def _count(events: Sequence[Event], noun: str) -> str:
    return f"1 {noun}" if len(events) == 1 else f"{len(events)} {noun}s"


def heartbeats_in(folder: Path, stage: str) -> list[Event]:
    """What a stage's ranks last said of themselves; torn and vanished files are passed over."""
    return list(_readable(sorted(folder.glob(f"{stage}-rank-*.json"))))


def _readable(files: Sequence[Path]) -> Iterator[Event]:
    for file in files:
        try:
            beat = json.loads(file.read_bytes())
            yield {**beat, "since": float(beat["since"]), "time": float(beat["time"])}
        except (OSError, ValueError, TypeError, KeyError):
            continue


def standing_rank(beats: Sequence[Event], began: datetime, now: datetime) -> str | None:
    """The rank that has been longest in one section, where that is long; one that waits for others
    only if all do. Files from before `began` are of processes that were killed."""
    long = [
        (not beat.get("waits"), seconds, beat)
        for beat in beats
        if beat["time"] >= began.timestamp()
        and (seconds := beat["since"] + max(0.0, now.timestamp() - beat["time"]))
        > LONG_IN_A_SECTION
    ]
    if not long:
        return None
    _, seconds, beat = max(long, key=lambda each: each[:2])
    who = f"rank {beat.get('rank', '?')} on {beat.get('host', '?')}"
    return f"{who}: in {beat.get('section', '?')} for {seconds:.0f} s"
