"""The generated tasks as files: made once, read by training and evaluation.

    generate_tasks(train_shards, validation_shard, output_dir, train_items={"spelling": 2000},
                   test_items=200, seed=42, words_file=None)
    items = load_items(output_dir / "spelling" / "test.parquet")

Reads what the tasks are made of, and nothing where they need nothing: the words of a word list (one
a line) or else those that occur often in the corpus; the documented names in the corpus. Writes
<output_dir>/<task>/{train,test}.parquet, one item a row (question, expected, kind; as JSON:
choices, keys, conversation), and last manifest.json with the number of items and the chance level
of each. The same arguments and files give the same files.
"""

import json
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from nanochat.data.shards import read_documents
from nanochat.data.skills import TASKS, Entry, Item, Material, Task
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.files import atomic_path, sha256_of, write_json
from nanochat.progress import track
from nanochat.registry import TASK_SHARDS

USABLE_WORD = re.compile(r"[a-z]{3,12}")
WORD = re.compile(rf"(?<![\w'.-]){USABLE_WORD.pattern}(?![\w'-])")
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
    [(name, pyarrow.string()) for name in ("question", "expected", "choices", "keys", "kind")]
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
    words_file: Path | None = None,
) -> dict[str, Any]:
    """Writes every task of `train_items` (name: number of items) and returns the manifest.

    `words_file` is a word list; None takes the corpus' own frequent words. A task may have fewer
    items than asked where there are no more; the manifest has the numbers. Raises BadInput for an
    unknown task, or one that the corpus gives no items for.
    """
    if unknown := sorted(set(train_items) - set(TASKS)):
        raise BadInput(f"there is no task {unknown[0]!r}: choose from {', '.join(TASKS)}")
    needed = {TASKS[name].made_of for name in train_items}
    material = read_material(train_shards, validation_shard, needed, words_file)
    facts: dict[str, Any] = {}
    for name, count in track(train_items.items(), "generating", len(train_items), "tasks"):
        facts[name] = _write_task(TASKS[name], material, output_dir / name, count, test_items, seed)
    manifest = {"seed": seed, "words": len(material.words), "tasks": facts}
    write_json(output_dir / "manifest.json", manifest)
    return manifest


def read_material(
    train_shards: Sequence[Path],
    validation_shard: Path,
    needed: Container[str | None],
    words_file: Path | None = None,
) -> Material:
    """Words, and documented names by side of the held-out split, as far as they are `needed`
    ("words", "entries")."""
    words: list[str] = []
    if "words" in needed:
        words = read_words(words_file) if words_file else _frequent_words(train_shards)
    trained: dict[str, Entry] = {}
    held_out: dict[str, Entry] = {}
    if "entries" in needed:
        trained, held_out = _entries(train_shards), _entries([validation_shard])
    return Material(
        words=words,
        entries=list(trained.values()),
        held_out_entries=[entry for name, entry in held_out.items() if name not in trained],
    )


def read_words(path: Path) -> list[str]:
    """The words of 3 to 12 lower-case letters in a word list, each once, in its order.

    Raises MissingArtefact where there is no file, BadInput where it is no list of words.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no word list {path}: run `{MADE_BY}` first") from exc
    except UnicodeDecodeError as exc:
        raise BadInput(f"{path} is not UTF-8 text ({exc}): give a word list in UTF-8") from exc
    words = list(dict.fromkeys(word for word in lines if USABLE_WORD.fullmatch(word)))
    if len(words) < MIN_WORDS:
        raise BadInput(
            f"{path} has only {len(words)} words of 3 to 12 lower-case letters: "
            f"give a word list of at least {MIN_WORDS}, one a line"
        )
    return words


def load_items(path: Path) -> list[Item]:
    """The items of one file; raises MissingArtefact or DamagedArtefact."""
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
        return [
            Item(
                question=row["question"],
                expected=row["expected"],
                conversation=json.loads(row["conversation"]),
                choices=tuple(json.loads(row["choices"])),
                keys=tuple(json.loads(row.get("keys", "[]"))),
            )
            for row in rows
        ]
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no task file {path}: run `{MADE_BY}` first") from exc
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as exc:
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
            "keys": json.dumps(item.keys, ensure_ascii=False),
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
        "sha256": {name: sha256_of(folder / name) for name in ("train.parquet", "test.parquet")},
    }


def _documents(shards: Sequence[Path], sought: str) -> Iterator[str]:
    for shard in track(shards[:TASK_SHARDS], f"reading the corpus for {sought}", unit="shards"):
        yield from read_documents(shard)


def _frequent_words(shards: Sequence[Path]) -> list[str]:
    counts: Counter[str] = Counter()
    for text in _documents(shards, "words"):
        counts.update(WORD.findall(text))
    often = [(-count, word) for word, count in counts.items() if count >= MIN_OCCURRENCES]
    if len(often) < MIN_WORDS:
        raise BadInput(
            f"the corpus has only {len(often)} words that occur {MIN_OCCURRENCES} times: "
            "use a larger corpus"
        )
    return [word for _, word in sorted(often)[:MAX_WORDS]]


def _entries(shards: Sequence[Path]) -> dict[str, Entry]:
    """The documented names of the corpus, each with the first line said about it."""
    entries = {}
    for text in _documents(shards, "documented names"):
        for match in ENTRY.finditer(text):
            entries[match["name"]] = Entry(match["name"], match["summary"])
    return entries
