"""How much text a run reads, known before any of it is downloaded.

    config = with_train_shards(Config.resolve(given))
    shard_plan(config).why      # "5,224,005,632 training tokens, 51,822,917 in a shard"

Pretraining reads every row once, so the number of shards follows from its tokens. What a shard
holds is planned with CHARACTERS_PER_TOKEN, which larger vocabularies reach and smaller ones do not
(their shards hold more tokens, not fewer), and with what packing loses. Reads and writes nothing;
loads no torch.
"""

import math
from dataclasses import dataclass

from nanochat.config import Config
from nanochat.errors import ConfigError
from nanochat.model.gpt_config import shape_of
from nanochat.model.scaling import plan

CHARACTERS_PER_TOKEN = 4.8  # of web English with 65,536 tokens; 32,768 reach some 4.6
PADDING = 0.005  # of the cells of packed rows at most: packing.py cuts documents and drops none


@dataclass(frozen=True)
class ShardPlan:
    """Number of training shards of a downloaded corpus, and what it follows from."""

    train_shards: int
    tokens: int
    """Training tokens of the run."""
    tokens_per_shard: int
    row_bytes_per_shard: int
    """Size of the packed rows made from a shard."""
    why: str


def shard_plan(config: Config) -> ShardPlan | None:
    """The shards that `config` needs; None where its corpus is not downloaded.

    Raises ConfigError where `data.train_shards` asks for more than there are.
    """
    corpus, base = config.disk.hub_corpus, config.base
    if corpus is None:
        return None
    tokens = plan(
        shape_of(config), base.tokens_per_parameter, base.steps, base.total_batch_tokens
    ).tokens
    in_shard = int(corpus.shard_characters / CHARACTERS_PER_TOKEN * (1 - PADDING))
    row_bytes = in_shard * (2 if config.tokenizer.vocab_size < 2**16 - 1 else 4)  # rows.id_type
    needed, available = math.ceil(tokens / in_shard), corpus.shards - 1
    why = f"{tokens:,} training tokens, some {in_shard:,} in a shard"
    given = config.data.train_shards
    if given is None:
        if needed > available:
            why += f"; {corpus.repo} has no more, so they are read {needed / available:.1f} times"
        return ShardPlan(min(needed, available), tokens, in_shard, row_bytes, why)
    if given > available:
        raise ConfigError(
            f"data.train_shards is {given}, but {corpus.repo} has {corpus.shards} shards and one "
            f"of them is held out: give at most {available}"
        )
    passes = tokens / (given * in_shard)
    why += f"; data.train_shards is {given}: {passes:.2f} passes"
    return ShardPlan(given, tokens, in_shard, row_bytes, why)


def with_train_shards(config: Config) -> Config:
    """`config` with its number of training shards filled in, where it leaves that to the run."""
    shards = shard_plan(config)
    if shards is None or config.data.train_shards is not None:
        return config
    data = config.data.model_copy(update={"train_shards": shards.train_shards})
    return config.model_copy(update={"data": data})
