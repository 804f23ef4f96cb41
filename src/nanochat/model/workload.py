"""How many floating-point operations a stage will take, known before it starts; loads no torch.

    training_flops(config, "base")     # what walltimes are planned with
    evaluation_flops(config, "base")

Reads and writes nothing. Pretraining is exact. A chat stage's tokens are not known before its rows
are packed: they are estimated from the number of conversations.
"""

from nanochat.config import Config
from nanochat.model.gpt_config import shape_of
from nanochat.model.scaling import flops_per_token, plan
from nanochat.registry import TABLES

TOKENS_PER_CONVERSATION = 200  # generous: the generated tasks take 40 to 150
TOKENS_PER_QUESTION = 1_500  # of a CORE task: all choices, with their few-shot examples
CORE_TASKS = 22
TOKENS_PER_ANSWER = 400  # of a chat task: prompt and answer
FORWARD_SHARE = 1 / 3  # of training's operations: the backward pass takes the other two thirds


def training_flops(config: Config, stage: str) -> float:
    """Operations of `base`, `mid` or `sft`, validation not counted."""
    shape = shape_of(config)
    if stage == "base":
        base = config.base
        return plan(
            shape, base.tokens_per_parameter, base.steps, base.total_batch_tokens, base.lr_scale
        ).flops
    settings = config.chat_stage(stage)
    tokens = sum(_tokens_of(name, items) for name, items in settings.items.items())
    return tokens * settings.epochs * flops_per_token(shape)


def evaluation_flops(config: Config, stage: str) -> float:
    """Operations of a stage's evaluation: forward passes only."""
    settings = config.evaluation
    if stage == "base":
        tokens = settings.validation_tokens + CORE_TASKS * settings.core_items * TOKENS_PER_QUESTION
    else:
        tokens = len(config.scored_tasks) * settings.chat_items * TOKENS_PER_ANSWER
    return tokens * flops_per_token(shape_of(config)) * FORWARD_SHARE


def _tokens_of(task: str, items: int) -> float:
    """Training tokens of so many conversations of a task, or of all that it has."""
    table = TABLES.get(task)
    if table is None:
        return items * TOKENS_PER_CONVERSATION
    return min(items, table.rows["train"]) * table.tokens_per_row
