import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nanochat.data.shards import (
    count_documents,
    read_documents,
    record_shard,
    shard_name,
    write_shards,
)
from nanochat.errors import BadInput, DamagedArtefact, DiskError, MissingArtefact
from nanochat.files import read_json, sha256_of


def write_table(path: Path, columns: dict[str, list[object]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_documents_come_back_in_order_from_their_shards(tmp_path: Path) -> None:
    texts = [f"document {i} ☃" for i in range(2500)]
    placed = [(i % 2, text) for i, text in enumerate(texts)]
    write_shards(placed, tmp_path, 2, {})
    assert list(read_documents(tmp_path / "shard_00000.parquet")) == texts[0::2]
    assert list(read_documents(tmp_path / "shard_00001.parquet")) == texts[1::2]


def test_shards_have_the_layout_of_the_published_ones(tmp_path: Path) -> None:
    write_shards([(0, f"{i}") for i in range(1500)], tmp_path, 1, {})
    shard = pyarrow.parquet.ParquetFile(tmp_path / shard_name(0))
    groups = [shard.metadata.row_group(i) for i in range(shard.num_row_groups)]
    assert [group.num_rows for group in groups] == [1024, 476]
    assert groups[0].column(0).compression == "ZSTD"
    assert shard.schema_arrow.names == ["text"]


def test_record_counts_and_hashes_the_shard(tmp_path: Path) -> None:
    (record,) = write_shards([(0, "año"), (0, "b")], tmp_path, 1, {"source": "embedded"})
    assert record == {
        "file": "shard_00000.parquet",
        "file_bytes": (tmp_path / "shard_00000.parquet").stat().st_size,
        "documents": 2,
        "characters": 4,
        "bytes": 5,
        "sha256": sha256_of(tmp_path / "shard_00000.parquet"),
        "source": "embedded",
    }
    assert read_json(tmp_path / "shard_00000.json", "") == record


def test_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    hashes = {
        write_shards([(0, "a"), (0, "b")], tmp_path / name, 1, {})[0]["sha256"] for name in "xy"
    }
    assert len(hashes) == 1


def test_shard_without_documents_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"1 documents are too few .* lower data.train_shards"):
        write_shards([(0, "alone")], tmp_path, 2, {})
    assert list(tmp_path.iterdir()) == []


def test_null_rows_of_a_foreign_shard_are_skipped(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"text": ["x", None, "y"], "url": ["", "", ""]})
    assert list(read_documents(path)) == ["x", "y"]
    assert count_documents(path) == 3


def test_record_of_a_foreign_shard_goes_where_it_is_told(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"text": ["x", "y"]})
    record_shard(path, tmp_path / "elsewhere" / "a.json")
    assert read_json(tmp_path / "elsewhere" / "a.json", "")["documents"] == 2


def test_missing_shard_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="no shard"):
        next(read_documents(tmp_path / "shard_00000.parquet"))


def test_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shard_00000.parquet"
    for content in (b"", b"hello, this is not parquet at all"):
        path.write_bytes(content)
        with pytest.raises(
            DamagedArtefact, match=r"shard_00000\.parquet is not a readable parquet"
        ):
            next(read_documents(path))


def test_damage_inside_a_shard_is_named(tmp_path: Path) -> None:
    write_shards([(0, f"{i} " * 20) for i in range(1000)], tmp_path, 1, {})
    path = tmp_path / shard_name(0)
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(DamagedArtefact, match="delete it and get or make it again"):
        list(read_documents(path))


def test_shard_without_a_text_column_names_those_it_has(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"content": ["x"], "url": ["y"]})
    with pytest.raises(BadInput, match=r"no column `text` \(it has: content, url\)"):
        next(read_documents(path))


def test_text_column_of_numbers_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"text": [1, 2]})
    with pytest.raises(BadInput, match="holds int64: it has to hold strings"):
        next(read_documents(path))


def test_shard_of_zero_documents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    schema = pyarrow.schema([("text", pyarrow.string())])
    pyarrow.parquet.write_table(schema.empty_table(), path)
    with pytest.raises(BadInput, match="holds no documents"):
        next(read_documents(path))


def test_full_disk_is_one_sentence_and_leaves_nothing_behind(small_disk: Path) -> None:
    noise = random.Random(0)
    placed = ((i % 2, noise.randbytes(3000).hex()) for i in range(4000))
    with pytest.raises(DiskError, match="the disk is full"):
        write_shards(placed, small_disk, 2, {})
    assert list(small_disk.iterdir()) == []
