"""The generated tasks as files: made once from the corpus, read by training and evaluation.

    generate_tasks(train_shards, validation_shard, output_dir, train_items={"spelling": 2000},
                   test_items=200, seed=42, persona=Persona())
    items = load_items(output_dir / "spelling" / "test.parquet")

Reads the corpus' shards: the words are those that occur often in it, the documentation questions
are about its documents. Writes <output_dir>/<task>/{train,test}.parquet, one item a row (question,
expected, choices as JSON, kind, conversation as JSON), and last manifest.json with the number of
items and the chance level of each. The same arguments and shards give the same files.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from nanochat.data.persona import Persona
from nanochat.data.shards import read_documents
from nanochat.data.skills import TASKS, Entry, Item, Material, Task
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.files import atomic_path, write_json
from nanochat.progress import track

WORD = re.compile(r"(?<![\w'.-])[a-z]{3,12}(?![\w'-])")
MIN_OCCURRENCES = 5
MAX_WORDS = 20_000
MIN_WORDS = 40

# A heading as in a library's reference, `class json.JSONDecoder(object)` or `json.dumps(obj)`, an
# empty line, and the first line of what is said about it.
ENTRY = re.compile(
    r"^(?:class )?(?:[A-Za-z_]\w*\.)*(?P<name>[A-Za-z]\w{2,30})(?:\(.*\))?\n\n"
    r"(?P<summary>[A-Z][^\n]{18,98}[\w.])$",
    re.MULTILINE,
)

SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("question", "expected", "choices", "kind")]
    + [("conversation", pyarrow.string())]
)
MADE_BY = "make run"


def generate_tasks(
    train_shards: Sequence[Path],
    validation_shard: Path,
    output_dir: Path,
    train_items: Mapping[str, int],
    test_items: int,
    seed: int,
    persona: Persona,
) -> dict[str, Any]:
    """Writes every task of `train_items` (name: number of items) and returns the manifest.

    A task may have fewer items than asked where the corpus gives no more; the manifest has the
    numbers. Raises BadInput for an unknown task, or one that the corpus gives no items for.
    """
    if unknown := sorted(set(train_items) - set(TASKS)):
        raise BadInput(f"there is no task {unknown[0]!r}: choose from {', '.join(TASKS)}")
    material = read_material(train_shards, validation_shard, persona)
    facts: dict[str, Any] = {}
    for name, count in track(train_items.items(), "generating", len(train_items), "tasks"):
        facts[name] = _write_task(TASKS[name], material, output_dir / name, count, test_items, seed)
    manifest = {"seed": seed, "words": len(material.words), "tasks": facts}
    write_json(output_dir / "manifest.json", manifest)
    return manifest


def read_material(
    train_shards: Sequence[Path], validation_shard: Path, persona: Persona
) -> Material:
    """The corpus' frequent words, and its documented names by side of the held-out split."""
    counts: Counter[str] = Counter()
    entries: dict[str, Entry] = {}
    for text in _documents(train_shards):
        counts.update(WORD.findall(text))
        entries.update(_entries(text))
    held_out: dict[str, Entry] = {}
    for text in read_documents(validation_shard):
        held_out.update(_entries(text))
    return Material(
        words=_frequent(counts),
        entries=list(entries.values()),
        held_out_entries=[entry for name, entry in held_out.items() if name not in entries],
        persona=persona,
    )


def load_items(path: Path) -> list[Item]:
    """The items of one file; raises MissingArtefact or DamagedArtefact."""
    try:
        rows = pyarrow.parquet.read_table(path, columns=SCHEMA.names).to_pylist()
        return [
            Item(
                question=row["question"],
                expected=row["expected"],
                conversation=json.loads(row["conversation"]),
                choices=tuple(json.loads(row["choices"])),
            )
            for row in rows
        ]
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no task file {path}: run `{MADE_BY}` first") from exc
    except (pyarrow.ArrowException, OSError, ValueError) as exc:
        raise DamagedArtefact(
            f"{path} is not a readable task file: delete it and run `{MADE_BY}` again"
        ) from exc


def write_items(path: Path, items: Sequence[Item], kind: str) -> None:
    """Writes the items of one task as parquet."""
    rows = [
        {
            "question": item.question,
            "expected": item.expected,
            "choices": json.dumps(item.choices),
            "kind": kind,
            "conversation": json.dumps(item.conversation, ensure_ascii=False),
        }
        for item in items
    ]
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), temporary)


def _write_task(
    task: Task, material: Material, folder: Path, train: int, test: int, seed: int
) -> dict[str, Any]:
    trained = task.items(material, train, seed, held_out=False)
    held_out = task.items(material, test, seed, held_out=True)
    if not held_out or (train and not trained):
        raise BadInput(
            f"the corpus gives no items for the task {task.name!r}: "
            "take it out of the mixtures, or use a larger corpus"
        )
    write_items(folder / "train.parquet", trained, task.kind)
    write_items(folder / "test.parquet", held_out, task.kind)
    return {
        "kind": task.kind,
        "train_items": len(trained),
        "test_items": len(held_out),
        "chance": task.chance(held_out),
    }


def _documents(shards: Sequence[Path]) -> Iterator[str]:
    for shard in track(shards, "reading the corpus for words and questions", unit="shards"):
        yield from read_documents(shard)


def _frequent(counts: Counter[str]) -> list[str]:
    often = [(-count, word) for word, count in counts.items() if count >= MIN_OCCURRENCES]
    if len(often) < MIN_WORDS:
        raise BadInput(
            f"the corpus has only {len(often)} words that occur {MIN_OCCURRENCES} times: "
            "use a larger corpus"
        )
    return [word for _, word in sorted(often)[:MAX_WORDS]]


def _entries(text: str) -> Iterator[tuple[str, Entry]]:
    """The documented names of a document, each with the first line said about it."""
    for match in ENTRY.finditer(text):
        yield match["name"], Entry(match["name"], match["summary"])
