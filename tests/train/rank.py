"""The ranks of tiny trainings, for test_ranks.py: processes with the environment of srun's tasks.

    python rank.py FOLDER ROW_FILE NAME:RANKS:JOB_ID:TROUBLE:STEPS ...

One training after the other. TROUBLE befalls the last rank that has rows, at its third micro-batch:
sigterm, nan (which ends the training), skip (a nan that does not), death, or none; with `late` it
starts seconds after the others, with `disk` it can write nothing. Prints the exit
codes as JSON. Leaves in FOLDER what the test looks at, by name and rank: .safetensors (weights and
moments), .json (the rows of each step), .err (standard error).
"""

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tiny_training import STEPS, make_job, make_store, state_of

sys.path.append(str(Path(__file__).parents[1]))
from nanochat.data.loader import Batch, RowLoader, validation_batches
from nanochat.data.packing import Ints
from nanochat.errors import NanochatError
from nanochat.eval.bpb import bits_per_byte
from nanochat.model import optimizer
from nanochat.track.journal import Journal, SilentJournal
from nanochat.train import loop, parts
from nanochat.train.distributed import RankGroup
from nanochat.train.job import Job
from nanochat.train.launch import launched
from nanochat.train.loop import train
from srun_tasks import environment_of_task

ROWS_PER_STEP = VALIDATION_ROWS = 3
optimizer.SMALLEST_TO_DIVIDE = 256  # so that tiny embeddings have several owners


def make_ranks_job(
    group: RankGroup, row_file: Path, trouble: str = "none", steps: int = STEPS
) -> Job:
    """Three rows a step and three to validate: the fourth of four ranks has none."""
    after_nan = "stop" if trouble == "nan" else "skip"
    job = make_job(
        row_file, save_every_minutes=60, device_rows=2, group=group, on_nonfinite=after_nan
    )

    def validate(device_rows: int) -> float:
        rows = validation_batches(row_file, VALIDATION_ROWS, 2, 0, group.rank, group.world_size)
        return bits_per_byte(job.model, rows, np.ones(64, np.int32), group.sum)["value"]

    loader = RowLoader([row_file], ROWS_PER_STEP, seed=3, bos_id=0)
    return replace(job, loader=loader, validate=validate, steps=steps)


def trouble_in_the_third_step(job: Job, kind: str) -> None:
    honest, calls = job.model.loss_sum, 0

    def disturbed(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3 and kind == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        if calls == 3 and kind == "death":
            os._exit(9)
        return honest(*batch) * (float("nan") if calls == 3 and kind in ("nan", "skip") else 1.0)

    job.model.loss_sum = disturbed  # type: ignore[method-assign]


def full_disk(path: Path, tensors: Any) -> tuple[int, str]:
    raise OSError(errno.ENOSPC, "No space left on device")


def remember_rows(job: Job) -> list[list[int]]:
    """A list that grows by each step's row numbers on this rank."""
    seen: list[list[int]] = []
    read_step, read_batch = job.loader.micro_batches, job.loader._batch

    def micro_batches(*step: int) -> Iterator[Batch]:
        seen.append([])
        return read_step(*step)

    def batch(rows_B: Ints) -> Batch:
        seen[-1].extend(rows_B.tolist())
        return read_batch(rows_B)

    job.loader.micro_batches, job.loader._batch = micro_batches, batch  # type: ignore[method-assign]
    return seen


def train_as_a_rank(folder: Path, row_file: Path, name: str, trouble: str, steps: int) -> None:
    if trouble == "late" and os.environ["SLURM_PROCID"] == "1":
        time.sleep(3)
    with launched(folder / name, os.environ) as (group, deadline, _):
        job = make_ranks_job(group, row_file, trouble, steps)
        if group.rank == min(1, group.world_size - 1):
            trouble_in_the_third_step(job, trouble)
        seen = remember_rows(job)
        if trouble == "disk" and group.rank == 1:
            parts.write_tensors_hashed = full_disk
        loop.PATIENCE_FOR_ROOM = 0.0
        first = group.is_first
        journal = Journal(folder / f"{name}.jsonl") if first else SilentJournal()
        store = make_store(folder / name, group, int(group.from_first(time.time_ns() // 1000)))
        try:
            train(job, store, journal, deadline)
        finally:
            save_file(state_of(job), folder / f"{name}-{group.rank}.safetensors")
            (folder / f"{name}-{group.rank}.json").write_text(json.dumps(seen))


def exit_code_of_a_rank(*training: Any) -> int:
    """Ends as nanochat.cli.main does."""
    try:
        train_as_a_rank(*training)
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as silent:
        return int(silent.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start(folder: Path, row_file: Path, spec: str, rank: int) -> int:
    """Forks a rank; returns its process id. A fork saves importing torch for each of them."""
    name, ranks, job_id, trouble, steps = spec.split(":")
    process = os.fork()
    if process:
        return process
    os.environ |= environment_of_task(rank, ranks, job_id)
    errors = os.open(folder / f"{name}-{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = exit_code_of_a_rank(folder, row_file, name, trouble, int(steps))
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    folder, row_file, *specs = sys.argv[1:]
    make_ranks_job(RankGroup(), Path(row_file))  # loads what else each rank would load
    codes = []
    for spec in specs:
        ranks = range(int(spec.split(":")[1]))
        processes = [start(Path(folder), Path(row_file), spec, rank) for rank in ranks]
        codes.append([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in processes])
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
