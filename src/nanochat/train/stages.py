"""The three stages: base on text, mid and sft on conversations. What differs between them is here;
how a step is made is in train/loop.py.

    train_base(load_config(path), bits_per_byte)
    train_chat(load_config(path), "mid", bits_per_byte)

Reads tokenizer, packed rows and the model of the stage before; writes checkpoints, the journal, and
last the stage's result: models/<run>/<stage>/model.safetensors, config.json and record.json.
"""

import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nanochat.config import Config
from nanochat.data.layout import corpus_layout
from nanochat.data.loader import Batch, RowLoader, validation_batches
from nanochat.data.rows import open_rows, verify_rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import DamagedArtefact, HangDetected
from nanochat.files import fingerprint, read_json, write_json
from nanochat.hpc.outcomes import leave_outcome
from nanochat.model import schedules
from nanochat.model.device import can_compile, same_bits_every_time
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import shape_of
from nanochat.model.hardware import device_name, peak_flops
from nanochat.model.memory import available_bytes, memory_plan
from nanochat.model.optimizer import MuonAdamW
from nanochat.model.scaling import TrainingPlan, count_parameters, flops_per_token, plan
from nanochat.model.weights import load_model, save_model
from nanochat.track.journal import Journal, SilentJournal
from nanochat.track.provenance import code_version, provenance
from nanochat.track.wandb_follower import start_follower
from nanochat.train.checkpoints import CheckpointStore, Identity, Retention
from nanochat.train.distributed import RankGroup
from nanochat.train.fitting import Fit, key_of
from nanochat.train.job import Job, Multipliers, TrainingResult
from nanochat.train.launch import Launch, launched
from nanochat.train.loop import train
from nanochat.train.say import say
from nanochat.train.watchdog import Hang, Watchdog

STAGE_BEFORE = {"mid": "base", "sft": "mid"}

# How a model's bits per byte are measured on batches (eval/bpb.py): handed in by the caller, with
# what sums over the ranks.
OverRanks = Callable[[Sequence[float]], list[float]]
BitsPerByte = Callable[
    [GPT, Iterable[Batch], npt.NDArray[np.int32], OverRanks], Mapping[str, float]
]


@dataclass(frozen=True)
class Stage:
    """A stage, ready to be trained: what the loop gets, and what the result depends on."""

    name: str
    model: GPT
    rows: Sequence[Path]
    plan: TrainingPlan
    warmdown: float
    """Last fraction of the steps, over which the learning rates fall ..."""
    final_lr: float
    """... to this fraction."""
    settings: dict[str, Any]
    inputs: dict[str, Any]
    """Fingerprints of everything that was read."""


def train_base(
    config: Config, bits_per_byte: BitsPerByte, environment: Mapping[str, str] = os.environ
) -> None:
    """Pretrains from fresh weights; see the module's docstring for what is read and written."""
    with launched(config.disk.checkpoints("base"), environment) as launch:
        _train_stage(config, _base_stage(config, launch.group), launch, bits_per_byte)


