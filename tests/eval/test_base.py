"""The base model's record, from packed rows, a shard and a bundle to JSON."""

import json

import pytest

from nanochat.data.shards import write_shards
from nanochat.data.tokenize_shard import tokenize_shard
from nanochat.data.tokenizer import train_tokenizer
from nanochat.errors import DamagedArtefact
from nanochat.eval.base import OPENINGS, PROMPTS, evaluate_base
from nanochat.eval.bundle import build_bundle


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, english, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("base")
    write_shards([(0, text[:3000]) for text in english], folder / "text", 1, {})
    shard = folder / "text" / "shard_00000.parquet"
    rows = folder / "rows" / "shard_00000.npy"
    tokenize_shard(shard, tiny_tokenizer, rows, sequence_len=128)
    build_bundle(shard, folder / "bundle", seed=1)
    return {"validation_rows": rows, "validation_shard": shard, "bundle_dir": folder / "bundle"}


@pytest.fixture(scope="module")
def record(random_model, tiny_tokenizer, inputs):
    return evaluate_base(
        random_model, tiny_tokenizer, **inputs, max_rows=20, max_per_task=4, batch_rows=8
    )


def test_the_record_is_json_with_all_that_the_report_needs(record):
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["stage"] == "base"
    assert set(record["bpb"]["compressors"]) == {"xz -9e", "zstd -19"}
    assert record["bpb"]["tokens"] <= 20 * 128
    assert len(record["core"]["tasks"]) >= 3


def test_a_model_of_random_weights_is_worse_than_xz(record):
    assert record["bpb"]["value"] > record["bpb"]["compressors"]["xz -9e"]


def test_samples_continue_fixed_prompts_and_held_out_openings(record, english):
    prompts = [sample["prompt"] for sample in record["samples"]]
    assert prompts[: len(PROMPTS)] == list(PROMPTS)
    assert len(prompts) == len(PROMPTS) + OPENINGS + 1
    opening = " ".join(english[0].split()[:12])
    assert prompts[len(PROMPTS)] == opening
    assert all(sample["text"] for sample in record["samples"])
    greedy, drawn = record["samples"][-2:]
    assert greedy["prompt"] == drawn["prompt"]
    assert greedy["text"] != drawn["text"]


def test_the_same_model_writes_the_same_record(record, random_model, tiny_tokenizer, inputs):
    again = evaluate_base(
        random_model, tiny_tokenizer, **inputs, max_rows=20, max_per_task=4, batch_rows=8
    )
    assert again == record


def test_rows_of_another_tokenizer_are_refused(random_model, english, inputs):
    other = train_tokenizer(english[:20], 300, 20_000, 10_000)
    with pytest.raises(DamagedArtefact, match="made by another tokenizer"):
        evaluate_base(random_model, other, **inputs, max_rows=20, max_per_task=4, batch_rows=8)
