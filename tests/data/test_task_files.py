"""Tasks generated from a corpus: files, determinism, and the split by shard."""

from pathlib import Path

import pyarrow.parquet
import pytest

from nanochat.data import task_files
from nanochat.data.shards import write_shards
from nanochat.data.skills import TASKS, Item, is_held_out
from nanochat.data.task_files import (
    generate_tasks,
    load_items,
    read_material,
    read_words,
    write_items,
)
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.files import read_json

BOTH = ("words", "entries")
ASKED = {name: 30 for name in TASKS}


@pytest.fixture(scope="module")
def shards(english: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two training shards and a validation shard of English with documented names in them."""
    folder = tmp_path_factory.mktemp("corpus")
    documents = [
        f"lib.module_{i}\n\nThe module number {i} of them.\n\n\n"
        f"lib.thing_{i}(a, b=1)\n\nReturn the thing number {i} of all.\n\nMore.\n\n\n"
        f"lib.common()\n\nReturn what is common to all of them.\n\n\n{text}"
        for i, text in enumerate(english)
    ]
    write_shards([(i % 3, text) for i, text in enumerate(documents)], folder, 3, {})
    return sorted(folder.glob("*.parquet"))


def test_same_arguments_give_the_same_bytes(shards: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        generate_tasks(shards[:2], shards[2], tmp_path / name, ASKED, 10, 42)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 2 * len(TASKS) + 1
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_files_hold_the_items_that_were_asked_for(shards: list[Path], tmp_path: Path) -> None:
    manifest = generate_tasks(shards[:2], shards[2], tmp_path, ASKED, 10, 42)
    assert manifest == read_json(tmp_path / "manifest.json", "")
    material = read_material(shards[:2], shards[2], BOTH)
    for name, task in TASKS.items():
        held_out = load_items(tmp_path / name / "test.parquet")
        assert held_out == task.items(material, 10, 42, held_out=True)
        assert len(load_items(tmp_path / name / "train.parquet")) == 30
        assert manifest["tasks"][name]["chance"] == task.chance(held_out)


def test_documentation_is_asked_from_the_side_it_lies_on(shards: list[Path]) -> None:
    material = read_material(shards[:2], shards[2], BOTH)
    trained = {entry.name for entry in material.entries}
    held_out = {entry.name for entry in material.held_out_entries}
    assert {"thing_0", "module_1", "common"} <= trained and {"thing_2", "module_2"} <= held_out
    assert trained & held_out == set()
    summaries = {entry.name: entry.summary for entry in material.entries}
    assert summaries["thing_0"] == "Return the thing number 0 of all."


def test_words_are_frequent_words_of_the_corpus(shards: list[Path]) -> None:
    words = read_material(shards[:2], shards[2], BOTH).words
    assert "the" in words and "expression" in words
    assert all(word.isalpha() and word.islower() and 3 <= len(word) <= 12 for word in words)
    assert any(map(is_held_out, words)) and not all(map(is_held_out, words))


def test_unknown_task_is_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no task 'singing'.*spelling"):
        generate_tasks(shards[:2], shards[2], tmp_path, {"singing": 1}, 1, 42)


def test_corpus_without_documentation_gives_no_documentation_task(
    english: list[str], tmp_path: Path
) -> None:
    write_shards([(i % 2, text) for i, text in enumerate(english)], tmp_path, 2, {})
    train, validation = sorted(tmp_path.glob("*.parquet"))
    with pytest.raises(BadInput, match="no items for the task 'documentation'"):
        generate_tasks([train], validation, tmp_path, {"documentation": 5}, 5, 42)


def test_corpus_of_few_words_is_refused(tmp_path: Path) -> None:
    write_shards([(0, "one two three"), (1, "four five six")], tmp_path, 2, {})
    train, validation = sorted(tmp_path.glob("*.parquet"))
    with pytest.raises(BadInput, match="only 0 words"):
        generate_tasks([train], validation, tmp_path, {"spelling": 5}, 5, 42)


def test_missing_and_damaged_task_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match=r"no task file .* run `make run`"):
        load_items(tmp_path / "test.parquet")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DamagedArtefact, match="not a readable task file"):
        load_items(tmp_path / "test.parquet")


def test_items_come_back_as_they_were_written(tmp_path: Path) -> None:
    hello = {"messages": [{"role": "user", "content": "Wer?"}]}
    items = [
        Item("Wer?", "Ich bin Jürgen.", hello, keys=("Jürgen", "ich")),
        Item("Which?", "B", hello, choices=("one", "zwölf")),
    ]
    write_items(tmp_path / "test.parquet", items, "generative")
    assert load_items(tmp_path / "test.parquet") == items


def test_file_without_keys_is_read_all_the_same(tmp_path: Path) -> None:
    item = Item("?", "yes", {"messages": []})
    write_items(tmp_path / "test.parquet", [item], "generative")
    table = pyarrow.parquet.read_table(tmp_path / "test.parquet").drop_columns(["keys"])
    pyarrow.parquet.write_table(table, tmp_path / "old.parquet")
    assert load_items(tmp_path / "old.parquet") == [item]


def test_words_of_a_list_need_no_corpus(tmp_path: Path) -> None:
    words = [f"word{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    listed = ["Upper", "ab", "toolongtobeuseful", "it's", *words, "wordaa"]
    (tmp_path / "words.txt").write_text("\r\n".join(listed))
    assert read_words(tmp_path / "words.txt") == words
    nowhere = tmp_path / "shard.parquet"
    asked = {"spelling": 20, "counting": 20, "arithmetic": 20}
    generate_tasks([nowhere], nowhere, tmp_path, asked, 5, 42, tmp_path / "words.txt")
    spelled = {
        item.expected.replace(" ", "") for item in load_items(tmp_path / "spelling/train.parquet")
    }
    assert spelled <= set(words) and len(spelled) > 10


def test_arithmetic_needs_neither_words_nor_a_corpus(tmp_path: Path) -> None:
    nowhere = tmp_path / "shard.parquet"
    manifest = generate_tasks([nowhere], nowhere, tmp_path, {"arithmetic": 20}, 5, 42)
    assert manifest["words"] == 0 and manifest["tasks"]["arithmetic"]["train_items"] == 20


def test_only_the_first_shards_of_a_large_corpus_are_read(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_files, "TASK_SHARDS", 2)
    nowhere = tmp_path / "shard_00002.parquet"
    material = read_material([*shards[:2], nowhere], shards[2], BOTH)
    assert material == read_material(shards[:2], shards[2], BOTH)


def test_missing_short_and_binary_word_lists_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="no word list"):
        read_words(tmp_path / "none.txt")
    (tmp_path / "short.txt").write_text("one\ntwo\n")
    with pytest.raises(BadInput, match="only 2 words of 3 to 12"):
        read_words(tmp_path / "short.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_words(tmp_path / "binary.txt")
