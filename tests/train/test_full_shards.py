"""Weights that no rank has whole: trained, saved and continued by real processes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ranks import free_job_ids
from tiny_training import SHAPE, assert_same_tensors, write_row_file

from nanochat.model.gpt import GPT
from nanochat.track.journal import read_events
from nanochat.train.checkpoints import read_checkpoint
from nanochat.train.full_shard_batches import evened, most_batches
from nanochat.train.full_shards import chunk

SCRIPT = Path(__file__).with_name("full_shard_rank.py")
LOADED = {
    "1, optimizer": {"name": "cut-on1", "copy_of": "cut", "ranks": 1, "shard": "optimizer"},
    "3, optimizer": {"name": "cut-on3", "copy_of": "cut", "ranks": 3, "shard": "optimizer"},
    "3, weights": {"name": "cut-w3", "copy_of": "cut", "ranks": 3},
    "2, weights": {"name": "other-w2", "copy_of": "other", "ranks": 2},
}
"""Checkpoints of a training that was cut short, loaded by other ranks than wrote them."""
TRAININGS = [
    {"name": "alone", "ranks": 1, "shard": "optimizer"},
    {"name": "two", "ranks": 2},
    {"name": "three", "ranks": 3},
    {"name": "half-alone", "ranks": 1, "shard": "optimizer", "dtype": "bfloat16"},
    {"name": "half-two", "ranks": 2, "dtype": "bfloat16"},
    {"name": "cut", "ranks": 2, "does": "sigterm"},
    {"name": "other", "ranks": 3, "shard": "optimizer", "does": "sigterm"},
    *({**spec, "does": "load"} for spec in LOADED.values()),
    {"name": "cut-on3", "ranks": 3, "shard": "optimizer"},
    {"name": "other-w2", "ranks": 2},
    {"name": "cut", "ranks": 2},
    {"name": "dead", "ranks": 2, "does": "death"},
    {"name": "full", "ranks": 2, "does": "memory"},
]


def told(folder: Path, name: str, event: str, value: str) -> list[float]:
    events = read_events(folder / f"{name}.jsonl")
    return [seen[value] for seen in events if seen["event"] == event]


def checkpoint(folder: Path, name: str, step: int) -> dict[str, torch.Tensor]:
    """All weights and moments of a training's checkpoint."""
    read = read_checkpoint(folder / name / ("f" * 16) / f"step-{step:06d}")
    return {
        f"{part}.{tensor}": read.rows(part, tensor)
        for part in ("model", "optimizer")
        for tensor in read.names(part)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module", autouse=True)
def codes(folder: Path) -> dict[str, list[int]]:
    """The exit codes of each training's ranks; of the last one of that name."""
    row_file = write_row_file(folder)
    specs: list[dict[str, Any]] = [
        {"shard": "weights", "does": "train", **spec, "job_id": job_id}
        for spec, job_id in zip(TRAININGS, free_job_ids(), strict=False)
    ]
    command = [sys.executable, str(SCRIPT), str(folder), str(row_file), *map(json.dumps, specs)]
    alone = {"OMP_NUM_THREADS": "1", "PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    printed = subprocess.run(
        command,
        env={**os.environ, **alone},
        stdout=subprocess.PIPE,
        text=True,
        timeout=180,
        check=True,
    )
    names = [f"{spec['name']} {spec['does']}" for spec in specs]
    return dict(zip(names, json.loads(printed.stdout), strict=True))


def errors(folder: Path, name: str) -> list[str]:
    return [file.read_text() for file in sorted(folder.glob(f"{name}-?.err"))]


@pytest.mark.parametrize(("name", "ranks"), [("two", 2), ("three", 3)])
def test_divided_weights_train_to_the_same_loss_as_whole_ones(
    codes: dict[str, list[int]], folder: Path, name: str, ranks: int
) -> None:
    """A step has three rows, one at a time: of two ranks one has a pass more."""
    assert codes[f"{name} train"] == [0] * ranks, errors(folder, name)
    for what in (("step", "loss"), ("step", "grad_norm"), ("validation", "bpb")):
        assert told(folder, name, *what) == pytest.approx(told(folder, "alone", *what), rel=1e-4)
    assert len(told(folder, name, "step", "loss")) == 6


@pytest.mark.parametrize("name", ["two", "three"])
def test_divided_weights_move_to_where_whole_ones_do(folder: Path, name: str) -> None:
    """Of every tensor, by how far it went: the loss of a few steps hides much."""
    fresh = GPT(SHAPE, torch.float32)
    fresh.init_weights(1)
    whole, divided = (checkpoint(folder, each, 6) for each in ("alone", name))
    assert whole.keys() == divided.keys()
    for weight, start in fresh.state_dict().items():
        end = whole[f"model.{weight}"]
        assert (divided[f"model.{weight}"] - end).norm() <= 0.01 * (end - start).norm(), weight


@pytest.mark.parametrize(("name", "ranks"), [("two", 2), ("three", 3)])
def test_a_rank_holds_its_rows_and_a_pass_leaves_them_alone(
    folder: Path, name: str, ranks: int
) -> None:
    whole = {n: t for n, t in checkpoint(folder, name, 6).items() if n.startswith("model.")}
    size = sum(tensor.nbytes for tensor in whole.values())
    for rank in range(ranks):
        held = json.loads((folder / f"{name}-{rank}.json").read_text())
        assert held["bytes"] < 1.1 * size / ranks
        assert held["kept"], "a save copies them meanwhile"


def test_weights_that_are_loaded_after_validating_count(folder: Path) -> None:
    """What is still whole of the weights before would hide them."""
    held = json.loads((folder / "two-0.json").read_text())
    assert held["loss_without_head"] == pytest.approx(math.log(64))


def test_weights_of_16_bits_train_as_well(codes: dict[str, list[int]], folder: Path) -> None:
    assert codes["half-two train"] == [0, 0], errors(folder, "half-two")
    for what in ("loss", "grad_norm"):
        expected = told(folder, "half-alone", "step", what)
        assert told(folder, "half-two", "step", what) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("on", LOADED)
def test_other_ranks_load_the_very_bits_that_were_saved(
    codes: dict[str, list[int]], folder: Path, on: str
) -> None:
    spec = LOADED[on]
    name, source = str(spec["name"]), str(spec["copy_of"])
    assert codes[f"{source} sigterm"] == [76] * len(codes[f"{source} sigterm"])
    assert codes[f"{name} load"] == [0] * int(str(spec["ranks"])), errors(folder, name)
    (step,) = told(folder, source, "stop", "step")
    saved, loaded = (checkpoint(folder, each, int(step)) for each in (name, f"{name}-loaded"))
    assert_same_tensors(saved, loaded)


@pytest.mark.parametrize("name", ["cut-on3", "other-w2"])
def test_a_training_goes_on_with_the_other_kind_of_sharding(
    codes: dict[str, list[int]], folder: Path, name: str
) -> None:
    assert codes[f"{name} train"] == [0] * len(codes[f"{name} train"]), errors(folder, name)
    assert told(folder, name, "end", "step") == [6]
    losses = told(folder, name, "step", "loss")
    expected = told(folder, "alone", "step", "loss")[-len(losses) :]
    assert 0 < len(losses) < 6
    assert losses == pytest.approx(expected, rel=1e-4)


def test_an_interrupted_training_ends_with_the_bits_of_a_straight_one(
    codes: dict[str, list[int]], folder: Path
) -> None:
    assert codes["cut train"] == [0, 0], errors(folder, "cut")
    assert_same_tensors(checkpoint(folder, "two", 6), checkpoint(folder, "cut", 6))


def test_a_rank_that_dies_in_a_pass_ends_the_others_in_one_sentence(
    codes: dict[str, list[int]], folder: Path
) -> None:
    assert codes["dead death"] == [75, 9]
    first, _ = errors(folder, "dead")
    assert "rank 0 of 2 lost the others" in first
    assert "Traceback" not in first


def test_a_rank_without_memory_says_what_to_lower_and_ends_all(
    codes: dict[str, list[int]], folder: Path
) -> None:
    assert codes["full memory"] == [75, 2]
    first, second = errors(folder, "full")
    assert "lower operation.device_rows" in second
    assert "Traceback" not in first + second


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_a_chunk_is_that_of_torch(rows: int, ranks: int) -> None:
    expected = [part.tolist() for part in torch.arange(rows).chunk(ranks)]
    expected += [[]] * (ranks - len(expected))
    assert [list(range(*chunk(rows, rank, ranks))) for rank in range(ranks)] == expected


def test_ranks_with_fewer_rows_make_up_for_it_with_rows_of_no_target() -> None:
    batch = (torch.ones(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.int64))
    assert most_batches(rows=9, device_rows=2, world_size=2) == 3
    assert most_batches(rows=8, device_rows=2, world_size=2) == 2
    first, *others = evened([batch], 3, sequence_len=4)
    assert first[0] is batch[0] and first[1] is batch[1]
    assert len(others) == 2
    for inputs_BT, targets_BT in others:
        assert inputs_BT.shape == (2, 4), "a size that has been seen"
        assert (targets_BT == -1).all()
    ((inputs_BT, targets_BT),) = evened([], 1, sequence_len=4)
    assert inputs_BT.shape == targets_BT.shape == (1, 4)