def train_chat(
    config: Config,
    name: str,
    bits_per_byte: BitsPerByte,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Trains `mid` or `sft` from the model of the stage before it, with fresh moments."""
    with launched(config.disk.checkpoints(name), environment) as launch:
        _train_stage(config, _chat_stage(config, name, launch.group), launch, bits_per_byte)


def _base_stage(config: Config, group: RankGroup) -> Stage:
    disk, settings = config.disk, config.base
    rows = [disk.rows(shard) for shard in corpus_layout(disk).train]
    shape = shape_of(config)
    base_plan = plan(
        shape,
        settings.tokens_per_parameter,
        settings.steps,
        settings.total_batch_tokens,
        settings.lr_scale,
    )
    return Stage(
        name="base",
        model=GPT.fresh(shape, group.device, config.seed),
        rows=rows,
        plan=base_plan,
        warmdown=settings.warmdown_fraction,
        final_lr=schedules.FINAL_LR,
        settings=config.settings_of("base_train"),
        inputs=_inputs(config, rows, group),
    )


def _chat_stage(config: Config, name: str, group: RankGroup) -> Stage:
    settings = config.chat_stage(name)
    before = config.disk.stage(STAGE_BEFORE[name])
    rows = [config.disk.chat_rows(name)]
    model = load_model(before, group.device)
    record = read_json(before / "record.json", "make run")
    _require_rows_of(model.config.sequence_len, rows[0])
    rows_per_step = settings.total_batch_tokens // model.config.sequence_len
    steps = max(1, math.ceil(settings.epochs * len(open_rows(rows[0]).ids_NC) / rows_per_step))
    chat_plan = plan(
        model.config,
        steps=steps,
        total_batch_tokens=settings.total_batch_tokens,
        lr_scale=config.base.lr_scale * settings.lr_fraction,
    )
    return Stage(
        name=name,
        model=model,
        rows=rows,
        plan=replace(chat_plan, weight_decay=0.0),
        warmdown=settings.warmdown_fraction,
        final_lr=0.0,
        settings=config.settings_of("mid_train" if name == "mid" else "chat_sft"),
        inputs={**_inputs(config, rows, group), "model": record["weights_sha256"]},
    )


def _require_rows_of(sequence_len: int, rows: Path) -> None:
    """Raises DamagedArtefact where rows are of another length than the model reads."""
    packed = int(open_rows(rows).record["sequence_len"])
    if packed != sequence_len:
        raise DamagedArtefact(
            f"{rows} has rows of {packed} tokens, but the model reads {sequence_len}: delete that "
            "file and run `snakemake` again"
        )


def _train_stage(config: Config, stage: Stage, launch: Launch, bits_per_byte: BitsPerByte) -> None:
    disk, operation, started = config.disk, config.operation, time.time()
    same_bits_every_time()
    identity = _identity(stage)
    group, deadline, lease = launch
    first = group.is_first
    store = CheckpointStore(
        disk.checkpoints(stage.name),
        identity,
        Retention(operation.keep_checkpoints, operation.keep_every_steps, operation.keep_best),
        group.rank,
        group.world_size,
        may_write=lease.is_mine if lease else lambda: False,
        attempt=int(group.from_first(time.time_ns() // 1000)),
    )
    journal = Journal(disk.journal) if first else SilentJournal()
    if first and operation.wandb != "off":
        start_follower(disk.journal, stage.name, config.run, operation.wandb, disk.wandb)
    with Watchdog(
        disk.heartbeats,
        stage.name,
        group.rank,
        group.world_size,
        operation.hang_minutes * 60,
        lambda hang: _note_hang(journal, identity, hang),
    ) as watchdog:
        job = _job(config, stage, identity, group, bits_per_byte, watchdog)
        result = train(job, store, journal, deadline)
    journal.close()
    if first:
        job_id = deadline.job.id if deadline.job else None
        about = provenance(started, device_name(stage.model.device), job_id)
        _publish(config, stage, result, identity.fingerprint, about)
        store.prune(Retention(1, operation.keep_every_steps, operation.keep_best))


def _identity(stage: Stage) -> Identity:
    """What the result depends on, by parts: what two checkpoints differ in can be told."""
    shape = stage.model.config.to_dict()
    determined_by = fingerprint([stage.settings, stage.inputs, shape])
    return Identity(
        determined_by,
        {
            "settings": stage.settings,
            "inputs": stage.inputs,
            "model": shape,
            "code": code_version(),
        },
    )


def _note_hang(journal: Journal, identity: Identity, hang: Hang) -> None:
    """In the journal, which rank 0 has; and as the job's outcome, by whichever rank it is."""
    leave_outcome(os.environ, f"train {hang.stage}", HangDetected.exit_code, hang.sentence)
    journal.write(
        "hang",
        stage=hang.stage,
        training=identity.fingerprint[:16],
        step=hang.step,
        section=hang.section,
        rank=hang.rank,
        host=hang.host,
        seconds=round(hang.seconds, 1),
    )


def _job(
    config: Config,
    stage: Stage,
    identity: Identity,
    group: RankGroup,
    bits_per_byte: BitsPerByte,
    watchdog: Watchdog,
) -> Job:
    disk = config.disk
    tokenizer = Tokenizer.load(disk.tokenizer)
    shape, steps = stage.model.config, stage.plan.steps
    fit = _fit(config, stage, group)
    loader = RowLoader(
        stage.rows,
        stage.plan.total_batch_tokens // shape.sequence_len,
        config.seed,
        tokenizer.bos_id,
    )
    stage.model.use_compiled(config.operation.compile)

    def multipliers(step: int) -> Multipliers:
        return Multipliers(
            schedules.lr_multiplier(step, steps, stage.warmdown, stage.final_lr),
            schedules.muon_momentum(step, steps, stage.warmdown),
            schedules.weight_decay_multiplier(step, steps),
        )

    return Job(
        stage=stage.name,
        training=identity.fingerprint[:16],
        model=stage.model,
        optimizer=MuonAdamW(
            stage.model,
            stage.plan.lr_scale,
            stage.plan.weight_decay,
            group.rank,
            group.world_size,
        ),
        loader=loader,
        steps=steps,
        multipliers=multipliers,
        validate=_validation(config, stage, group, bits_per_byte, tokenizer, fit.rows),
        operation=config.operation,
        flops_per_token=flops_per_token(shape),
        peak_flops=peak_flops(stage.model.device),
        group=group,
        seed=config.seed,
        device_rows=fit.rows,
        enter=watchdog.enter,
        remember_rows=fit.remember,
        switches=disk.run,
    )


def _fit(config: Config, stage: Stage, group: RankGroup) -> Fit:
    """How many rows at a time, on all ranks: what was asked for, where the plan says that it fits
    and no earlier start has learned otherwise."""
    device, shape, mode = group.device, stage.model.config, config.operation.compile
    compiled = mode == "on" or (mode == "auto" and can_compile(device))
    hosts = group.gather_text(platform.node())
    available = available_bytes(device, sharing=hosts.count(hosts[group.rank]))
    plan = memory_plan(shape, group.world_size, stage.model.dtype.itemsize, device.type, compiled)
    fit = Fit.of(
        config.disk.checkpoints(stage.name) / "device_rows.json",
        key_of(device_name(device) or "processor", available, shape, group.world_size, compiled),
        plan,
        available,
        config.operation.device_rows,
        note=None if group.is_first else lambda sentence: None,
    )
    rows = int(min(group.gather(float(fit.rows))))
    if group.is_first:
        say(f"{stage.name} {fit.sentence}")
    return replace(fit, rows=rows)


def _validation(
    config: Config,
    stage: Stage,
    group: RankGroup,
    bits_per_byte: BitsPerByte,
    tokenizer: Tokenizer,
    device_rows: int,
) -> Callable[[], float]:
    rows = config.disk.rows(corpus_layout(config.disk).validation)
    max_rows = -(-config.evaluation.validation_tokens // stage.model.config.sequence_len)

    def validate() -> float:
        batches = validation_batches(
            rows, max_rows, device_rows, tokenizer.bos_id, group.rank, group.world_size
        )
        return bits_per_byte(stage.model, batches, tokenizer.token_bytes(), group.sum)["value"]

    return validate


def _publish(
    config: Config, stage: Stage, result: TrainingResult, identity: str, about: dict[str, Any]
) -> None:
    """The stage's result; the record comes last, since it says that all is there."""
    folder = config.disk.stage(stage.name)
    digest = save_model(folder, stage.model, {"stage": stage.name, "run": config.run})
    counts = count_parameters(stage.model.config)
    record = {
        "stage": stage.name,
        "run": config.run,
        "settings": stage.settings,
        "plan": {
            "parameters": counts.total,
            "scaling_parameters": counts.scaling,
            "flops_per_token": flops_per_token(stage.model.config),
            **asdict(stage.plan),
        },
        "inputs": stage.inputs,
        "fingerprint": identity,
        "result": asdict(result),
        "weights_sha256": digest,
        "provenance": about,
    }
    write_json(folder / "record.json", record)


def _inputs(config: Config, rows: Sequence[Path], group: RankGroup) -> dict[str, Any]:
    """Fingerprints of the tokenizer and of rows with their masks; rank 0 verifies all bytes."""
    checked = verify_rows if group.is_first else open_rows
    records = [checked(file).record for file in rows]
    return {
        "tokenizer": Tokenizer.load(config.disk.tokenizer).fingerprint,
        "rows": [[record["sha256"], record.get("mask_sha256")] for record in records],
    }
