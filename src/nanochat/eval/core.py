"""CORE: in-context learning tasks scored without generating text, one number over all of them.

`evaluate_core(model, tokenizer, bundle_dir, max_per_task, batch_rows)` returns the record:
accuracy, chance and centred score of each task, and CORE, the mean of the centred scores (arXiv
2406.11794).

    multiple_choice    correct if the right continuation has the lowest mean loss of all choices
    schema             correct if the continuation has its lowest mean loss after the right context
    language_modeling  correct if every token of the continuation is the model's first choice

Reads an evaluation bundle (see core_tasks.py); writes nothing.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import MissingArtefact
from nanochat.eval.core_tasks import REBUILD, Item, Task, load_tasks, read_items, render
from nanochat.model.gpt import GPT
from nanochat.progress import track

IGNORED = -1  # the target of a position that is not scored
QUESTIONS_AT_ONCE = 64  # tokenized and sorted by length together, so that little is padded
TOKENIZER_THREADS = 4


@dataclass(frozen=True)
class Option:
    """A prompt as token ids, of which those from `start` on are scored."""

    ids: list[int]
    start: int


def evaluate_core(
    model: GPT, tokenizer: Tokenizer, bundle_dir: Path, max_per_task: int, batch_rows: int
) -> dict[str, Any]:
    """Scores every task of the bundle whose data is there, and names the others as missing.

    `max_per_task` questions a task at most (0: all of them), `batch_rows` prompts at once. Returns
    {"value", "tasks": [{"label", "type", "shots", "accuracy", "chance", "centered", "items"}],
    "missing": [labels]}.

    Raises MissingArtefact when there is no bundle or none of its data, DamagedArtefact when a file
    of it cannot be read.
    """
    tasks = load_tasks(bundle_dir)
    present = [task for task in tasks if task.path.is_file()]
    if not present:
        raise MissingArtefact(f"no data of any task under {bundle_dir / 'eval_data'}: {REBUILD}")
    scores = [evaluate_task(model, tokenizer, task, max_per_task, batch_rows) for task in present]
    return {
        "value": sum(score["centered"] for score in scores) / len(scores),
        "tasks": scores,
        "missing": [task.label for task in tasks if task not in present],
    }


def evaluate_task(
    model: GPT, tokenizer: Tokenizer, task: Task, max_per_task: int, batch_rows: int
) -> dict[str, Any]:
    """The score of one task; centred = (accuracy − chance) / (1 − chance)."""
    items = select(read_items(task), max_per_task)
    n_shots = min(task.shots, len(items) - 1)
    starts = range(0, len(items), QUESTIONS_AT_ONCE)
    correct = 0
    for first in track(starts, f"CORE {task.label}", unit="batches"):
        numbers = range(first, min(first + QUESTIONS_AT_ONCE, len(items)))
        prompts = [render(task, items[n], few_shots(items, n, n_shots)) for n in numbers]
        gold = [items[n].get("gold", 0) for n in numbers]
        correct += _count_correct(model, tokenizer, task.kind, prompts, gold, batch_rows)
    accuracy = correct / len(items)
    return {
        "label": task.label,
        "type": task.kind,
        "shots": n_shots,
        "accuracy": accuracy,
        "chance": task.chance,
        "centered": (accuracy - task.chance) / (1 - task.chance),
        "items": len(items),
    }


def select(items: list[Item], max_per_task: int) -> list[Item]:
    """Shuffles with the seed of published CORE scores, then keeps the first `max_per_task`."""
    shuffled = list(items)
    random.Random(1337).shuffle(shuffled)
    return shuffled[:max_per_task] if max_per_task > 0 else shuffled


def few_shots(items: Sequence[Item], index: int, n_shots: int) -> list[Item]:
    """`n_shots` other items, drawn with the seed that published CORE scores use: 1234 + index.

    Equal to sampling from the list without item `index`, which is not built for every question.
    """
    drawn = random.Random(1234 + index).sample(range(len(items) - 1), n_shots)
    return [items[number + (number >= index)] for number in drawn]


def _count_correct(
    model: GPT,
    tokenizer: Tokenizer,
    kind: str,
    prompts: list[list[str]],
    gold: list[int],
    batch_rows: int,
) -> int:
    flat = tokenizer.encode_batch([text for texts in prompts for text in texts], TOKENIZER_THREADS)
    remaining = iter([tokenizer.bos_id, *ids] for ids in flat)
    questions = [[next(remaining) for _ in texts] for texts in prompts]
    limit = model.config.sequence_len + 1
    options = [[crop(o, limit) for o in find_options(kind, encoded)] for encoded in questions]
    if kind == "language_modeling":
        return sum(greedy_matches(model, [option for (option,) in options], batch_rows))
    losses = iter(mean_losses(model, [o for group in options for o in group], batch_rows))
    answers = [[next(losses) for _ in group] for group in options]
    return sum(means.index(min(means)) == g for means, g in zip(answers, gold, strict=True))


def find_options(kind: str, encoded: Sequence[list[int]]) -> list[Option]:
    """Which tokens of each encoded prompt are scored: at least the last, never the first.

    multiple_choice: after the common prefix. schema: the common suffix. language_modeling: what the
    second prompt has after its common prefix with the first; a single option.
    """
    if kind == "schema":
        shared = _shared_start([ids[::-1] for ids in encoded])
        return [_option(ids, len(ids) - shared) for ids in encoded]
    shared = _shared_start(encoded)
    scored = encoded if kind == "multiple_choice" else encoded[1:]
    return [_option(ids, shared) for ids in scored]


def _shared_start(sequences: Sequence[list[int]]) -> int:
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _option(ids: list[int], start: int) -> Option:
    return Option(ids, min(max(start, 1), len(ids) - 1))


def crop(option: Option, limit: int) -> Option:
    """Keeps BOS and the last `limit` − 1 ids, as a prompt longer than the context has to."""
    surplus = len(option.ids) - limit
    if surplus <= 0:
        return option
    return _option([option.ids[0], *option.ids[1 + surplus :]], option.start - surplus)


@torch.no_grad()
def mean_losses(model: GPT, options: Sequence[Option], batch_rows: int) -> list[float]:
    """The mean loss (nats) over the scored tokens of each option."""
    means = [0.0] * len(options)
    for indices, inputs_BT, targets_BT in _batches(model, options, batch_rows):
        sums_B = model.token_losses(inputs_BT, targets_BT).double().sum(dim=1)
        counts_B = (targets_BT != IGNORED).sum(dim=1)
        for index, mean in zip(indices, (sums_B / counts_B).tolist(), strict=True):
            means[index] = mean
    return means


@torch.no_grad()
def greedy_matches(model: GPT, options: Sequence[Option], batch_rows: int) -> list[bool]:
    """Whether greedy decoding would produce all scored tokens of each option."""
    matches = [False] * len(options)
    for indices, inputs_BT, targets_BT in _batches(model, options, batch_rows):
        best_BT = model.logits(inputs_BT).argmax(dim=-1)
        hits_B = ((best_BT == targets_BT) | (targets_BT == IGNORED)).all(dim=1)
        for index, hit in zip(indices, hits_B.tolist(), strict=True):
            matches[index] = hit
    return matches


def _batches(
    model: GPT, options: Sequence[Option], batch_rows: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Options of similar length together; padding on the right changes nothing before it."""
    order = sorted(range(len(options)), key=lambda index: -len(options[index].ids))
    edges = [*range(0, len(order), batch_rows), len(order)]
    for first, last in pairwise(edges):
        indices = order[first:last]
        inputs_BT = torch.zeros(len(indices), len(options[indices[0]].ids) - 1, dtype=torch.int64)
        targets_BT = torch.full_like(inputs_BT, IGNORED)
        for row, index in enumerate(indices):
            ids, start = options[index].ids, options[index].start
            inputs_BT[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            targets_BT[row, start - 1 : len(ids) - 1] = torch.tensor(ids[start:])
        yield indices, inputs_BT.to(model.device), targets_BT.to(model.device)
