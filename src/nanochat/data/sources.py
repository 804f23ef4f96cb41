"""A user's own text: which files it is, and whether they changed.

    kind, files = source_files(Path("my_texts"))     # "shards" or "text"
    content_fingerprint(files[0])                    # cheap enough for every parse of the DAG

Reads directory listings and a few kilobytes of each file; writes nothing. Imports nothing heavy,
since Snakemake asks these questions each time it parses the workflow.
"""

import hashlib
from pathlib import Path

from nanochat.errors import BadInput
from nanochat.registry import CORPORA

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")
BLOCKS = 64
BLOCK_BYTES = 4096


def source_files(source: Path) -> tuple[str, list[Path]]:
    """What `data.source` points at, and its files in a fixed order.

    ("shards", files): a folder with `shard_*.parquet` files directly in it, used in place; the last
    one is for validation, and anything else in the folder is left alone.
    ("text", files): .txt, .jsonl or .parquet files, one or a folder of them at any depth, to be
    imported. Raises BadInput where there is nothing to read.
    """
    if source.is_file():
        return "text", [_known_suffix(source)]
    if not source.is_dir():
        raise BadInput(
            f"data.source is {source}, which is not there: put its shard_*.parquet files there, "
            f"give a file or a folder of your own, or name a data set ({', '.join(CORPORA)})"
        )
    shards = sorted(source.glob("shard_*.parquet"))
    if len(shards) == 1:
        raise BadInput(
            f"{source} has a single shard, {shards[0].name}, and the last shard is for "
            "validation: add a second one, or rename it to have it imported as plain text"
        )
    if shards:
        return "shards", shards
    files = sorted(path for path in source.rglob("*") if _is_text(path, source))
    if not files:
        kinds = ", ".join(TEXT_SUFFIXES)
        raise BadInput(f"data.source {source} has no {kinds} files in it: give a folder with text")
    return "text", files


def content_fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's size and of 64 evenly spaced blocks of 4 KiB.

    Costs the same for a file of any size. Touching or copying a file keeps it; an edit that keeps
    the size and falls between the blocks of a file over 256 KiB is missed.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        if size <= BLOCKS * BLOCK_BYTES:
            digest.update(handle.read())
            return digest.hexdigest()
        for block in range(BLOCKS):
            handle.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
            digest.update(handle.read(BLOCK_BYTES))
    return digest.hexdigest()


def _is_text(path: Path, source: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
    return path.suffix.lower() in TEXT_SUFFIXES and path.is_file() and not hidden


def _known_suffix(path: Path) -> Path:
    if path.suffix.lower() not in TEXT_SUFFIXES:
        kinds = ", ".join(TEXT_SUFFIXES)
        raise BadInput(f"data.source {path} is of no known kind: give one of {kinds} or a folder")
    return path
