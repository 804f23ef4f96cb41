"""How well a model answers held-out questions: the score of each chat task, and ChatCORE.

    record = evaluate_chat(model, tokenizer, {"spelling": Path("spelling/test.parquet"), ...},
                           max_items=200, batch_rows=32, stage="sft")

A categorical task takes the likeliest of the choices' letters as the model's answer; any other lets
the model write its answer, greedily and with the calculator (see eval/scoring.py). Each accuracy
comes with its chance level and is centered on it: (accuracy - chance) / (1 - chance).
ChatCORE is the mean of the centered accuracies, and only comparable between equal lists of tasks,
which is why the record names them.

Reads the task files; writes nothing: the record is returned.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nanochat.data.chat_format import (
    answer_text,
    fit_to_context,
    parse_answer,
    render_for_completion,
)
from nanochat.data.skills import LETTERS, Item
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput
from nanochat.eval.scoring import Scoring, held_out_items, scoring_of
from nanochat.model.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.progress import track

SPOKEN_TOKENS = 64  # of an answer in the transcript
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

    `task_files` maps the name of a generated task, `identity` or a table to its held-out file, of
    which at most `max_items` are asked, `batch_rows` at a time. Raises MissingArtefact for a file
    that is not there, BadInput for an unknown task; both before anything is computed.
    """
    if not task_files:
        raise BadInput("there are no chat tasks to score: name some in evaluation.chat_tasks")
    scoring = {name: scoring_of(name) for name in task_files}
    items = {name: held_out_items(name, path, max_items) for name, path in task_files.items()}
    engine = Engine(model, tokenizer)
    tasks = [
        _score(name, scoring[name], items[name], engine, tokenizer, batch_rows) for name in items
    ]
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
    room = min(SPOKEN_TOKENS, engine.context // 2)
    for question in TRANSCRIPT_QUESTIONS:
        messages.append({"role": "user", "content": question})
        prompt, _ = fit_to_context(messages, tokenizer, engine.context - room)
        [ids] = engine.generate([prompt], room)
        messages.append({"role": "assistant", "content": parse_answer(ids, tokenizer)})
    return messages


def _score(
    name: str,
    scoring: Scoring,
    items: Sequence[Item],
    engine: Engine,
    tokenizer: Tokenizer,
    batch_rows: int,
) -> dict[str, Any]:
    answers = _answers(name, items, scoring.max_new_tokens, engine, tokenizer, batch_rows)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # programs run beside each other
        right = list(pool.map(scoring.judge, answers, items))
    accuracy, chance = sum(right) / len(items), scoring.chance(items)
    return {
        "name": name,
        "kind": scoring.kind,
        "accuracy": accuracy,
        "chance": chance,
        "centered": centered(accuracy, chance),
        "items": len(items),
        "examples": _examples(items, answers, right),
    }


def _answers(
    name: str,
    items: Sequence[Item],
    max_new_tokens: int,
    engine: Engine,
    tokenizer: Tokenizer,
    batch_rows: int,
) -> list[str]:
    """The model's answers, in the order of the items; asked shortest first, to pad little."""
    # A prompt longer than the context loses its beginning: its item most likely counts as wrong.
    prompts = [
        render_for_completion(item.conversation, tokenizer)[-engine.context :] for item in items
    ]
    by_length = sorted(range(len(items)), key=lambda place: len(prompts[place]))
    batches = [by_length[i : i + batch_rows] for i in range(0, len(items), batch_rows)]
    answers = [""] * len(items)
    for batch in track(batches, f"chat evaluation: {name}", unit="batches"):
        asked = [prompts[i] for i in batch]
        if max_new_tokens:
            texts = _write(engine, tokenizer, asked, max_new_tokens)
        else:
            texts = _choose(engine, tokenizer, asked, [len(items[i].choices) for i in batch])
        for place, text in zip(batch, texts, strict=True):
            answers[place] = text
    return answers


def _choose(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]], choices: list[int]
) -> list[str]:
    """The likeliest letter after each prompt, among the first so many that name a choice."""
    letter_ids = [tokenizer.encode(letter)[0] for letter in LETTERS]
    logits_BN = engine.next_token_logits(prompts)[:, letter_ids]
    return [
        LETTERS[int(row[:number].argmax())] for row, number in zip(logits_BN, choices, strict=True)
    ]


def _write(
    engine: Engine, tokenizer: Tokenizer, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    """What the model writes after each prompt, without what passes through the calculator."""
    answers = engine.generate(prompts, max_new_tokens)
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
