"""Shards of text: parquet files of one string column `text`, a document a row.

    write_shards(placed_documents, directory, n_shards=9, facts={"source": "embedded"})
    for text in read_documents(directory / "shard_00000.parquet"): ...

The layout is that of the published data sets (zstd, row groups of 1024 documents), so a folder made
here and a downloaded one are read by the same code. The last shard of a folder is the validation
shard. Beside each shard made here lies a record `shard_00000.json` with its number of documents and
bytes and its SHA-256, and without timestamps: the same text gives the same files.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.files import atomic_path, make_directory, sha256_of, write_json

COLUMN = "text"
ROW_GROUP = 1024
SCHEMA = pyarrow.schema([(COLUMN, pyarrow.string())])


def shard_name(number: int) -> str:
    """File name of a shard, e.g. `shard_00007.parquet`."""
    return f"shard_{number:05d}.parquet"


def write_shards(
    placed: Iterable[tuple[int, str]], directory: Path, n_shards: int, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Writes documents, each given with the number of its shard, into `n_shards` parquet files.

    `facts` goes into every record. Holds one row group per shard in memory. Returns the records;
    raises BadInput where a shard would be empty.
    """
    make_directory(directory)
    paths = [directory / shard_name(number) for number in range(n_shards)]
    with ExitStack() as stack:
        writers = []
        for path in paths:
            writers.append(_ShardWriter(stack.enter_context(atomic_path(path))))
            stack.callback(writers[-1].release)
        for number, text in placed:
            writers[number].add(text)
        for writer in writers:
            writer.close()
        empty = sum(writer.documents == 0 for writer in writers)
        if empty:
            found = sum(writer.documents for writer in writers)
            raise BadInput(
                f"{found} documents are too few to fill {n_shards - 1} train shards and a "
                "validation shard: give more text or lower data.train_shards"
            )
    return [record_shard(path, path.with_suffix(".json"), facts) for path in paths]


def read_documents(path: Path) -> Iterator[str]:
    """Yields the documents of a shard in order, a row group in memory at a time.

    Raises MissingArtefact (no such file), DamagedArtefact (not readable as parquet) or BadInput (no
    string column `text`, or no documents).
    """
    shard = _open(path)
    for group in range(shard.num_row_groups):
        try:
            texts = shard.read_row_group(group, columns=[COLUMN])[COLUMN].to_pylist()
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as exc:
            raise _damaged(path, exc) from exc
        yield from (text for text in texts if text is not None)


def count_documents(path: Path) -> int:
    """Number of rows of a shard, from its footer; raises as `read_documents` does."""
    return int(_open(path).metadata.num_rows)


def record_shard(
    parquet: Path, record_path: Path, facts: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Counts and hashes a shard, writes that as JSON to `record_path` and returns it."""
    documents = characters = size = 0
    for text in read_documents(parquet):
        documents += 1
        characters += len(text)
        size += len(text.encode())
    record = {
        "file": parquet.name,
        "file_bytes": parquet.stat().st_size,
        "documents": documents,
        "characters": characters,
        "bytes": size,
        "sha256": sha256_of(parquet),
        **(facts or {}),
    }
    write_json(record_path, record)
    return record


class _ShardWriter:
    """Collects documents and writes them a row group at a time."""

    def __init__(self, path: Path) -> None:
        self.documents = 0
        self._waiting: list[str] = []
        self._sink = pyarrow.OSFile(str(path), "wb")
        self._file = pyarrow.parquet.ParquetWriter(
            self._sink, SCHEMA, compression="zstd", compression_level=3, use_dictionary=False
        )

    def add(self, text: str) -> None:
        self.documents += 1
        self._waiting.append(text)
        if len(self._waiting) == ROW_GROUP:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._file.close()

    def release(self) -> None:
        """Lets go of the file, finished or not."""
        with suppress(OSError):  # the footer of a shard given up for a full disk has no room either
            self._file.close()
        self._sink.close()

    def _flush(self) -> None:
        table = pyarrow.table({COLUMN: self._waiting}, schema=SCHEMA)
        self._file.write_table(table, row_group_size=ROW_GROUP)
        self._waiting = []


def _open(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        shard = pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no shard {path}: run `make run` first") from exc
    except (pyarrow.ArrowException, OSError) as exc:
        raise _damaged(path, exc) from exc
    names = shard.schema_arrow.names
    if COLUMN not in names:
        seen = ", ".join(names) or "none"
        raise BadInput(f"{path} has no column `{COLUMN}` (it has: {seen}): rename the text column")
    kind = shard.schema_arrow.field(COLUMN).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        raise BadInput(f"column `{COLUMN}` of {path} holds {kind}: it has to hold strings")
    if shard.metadata.num_rows == 0:
        raise BadInput(f"{path} holds no documents: remove it, or write it again with text in it")
    return shard


def _damaged(path: Path, exc: Exception) -> DamagedArtefact:
    seen = str(exc).splitlines()[0][:120] if str(exc) else type(exc).__name__
    return DamagedArtefact(
        f"{path} is not a readable parquet file ({seen}): delete it and get or make it again"
    )
