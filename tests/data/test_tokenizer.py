import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.tokenizer import (
    LONGEST,
    SPECIAL_TOKENS,
    SPLIT_PATTERN,
    Tokenizer,
    train_tokenizer,
)
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact

BYTES_ONLY = Tokenizer({bytes([i]): i for i in range(256)})


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_decoding_gives_back_any_text(text: str, tiny_tokenizer: Tokenizer) -> None:
    whole = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(whole)) == whole


def test_special_tokens_are_the_last_ids(tiny_tokenizer: Tokenizer) -> None:
    first = tiny_tokenizer.vocab_size - len(SPECIAL_TOKENS)
    expected = list(range(first, tiny_tokenizer.vocab_size))
    assert [tiny_tokenizer.special(name) for name in SPECIAL_TOKENS] == expected
    assert tiny_tokenizer.vocab_size == 512
    assert tiny_tokenizer.bos_id == first


def test_special_tokens_in_a_text_are_plain_text(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("<|bos|>")
    assert len(ids) > 1
    assert tiny_tokenizer.bos_id not in ids


def test_numbers_are_cut_after_two_digits() -> None:
    trained = train_tokenizer(["20262026 " * 50 + "abcdefgh"], 269, 10**6, 10**6)
    longest = max((token for token in trained.ranks if token.strip().isdigit()), key=len)
    assert len(longest) == 2


def test_bytes_of_a_token_are_counted_without_a_detour_through_text() -> None:
    trained = train_tokenizer(["세계 세상 세월 " * 50], 275, 10**6, 10**6)
    sizes = trained.token_bytes()
    text = "세상 €"
    assert sizes.dtype == np.int32
    assert sizes[trained.encode(text)].sum() == len(text.encode())
    assert (sizes[-len(SPECIAL_TOKENS) :] == 0).all()
    assert (sizes[: -len(SPECIAL_TOKENS)] > 0).all()


def test_batches_are_encoded_as_single_texts_are(
    tiny_tokenizer: Tokenizer, english: list[str]
) -> None:
    texts = [*english[:5], ""]
    one_by_one = [tiny_tokenizer.encode(text) for text in texts]
    assert tiny_tokenizer.encode_batch(texts, threads=2) == one_by_one


def test_two_million_spaces_in_a_row_are_encoded(tiny_tokenizer: Tokenizer) -> None:
    text = "a" + " " * (4 * LONGEST) + "b"
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text
    assert tiny_tokenizer.encode_batch([text, "a"]) == [
        tiny_tokenizer.encode(text),
        tiny_tokenizer.encode("a"),
    ]


def test_half_a_character_decodes_to_the_replacement_mark() -> None:
    half = BYTES_ONLY.encode("세")[:2]
    assert BYTES_ONLY.decode(half) == "�"
    assert BYTES_ONLY.decode_bytes(half) == "세".encode()[:2]


def test_saved_tokenizer_loads_the_same(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.ranks == tiny_tokenizer.ranks
    assert loaded.fingerprint == tiny_tokenizer.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.tiktoken", "tokenizer.json"]
    assert json.loads((tmp_path / "tokenizer.json").read_text())["pattern"] == SPLIT_PATTERN


def test_training_twice_gives_the_same_tokenizer(english: list[str]) -> None:
    twice = [train_tokenizer(english[:20], 400, 10**5, 10**4).fingerprint for _ in range(2)]
    assert twice[0] == twice[1]


def test_training_reads_no_more_characters_than_it_may() -> None:
    def texts() -> list[str]:
        return ["abcd" * 30 + "zzzz" * 100, "efgh" * 30, "ijkl" * 30]

    trained = train_tokenizer(texts(), 271, max_characters=200, max_document_characters=120)
    assert b"zz" not in trained.ranks  # past the end of the first document's share
    assert b"ef" in trained.ranks
    assert b"ij" not in trained.ranks  # past the end of the whole


def test_too_little_text_for_the_vocabulary_is_one_sentence() -> None:
    with pytest.raises(BadInput, match=r"too short for a vocabulary of 5,000 tokens.*lower"):
        train_tokenizer(["hello"], 5000, 1000, 1000)
    with pytest.raises(BadInput, match="at least 265"):
        train_tokenizer(["hello"], 100, 1000, 1000)


def test_missing_tokenizer_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="run `make run` first"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not base64 !\n", b"YQ== 0\n"])
def test_damaged_merges_are_noticed(
    damage: bytes, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "merges.tiktoken").write_bytes(damage)
    with pytest.raises(DamagedArtefact, match="not what its record says"):
        Tokenizer.load(tmp_path)


def test_merges_of_another_tokenizer_are_noticed(
    tiny_tokenizer: Tokenizer, tmp_path: Path, english: list[str]
) -> None:
    other = train_tokenizer(english[:30], 512, 10**5, 10**4)
    tiny_tokenizer.save(tmp_path)
    other.save(tmp_path / "other")
    merges = (tmp_path / "other" / "merges.tiktoken").read_bytes()
    (tmp_path / "merges.tiktoken").write_bytes(merges)
    with pytest.raises(DamagedArtefact):
        Tokenizer.load(tmp_path)
