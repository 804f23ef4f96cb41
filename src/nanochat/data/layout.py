"""Which parquet file is which shard: ours, downloaded ones, or a user's own used in place.

    layout = corpus_layout(config.disk)
    layout.train, layout.validation          # names of shards: ("00000", ..., "00100"), "06542"
    layout.parquet("06542"), layout.record("06542")

Reads a directory listing; light enough for every parse of the DAG. Only `keep_order` writes: once a
user's folder of shards has been used, files that are added to it come last, and never become the
validation shard.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.data.sources import source_files
from nanochat.errors import BadInput
from nanochat.files import read_json, write_json
from nanochat.paths import Paths


@dataclass(frozen=True)
class CorpusLayout:
    """`inputs` are the user's files that shards are made from; `names` those of the shards, the
    validation shard last; `shards` their parquet files, and `records` the JSON files that say what
    these hold, in the same order."""

    kind: Literal["embedded", "text", "shards", "download"]
    inputs: tuple[Path, ...]
    names: tuple[str, ...]
    shards: tuple[Path, ...]
    records: tuple[Path, ...]

    @property
    def train(self) -> tuple[str, ...]:
        """Names of the training shards."""
        return self.names[:-1]

    @property
    def validation(self) -> str:
        """Name of the validation shard."""
        return self.names[-1]

    def parquet(self, name: str) -> Path:
        """The parquet file of a shard."""
        return self.shards[self.names.index(name)]

    def record(self, name: str) -> Path:
        """The record of a shard."""
        return self.records[self.names.index(name)]


def corpus_layout(disk: Paths) -> CorpusLayout:
    """Finds the corpus that `data.source` names.

    A bare name of the registry is downloaded, to one folder for all configs. A folder of
    shard_*.parquet is used in place: its first `train_shards` files, and its last one for
    validation. Raises BadInput where there are too few, or nothing to read.
    """
    train_shards = disk.config.train_shards
    if disk.hub_corpus:
        numbers = disk.hub_corpus.numbers(train_shards)
        names = tuple(f"{number:05d}" for number in numbers)
        files = tuple(disk.downloaded_shard(number) for number in numbers)
        return _layout("download", disk, names, files)
    names = tuple(f"{number:05d}" for number in range(train_shards + 1))
    ours = tuple(disk.corpus / f"shard_{name}.parquet" for name in names)
    if disk.source is None:
        return _layout("embedded", disk, names, ours)
    kind, found = source_files(disk.source)
    if kind == "text":
        return _layout("text", disk, names, ours, tuple(found))
    if len(found) <= train_shards:
        raise BadInput(
            f"{disk.source} has {len(found)} shards, but data.train_shards asks for {train_shards} "
            "and one more is for validation: add shards or lower data.train_shards"
        )
    *train, held_out = _in_order(disk, found)
    files = (*train[:train_shards], held_out)
    return _layout("shards", disk, tuple(file.stem.removeprefix("shard_") for file in files), files)


def keep_order(disk: Paths, layout: CorpusLayout) -> None:
    """Records the order in which a user's own shards are used, the validation shard last."""
    if layout.kind == "shards" and disk.source is not None:
        _, found = source_files(disk.source)
        write_json(disk.shard_order, {"files": [file.name for file in _in_order(disk, found)]})


def conversation_files(paths: list[Path], key: str = "chat.conversations") -> list[Path]:
    """The user's files of conversations; raises BadInput for one that is not there."""
    for path in paths:
        if not path.is_file():
            raise BadInput(f"{key} names {path}, which is not there: correct the path")
    return paths


def _layout(
    kind: Literal["embedded", "text", "shards", "download"],
    disk: Paths,
    names: tuple[str, ...],
    files: tuple[Path, ...],
    inputs: tuple[Path, ...] = (),
) -> CorpusLayout:
    records = tuple(disk.shard_record(name) for name in names)
    return CorpusLayout(kind, inputs, names, files, records)


def _in_order(disk: Paths, found: list[Path]) -> list[Path]:
    """The files of a user's folder: as they were used before, new ones before the held-out one."""
    if not disk.shard_order.is_file():
        return found
    *train, held_out = read_json(disk.shard_order, "snakemake")["files"]
    by_name = {file.name: file for file in found}
    if held_out not in by_name:
        raise BadInput(
            f"{disk.source} has lost its validation shard, {held_out}: put it back, or delete "
            f"{disk.shard_order} to have the last file held out and everything made again"
        )
    known = [by_name[name] for name in train if name in by_name]
    new = [file for file in found if file.name not in {*train, held_out}]
    return [*known, *new, by_name[held_out]]
