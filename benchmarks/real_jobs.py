"""A training's Job as a stage makes it, of any shape, on random tokens; for benchmarks.

    job = make_job(config, folder, rows_per_step=16, device_rows=2, group=group)
    stepper = Stepper(job, saver); ...

Writes a file of packed rows below `folder` where there is none.
"""

from pathlib import Path

import numpy as np

from nanochat.data.loader import RowLoader
from nanochat.data.rows import write_rows
from nanochat.model.device import CompileMode
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.optimizer import MuonAdamW
from nanochat.settings import OperationSettings
from nanochat.train.checkpoints import CheckpointStore, Identity, Retention
from nanochat.train.distributed import RankGroup
from nanochat.train.job import Job, Multipliers

ROWS = 256
MANY_STEPS = 1_000_000


def make_job(
    config: GPTConfig,
    folder: Path,
    rows_per_step: int,
    device_rows: int,
    group: RankGroup | None = None,
    compile: CompileMode = "off",
) -> Job:
    """A fresh model and its optimizer, and rows to train them on."""
    group = group or RankGroup()
    model = GPT.fresh(config, group.device, seed=1)
    model.use_compiled(compile)
    optimizer = MuonAdamW(model, 0.125, 0.1, rank=group.rank, world_size=group.world_size)
    return Job(
        stage="base",
        training="f" * 16,
        model=model,
        optimizer=optimizer,
        loader=RowLoader([_row_file(config, folder)], rows_per_step, seed=1, bos_id=0),
        steps=MANY_STEPS,
        multipliers=lambda step: Multipliers(0.01, 0.9, 1.0),
        validate=lambda rows: 0.0,
        operation=OperationSettings(device_rows=device_rows, compile=compile),
        flops_per_token=1.0,
        peak_flops=None,
        group=group,
        device_rows=device_rows,
    )


def make_store(folder: Path) -> CheckpointStore:
    """Checkpoints in `folder`, of which the newest stays."""
    return CheckpointStore(folder, Identity("f" * 64, {}), Retention(1))


def _row_file(config: GPTConfig, folder: Path) -> Path:
    file = folder / "shard_00000.npy"
    if not file.exists():
        rng = np.random.default_rng(0)
        rows_NC = rng.integers(0, config.vocab_size, (ROWS, config.sequence_len + 1))
        write_rows(folder, "shard_00000", rows_NC.astype(np.uint16), None, {"tokenizer": "t"})
    return file
