"""An evaluation bundle made from held-out documents, for machines that cannot download one.

`build_bundle(validation_shard, output_dir, seed)` writes up to four tasks, in the layout that
core_tasks.py reads:

    doc_continuation  multiple_choice   the next sentence, among three from other documents
    doc_word_order    multiple_choice   the next sentence, among three shuffles of its words
    doc_pairing       schema            a description, after its heading or after another document's
    doc_cloze         language_modeling the last word of a passage in which it occurred before

Reads a parquet shard of documents; writes core.yaml, eval_meta_data.csv and eval_data/*.jsonl. Same
documents and seed, same bytes.
"""

import csv
import io
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import yaml

from nanochat.data.shards import read_documents
from nanochat.errors import BadInput
from nanochat.eval.core_tasks import Item
from nanochat.files import write_text

MAX_DOCUMENTS = 5000  # read from the shard
MAX_ITEMS = 200  # of a task
MIN_ITEMS = 10  # a task with fewer says nothing and is left out
MAX_PASSAGE = 500  # characters shown before what is scored
SENTENCE_LENGTHS = range(30, 240)  # characters
MAX_HEADING = 120  # characters
CANDIDATES = 40  # drawn to find three of similar length
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
LAST_WORD = re.compile(r"^(.*\s)([A-Za-z]{4,})[.!?]$", re.DOTALL)


@dataclass(frozen=True)
class Document:
    """Runs of consecutive sentences, and (heading, description) pairs."""

    passages: list[list[str]]
    entries: list[tuple[str, str]]


Maker = Callable[[list[Document], random.Random], Iterable[Item]]


def build_bundle(validation_shard: Path, output_dir: Path, seed: int) -> dict[str, Any]:
    """Writes the bundle and returns {"tasks": {label: items}, "left_out": [labels]}.

    A task for which the documents give fewer than MIN_ITEMS questions is left out. Raises BadInput
    when that is so for all of them, and what `read_documents` raises.
    """
    documents = [parse(text) for text in islice(read_documents(validation_shard), MAX_DOCUMENTS)]
    made = {}
    for label in TASKS:
        rng = random.Random(f"{label} {seed}")
        made[label] = list(islice(TASKS[label].make(documents, rng), MAX_ITEMS))
    kept = {label: items for label, items in made.items() if len(items) >= MIN_ITEMS}
    if not kept:
        raise BadInput(
            f"{validation_shard} has too little prose for an evaluation bundle: "
            "give data.source more documents with whole sentences"
        )
    _write(output_dir, kept)
    return {
        "tasks": {label: len(items) for label, items in kept.items()},
        "left_out": [label for label in made if label not in kept],
    }


def parse(text: str) -> Document:
    """Finds the prose of a document: paragraphs of sentences, and what stands under headings."""
    blocks = [block for part in re.split(r"\n\s*\n", text) if (block := part.strip())]
    runs = [sentences(block) for block in blocks]
    entries = [
        (block, following[0])
        for block, following in zip(blocks, runs[1:], strict=False)
        if _is_heading(block) and following
    ]
    return Document([run for run in runs if len(run) >= 2], entries)


def _is_heading(block: str) -> bool:
    short = 3 <= len(block) <= MAX_HEADING and "\n" not in block
    plain = short and block[0].isalpha() and block[-1] not in ".!?:;,"
    return plain and not SENTENCE_END.search(block)


def sentences(block: str) -> list[str]:
    """The sentences of a paragraph of prose; none of code, tables and lists."""
    if ">>>" in block or "--" in block or not re.match(r"[A-Z]", block):
        return []
    found = SENTENCE_END.split(" ".join(block.split()))
    good = [sentence for sentence in found if _is_sentence(sentence)]
    return good if len(good) == len(found) else []


def _is_sentence(sentence: str) -> bool:
    plain = sum(c.isalpha() or c == " " for c in sentence)
    return (
        len(sentence) in SENTENCE_LENGTHS
        and sentence[-1] in ".!?"
        and plain > 0.85 * len(sentence)
        and sentence.count(" ") >= 4
    )


def _shuffled_passages(
    documents: list[Document], rng: random.Random
) -> list[tuple[int, list[str]]]:
    passages = [(n, run) for n, document in enumerate(documents) for run in document.passages]
    rng.shuffle(passages)
    return passages


