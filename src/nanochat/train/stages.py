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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.config import Config
from nanochat.data.layout import corpus_layout
from nanochat.data.rows import open_rows, verify_rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput, DamagedArtefact, HangDetected
from nanochat.files import fingerprint, read_json
from nanochat.hpc.outcomes import leave_outcome
from nanochat.model import schedules
from nanochat.model.device import compute_dtype, same_bits_every_time
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import shape_of
from nanochat.model.hardware import device_name
from nanochat.model.scaling import plan
from nanochat.model.weights import load_model
from nanochat.track.journal import Journal, SilentJournal
from nanochat.track.provenance import code_version, provenance
from nanochat.track.wandb_follower import start_follower
from nanochat.train.checkpoints import CheckpointStore, Identity, Retention
from nanochat.train.distributed import RankGroup
from nanochat.train.fitting import Fit
from nanochat.train.launch import Launch, launched
from nanochat.train.loop import train
from nanochat.train.prepare import BitsPerByte, fit_of, job_of, shards_weights
from nanochat.train.stage import Stage, publish
from nanochat.train.watchdog import Hang, Watchdog

STAGE_BEFORE = {"mid": "base", "sft": "mid"}


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
        model=GPT.fresh(shape, _built_on(config, group), config.seed, compute_dtype(group.device)),
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
    model = load_model(before, _built_on(config, group), compute_dtype(group.device))
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
    group, deadline, lease = launch
    fit = fit_of(config, stage, group)
    identity = _identity(stage, fit, group)
    _require_alike(identity, group)
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
        lost = (lambda: lease.lost) if lease else (lambda: False)
        training = identity.fingerprint[:16]
        job = job_of(config, stage, training, fit, group, bits_per_byte, watchdog, lost)
        result = train(job, store, journal, deadline)
    journal.close()
    if first:
        job_id = deadline.job.id if deadline.job else None
        about = provenance(started, device_name(stage.model.device), job_id)
        divided = shards_weights(config, group)
        weights = (
            _whole_weights(stage, store, result.steps) if divided else stage.model.state_dict()
        )
        publish(config, stage, weights, result, identity.fingerprint, about)
        store.prune(Retention(1, operation.keep_every_steps, operation.keep_best))


def _identity(stage: Stage, fit: Fit, group: RankGroup) -> Identity:
    """What the result depends on, by parts: what two checkpoints differ in can be told. How it is
    computed, and with what code, is no part of the fingerprint: it changes the rounding."""
    shape = stage.model.config.to_dict()
    determined_by = fingerprint([stage.settings, stage.inputs, shape])
    return Identity(
        determined_by,
        {
            "settings": stage.settings,
            "inputs": stage.inputs,
            "model": shape,
            "computing": {
                "device": group.device.type,
                "dtype": str(stage.model.dtype),
                "device_rows": fit.rows,
                "ranks": group.world_size,
            },
            "code": code_version(),
        },
    )


def _require_alike(identity: Identity, group: RankGroup) -> None:
    """Raises BadInput, on all ranks, where they would not compute the same thing."""
    parts = {part: value for part, value in identity.parts.items() if part != "code"}
    mine = [fingerprint(parts), version("torch")]
    seen = group.gather(float(int(fingerprint(mine)[:12], 16)))  # 48 bits are exact in a float
    if len(set(seen)) > 1:
        ways = group.gather_text(
            f"{platform.node()}: {parts['computing']['dtype']}, torch {version('torch')}"
        )
        raise BadInput(
            f"the ranks would not compute the same ({'; '.join(ways)}): give them nodes of one "
            "kind with one environment, or set NANOCHAT_DTYPE=float32"
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


def _inputs(config: Config, rows: Sequence[Path], group: RankGroup) -> dict[str, Any]:
    """Fingerprints of the tokenizer and of rows with their masks; rank 0 verifies all bytes."""
    checked = verify_rows if group.is_first else open_rows
    records = [checked(file).record for file in rows]
    return {
        "tokenizer": Tokenizer.load(config.disk.tokenizer).fingerprint,
        "rows": [[record["sha256"], record.get("mask_sha256")] for record in records],
    }


def _built_on(config: Config, group: RankGroup) -> torch.device:
    """Where a model is made: on the host where no device has room for all of it."""
    return torch.device("cpu") if shards_weights(config, group) else group.device


def _whole_weights(stage: Stage, store: CheckpointStore, step: int) -> dict[str, Tensor]:
    """On the host, from the last checkpoint: no rank has all of them."""
    store.verify(step)
    last = store.open(step)
    return {name: last.rows("model", name) for name in stage.model.state_dict()}
