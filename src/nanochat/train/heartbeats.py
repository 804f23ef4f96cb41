"""What each rank was doing last, in a file that the others can read; and who holds them up.

    write_heartbeat(folder, heartbeat)
    now = read_heartbeats(folder, "base", world_size)
    blame = culprit(own, before, now, world_size)

Reads and writes <folder>/<stage>-rank-<rank>.json. They are written often and for the moment, so
without fsync; and a disk that fails them stops nothing. What is read may be torn, or of an earlier
attempt: a beat that does not change between two readings is a rank that lives no more.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Heartbeat:
    """A rank at one moment."""

    rank: int
    host: str
    pid: int
    stage: str
    section: str
    step: int
    since: float
    """Seconds in this section."""
    waits: bool
    """Whether it was waiting for other ranks."""
    beat: int
    """Counts the writings."""
    time: float
    """Seconds since 1970, by the rank's own clock."""


class Blame(NamedTuple):
    """A rank that the others wait for. What is not known of it is None."""

    rank: int
    host: str | None
    section: str | None
    seconds: float | None
    what: str
    """What is wrong with it, for people."""


def heartbeat_file(folder: Path, stage: str, rank: int) -> Path:
    return folder / f"{stage}-rank-{rank}.json"


def write_heartbeat(folder: Path, heartbeat: Heartbeat) -> None:
    """Replaces the rank's file; does nothing where the disk refuses."""
    path = heartbeat_file(folder, heartbeat.stage, heartbeat.rank)
    temporary = path.with_name(f".tmp-{path.name}")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(heartbeat)) + "\n", encoding="utf-8")
        temporary.replace(path)


def remove_heartbeat(folder: Path, stage: str, rank: int) -> None:
    """The rank ends by itself: nobody need look for it."""
    with suppress(OSError):
        heartbeat_file(folder, stage, rank).unlink(missing_ok=True)


def read_heartbeats(folder: Path, stage: str, world_size: int) -> dict[int, Heartbeat]:
    """The heartbeats that can be read, by rank."""
    found = {}
    for rank in range(world_size):
        with suppress(OSError, ValueError, TypeError):
            text = heartbeat_file(folder, stage, rank).read_text(encoding="utf-8")
            found[rank] = Heartbeat(**json.loads(text))
    return found


def culprit(
    own: Heartbeat, before: Mapping[int, Heartbeat], now: Mapping[int, Heartbeat], world_size: int
) -> Blame | None:
    """Who holds up the rank `own`, if heartbeats can tell; `before` were read well before `now`.

    In this order: a rank that is frozen or gone; one that is busy with something of its own (for
    a rank that does not seem to wait: busy with an earlier step, since on a GPU it may wait for
    another rank anywhere); one that waits in an earlier step. None where nobody is.
    """
    others = [beat for rank, beat in sorted(now.items()) if rank != own.rank]
    frozen = [beat for beat in others if _same_beat(beat, before.get(beat.rank))]
    if frozen:
        return _blame(frozen[0], "is frozen or gone, its heartbeat stopped")
    gone = [rank for rank in range(world_size) if rank not in now and own.rank in now]
    if gone:
        return Blame(gone[0], None, None, None, f"rank {gone[0]} is gone: it has no heartbeat")
    busy = [beat for beat in others if not beat.waits and (own.waits or beat.step < own.step)]
    late = [beat for beat in others if own.waits and beat.step < own.step]
    behind = busy or late
    if behind:
        return _blame(min(behind, key=lambda beat: (beat.step, -beat.since)), "is behind,")
    return None


def _same_beat(now: Heartbeat, before: Heartbeat | None) -> bool:
    return before is not None and (before.pid, before.beat) == (now.pid, now.beat)


def _blame(beat: Heartbeat, trouble: str) -> Blame:
    what = (
        f"rank {beat.rank} on {beat.host} {trouble} in section {beat.section} of step {beat.step} "
        f"for {beat.since:.0f} s"
    )
    return Blame(beat.rank, beat.host, beat.section, beat.since, what)
