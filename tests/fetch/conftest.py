"""A base folder in which everything from elsewhere lies as if it had been downloaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from nanochat.config import Config
from nanochat.data.shards import record_shard
from nanochat.fetch.externals import External, externals
from nanochat.files import sha256_of, write_json
from nanochat.paths import Paths
from nanochat.registry import Archive, HubCorpus, HubTable

EVERY_KIND = {
    "data": {"source": "climbmix-400b-shuffle", "train_shards": 2},
    "tokenizer": {"compare_with_gpt": True},
    "mid": {"items": {"gsm8k": 100, "spelling": 10}},
    "chat": {"words": "english"},
    "evaluation": {"bundle": "core"},
}
"""A config that reads shards, a table, plain files and an archive."""


def fake(external: External, seed: int = 0) -> None:
    """Writes what the download of `external` would leave: small, of its format, with its record and
    its origin."""
    source, path = external.source, external.path
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{source.name} {external.part} {seed}"
    if isinstance(source, HubCorpus):
        texts = [f"Document {number} of {name}." for number in range(200)]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
        record_shard(path, external.record, {"source": source.repo})
    elif isinstance(source, Archive):
        _fake_folder(source, path, name)
        _record(external, _facts_of_folder(path))
    elif isinstance(source, HubTable):
        rows = {column: [f"{name} {number}" for number in range(20)] for column in source.columns}
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
        _record(external, {"bytes": path.stat().st_size, "sha256": sha256_of(path), "rows": 20})
    else:
        path.write_text(f"{name}\n" * 50)
        _record(external, {"bytes": path.stat().st_size, "sha256": sha256_of(path)})
    origin = {"url": f"https://somewhere.org/{path.name}", "bytes": 50_000_000, "sha256": "0" * 64}
    write_json(
        external.fetched,
        {"fetched": "2026-07-01T10:00:00+00:00", "seconds": 2.0, "attempts": 1, "from": [origin]},
    )


def _fake_folder(source: Archive, folder: Path, name: str) -> None:
    files = [file for file in source.files if "." in file]
    files += [f"eval_data/task_{number}/items.jsonl" for number in range(5)]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{file} of {name}\n" * 20)


def _facts_of_folder(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in files
    }
    return {"files": facts}


def _record(external: External, facts: dict[str, Any]) -> None:
    about = {"source": external.source.name, "file": external.path.name}
    write_json(external.record, {**about, **facts, "licence": external.source.licence})


@pytest.fixture
def disk_of(tmp_path: Path) -> Callable[..., Paths]:
    """Makes the paths of a config of every kind of download, below a folder of this test."""

    def disk_of(folder: str = "base", **sections: Any) -> Paths:
        paths = {"base_dir": str(tmp_path / folder)}
        return Config.resolve({**EVERY_KIND, "paths": paths, **sections}).disk

    return disk_of


@pytest.fixture
def fetched(disk_of: Callable[..., Paths]) -> Paths:
    """The paths of a config whose downloads are all there."""
    disk = disk_of()
    for external in externals(disk):
        fake(external)
    return disk


@pytest.fixture
def fake_download() -> Callable[..., None]:
    """`fake`, for tests that download again or elsewhere."""
    return fake
