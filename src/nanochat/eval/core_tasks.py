"""The tasks of a CORE bundle: what they ask, read from disk and rendered as prompts.

`load_tasks(bundle_dir)` lists the tasks, `read_items(task)` gives the questions of one, and
`render(task, item, shots)` the texts to compare for one question.

Reads the layout of the published evaluation bundle and writes nothing:

    core.yaml           icl_tasks: label, dataset_uri, icl_task_type, num_fewshot, and perhaps
                        continuation_delimiter
    eval_meta_data.csv  the columns "Eval Task" and "Random baseline" (percent)
    eval_data/**.jsonl  multiple_choice: query, choices, gold
                        schema: context_options, continuation, gold
                        language_modeling: context, continuation
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nanochat.errors import DamagedArtefact, MissingArtefact

FIELDS: dict[str, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}
OPTIONS = {"multiple_choice": "choices", "schema": "context_options"}
REBUILD = "make or download the evaluation bundle again"

Item = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One task of a bundle; `chance` is the accuracy of guessing, between 0 and 1."""

    label: str
    path: Path
    kind: str
    shots: int
    delimiter: str
    chance: float


def load_tasks(bundle_dir: Path) -> list[Task]:
    """All tasks that core.yaml lists, whether or not their data is there.

    Raises MissingArtefact without core.yaml or eval_meta_data.csv, DamagedArtefact when they do not
    hold what the layout says.
    """
    listing, table = bundle_dir / "core.yaml", bundle_dir / "eval_meta_data.csv"
    for path in (listing, table):
        if not path.is_file():
            raise MissingArtefact(f"no file {path}: {REBUILD}")
    try:
        with open(table, newline="", encoding="utf-8") as handle:
            chances = {
                row["Eval Task"]: float(row["Random baseline"]) / 100
                for row in csv.DictReader(handle)
            }
        entries = yaml.safe_load(listing.read_text(encoding="utf-8"))["icl_tasks"]
        return [_task(entry, bundle_dir, chances) for entry in entries]
    except (KeyError, TypeError, ValueError, IndexError, yaml.YAMLError) as exc:
        reason = f"{type(exc).__name__}: {exc}".replace("\n", " ")
        raise DamagedArtefact(f"cannot read {listing} with {table} ({reason}): {REBUILD}") from exc


def _task(entry: dict[str, Any], bundle_dir: Path, chances: dict[str, float]) -> Task:
    kind = entry["icl_task_type"]
    if kind not in FIELDS:
        raise ValueError(f"icl_task_type {kind!r} is none of {', '.join(FIELDS)}")
    return Task(
        label=entry["label"],
        path=bundle_dir / "eval_data" / entry["dataset_uri"],
        kind=kind,
        shots=int(entry["num_fewshot"][0]),
        delimiter=entry.get("continuation_delimiter", " "),
        chance=chances[entry["label"]],
    )


def read_items(task: Task) -> list[Item]:
    """The questions of a task; raises DamagedArtefact naming the first line that is not one."""
    lines = task.path.read_bytes().splitlines()
    items = [_item(task, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise DamagedArtefact(f"{task.path} holds no questions: {REBUILD}")
    return items


def _item(task: Task, number: int, line: bytes) -> Item:
    try:
        item: Item = json.loads(line)
        wrong = [key for key, kind in FIELDS[task.kind].items() if not isinstance(item[key], kind)]
        if wrong:
            raise TypeError(f"{wrong[0]} is {item[wrong[0]]!r}")
        if task.kind in OPTIONS and not 0 <= item["gold"] < len(item[OPTIONS[task.kind]]):
            raise IndexError(f"gold is {item['gold']}")
    except (ValueError, TypeError, KeyError, IndexError) as exc:
        reason = f"{type(exc).__name__}: {exc}"
        message = (
            f"line {number} of {task.path} is not a {task.kind} question ({reason}): {REBUILD}"
        )
        raise DamagedArtefact(message) from exc
    return item


def render(task: Task, item: Item, shots: Sequence[Item]) -> list[str]:
    """The prompts of one question, with solved examples before it.

    One per choice or context; for language_modeling two: without the continuation (and without
    trailing space, which would be a token of its own) and with it.
    """
    before = "".join(f"{_solved(task, shot)}\n\n" for shot in shots)
    if task.kind == "multiple_choice":
        return [f"{before}{item['query']}{task.delimiter}{choice}" for choice in item["choices"]]
    if task.kind == "schema":
        end = f"{task.delimiter}{item['continuation']}"
        return [f"{before}{context}{end}" for context in item["context_options"]]
    asked = f"{before}{item['context'].strip()}{task.delimiter}"
    return [asked.strip(), f"{asked}{item['continuation']}"]


def _solved(task: Task, shot: Item) -> str:
    if task.kind == "multiple_choice":
        return f"{shot['query']}{task.delimiter}{shot['choices'][shot['gold']]}"
    context = (
        shot["context_options"][shot["gold"]] if task.kind == "schema" else shot["context"].strip()
    )
    return f"{context}{task.delimiter}{shot['continuation']}"
