import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.data.sources import content_fingerprint, source_files
from nanochat.errors import BadInput


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_folder_of_shards_is_used_in_place(tmp_path: Path) -> None:
    touch(tmp_path, "shard_00001.parquet", "shard_00000.parquet", "manifest.json", "README.txt")
    kind, files = source_files(tmp_path)
    assert kind == "shards"
    assert [file.name for file in files] == ["shard_00000.parquet", "shard_00001.parquet"]


def test_folder_of_texts_is_found_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "b.TXT", "a/c.jsonl", "a/d.parquet", "e.py", ".hidden/f.txt", ".g.txt")
    kind, files = source_files(tmp_path)
    assert kind == "text"
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "a/c.jsonl",
        "a/d.parquet",
        "b.TXT",
    ]


def test_single_file_is_a_source(tmp_path: Path) -> None:
    touch(tmp_path, "book.txt", "book.pdf")
    assert source_files(tmp_path / "book.txt") == ("text", [tmp_path / "book.txt"])
    with pytest.raises(BadInput, match="of no known kind"):
        source_files(tmp_path / "book.pdf")


def test_source_with_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no \.txt, \.jsonl, \.parquet files"):
        source_files(tmp_path)
    with pytest.raises(BadInput, match="is not there"):
        source_files(tmp_path / "absent")


def test_single_shard_cannot_be_both_train_and_validation(tmp_path: Path) -> None:
    touch(tmp_path, "shard_00000.parquet")
    with pytest.raises(BadInput, match="single shard"):
        source_files(tmp_path)


def test_fingerprint_follows_content_and_not_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"small", bytes(range(256)) * 4000):
        path.write_bytes(content)
        before = content_fingerprint(path)
        os.utime(path, (1, 1))
        assert content_fingerprint(path) == before
        path.write_bytes(content[:-1] + b"!")
        assert content_fingerprint(path) != before
        path.write_bytes(content + b"!")
        assert content_fingerprint(path) != before


def test_fingerprint_follows_size_where_the_blocks_are_the_same(tmp_path: Path) -> None:
    for name, size in (("a", 1_000_000), ("b", 1_000_001)):
        (tmp_path / name).write_bytes(bytes(size))
    assert content_fingerprint(tmp_path / "a") != content_fingerprint(tmp_path / "b")


def test_module_is_light_enough_for_parsing_a_workflow() -> None:
    heavy = "{'torch', 'pyarrow', 'numpy', 'tiktoken'}"
    program = f"import sys, nanochat.data.sources; print({heavy} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert output.stdout.decode().strip() == "set()"
