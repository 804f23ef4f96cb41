"""Several ranks: real processes that meet over the loopback, started as srun starts them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import assert_same_tensors, write_row_file

from nanochat.hpc.ranks import FIRST_PORT, PORTS
from nanochat.track.journal import read_events

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


def free_job_ids() -> Iterator[int]:
    """Ids whose ports nobody listens at."""
    for job_id in range(os.getpid() % PORTS, PORTS):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", FIRST_PORT + job_id)) != 0:
                yield job_id


def launch(folder: Path, row_file: Path, *trainings: str) -> list[list[Ended]]:
    """Runs trainings `name:ranks:trouble`, one after the other; how each of their ranks ended."""
    split = [training.split(":") for training in trainings]
    specs = [
        f"{name}:{ranks}:{job_id}:{trouble}"
        for (name, ranks, trouble), job_id in zip(split, free_job_ids(), strict=False)
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
        for (name, _, _), codes_of_ranks in zip(split, codes, strict=True)
    ]


@pytest.fixture(scope="module")
def straight(folder: Path, row_file: Path) -> dict[int, list[Ended]]:
    """The same training on one to four ranks."""
    counts = (1, 2, 3, 4)
    ended = launch(folder, row_file, *(f"on{ranks}:{ranks}:none" for ranks in counts))
    return dict(zip(counts, ended, strict=True))


def weights(folder: Path, name: str, rank: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{name}-{rank}.safetensors")


def told(folder: Path, name: str, event: str, value: str) -> list[float]:
    events = read_events(folder / f"{name}.jsonl")
    return [seen[value] for seen in events if seen["event"] == event]


def rows_by_step(folder: Path, ranks: int) -> list[list[int]]:
    """The row numbers of each step, those of rank 0 first."""
    of_ranks = [json.loads((folder / f"on{ranks}-{n}.json").read_text()) for n in range(ranks)]
    return [list(chain(*shares)) for shares in zip(*of_ranks, strict=True)]


def test_all_ranks_end_with_the_same_bits(straight: dict[int, list[Ended]], folder: Path) -> None:
    for ranks, ended in straight.items():
        assert [rank.code for rank in ended] == [0] * ranks, ended
        for rank in range(1, ranks):
            first, other = (weights(folder, f"on{ranks}", n) for n in (0, rank))
            assert_same_tensors(first, other)


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
    assert [rank.code for rank in stopped] == [75, 75]
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
    assert told(folder, "diverged", "step", "step") == [1, 2]
    assert_same_tensors(weights(folder, "diverged", 0), weights(folder, "diverged", 1))
    assert all(value.isfinite().all() for value in weights(folder, "diverged", 0).values())


def test_a_rank_that_dies_ends_the_others_in_one_sentence(folder: Path, row_file: Path) -> None:
    ((first, second),) = launch(folder, row_file, "lost:2:death")
    assert second.code == 9
    assert first.code == 75
    assert "rank 0 of 2 lost the others" in first.error
    assert "Traceback" not in first.error
