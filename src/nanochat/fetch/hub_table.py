"""A table of tasks on the hub: which files it is there, and their rows as one file here.

    for remote in files_of(TABLES["gsm8k"], "train", watch): ...
    rows = join([Path("0000.parquet"), Path("0001.parquet")], Path("train.parquet"), ("question",))

The hub keeps every data set as parquet files of a few hundred megabytes. What is written has only
the columns asked for, in the order of the rows there; the same files give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from nanochat.errors import DownloadError
from nanochat.fetch.display import Watch
from nanochat.fetch.transfer import fetch_json
from nanochat.fetch.web import Remote, hub_file, hub_tree
from nanochat.registry import HubTable

ROW_GROUP = 8192


def files_of(table: HubTable, part: str, watch: Watch) -> list[Remote]:
    """The parquet files of a split, in order; raises DownloadError."""
    folder = "/".join(table.splits[part])
    url = hub_tree(table.repo, table.revision, folder)
    listed, shown = fetch_json(url, watch), Remote(url).shown
    try:
        entries = sorted((str(entry["path"]), entry) for entry in listed)
        files = [
            Remote(
                hub_file(table.repo, table.revision, path),
                sha256=(entry.get("lfs") or {}).get("oid"),
                size=int(entry["size"]),
                hub=True,
            )
            for path, entry in entries
            if path.endswith(".parquet")
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as exc:
        raise DownloadError(
            f"{shown} is not a list of files as the hub gives it: is HF_ENDPOINT right?"
        ) from exc
    if not files:
        raise DownloadError(
            f"{shown} lists no parquet files: the hub has none of {table.repo}, {folder}; run "
            "again later, or take the task out of the config"
        )
    return files


def check_columns(path: Path, columns: Sequence[str], whole: bool) -> None:
    """Raises DownloadError where a file is no parquet file with these columns.

    `whole` reads all of it, for a file of which no checksum is known.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            has = file.schema_arrow.names
            if missing := [column for column in columns if column not in has]:
                seen = ", ".join(has) or "none"
                raise DownloadError(f"it has no column `{missing[0]}` (it has: {seen})")
            for group in range(file.num_row_groups if whole else 0):
                file.read_row_group(group, columns=list(columns))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise not_parquet(exc) from exc


def join(files: Sequence[Path], target: Path, columns: Sequence[str]) -> int:
    """Writes the rows of all `files` to `target`, and returns how many; raises DownloadError."""
    rows = 0
    writer: pyarrow.parquet.ParquetWriter | None = None
    try:
        for path in files:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(ROW_GROUP, columns=list(columns)):
                    table = pyarrow.Table.from_batches([batch])
                    if writer is None:
                        schema = table.schema.remove_metadata()
                        writer = pyarrow.parquet.ParquetWriter(target, schema, compression="zstd")
                    writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
                    rows += batch.num_rows
    except (pyarrow.ArrowException, UnicodeDecodeError) as exc:
        raise not_parquet(exc) from exc
    finally:
        if writer:
            writer.close()
    if rows == 0:
        raise DownloadError("it has no rows")
    return rows


def not_parquet(exc: Exception) -> DownloadError:
    """What pyarrow says of a file that it cannot read."""
    seen = str(exc).splitlines()[0][:120] if str(exc) else type(exc).__name__
    return DownloadError(f"it is not a readable parquet file ({seen})")
