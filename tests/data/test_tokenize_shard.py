from pathlib import Path

import numpy as np
import pytest

from nanochat.data.rows import open_rows, padding_id
from nanochat.data.shards import write_shards
from nanochat.data.tokenize_shard import tokenize_shard
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput
from nanochat.files import sha256_of


@pytest.fixture
def shard(english: list[str], tmp_path: Path) -> Path:
    write_shards([(0, text) for text in english], tmp_path, 1, {})
    return tmp_path / "shard_00000.parquet"


def test_rows_hold_every_token_of_the_shard(
    shard: Path, english: list[str], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    record = tokenize_shard(
        shard, tiny_tokenizer, tmp_path / "rows" / "shard_00000.npy", sequence_len=64, threads=2
    )
    ids_NC = open_rows(tmp_path / "rows" / "shard_00000.npy").ids_NC
    kept = ids_NC[(ids_NC != padding_id(ids_NC.dtype)) & (ids_NC != tiny_tokenizer.bos_id)]
    expected = [token for text in english for token in tiny_tokenizer.encode(text)]
    assert (np.bincount(kept, minlength=512) == np.bincount(expected, minlength=512)).all()
    assert (ids_NC[:, 0] == tiny_tokenizer.bos_id).all()
    assert record["tokens"] == len(expected)
    assert record["documents"] == len(english)
    assert record["bytes"] == sum(len(text.encode()) for text in english)


def test_short_document_reads_back_from_its_row(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards([(0, "hello there"), (0, "")], tmp_path, 1, {})
    tokenize_shard(tmp_path / "shard_00000.parquet", tiny_tokenizer, tmp_path / "a.npy", 32)
    (row,) = open_rows(tmp_path / "a.npy").ids_NC.tolist()
    assert tiny_tokenizer.decode([token for token in row if token < 512]) == "<|bos|>hello there"


def test_record_names_what_the_rows_were_made_from(
    shard: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    record = tokenize_shard(
        shard, tiny_tokenizer, tmp_path / "rows" / "shard_00000.npy", sequence_len=64
    )
    ids_NC = open_rows(tmp_path / "rows" / "shard_00000.npy").ids_NC
    assert record["tokenizer"] == tiny_tokenizer.fingerprint
    assert record["source"] == {"file": "shard_00000.parquet", "sha256": sha256_of(shard)}
    assert record["padding"] == pytest.approx(
        float((ids_NC == padding_id(ids_NC.dtype)).mean()), abs=1e-6
    )


def test_tokenizing_twice_gives_the_same_bytes(
    shard: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    records = [
        tokenize_shard(shard, tiny_tokenizer, tmp_path / name, 64, threads)
        for name, threads in (("one.npy", 1), ("two.npy", 2))
    ]
    assert records[0] == records[1]


def test_real_shard_is_packed_with_little_padding(
    shared_data: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    real = shared_data / "tiny" / "shard_00000.parquet"
    record = tokenize_shard(real, tiny_tokenizer, tmp_path / "a.npy", sequence_len=512, threads=2)
    assert record["rows"] > 200
    assert record["padding"] < 0.005


def test_shard_of_empty_documents_is_refused(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards([(0, ""), (0, "")], tmp_path, 1, {})
    with pytest.raises(BadInput, match="holds only empty documents"):
        tokenize_shard(tmp_path / "shard_00000.parquet", tiny_tokenizer, tmp_path / "a.npy", 64)