def _lead(run: list[str]) -> str:
    """What stands before the last sentence, without more than MAX_PASSAGE characters of it."""
    lead = " ".join(run[:-1])
    while len(lead) > MAX_PASSAGE:
        lead = lead.partition(". ")[2]
    return lead


def make_continuation(documents: list[Document], rng: random.Random) -> Iterable[Item]:
    passages = _shuffled_passages(documents, rng)
    for number, run in passages:
        drawn = rng.sample(passages, min(CANDIDATES, len(passages)))
        others = {other[-1] for n, other in drawn if n != number and other[-1] != run[-1]}
        near = sorted(others, key=lambda text: (abs(len(text) - len(run[-1])), text))[:3]
        if len(near) == 3 and _lead(run):
            yield _choice(_lead(run), run[-1], near, rng)


def make_word_order(documents: list[Document], rng: random.Random) -> Iterable[Item]:
    for _, run in _shuffled_passages(documents, rng):
        words = run[-1].split()
        shuffles = {" ".join(rng.sample(words, len(words))) for _ in range(3)} - {run[-1]}
        if len(shuffles) == 3 and _lead(run):
            yield _choice(_lead(run), run[-1], sorted(shuffles), rng)


def _choice(query: str, right: str, wrong: list[str], rng: random.Random) -> Item:
    choices = rng.sample([right, *wrong], 1 + len(wrong))
    return {"query": query, "choices": choices, "gold": choices.index(right)}


def make_pairing(documents: list[Document], rng: random.Random) -> Iterable[Item]:
    entries = [(n, *entry) for n, document in enumerate(documents) for entry in document.entries]
    rng.shuffle(entries)
    for (number, heading, description), (other, wrong, _) in pairwise(entries):
        if number != other and heading != wrong:
            options = rng.sample([heading, wrong], 2)
            gold = options.index(heading)
            yield {"context_options": options, "continuation": description, "gold": gold}


def make_cloze(documents: list[Document], rng: random.Random) -> Iterable[Item]:
    for _, run in _shuffled_passages(documents, rng):
        passage = f"{_lead(run)} {run[-1]}".strip()
        match = LAST_WORD.match(passage)
        if match and re.search(rf"\b{match[2]}\b", match[1]):
            yield {"context": match[1].rstrip(), "continuation": match[2]}


@dataclass(frozen=True)
class Recipe:
    """How one task is made; `chance` in percent, as eval_meta_data.csv has it."""

    kind: str
    chance: int
    make: Maker
    description: str
    delimiter: str = " "


TASKS = {
    "doc_continuation": Recipe(
        "multiple_choice", 25, make_continuation, "The next sentence, among three from elsewhere."
    ),
    "doc_word_order": Recipe(
        "multiple_choice", 25, make_word_order, "The next sentence, among shuffles of its words."
    ),
    "doc_pairing": Recipe(
        "schema", 50, make_pairing, "A description, after its heading or after another.", "\n\n"
    ),
    "doc_cloze": Recipe(
        "language_modeling", 0, make_cloze, "The last word, which occurred in the passage before."
    ),
}
COLUMNS = ["Eval Task", "Task Category", "Task Type", "#shots", "#datapoints", "Random baseline"]
COLUMNS += ["Centered Metric?", "Description"]


def _write(output_dir: Path, made: dict[str, list[Item]]) -> None:
    """core.yaml last: where it is, the bundle is whole."""
    for label, items in made.items():
        lines = [json.dumps(item, ensure_ascii=False) for item in items]
        write_text(output_dir / "eval_data" / _uri(label), "\n".join(lines) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for label, items in made.items():
        recipe = TASKS[label]
        kind = recipe.kind.replace("_", " ")
        row = [label, "documentation", kind, 0, len(items), recipe.chance, "", recipe.description]
        writer.writerow(row)
    write_text(output_dir / "eval_meta_data.csv", table.getvalue())
    entries = [_entry(label) for label in made]
    write_text(output_dir / "core.yaml", yaml.safe_dump({"icl_tasks": entries}, sort_keys=False))


def _entry(label: str) -> dict[str, Any]:
    return {
        "label": label,
        "dataset_uri": _uri(label),
        "icl_task_type": TASKS[label].kind,
        "num_fewshot": [0],
        "continuation_delimiter": TASKS[label].delimiter,
    }


def _uri(label: str) -> str:
    return f"documentation/{label}.jsonl"
