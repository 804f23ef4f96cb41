"""The ranks of tiny trainings with sharded weights, for test_full_shards.py: forked processes.

    python full_shard_rank.py FOLDER ROW_FILE SPEC ...

One after the other. SPEC is JSON: name, ranks, job_id, shard (optimizer or weights), dtype,
copy_of (whose checkpoints it begins with), and `does`: train, load (loads the checkpoint and saves
what that gave as NAME-loaded), or a trouble that befalls rank 1 in its third pass: sigterm, death,
memory. Prints the exit codes as JSON. Leaves in FOLDER checkpoints, journals, NAME-RANK.json (what
of the weights the rank holds) and .err (standard error).
"""

import json
import os
import shutil
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank import ROWS_PER_STEP, VALIDATION_ROWS, make_ranks_job, trouble_in_the_third_step
from tiny_training import make_store

sys.path.append(str(Path(__file__).parents[1]))
from nanochat.data.loader import validation_batches
from nanochat.errors import NanochatError
from nanochat.eval.bpb import bits_per_byte
from nanochat.model.gpt import GPT
from nanochat.model.optimizer import MuonAdamW
from nanochat.track.journal import Journal, SilentJournal
from nanochat.train.checkpoints import CheckpointStore
from nanochat.train.distributed import RankGroup
from nanochat.train.full_shard_batches import evened, most_batches
from nanochat.train.full_shard_exchange import FullShardExchange
from nanochat.train.full_shard_optimizer import FullShardOptimizer
from nanochat.train.full_shards import own_rows, shard_weights
from nanochat.train.job import Job
from nanochat.train.launch import launched
from nanochat.train.loop import train
from nanochat.train.resume import resume
from nanochat.train.saver import Saver
from srun_tasks import environment_of_task

DEVICE_ROWS = 1


def run_out_of_memory(job: Job) -> None:
    """In the third pass, truly: no machine has an exabyte."""
    honest, calls = job.model.loss_sum, 0

    def too_much(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            torch.empty(2**60, dtype=torch.uint8)
        return honest(*batch)

    job.model.loss_sum = too_much  # type: ignore[method-assign]


def with_sharded_weights(job: Job, row_file: Path) -> Job:
    """The same training, of weights that are divided; also validates with passes of all ranks."""
    group = job.group
    shard_weights(job.model, group)

    def validate(device_rows: int) -> float:
        most = most_batches(VALIDATION_ROWS, DEVICE_ROWS, group.world_size)
        own = validation_batches(
            row_file, VALIDATION_ROWS, DEVICE_ROWS, 0, group.rank, group.world_size
        )
        rows = evened(own, most, job.loader.sequence_len)
        return bits_per_byte(job.model, rows, np.ones(64, np.int32), group.sum)["value"]

    optimizer = FullShardOptimizer(job.model, lr_scale=0.1, weight_decay=0.1, group=group)
    return replace(job, optimizer=optimizer, exchange=FullShardExchange, validate=validate)


def in_bfloat16(job: Job) -> Job:
    """As GPUs train: embeddings and activations of 16 bits, matrices of 32."""
    model = GPT(job.model.config, torch.bfloat16)
    model.init_weights(1)
    rank, world_size = job.group.rank, job.group.world_size
    optimizer = MuonAdamW(model, lr_scale=0.1, weight_decay=0.1, rank=rank, world_size=world_size)
    return replace(job, model=model, optimizer=optimizer, validate=lambda rows: 2.0)


def make_job(group: RankGroup, row_file: Path, spec: dict[str, Any]) -> Job:
    """A step's three rows one at a time: ranks have different numbers of them."""
    job = replace(make_ranks_job(group, row_file), device_rows=DEVICE_ROWS)
    if spec.get("dtype") == "bfloat16":
        job = in_bfloat16(job)
    if group.rank == 1 and spec["does"] == "memory":
        run_out_of_memory(job)
    if group.rank == 1:
        trouble_in_the_third_step(job, spec["does"])
    return with_sharded_weights(job, row_file) if spec["shard"] == "weights" else job


def held(job: Job) -> dict[str, Any]:
    """Bytes of weights that this rank keeps; whether a pass leaves these alone; and the loss
    after a head of zeros has been loaded."""
    optimizer, model = job.optimizer, job.model
    rows = {name: part.tensor for name, part in optimizer.owned_weights().items()}
    before = {name: tensor.clone() for name, tensor in rows.items()}
    ids_BT = torch.arange(job.loader.sequence_len)[None]
    summed = model.loss_sum(ids_BT, ids_BT)
    after_forward = all(torch.equal(before[name], rows[name]) for name in rows)
    summed.backward()
    kept = all(torch.equal(before[name], rows[name]) for name in rows) and after_forward
    optimizer.zero_grad()
    parameters = dict(model.named_parameters()).values()
    storages = [own_rows(parameter.detach()).untyped_storage() for parameter in parameters]
    size = sum(each.nbytes() for each in storages)
    model.token_losses(ids_BT, ids_BT)  # no backward: parts of the model stay whole
    before["head.weight"].zero_()
    optimizer.load_weights(lambda name, start, stop: before[name])
    loss = float(model.token_losses(ids_BT, ids_BT).mean())
    return {"bytes": size, "kept": kept, "loss_without_head": loss}


def load_and_save(job: Job, store: CheckpointStore, copy: CheckpointStore) -> None:
    state = resume(job, store)
    assert state is not None
    with Saver(job, copy) as saver:
        assert saver.begin(state) is None
        ended = saver.settle()
    assert ended is not None and ended.error is None, ended


def act_as_a_rank(folder: Path, row_file: Path, spec: dict[str, Any]) -> None:
    name = spec["name"]
    with launched(folder / name, os.environ) as (group, deadline, _):
        job = make_job(group, row_file, spec)
        attempt = int(group.from_first(time.time_ns() // 1000))
        store = make_store(folder / name, group, attempt)
        if spec["does"] == "load":
            load_and_save(job, store, make_store(folder / f"{name}-loaded", group, attempt))
            return
        journal = Journal(folder / f"{name}.jsonl") if group.is_first else SilentJournal()
        train(job, store, journal, deadline)
        if spec["shard"] == "weights":
            (folder / f"{name}-{group.rank}.json").write_text(json.dumps(held(job)))


def exit_code_of_a_rank(folder: Path, row_file: Path, spec: dict[str, Any]) -> int:
    """Ends as nanochat.cli.main does."""
    try:
        act_as_a_rank(folder, row_file, spec)
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as silent:
        return int(silent.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start(folder: Path, row_file: Path, spec: dict[str, Any], rank: int) -> int:
    """Forks a rank; returns its process id. A fork saves importing torch for each of them."""
    process = os.fork()
    if process:
        return process
    os.environ |= environment_of_task(rank, spec["ranks"], spec["job_id"])
    os.dup2(os.open(folder / f"{spec['name']}-{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = exit_code_of_a_rank(folder, row_file, spec)
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    folder, row_file = Path(sys.argv[1]), Path(sys.argv[2])
    assert make_ranks_job(RankGroup(), row_file).loader.rows_per_step == ROWS_PER_STEP
    codes = []
    for spec in map(json.loads, sys.argv[3:]):
        if spec.get("copy_of"):
            shutil.copytree(folder / spec["copy_of"], folder / spec["name"])
        processes = [start(folder, row_file, spec, rank) for rank in range(spec["ranks"])]
        codes.append([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in processes])
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
