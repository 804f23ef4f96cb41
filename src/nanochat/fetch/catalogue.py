"""What there is to download, what this config will, and how long that takes.

    entries = catalogue(disk, externals(disk))       # the whole registry
    plan = plan_downloads(disk, externals(disk))     # this config
    plan.bytes_missing, plan.seconds, plan.room.bytes_left

Reads directory listings, and the notes that downloads leave of when and how fast they were; asks
the file system for room. Writes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.fetch.externals import FETCHED, External
from nanochat.fetch.foreign import whole_size
from nanochat.fetch.room import Room, room_at
from nanochat.fetch.workspace import bytes_so_far
from nanochat.files import read_json
from nanochat.paths import Paths
from nanochat.registry import REGISTRY, Archive, HubCorpus, HubTable, Source

USUAL_RATE = 30e6
"""Bytes a second, where nothing has been downloaded yet."""
FILES_OF_ONE = 3  # a thing, its record, and where it came from
FILES_OF_ARCHIVE = 100


@dataclass(frozen=True)
class Entry:
    """A line of the registry."""

    name: str
    kind: str
    origin: str
    """Repository on the hub, or host."""
    licence: str
    about_bytes: float
    """All of it, roughly."""
    used_by: str
    files_here: int
    """Shards, splits or files that are on disk."""
    bytes_here: int
    files_wanted: int
    """How many of them this config reads."""


@dataclass(frozen=True)
class Need:
    """What a config reads of one entry of the registry. Bytes of what is missing are rough."""

    name: str
    kind: str
    files: int
    files_there: int
    bytes_there: int
    bytes_missing: float
    """Less what has arrived in part."""


@dataclass(frozen=True)
class Plan:
    """What will be downloaded."""

    needs: tuple[Need, ...]
    room: Room
    bytes_needed: float
    """What `still_to_come` says."""
    files_needed: int
    bytes_per_second: float
    rate_from: str
    """Where that rate is from, in words."""

    @property
    def files(self) -> int:
        return sum(need.files for need in self.needs)

    @property
    def files_missing(self) -> int:
        return self.files - sum(need.files_there for need in self.needs)

    @property
    def bytes_there(self) -> int:
        return sum(need.bytes_there for need in self.needs)

    @property
    def bytes_missing(self) -> float:
        return sum(need.bytes_missing for need in self.needs)

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.bytes_missing / self.bytes_per_second

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        sums = ("files", "files_missing", "bytes_there", "bytes_missing", "seconds")
        room = {"bytes_left": self.room.bytes_left, "files_left": self.room.files_left}
        value = {**asdict(self), **{name: getattr(self, name) for name in sums}}
        return {**value, "room": {**value["room"], "folder": str(self.room.folder), **room}}


def catalogue(disk: Paths, wanted: Sequence[External]) -> list[Entry]:
    """Everything that can be downloaded, in the registry's order."""
    return [_entry(disk, source, wanted) for source in REGISTRY.values()]


def plan_downloads(
    disk: Paths, wanted: Sequence[External], bytes_per_second: float | None = None
) -> Plan:
    """What `wanted` still takes. Without a rate: that of earlier downloads to this base folder."""
    bytes_needed, files_needed = still_to_come(wanted)
    rate, rate_from = _rate(disk, wanted, bytes_per_second)
    names = dict.fromkeys(each.source.name for each in wanted)
    return Plan(
        tuple(_need([each for each in wanted if each.source.name == name]) for name in names),
        room_at(disk.base_dir),
        bytes_needed,
        files_needed,
        rate,
        rate_from,
    )


def still_to_come(wanted: Iterable[External]) -> tuple[float, int]:
    """Bytes and files that downloading `wanted` adds to the disk, for `require_room`. What has
    arrived in part counts as far as it has; of tables and archives, the largest one needs its room
    twice, while it is written as what is kept of it."""
    missing = [each for each in wanted if not _is_here(each)]
    twice = (each.about_bytes for each in missing if not isinstance(each.source, HubCorpus))
    files = sum(
        FILES_OF_ARCHIVE if isinstance(each.source, Archive) else FILES_OF_ONE for each in missing
    )
    return sum(map(_to_come, missing)) + max(twice, default=0.0), files


def kind_of(source: Source) -> str:
    """What it is, in a word."""
    kinds = {HubCorpus: "corpus", HubTable: "table", Archive: "archive"}
    return kinds.get(type(source), "file")


def observed_rate(notes: Iterable[Path]) -> tuple[float, int] | None:
    """Bytes a second of earlier downloads, and the number of them that say so.

    All bytes over the time in which at least one was running: files come side by side, so that
    each by itself is slower than all together.
    """
    spans = []
    for note in notes:
        try:
            facts = read_json(note, "")
            size = sum(int(part["bytes"]) for part in facts["from"])
            end = datetime.fromisoformat(facts["fetched"]).timestamp()
            spans.append((end - float(facts["seconds"]), end, size))
        except (DamagedArtefact, MissingArtefact, KeyError, TypeError, ValueError):
            continue
    busy, until = 0.0, float("-inf")
    for begin, end, _ in sorted(spans):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    total = sum(size for *_, size in spans)
    return (total / busy, len(spans)) if busy > 0 and total else None


def _entry(disk: Paths, source: Source, wanted: Sequence[External]) -> Entry:
    here = list(_files_here(disk, source))
    match source:
        case HubCorpus():
            origin, about = source.repo, 1e6 * source.shard_megabytes * source.shards
        case HubTable():
            origin, about = source.repo, 1e6 * sum(source.megabytes.values())
        case _:
            origin, about = str(urlsplit(source.url).hostname), 1e6 * source.megabytes
    return Entry(
        source.name,
        kind_of(source),
        origin,
        source.licence,
        about,
        source.used_by,
        len(here),
        sum(map(whole_size, here)),
        sum(each.source.name == source.name for each in wanted),
    )


def _files_here(disk: Paths, source: Source) -> Iterator[Path]:
    match source:
        case HubCorpus():
            yield from sorted(disk.corpus_folder(source.name).glob("[!.]*.parquet"))
            return
        case HubTable():
            paths = [disk.table(source.name, split) for split in source.splits]
        case Archive():
            paths = [disk.archive(source.name)]
        case _:
            paths = [disk.plain_file(source.name, source.file)]
    yield from (path for path in paths if path.exists())


def _need(wanted: Sequence[External]) -> Need:
    there = [each for each in wanted if _is_here(each)]
    return Need(
        wanted[0].source.name,
        kind_of(wanted[0].source),
        len(wanted),
        len(there),
        sum(whole_size(_place(each)) for each in there),
        sum(_to_come(each) for each in wanted if not _is_here(each)),
    )


def _is_here(external: External) -> bool:
    return external.is_there or external.shared is not None


def _place(external: External) -> Path:
    return external.path if external.is_there else external.shared or external.path


def _to_come(external: External) -> float:
    return max(0.0, external.about_bytes - bytes_so_far(external.path))


def _rate(
    disk: Paths, wanted: Sequence[External], bytes_per_second: float | None
) -> tuple[float, str]:
    if bytes_per_second is not None:
        return bytes_per_second, "as given"
    folders = {each.fetched.parent for each in wanted}
    folders |= set(disk.base_dir.glob(f"base_data/*/{FETCHED}"))
    folders |= set(disk.downloads.rglob(FETCHED))
    notes = [note for folder in folders for note in folder.glob("*.json")]
    if observed := observed_rate(notes):
        return observed[0], f"as {observed[1]} earlier downloads here had together"
    return USUAL_RATE, "assumed, since nothing has been downloaded here yet"
