import hashlib
from pathlib import Path

import pytest

from nanochat.data.compression import KNOWN_VOCABULARIES, compression_table
from nanochat.data.tokenizer import Tokenizer


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_table_counts_bytes_and_tokens_of_every_text(
    tiny_tokenizer: Tokenizer, empty_cache: Path
) -> None:
    rows = {row["text"]: row for row in compression_table(tiny_tokenizer, {"train": "héllo"})}
    assert set(rows) == {"news", "korean", "maths", "science", "code", "train"}
    assert rows["train"]["bytes"] == 6
    assert rows["train"]["tokens"] == len(tiny_tokenizer.encode("héllo"))
    assert rows["train"]["bytes_per_token"] == 6 / rows["train"]["tokens"]
    assert rows["korean"]["bytes_per_token"] < rows["code"]["bytes_per_token"]


def test_text_without_content_is_left_out(tiny_tokenizer: Tokenizer, empty_cache: Path) -> None:
    assert "train" not in {row["text"] for row in compression_table(tiny_tokenizer, {"train": ""})}


def test_known_tokenizers_are_blank_where_they_are_not_cached(
    tiny_tokenizer: Tokenizer, empty_cache: Path
) -> None:
    assert {(row["gpt2"], row["gpt4"]) for row in compression_table(tiny_tokenizer, {})} == {
        (None, None)
    }


def test_damaged_cache_is_not_fetched_again(tiny_tokenizer: Tokenizer, empty_cache: Path) -> None:
    for _, files in KNOWN_VOCABULARIES.values():
        for address in files:
            (empty_cache / hashlib.sha1(address.encode()).hexdigest()).write_bytes(b"damaged")
    assert compression_table(tiny_tokenizer, {})[0]["gpt4"] is None
    assert len(list(empty_cache.iterdir())) == 3
