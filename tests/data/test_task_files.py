"""Tasks generated from a corpus: files, determinism, and the split by shard."""

from pathlib import Path

import pytest

from nanochat.data.persona import Persona
from nanochat.data.shards import write_shards
from nanochat.data.skills import TASKS, is_held_out
from nanochat.data.task_files import generate_tasks, load_items, read_material
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.files import read_json

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
        generate_tasks(shards[:2], shards[2], tmp_path / name, ASKED, 10, 42, Persona())
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 2 * len(TASKS) + 1
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_files_hold_the_items_that_were_asked_for(shards: list[Path], tmp_path: Path) -> None:
    manifest = generate_tasks(shards[:2], shards[2], tmp_path, ASKED, 10, 42, Persona())
    assert manifest == read_json(tmp_path / "manifest.json", "")
    material = read_material(shards[:2], shards[2], Persona())
    for name, task in TASKS.items():
        held_out = load_items(tmp_path / name / "test.parquet")
        assert held_out == task.items(material, 10, 42, held_out=True)
        assert len(load_items(tmp_path / name / "train.parquet")) == 30
        assert manifest["tasks"][name]["chance"] == task.chance(held_out)


def test_documentation_is_asked_from_the_side_it_lies_on(shards: list[Path]) -> None:
    material = read_material(shards[:2], shards[2], Persona())
    trained = {entry.name for entry in material.entries}
    held_out = {entry.name for entry in material.held_out_entries}
    assert {"thing_0", "module_1", "common"} <= trained and {"thing_2", "module_2"} <= held_out
    assert trained & held_out == set()
    summaries = {entry.name: entry.summary for entry in material.entries}
    assert summaries["thing_0"] == "Return the thing number 0 of all."


def test_words_are_frequent_words_of_the_corpus(shards: list[Path]) -> None:
    words = read_material(shards[:2], shards[2], Persona()).words
    assert "the" in words and "expression" in words
    assert all(word.isalpha() and word.islower() and 3 <= len(word) <= 12 for word in words)
    assert any(map(is_held_out, words)) and not all(map(is_held_out, words))


def test_unknown_task_is_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no task 'singing'.*spelling"):
        generate_tasks(shards[:2], shards[2], tmp_path, {"singing": 1}, 1, 42, Persona())


def test_corpus_without_documentation_gives_no_documentation_task(
    english: list[str], tmp_path: Path
) -> None:
    write_shards([(i % 2, text) for i, text in enumerate(english)], tmp_path, 2, {})
    train, validation = sorted(tmp_path.glob("*.parquet"))
    with pytest.raises(BadInput, match="no items for the task 'documentation'"):
        generate_tasks([train], validation, tmp_path, {"documentation": 5}, 5, 42, Persona())


def test_corpus_of_few_words_is_refused(tmp_path: Path) -> None:
    write_shards([(0, "one two three"), (1, "four five six")], tmp_path, 2, {})
    train, validation = sorted(tmp_path.glob("*.parquet"))
    with pytest.raises(BadInput, match="only 0 words"):
        generate_tasks([train], validation, tmp_path, {"spelling": 5}, 5, 42, Persona())


def test_missing_and_damaged_task_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match=r"no task file .* run `make run`"):
        load_items(tmp_path / "test.parquet")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DamagedArtefact, match="not a readable task file"):
        load_items(tmp_path / "test.parquet")
