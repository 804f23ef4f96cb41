"""How well a model answers held-out questions: the score of each chat task, and ChatCORE.

    record = evaluate_chat(model, tokenizer, {"spelling": Path("spelling/test.parquet"), ...},
                           max_items=200, batch_rows=32, stage="sft")

A categorical task takes the likeliest of the choices' letters as the model's answer; a generative
one lets the model write its answer, greedily and with the calculator. Each accuracy comes with its
chance level (see data/skills.py) and is centered on it: (accuracy - chance) / (1 - chance).
ChatCORE is the mean of the centered accuracies, and only comparable between equal lists of tasks,
which is why the record names them.

Reads the task files; writes nothing: the record is returned.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.data.chat_format import (
    answer_text,
    fit_to_context,
    parse_answer,
    render_for_completion,
)
from nanochat.data.skills import LETTERS, TASKS, Item, is_correct
from nanochat.data.task_files import load_items
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput
from nanochat.model.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.progress import track

MAX_ANSWER_TOKENS = 64
EXAMPLES = 3  # right ones, and as many wrong ones, in the record

TRANSCRIPT_QUESTIONS = (
    "Who are you?",
    "Spell the word number.",
    "How many e are in 'sentence'?",
    "What is 12 * 34?",
    "What can you do?",
)


def evaluate_chat(
    model: GPT,
    tokenizer: Tokenizer,
    task_files: Mapping[str, Path],
    max_items: int,
    batch_rows: int,
    stage: str,
) -> dict[str, Any]:
    """The chat record of a stage: every task's accuracy with its chance level, and a transcript.

    `task_files` maps a task's name to its held-out items, of which the first `max_items` are used,
    `batch_rows` at a time. Raises MissingArtefact for a file that is not there, BadInput for an
    unknown task.
    """
    if unknown := sorted(set(task_files) - set(TASKS)):
        raise BadInput(f"there is no task {unknown[0]!r}: choose from {', '.join(TASKS)}")
    items = {name: load_items(path)[:max_items] for name, path in task_files.items()}
    engine = Engine(model, tokenizer)
    tasks = [_score(name, items[name], engine, tokenizer, batch_rows) for name in items]
    scores = [task["centered"] for task in tasks]
    return {
        "stage": stage,
        "chatcore": {"value": sum(scores) / len(scores), "tasks": list(items)},
        "tasks": tasks,
        "transcript": transcript(engine, tokenizer),
    }


def centered(accuracy: float, chance: float) -> float:
    """0 at chance, 1 for all right; 0 where luck alone gets all right, which proves nothing."""
    return (accuracy - chance) / (1 - chance) if chance < 1 else 0.0


def transcript(engine: Engine, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """One conversation over the fixed questions, as messages."""
    messages: list[dict[str, Any]] = []
    room = min(MAX_ANSWER_TOKENS, engine.context // 2)
    for question in TRANSCRIPT_QUESTIONS:
        messages.append({"role": "user", "content": question})
        prompt, _ = fit_to_context(messages, tokenizer, engine.context - room)
        [ids] = engine.generate([prompt], room)
        messages.append({"role": "assistant", "content": parse_answer(ids, tokenizer)})
    return messages


def _score(
    name: str, items: Sequence[Item], engine: Engine, tokenizer: Tokenizer, batch_rows: int
) -> dict[str, Any]:
    task = TASKS[name]
    answer = _choose if task.kind == "categorical" else _write
    # A prompt longer than the context loses its beginning: its item most likely counts as wrong.
    prompts = [
        render_for_completion(item.conversation, tokenizer)[-engine.context :] for item in items
    ]
    by_length = sorted(range(len(items)), key=lambda place: len(prompts[place]))
    batches = [by_length[i : i + batch_rows] for i in range(0, len(items), batch_rows)]
    answers = [""] * len(items)
    for batch in track(batches, f"chat evaluation: {name}", unit="batches"):
        texts = answer(engine, tokenizer, [prompts[i] for i in batch], [items[i] for i in batch])
        for place, text in zip(batch, texts, strict=True):
            answers[place] = text
    right = [is_correct(text, item) for text, item in zip(answers, items, strict=True)]
    accuracy, chance = sum(right) / len(items), task.chance(items)
    return {
        "name": name,
        "kind": task.kind,
        "accuracy": accuracy,
        "chance": chance,
        "centered": centered(accuracy, chance),
        "items": len(items),
        "examples": _examples(items, answers, right),
    }


def _choose(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]], items: list[Item]
) -> list[str]:
    """The likeliest letter after each prompt, among those that name a choice."""
    letter_ids = [tokenizer.encode(letter)[0] for letter in LETTERS]
    logits_BN = engine.next_token_logits(prompts)[:, letter_ids]
    return [
        LETTERS[int(row[: len(item.choices)].argmax())]
        for row, item in zip(logits_BN, items, strict=True)
    ]


def _write(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]], items: list[Item]
) -> list[str]:
    """What the model writes after each prompt, without what passes through the calculator."""
    answers = engine.generate(prompts, MAX_ANSWER_TOKENS)
    return [answer_text(parse_answer(ids, tokenizer)) for ids in answers]


def _examples(
    items: Sequence[Item], answers: Sequence[str], right: Sequence[bool]
) -> list[dict[str, Any]]:
    chosen = [i for i in range(len(items)) if right[i]][:EXAMPLES]
    chosen += [i for i in range(len(items)) if not right[i]][:EXAMPLES]
    return [
        {
            "question": items[i].question,
            "expected": items[i].expected,
            "answer": answers[i],
            "correct": right[i],
        }
        for i in chosen
    ]
