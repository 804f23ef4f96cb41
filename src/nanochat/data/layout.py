"""Which parquet file is which shard: ours, downloaded ones, or a user's own used in place.

    layout = corpus_layout(config.disk)
    layout.parquet(4)        # the validation shard, which has the last number
    layout.record(4)         # what it holds

Reads a directory listing; writes nothing; light enough for every parse of the DAG.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.config import Paths
from nanochat.data.registry import CORPORA, HubCorpus
from nanochat.data.sources import source_files
from nanochat.errors import BadInput


@dataclass(frozen=True)
class CorpusLayout:
    """`inputs` are the user's files that shards are made from; `shards` the parquet files by
    number, the validation shard last, and `records` the JSON files that say what they hold."""

    kind: Literal["embedded", "text", "shards", "download"]
    inputs: tuple[Path, ...]
    shards: tuple[Path, ...]
    records: tuple[Path, ...]

    def parquet(self, number: int | str) -> Path:
        """The parquet file of a shard."""
        return self.shards[int(number)]

    def record(self, number: int | str) -> Path:
        """The record of a shard."""
        return self.records[int(number)]


def corpus_layout(disk: Paths) -> CorpusLayout:
    """Finds the corpus that `data.source` names.

    A bare name of data/registry.py is downloaded, to one folder for all configs. A folder of
    shard_*.parquet is used in place: its first `train_shards` files, and its last one for
    validation. Raises BadInput or ConfigError where there are too few, or nothing to read.
    """
    hub, train_shards = hub_corpus(disk), disk.config.data.train_shards
    if hub is not None:
        files = tuple(disk.downloaded_shard(number) for number in hub.numbers(train_shards))
        beside = tuple(path.with_suffix(".json") for path in files)
        return CorpusLayout("download", (), files, beside)
    records = tuple(disk.shard_record(number) for number in range(train_shards + 1))
    ours = tuple(record.with_suffix(".parquet") for record in records)
    if disk.source is None:
        return CorpusLayout("embedded", (), ours, records)
    kind, found = source_files(disk.source)
    if kind == "text":
        return CorpusLayout("text", tuple(found), ours, records)
    if len(found) <= train_shards:
        raise BadInput(
            f"{disk.source} has {len(found)} shards, but data.train_shards asks for {train_shards} "
            "and one more is for validation: add shards or lower data.train_shards"
        )
    return CorpusLayout("shards", (), (*found[:train_shards], found[-1]), records)


def hub_corpus(disk: Paths) -> HubCorpus | None:
    """The data set of the registry that `data.source` names; None where it names none."""
    return CORPORA.get(disk.bare_source or "")


def conversation_files(paths: list[Path]) -> list[Path]:
    """The user's files of conversations; raises BadInput for one that is not there."""
    for path in paths:
        if not path.is_file():
            raise BadInput(f"chat.conversations names {path}, which is not there: correct the path")
    return paths
