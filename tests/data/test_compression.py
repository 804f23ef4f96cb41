"""The compression table, alone and beside vocabularies in the formats of GPT-2 and GPT-4."""

from pathlib import Path

import pytest

from nanochat.data.compression import compression_table
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import DamagedArtefact
from small_vocabularies import vocabularies


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    for name, content in vocabularies().items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in vocabularies()}


def test_table_counts_bytes_and_tokens_of_every_text(tiny_tokenizer: Tokenizer) -> None:
    rows = {row["text"]: row for row in compression_table(tiny_tokenizer, {"train": "héllo"}, {})}
    assert set(rows) == {"news", "korean", "maths", "science", "code", "train"}
    assert rows["train"]["bytes"] == 6
    assert rows["train"]["tokens"] == len(tiny_tokenizer.encode("héllo"))
    assert rows["train"]["bytes_per_token"] == 6 / rows["train"]["tokens"]
    assert rows["korean"]["bytes_per_token"] < rows["code"]["bytes_per_token"]
    assert {(row["gpt2"], row["gpt4"]) for row in rows.values()} == {(None, None)}


def test_text_without_content_is_left_out(tiny_tokenizer: Tokenizer) -> None:
    table = compression_table(tiny_tokenizer, {"train": ""}, {})
    assert "train" not in {row["text"] for row in table}


def test_downloaded_vocabularies_are_columns(tiny_tokenizer, files, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    row = compression_table(tiny_tokenizer, {"train": "the path"}, files)[-1]
    assert (row["gpt2"], row["gpt4"]) == (8 / 6, 8 / 6), "8 bytes; th e _ p a th"
    assert sorted(tmp_path.iterdir()) == sorted(files.values()), "no copy of them"


@pytest.mark.parametrize("name", ["gpt2_merges", "gpt2_encoder", "gpt4_ranks"])
def test_a_damaged_vocabulary_is_an_error(name: str, tiny_tokenizer, files) -> None:
    files[name].write_bytes(b"<html>not found</html>\n\n")
    with pytest.raises(DamagedArtefact, match=f"{name}.* is no vocabulary"):
        compression_table(tiny_tokenizer, {}, files)
