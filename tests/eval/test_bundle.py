"""The embedded bundle: honest questions from held-out documents, in the published layout."""

import random
from collections import Counter
from pathlib import Path

import pytest

from nanochat.data.shards import write_shards
from nanochat.errors import BadInput
from nanochat.eval.bundle import (
    MAX_PASSAGE,
    Document,
    build_bundle,
    make_continuation,
    parse,
    sentences,
)
from nanochat.eval.core import evaluate_core
from nanochat.eval.core_tasks import load_tasks, read_items

NOUNS = [
    "lamp",
    "river",
    "stone",
    "market",
    "garden",
    "letter",
    "window",
    "bridge",
    "kettle",
    "anchor",
]


def library(n_modules: int = 60) -> list[str]:
    """Documents as the embedded corpus has them: headings, and prose that repeats its nouns."""
    rng = random.Random(5)
    texts = []
    for n in range(n_modules):
        a, b, c = rng.sample(NOUNS, 3)
        last = f"the {a}" if n % 2 else "nothing"
        texts.append(
            f"class store.module{n}.{a.title()}(Base)\n\n"
            f"Keeps every {a} of the old {b} in number {n} of the long list. "
            f"Nobody counts the {c} before the {a} is brought to the {b}. "
            f"Whoever opens the {c} has to look at module {n} and at {last}.\n\n\n"
            f"store.module{n}.find_{b}(name, *, strict=False)\n\n"
            f"Return the {b} whose name is given to function {n} of this module.\n\n"
            f"    >>> find_{b}('x')\n    {n}\n"
        )
    return texts


def make_shard(folder: Path, texts: list[str]) -> Path:
    write_shards([(0, text) for text in texts], folder, 1, {})
    return folder / "shard_00000.parquet"


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    return make_shard(tmp_path_factory.mktemp("library"), library())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, shard) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    build_bundle(shard, folder, seed=1)
    return folder


def items_of(bundle: Path) -> dict[str, list[dict]]:
    return {task.label: read_items(task) for task in load_tasks(bundle)}


def test_all_four_tasks_are_made_and_counted(tmp_path, shard):
    record = build_bundle(shard, tmp_path, seed=1)
    assert record["left_out"] == []
    assert record["tasks"] == {label: len(items) for label, items in items_of(tmp_path).items()}
    assert list(record["tasks"]) == [
        "doc_continuation",
        "doc_word_order",
        "doc_pairing",
        "doc_cloze",
    ]


def test_chance_levels_are_those_of_the_number_of_options(bundle):
    for task in load_tasks(bundle):
        for item in read_items(task):
            options = item.get("choices") or item.get("context_options") or []
            assert task.chance == (1 / len(options) if options else 0)
            assert len(set(options)) == len(options)


def test_the_right_answer_is_in_the_shard_and_the_wrong_ones_are_not(bundle):
    texts = [" ".join(text.split()) for text in library()]
    items = items_of(bundle)
    for label in ("doc_continuation", "doc_word_order"):
        for item in items[label]:
            fits = [any(f"{item['query']} {c}" in t for t in texts) for c in item["choices"]]
            assert fits == [n == item["gold"] for n in range(4)]
    for item in items["doc_pairing"]:
        ends = [f"{context} {item['continuation']}" for context in item["context_options"]]
        assert [any(end in text for text in texts) for end in ends].index(True) == item["gold"]


def test_wrong_continuations_come_from_other_documents():
    documents = [
        Document([[f"Lead {n} of {d}.", f"End {n} of {d}."] for n in range(5)], [])
        for d in range(4)
    ]
    for item in make_continuation(documents, random.Random(1)):
        same = [choice[-2] == item["query"][-2] for choice in item["choices"]]
        assert same == [n == item["gold"] for n in range(4)]


def test_the_last_word_of_a_cloze_occurred_before(bundle):
    for item in items_of(bundle)["doc_cloze"]:
        assert item["continuation"] in item["context"].replace(".", " ").split()
        assert len(item["context"]) <= MAX_PASSAGE + 240


def test_the_right_answer_is_at_every_place_about_as_often(bundle):
    for label, items in items_of(bundle).items():
        if label != "doc_cloze":
            places = Counter(item["gold"] for item in items)
            options = 2 if label == "doc_pairing" else 4
            assert len(places) == options
            assert max(places.values()) < 2 * len(items) / options


def test_same_seed_same_bytes_and_another_seed_other_questions(tmp_path, shard, bundle):
    build_bundle(shard, tmp_path / "same", seed=1)
    build_bundle(shard, tmp_path / "other", seed=2)
    files = [path.relative_to(bundle) for path in sorted(bundle.rglob("*")) if path.is_file()]
    assert len(files) == 6
    assert all((bundle / f).read_bytes() == (tmp_path / "same" / f).read_bytes() for f in files)
    assert items_of(bundle) != items_of(tmp_path / "other")


def test_prose_without_headings_gives_the_tasks_it_can(tmp_path):
    prose = ["\n\n".join(text.split("\n\n")[1:2]) for text in library()]
    record = build_bundle(make_shard(tmp_path, prose), tmp_path / "bundle", seed=1)
    assert record["left_out"] == ["doc_pairing"]
    assert [task.label for task in load_tasks(tmp_path / "bundle")] == list(record["tasks"])


def test_documents_without_prose_are_refused_in_one_sentence(tmp_path):
    shard = make_shard(tmp_path, [">>> 1 + 1\n2" for _ in range(50)])
    with pytest.raises(BadInput, match="too little prose"):
        build_bundle(shard, tmp_path / "bundle", seed=1)
    assert not (tmp_path / "bundle").exists()


def test_code_tables_and_lists_are_no_sentences():
    assert sentences(
        "Return the *first* item of the list. It has to be\nthere already when called."
    ) == [
        "Return the *first* item of the list.",
        "It has to be there already when called.",
    ]
    assert sentences(">>> f(1) and so on and on. It is code.") == []
    assert sentences("Notes\n-----\nAll of these are below a line of dashes.") == []
    assert sentences("x = {1: 2, 3: 4, 5: 6, 7: 8, 9: 10}") == []
    assert parse("a heading\n\nAll of what it says is in this sentence.").entries == [
        ("a heading", "All of what it says is in this sentence.")
    ]


def test_the_bundle_is_scored_like_any_other(random_model, tiny_tokenizer, bundle):
    record = evaluate_core(random_model, tiny_tokenizer, bundle, max_per_task=5, batch_rows=8)
    assert record["missing"] == []
    assert {task["items"] for task in record["tasks"]} == {5}
