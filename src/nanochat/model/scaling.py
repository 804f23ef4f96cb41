"""From the one dial, depth, to a training plan: pure functions of the shape; loads no torch.

    plan(GPTConfig.from_depth(12), ratio=12) -> tokens, batch, steps, learning rates, weight decay

Reads and writes nothing.

The rules hang everything on a reference model of depth 12, whose settings were tuned: the batch
grows with the training tokens D as D^0.383 (arXiv 2505.13738), learning rates with the square root
of the batch, and the weight decay keeps the averaging time of the weights, B / (lr * decay * D), a
constant share of the run (arXiv 2405.13698).
"""

import math
from dataclasses import dataclass

from nanochat.errors import ConfigError
from nanochat.model.gpt_config import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, GPTConfig

DEFAULT_RATIO = 12.0  # training tokens per scaling parameter
REFERENCE_DEPTH = 12
REFERENCE_BATCH_TOKENS = 2**19
REFERENCE_WEIGHT_DECAY = 0.28
BATCH_EXPONENT = 0.383


@dataclass(frozen=True)
class ParameterCounts:
    """How many numbers a model learns, by kind."""

    matrices: int
    """Weights of the blocks' products, the value gates included."""
    embedding: int
    head: int
    value_embeddings: int
    scalars: int
    """Lambdas and the smear gate."""

    @property
    def total(self) -> int:
        return self.matrices + self.embedding + self.head + self.value_embeddings + self.scalars

    @property
    def scaling(self) -> int:
        """N of the scaling rules: the blocks' matrices and the head."""
        return self.matrices + self.head


@dataclass(frozen=True)
class TrainingPlan:
    """How long, in what batches and at what rates to train."""

    tokens: int
    """D, training tokens."""
    total_batch_tokens: int
    """B, tokens per step over all ranks."""
    steps: int
    lr_scale: float
    """Factor on all learning rates: sqrt(B / B of the reference), times the caller's wish."""
    weight_decay: float
    """Of the matrices (Muon), at the start of its schedule."""
    flops: float
    """Floating-point operations of the whole run."""


def count_parameters(config: GPTConfig) -> ParameterCounts:
    """The learned numbers of the model that `config` describes."""
    C, kv_channels = config.n_embd, config.n_kv_head * config.head_dim
    attention, mlp = 2 * C * C + 2 * C * kv_channels, 8 * C * C
    gates = len(config.value_layers) * config.n_kv_head * VALUE_GATE_CHANNELS
    smear = SMEAR_GATE_CHANNELS + 1 if config.smear else 0
    lambdas = 2 * config.n_layer if config.residual_lambdas else 0
    return ParameterCounts(
        matrices=config.n_layer * (attention + mlp) + gates,
        embedding=config.padded_vocab_size * C,
        head=config.padded_vocab_size * C,
        value_embeddings=len(config.value_layers) * config.padded_vocab_size * kv_channels,
        scalars=smear + lambdas + int(config.backout),
    )


def flops_per_token(config: GPTConfig) -> int:
    """Training operations per token: 6 per weight of a product, and 12 C per key attended to."""
    counts = count_parameters(config)
    smear = SMEAR_GATE_CHANNELS if config.smear else 0
    keys = sum(min(window, config.sequence_len) for window in config.windows)
    return 6 * (counts.scaling + smear) + 12 * config.n_embd * keys


def plan(
    config: GPTConfig,
    ratio: float = DEFAULT_RATIO,
    steps: int | None = None,
    total_batch_tokens: int | None = None,
    lr_scale: float = 1.0,
) -> TrainingPlan:
    """The plan for `ratio` training tokens per scaling parameter.

    `total_batch_tokens` and `steps` override what the ratio would give; the rates follow from
    what is really trained. `lr_scale` multiplies all learning rates. Raises ConfigError for
    values that describe no training.
    """
    _refuse_useless(ratio, steps, total_batch_tokens, lr_scale)
    reference = GPTConfig.from_depth(REFERENCE_DEPTH, config.vocab_size, config.sequence_len)
    reference_tokens = ratio * count_parameters(reference).scaling
    tokens = ratio * count_parameters(config).scaling
    batch = total_batch_tokens or _best_batch(tokens / reference_tokens)
    if steps is None:
        steps = int(tokens // batch)
        if steps < 1:
            raise ConfigError(
                f"a batch of {batch:,} tokens is larger than the whole training of "
                f"{int(tokens):,}: lower total_batch_tokens or raise the ratio"
            )
    else:
        tokens = float(steps * batch)
    batch_growth = math.sqrt(batch / REFERENCE_BATCH_TOKENS)
    return TrainingPlan(
        tokens=int(tokens),
        total_batch_tokens=batch,
        steps=steps,
        lr_scale=lr_scale * batch_growth,
        weight_decay=REFERENCE_WEIGHT_DECAY * batch_growth * reference_tokens / tokens,
        flops=float(flops_per_token(config) * steps * batch),
    )


def _best_batch(growth: float) -> int:
    """The power of two nearest to the reference batch times growth^0.383."""
    return int(2 ** round(math.log2(REFERENCE_BATCH_TOKENS * growth**BATCH_EXPONENT)))


def _refuse_useless(
    ratio: float, steps: int | None, total_batch_tokens: int | None, lr_scale: float
) -> None:
    given = {
        "ratio": ratio,
        "steps": steps,
        "total_batch_tokens": total_batch_tokens,
        "lr_scale": lr_scale,
    }
    for name, value in given.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}: it must be above 0, or there is no training")
