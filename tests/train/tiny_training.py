"""A real, tiny training, seconds small, for the tests of this folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat.data.loader import RowLoader
from nanochat.data.rows import write_rows
from nanochat.hpc.deadline import Deadline
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.optimizer import MuonAdamW
from nanochat.settings import OperationSettings
from nanochat.track.journal import Journal
from nanochat.train.checkpoints import CheckpointStore, Identity, Retention
from nanochat.train.distributed import RankGroup
from nanochat.train.job import Job, Multipliers, TrainingResult
from nanochat.train.loop import train
from nanochat.train.watchdog import Section

STEPS = 6
LAST_TWO = Retention(2)
SHAPE = GPTConfig.from_depth(2, vocab_size=64, sequence_len=16, aspect_ratio=16, head_dim=16)


def write_row_file(folder: Path) -> Path:
    """Forty rows of counting upwards from a random start, with some padding at the end."""
    rng = np.random.default_rng(0)
    rows_NC = (np.arange(17) + rng.integers(0, 64, (40, 1))) % 64
    rows_NC[::4, 12:] = np.iinfo(np.uint16).max
    write_rows(folder, "shard_00000", rows_NC.astype(np.uint16), None, {"tokenizer": "t"})
    return folder / "shard_00000.npy"


def make_job(
    row_file: Path,
    device_rows: int = 4,
    save_every_minutes: float = 0.0,
    validate: Callable[[], float] = lambda: 2.0,
    validate_every_steps: int = 2,
    group: RankGroup | None = None,
    enter: Callable[[Section, int], None] = lambda section, step: None,
    remember_rows: Callable[[int], None] = lambda rows: None,
    switches: Path | None = None,
    **operation: Any,
) -> Job:
    """`operation` are further keys of the config's section."""
    group = group or RankGroup()
    model = GPT(SHAPE, torch.float32)
    model.init_weights(1)
    return Job(
        stage="base",
        training="f" * 16,
        model=model,
        optimizer=MuonAdamW(
            model, lr_scale=0.1, weight_decay=0.1, rank=group.rank, world_size=group.world_size
        ),
        loader=RowLoader([row_file], rows_per_step=8, seed=3, bos_id=0),
        steps=STEPS,
        multipliers=lambda step: Multipliers(1.0 - step / STEPS, 0.9, 1.0),
        validate=lambda rows: validate(),
        operation=OperationSettings(
            device_rows=device_rows,
            save_every_minutes=save_every_minutes,
            validate_every_steps=validate_every_steps,
            compile="off",
            **operation,
        ),
        group=group,
        device_rows=device_rows,
        flops_per_token=1e6,
        peak_flops=1e12,
        enter=enter,
        remember_rows=remember_rows,
        switches=switches,
    )


def at_step(job: Job, number: int, act: Callable[[], Any]) -> Job:
    """The job, with `act` called while the step is computed that is `number` by this process's
    count."""
    honest, calls = job.model.loss_sum, 0

    def acting(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 * number:  # two micro-batches a step
            act()
        return honest(*batch)

    job.model.loss_sum = acting  # type: ignore[method-assign]
    return job


def make_store(
    folder: Path,
    group: RankGroup | None = None,
    attempt: int = 0,
    retention: Retention = LAST_TWO,
) -> CheckpointStore:
    """The checkpoints of these trainings in `folder`."""
    group = group or RankGroup()
    identity = Identity("f" * 64, {})
    ranks = group.rank, group.world_size
    return CheckpointStore(folder, identity, retention, *ranks, attempt=attempt)


def run(
    job: Job,
    folder: Path,
    name: str = "run",
    deadline: Deadline | None = None,
    retention: Retention = LAST_TWO,
) -> TrainingResult:
    """Trains into `folder`: checkpoints in `name`, the journal beside it."""
    journal = Journal(folder / f"{name}.jsonl")
    try:
        return train(job, make_store(folder / name, retention=retention), journal, deadline)
    finally:
        journal.close()


def state_of(job: Job) -> dict[str, torch.Tensor]:
    optimizer = {f"optimizer.{name}": value for name, value in job.optimizer.state_dict().items()}
    return {**job.model.state_dict(), **optimizer}


def assert_same_bits(one: Job, other: Job) -> None:
    assert_same_tensors(state_of(one), state_of(other))


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
