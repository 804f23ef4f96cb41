"""Bits per byte against a computation by hand, whatever the batches."""

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.data.loader import validation_batches
from nanochat.data.rows import open_rows
from nanochat.data.shards import write_shards
from nanochat.data.tokenize_shard import tokenize_shard
from nanochat.errors import BadInput
from nanochat.eval.bpb import bits_per_byte, compressors, text_of_rows


@pytest.fixture(scope="session")
def documents(english) -> list[str]:
    return [text[:120] for text in english[:24]] + [english[30][:1500]]


@pytest.fixture(scope="session")
def validation(tmp_path_factory, documents, tiny_tokenizer):
    """Packed rows of 25 documents, one of which has to be cut over rows."""
    folder = tmp_path_factory.mktemp("validation")
    write_shards([(0, text) for text in documents], folder, 1, {})
    row_file = folder / "rows" / "shard_00000.npy"
    tokenize_shard(folder / "shard_00000.parquet", tiny_tokenizer, row_file, sequence_len=128)
    return row_file


def batches(row_file: Path, tokenizer, device_rows: int, max_rows: int = 10**6):
    return validation_batches(row_file, max_rows, device_rows, tokenizer.bos_id)


def test_bits_per_byte_is_the_log_probability_of_the_text_over_its_bytes(
    random_model, tiny_tokenizer
):
    ids = [tiny_tokenizer.bos_id, *tiny_tokenizer.encode("Größe and size")]
    logits = random_model.logits(torch.tensor([ids[:-1]]))[0].double()
    probability = torch.log_softmax(logits, dim=-1)[range(len(ids) - 1), ids[1:]].sum().item()
    batch = (torch.tensor([ids[:-1]]), torch.tensor([ids[1:]]))
    score = bits_per_byte(random_model, [batch], tiny_tokenizer.token_bytes())
    assert score["bytes"] == len("Größe and size".encode())
    assert score["tokens"] == len(ids) - 1
    assert score["value"] == pytest.approx(-probability / math.log(2) / score["bytes"], rel=1e-5)


def test_ignored_targets_and_special_tokens_do_not_count(random_model, tiny_tokenizer):
    words = tiny_tokenizer.encode("one two three four")
    inputs = torch.tensor([[tiny_tokenizer.bos_id, *words]])
    plain = torch.tensor([[*words[:-1], -1, -1]])
    with_special = torch.tensor([[*words[:-1], tiny_tokenizer.bos_id, -1]])
    token_bytes = tiny_tokenizer.token_bytes()
    expected = bits_per_byte(random_model, [(inputs, plain)], token_bytes)
    assert bits_per_byte(random_model, [(inputs, with_special)], token_bytes) == expected
    assert expected["tokens"] == len(words) - 1


@pytest.mark.parametrize("device_rows", [1, 3, 1000])
def test_the_device_batch_changes_nothing(random_model, tiny_tokenizer, validation, device_rows):
    token_bytes = tiny_tokenizer.token_bytes()
    expected = bits_per_byte(random_model, batches(validation, tiny_tokenizer, 2), token_bytes)
    score = bits_per_byte(
        random_model, batches(validation, tiny_tokenizer, device_rows), token_bytes
    )
    assert (score["tokens"], score["bytes"]) == (expected["tokens"], expected["bytes"])
    assert score["value"] == pytest.approx(expected["value"], rel=1e-6)


@pytest.mark.parametrize("max_rows", [3, 10**6])
def test_the_text_of_rows_is_the_text_that_was_scored(
    random_model, tiny_tokenizer, validation, max_rows
):
    scored = batches(validation, tiny_tokenizer, 4, max_rows)
    score = bits_per_byte(random_model, scored, tiny_tokenizer.token_bytes())
    rows = open_rows(validation).ids_NC
    text = text_of_rows(rows, max_rows, tiny_tokenizer)
    joints = int((rows[:max_rows] == tiny_tokenizer.bos_id).sum()) - 1
    assert len(text) == score["bytes"] + joints


def test_the_text_of_rows_is_the_documents_and_nothing_else(documents, tiny_tokenizer, validation):
    """Packing cuts documents into pieces, so all characters are compared, but for the joints."""
    text = text_of_rows(open_rows(validation).ids_NC, 10**6, tiny_tokenizer).decode()
    assert sorted(text.replace("\n", "")) == sorted("".join(documents).replace("\n", ""))
    assert sum(document in text for document in documents) > len(documents) / 2


def test_rows_without_any_text_are_refused_in_one_sentence(random_model, tiny_tokenizer):
    nothing = torch.full((1, 4), -1)
    with pytest.raises(BadInput, match="no byte of text to score"):
        bits_per_byte(
            random_model, [(torch.zeros_like(nothing), nothing)], tiny_tokenizer.token_bytes()
        )
    with pytest.raises(BadInput, match="no text to compress"):
        compressors(b"")


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the program xz")
def test_xz_figure_is_that_of_the_program(english):
    text = "\n".join(english).encode()
    packed = subprocess.run(["xz", "-9e", "-c"], input=text, capture_output=True, check=True)
    expected = 8 * len(packed.stdout) / len(text)
    assert compressors(text)["xz -9e"] == pytest.approx(expected, rel=1e-3)


def test_compressors_know_noise_from_repetition():
    noise = np.random.default_rng(0).bytes(100_000)
    assert all(7.99 < value < 8.02 for value in compressors(noise).values())
    assert all(value < 0.05 for value in compressors(b"again and " * 10_000).values())
