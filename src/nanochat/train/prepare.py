"""Makes the job that the loop gets: rows that fit, loader, optimizer, schedules, validation.

    job = job_of(config, stage, training, group, bits_per_byte, watchdog)

Reads tokenizer and packed rows; writes nothing.
"""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nanochat.config import Config
from nanochat.data.layout import corpus_layout
from nanochat.data.loader import Batch, RowLoader, validation_batches
from nanochat.data.rows import open_rows
from nanochat.data.tokenizer import Tokenizer
from nanochat.model import schedules
from nanochat.model.device import can_compile
from nanochat.model.gpt import GPT
from nanochat.model.hardware import device_name, peak_flops
from nanochat.model.memory import available_bytes, memory_plan
from nanochat.model.optimizer import MuonAdamW
from nanochat.model.scaling import flops_per_token
from nanochat.train.distributed import RankGroup
from nanochat.train.exchange import Exchange, ExchangeOf
from nanochat.train.fitting import Fit, key_of
from nanochat.train.full_shard_batches import evened, most_batches
from nanochat.train.job import Job, Multipliers
from nanochat.train.say import say
from nanochat.train.stage import Stage
from nanochat.train.watchdog import Watchdog

# How a model's bits per byte are measured on batches (eval/bpb.py): handed in by the caller, with
# what sums over the ranks.
OverRanks = Callable[[Sequence[float]], list[float]]
BitsPerByte = Callable[
    [GPT, Iterable[Batch], npt.NDArray[np.int32], OverRanks], Mapping[str, float]
]


def job_of(
    config: Config,
    stage: Stage,
    training: str,
    fit: Fit,
    group: RankGroup,
    bits_per_byte: BitsPerByte,
    watchdog: Watchdog,
    lost: Callable[[], bool],
) -> Job:
    disk = config.disk
    tokenizer = Tokenizer.load(disk.tokenizer)
    shape, steps = stage.model.config, stage.plan.steps
    loader = RowLoader(
        stage.rows,
        stage.plan.total_batch_tokens // shape.sequence_len,
        config.seed,
        tokenizer.bos_id,
    )
    optimizer, exchange = _optimizer(config, stage, group)
    # Gradients that leave during the backward pass have to be there before its end. On a processor
    # sending them takes the cores that compute, so that there is nothing to win.
    overlaps = group.world_size > 1 and group.device.type == "cuda"
    stage.model.use_compiled(config.operation.compile, by_block=overlaps)

    def multipliers(step: int) -> Multipliers:
        return Multipliers(
            schedules.lr_multiplier(step, steps, stage.warmdown, stage.final_lr),
            schedules.muon_momentum(step, steps, stage.warmdown),
            schedules.weight_decay_multiplier(step, steps),
        )

    return Job(
        stage=stage.name,
        training=training,
        model=stage.model,
        optimizer=optimizer,
        exchange=exchange,
        loader=loader,
        steps=steps,
        multipliers=multipliers,
        validate=_validation(config, stage, group, bits_per_byte, tokenizer),
        operation=config.operation,
        flops_per_token=flops_per_token(shape),
        peak_flops=peak_flops(stage.model.device),
        group=group,
        seed=config.seed,
        device_rows=fit.rows,
        enter=watchdog.enter,
        remember_rows=fit.remember,
        lost=lost,
        switches=disk.run,
    )


def _optimizer(config: Config, stage: Stage, group: RankGroup) -> tuple[MuonAdamW, ExchangeOf]:
    """Of the stage's model, whose weights it leaves whole or divides; and what goes with it."""
    scale, decay = stage.plan.lr_scale, stage.plan.weight_decay
    if not shards_weights(config, group):
        return MuonAdamW(stage.model, scale, decay, group.rank, group.world_size), Exchange
    # here, since loading them takes most of a second
    from nanochat.train.full_shard_exchange import FullShardExchange
    from nanochat.train.full_shard_optimizer import FullShardOptimizer
    from nanochat.train.full_shards import shard_weights

    shard_weights(stage.model, group)
    return FullShardOptimizer(stage.model, scale, decay, group), FullShardExchange


def fit_of(config: Config, stage: Stage, group: RankGroup) -> Fit:
    """How many rows at a time, on all ranks: what was asked for, where the plan says that it fits
    and no earlier start has learned otherwise."""
    device, shape, mode = group.device, stage.model.config, config.operation.compile
    compiled = mode == "on" or (mode == "auto" and can_compile(device))
    hosts = group.gather_text(platform.node())
    available = available_bytes(device, sharing=hosts.count(hosts[group.rank]))
    divided = shards_weights(config, group)
    plan = memory_plan(
        shape, group.world_size, stage.model.dtype.itemsize, device.type, compiled, divided
    )
    fit = Fit.of(
        config.disk.checkpoints(stage.name) / "device_rows.json",
        key_of(
            device_name(device) or "processor",
            available,
            shape,
            group.world_size,
            compiled,
            divided,
        ),
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
) -> Callable[[int], float]:
    rows = config.disk.rows(corpus_layout(config.disk).validation)
    max_rows = -(-config.evaluation.validation_tokens // stage.model.config.sequence_len)
    n_rows = min(max_rows, len(open_rows(rows).ids_NC))

    def validate(device_rows: int) -> float:
        batches = validation_batches(
            rows, max_rows, device_rows, tokenizer.bos_id, group.rank, group.world_size
        )
        if shards_weights(config, group):
            most = most_batches(n_rows, device_rows, group.world_size)
            batches = evened(batches, most, stage.model.config.sequence_len)
        return bits_per_byte(stage.model, batches, tokenizer.token_bytes(), group.sum)["value"]

    return validate


def shards_weights(config: Config, group: RankGroup) -> bool:
    """Whether the ranks divide the weights too."""
    return config.operation.shard == "weights" and group.world_size > 1
