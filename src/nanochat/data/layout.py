"""Which parquet file is which shard: ours, or a user's own where these are used in place.

    layout = corpus_layout(source, folder, train_shards=4)
    layout.parquet(4)        # the validation shard, which has the last number

Reads a directory listing; writes nothing; light enough for every parse of the DAG.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.data.sources import source_files
from nanochat.errors import BadInput


@dataclass(frozen=True)
class CorpusLayout:
    """`inputs` are the user's files that shards are made from; `shards` the parquet files by
    number, the validation shard last."""

    kind: Literal["embedded", "text", "shards"]
    inputs: tuple[Path, ...]
    shards: tuple[Path, ...]

    def parquet(self, number: int | str) -> Path:
        """The parquet file of a shard."""
        return self.shards[int(number)]


def corpus_layout(source: Path | None, folder: Path, train_shards: int) -> CorpusLayout:
    """Finds the corpus that `data.source` names (None: the embedded one).

    A folder of shard_*.parquet is used in place: its first `train_shards` files, and its last one
    for validation. Raises BadInput where it has too few, or where there is nothing to read.
    """
    ours = tuple(folder / f"shard_{number:05d}.parquet" for number in range(train_shards + 1))
    if source is None:
        return CorpusLayout("embedded", (), ours)
    kind, files = source_files(source)
    if kind == "text":
        return CorpusLayout("text", tuple(files), ours)
    if len(files) <= train_shards:
        raise BadInput(
            f"{source} has {len(files)} shards, but data.train_shards asks for {train_shards} and "
            "one more is for validation: add shards or lower data.train_shards"
        )
    return CorpusLayout("shards", (), (*files[:train_shards], files[-1]))


def conversation_files(paths: list[Path]) -> list[Path]:
    """The user's files of conversations; raises BadInput for one that is not there."""
    for path in paths:
        if not path.is_file():
            raise BadInput(f"chat.conversations names {path}, which is not there: correct the path")
    return paths
