"""Several ranks: real processes that meet over the loopback, started as srun starts them."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import STEPS, assert_same_tensors, make_store, write_row_file

from nanochat.track.journal import read_events
from srun_tasks import free_job_ids

SCRIPT = Path(__file__).with_name("rank.py")


class Ended(NamedTuple):
    """How a rank ended."""

    code: int
    error: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def row_file(folder: Path) -> Path:
    return write_row_file(folder)


def launch(folder: Path, row_file: Path, *trainings: str) -> list[list[Ended]]:
    """Runs trainings `name:ranks:trouble[:steps]`, one after the other; how each rank ended."""
    split = [f"{training}:{STEPS}".split(":")[:4] for training in trainings]
    specs = [
        f"{name}:{ranks}:{job_id}:{trouble}:{steps}"
        for (name, ranks, trouble, steps), job_id in zip(split, free_job_ids(), strict=False)
    ]
    command = [sys.executable, str(SCRIPT), str(folder), str(row_file), *specs]
    # no SLURM to ask, and no GPU: one GPU cannot serve two ranks
    alone = {"OMP_NUM_THREADS": "1", "PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **alone}
    printed = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    codes = json.loads(printed.stdout)
    return [
        [
            Ended(code, (folder / f"{name}-{rank}.err").read_text())
            for rank, code in enumerate(codes_of_ranks)
        ]
        for (name, *_), codes_of_ranks in zip(split, codes, strict=True)
    ]


@pytest.fixture(scope="module")
def straight(folder: Path, row_file: Path) -> dict[int, list[Ended]]:
    """The same training on one to four ranks."""
    counts = (1, 2, 3, 4)
    ended = launch(folder, row_file, *(f"on{ranks}:{ranks}:none" for ranks in counts))
    return dict(zip(counts, ended, strict=True))


def weights(folder: Path, name: str, rank: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}-{rank}.safetensors")


def only_weights(folder: Path, name: str, rank: int) -> dict[str, torch.Tensor]:
    """Without the moments, which each rank has of what it owns."""
    found = weights(folder, name, rank).items()
    return {name: tensor for name, tensor in found if not name.startswith("optimizer.")}


def told(folder: Path, name: str, event: str, value: str) -> list[Any]:
    events = read_events(folder / f"{name}.jsonl")
    return [seen[value] for seen in events if seen["event"] == event]


def rows_by_step(folder: Path, ranks: int, name: str = "") -> list[list[int]]:
    """The row numbers of each step, those of rank 0 first."""
    name = name or f"on{ranks}"
    of_ranks = [json.loads((folder / f"{name}-{n}.json").read_text()) for n in range(ranks)]
    return [list(chain(*shares)) for shares in zip(*of_ranks, strict=True)]


def test_all_ranks_end_with_the_same_bits(straight: dict[int, list[Ended]], folder: Path) -> None:
    for ranks, ended in straight.items():
        assert [rank.code for rank in ended] == [0] * ranks, ended
        for rank in range(1, ranks):
            first, other = (only_weights(folder, f"on{ranks}", n) for n in (0, rank))
            assert_same_tensors(first, other)


def test_each_moment_has_one_owner(straight: dict[int, list[Ended]], folder: Path) -> None:
    whole = {name for name in weights(folder, "on1", 0) if name.startswith("optimizer.")}
    for ranks in straight:
        parts = [weights(folder, f"on{ranks}", rank) for rank in range(ranks)]
        owned = [{n: t for n, t in part.items() if n.startswith("optimizer.")} for part in parts]
        assert set().union(*owned) == whole
        cells = [sum(tensor.numel() for tensor in of_rank.values()) for of_rank in owned]
        assert sum(cells) == sum(weights(folder, "on1", 0)[name].numel() for name in whole)
        assert max(cells) < 1.5 * min(cells), "the ranks hold about as much each"


def test_any_number_of_ranks_trains_on_the_same_rows_to_the_same_loss(
    straight: dict[int, list[Ended]], folder: Path
) -> None:
    """The fourth rank has neither a row to train on nor one to validate."""
    losses, bpb = (told(folder, "on1", *what) for what in (("step", "loss"), ("validation", "bpb")))
    assert len(losses) == 6
    for ranks in straight:
        assert rows_by_step(folder, ranks) == rows_by_step(folder, 1)
        assert told(folder, f"on{ranks}", "step", "loss") == pytest.approx(losses, rel=1e-4)
        assert told(folder, f"on{ranks}", "validation", "bpb") == pytest.approx(bpb, rel=1e-4)


def test_one_writer_tells_of_all_ranks(straight: dict[int, list[Ended]], folder: Path) -> None:
    for ranks in straight:
        assert told(folder, f"on{ranks}", "start", "world_size") == [ranks]
        assert told(folder, f"on{ranks}", "step", "step") == list(range(1, 7))
        assert told(folder, f"on{ranks}", "checkpoint", "step") == [6]


def test_a_signal_to_one_rank_stops_all_after_one_save_and_they_resume_to_the_same_bits(
    straight: dict[int, list[Ended]], folder: Path, row_file: Path
) -> None:
    (stopped,) = launch(folder, row_file, "resumed:2:sigterm")
    assert [rank.code for rank in stopped] == [76, 76], "inside a job, it is preemption"
    assert "SIGTERM stopped base training after step 3 of 6" in stopped[0].error
    assert "SIGTERM" not in stopped[1].error, "rank 0 has said it"
    assert told(folder, "resumed", "checkpoint", "step") == [3]
    assert told(folder, "resumed", "stop", "reason") == ["SIGTERM"]
    (finished,) = launch(folder, row_file, "resumed:2:none")
    assert [rank.code for rank in finished] == [0, 0]
    assert told(folder, "resumed", "step", "step") == [1, 2, 3, 4, 5, 6]
    for rank in (0, 1):
        assert_same_tensors(weights(folder, "on2", rank), weights(folder, "resumed", rank))


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_the_update(
    folder: Path, row_file: Path
) -> None:
    (ended,) = launch(folder, row_file, "diverged:2:nan")
    assert [rank.code for rank in ended] == [77, 77]
    assert "step 3: the loss is nan" in ended[0].error
    assert told(folder, "diverged", "step", "step") == [1, 2, 3], "the third without an update"
    assert_same_tensors(only_weights(folder, "diverged", 0), only_weights(folder, "diverged", 1))
    assert all(value.isfinite().all() for value in weights(folder, "diverged", 0).values())


def test_a_step_that_is_not_finite_on_one_rank_is_left_out_by_all(
    folder: Path, row_file: Path
) -> None:
    (ended,) = launch(folder, row_file, "skipped:2:skip")
    assert [rank.code for rank in ended] == [0, 0], ended
    steps = [e for e in read_events(folder / "skipped.jsonl") if e["event"] == "step"]
    assert [event.get("skipped", False) for event in steps] == [False] * 2 + [True] + [False] * 3
    assert_same_tensors(only_weights(folder, "skipped", 0), only_weights(folder, "skipped", 1))


def test_what_one_rank_cannot_write_all_ranks_call_by_its_name(
    folder: Path, row_file: Path
) -> None:
    (ended,) = launch(folder, row_file, "full:2:disk")
    assert [rank.code for rank in ended] == [80, 80], ended
    reasons = set(told(folder, "full", "save_failed", "reason"))
    assert len(reasons) == 1
    assert "rank 1 on " in min(reasons) and "the disk is full" in min(reasons)
    assert "the disk is full" in ended[1].error


def test_ranks_wait_for_one_that_starts_late(
    straight: dict[int, list[Ended]], folder: Path, row_file: Path
) -> None:
    (ended,) = launch(folder, row_file, "slow:2:late")
    assert [rank.code for rank in ended] == [0, 0], ended
    assert_same_tensors(weights(folder, "on2", 0), weights(folder, "slow", 0))


def test_a_rank_that_dies_ends_the_others_in_one_sentence(folder: Path, row_file: Path) -> None:
    ((first, second),) = launch(folder, row_file, "lost:2:death")
    assert second.code == 9
    assert first.code == 75
    assert "rank 0 of 2 lost the others" in first.error
    assert "Traceback" not in first.error


def test_a_training_that_moves_from_1_to_2_to_4_to_3_ranks_sees_the_batches_of_an_undisturbed_one(
    folder: Path, row_file: Path
) -> None:
    steps, seen, ends = 12, [], []
    launch(folder, row_file, f"still:1:none:{steps}")
    for ranks in (1, 2, 4, 3):
        trouble = "none" if ranks == 3 else "sigterm"
        (ended,) = launch(folder, row_file, f"moving:{ranks}:{trouble}:{steps}")
        assert {rank.code for rank in ended} == {0 if ranks == 3 else 76}, ended
        made = told(folder, "moving", "step", "step")
        here = rows_by_step(folder, ranks, "moving")
        seen += here[: len(made) - len(seen)]  # without what was read in advance
        ends.append(len(made))
    assert ends[0] < ends[1] < ends[2] < ends[3] == steps, "each of them made steps"
    hashes = [
        [sha256(json.dumps(rows).encode()).hexdigest() for rows in each]
        for each in (seen, rows_by_step(folder, 1, "still"))
    ]
    assert hashes[0] == hashes[1]
    assert told(folder, "moving", "start", "world_size") == [1, 2, 4, 3]
    losses = told(folder, "still", "step", "loss")
    assert told(folder, "moving", "step", "loss") == pytest.approx(losses, rel=1e-4)


def test_a_file_that_one_rank_finds_damaged_is_damaged_for_all(
    folder: Path, row_file: Path
) -> None:
    launch(folder, row_file, "damaged:2:sigterm")
    launch(folder, row_file, "damaged:2:sigterm")
    store = make_store(folder / "damaged")
    older, newer = store.steps()
    file = store.path(newer) / "optimizer-001-of-002.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (ended,) = launch(folder, row_file, "damaged:2:none")
    assert [rank.code for rank in ended] == [0, 0], ended
    assert told(folder, "damaged", "start", "step") == [0, older, older]
    assert "damaged-step" in ended[0].error
    for rank in (0, 1):
        assert_same_tensors(weights(folder, "on2", rank), weights(folder, "damaged", rank))
