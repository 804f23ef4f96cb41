"""Downloaded tables as conversations and items, and what is said of files that are none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from nanochat.data.chat_format import answer_text, render
from nanochat.data.tables import READERS, count_rows, read_conversations_of, read_scored_items
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.model.calculator import calculate
from nanochat.registry import TABLES

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
ARC = {
    "question": "Which of them is a planet?",
    "choices": {"text": ["Sun", "Mars", "Moon"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
STEPS = "She makes 9 * 2 = $<<9*2=18>>18 a day.\nThat is 2,000*.5 = <<2,000*.5=1000.00>>1,000.\n"
ROWS: dict[str, dict[str, Any]] = {
    "smoltalk": {"messages": TALK, "source": "made up"},
    "mmlu": {"question": "2 + 2?", "subject": "x", "choices": ["1", "2", "3", "4"], "answer": 3},
    "arc_easy": ARC,
    "arc_challenge": ARC,
    "gsm8k": {"question": "How much?", "answer": STEPS + "#### 1,018"},
    "humaneval": {
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "double",
    },
}

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes rows as a table's parquet file."""

    def write(*rows: dict[str, Any]) -> Path:
        table = pyarrow.Table.from_pylist(list(rows))
        pyarrow.parquet.write_table(table, tmp_path / "split.parquet", row_group_size=2)
        return tmp_path / "split.parquet"

    return write


def test_every_table_of_the_registry_has_a_reader_and_an_example_here() -> None:
    assert set(READERS) == set(TABLES) == set(ROWS)
    for name, table in TABLES.items():
        assert (READERS[name].item is not None) == ("test" in table.splits), name
        assert (READERS[name].item is None) == (table.kind == "conversations"), name
        assert set(table.columns) <= set(ROWS[name])


@pytest.mark.parametrize("name", TABLES)
def test_every_table_gives_conversations_that_can_be_trained_on(
    name: str, written: Written, tiny_tokenizer: Tokenizer
) -> None:
    path = written(ROWS[name], ROWS[name], ROWS[name])
    conversations = list(read_conversations_of(name, path))
    assert len(conversations) == count_rows(name, path) == 3
    ids, mask = render(conversations[0], tiny_tokenizer)
    assert 0 < sum(mask) < len(ids)


@pytest.mark.parametrize("name", [name for name in TABLES if "test" in TABLES[name].splits])
def test_scoring_asks_what_training_asks(name: str, written: Written) -> None:
    path = written(ROWS[name])
    [item], [conversation] = read_scored_items(name, path), list(read_conversations_of(name, path))
    assert item.conversation == conversation
    assert item.question == conversation["messages"][0]["content"]


def test_conversations_are_kept_as_they_are(written: Written) -> None:
    system = [{"role": "system", "content": "Be kind."}, *TALK]
    path = written({"messages": system}, {"messages": TALK})
    read = [each["messages"] for each in read_conversations_of("smoltalk", path)]
    assert read == [system, TALK]


def test_rows_that_are_no_conversation_are_left_out(written: Written) -> None:
    path = written({"messages": TALK}, {"messages": TALK[1:]}, {"messages": []}, {"messages": TALK})
    assert len(list(read_conversations_of("smoltalk", path))) == 2
    assert count_rows("smoltalk", path) == 4


def test_only_the_rows_asked_for_are_read(written: Written) -> None:
    talks = [[{"role": "user", "content": str(i)}, TALK[1]] for i in range(5)]
    path = written(*({"messages": talk} for talk in talks))
    read = read_conversations_of("smoltalk", path, places={1, 4})
    assert [each["messages"] for each in read] == [talks[1], talks[4]]


def test_mmlu_answers_with_the_letter_of_the_right_choice(written: Written) -> None:
    [item] = read_scored_items("mmlu", written(ROWS["mmlu"]))
    assert item.expected == "D" and item.choices == ("1", "2", "3", "4")
    assert item.question.splitlines()[:5] == ["2 + 2?", "- 1=A", "- 2=B", "- 3=C", "- 4=D"]


@pytest.mark.parametrize(
    ("labels", "key", "letter"),
    [("ABCD", "D", "D"), ("1234", "2", "B"), ("ABC", "C", "C"), ("12345", "5", "E")],
)
def test_arc_labels_of_every_kind_become_letters(
    labels: str, key: str, letter: str, written: Written
) -> None:
    choices = {"text": [f"choice {label}" for label in labels], "label": list(labels)}
    row = {"question": "Which?", "choices": choices, "answerKey": key}
    [item] = read_scored_items("arc_challenge", written(row))
    assert item.expected == letter
    assert f"- choice {key}={letter}\n" in item.question
    assert len(item.choices) == len(labels)


def test_gsm8k_calls_the_calculator_and_ends_with_its_number(written: Written) -> None:
    [item] = read_scored_items("gsm8k", written(ROWS["gsm8k"]))
    assert item.expected == "1018"
    parts = item.conversation["messages"][1]["content"]
    assert [(part["type"], part["text"]) for part in parts] == [
        ("text", "She makes 9 * 2 = $"),
        ("python", "9*2"),
        ("python_output", "18"),
        ("text", "18 a day.\nThat is 2,000*.5 = "),
        ("python", "2,000*.5"),
        ("python_output", "1000"),
        ("text", "1,000.\n#### 1,018"),
    ]


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("18*.5=9.00", "9"),
        ("2*20*.01=.4", "0.4"),
        ("5-7=-2", "-2"),
        ("10-20.5=-10.50", "-10.5"),
        ("1000*1000=1,000,000", "1000000"),
        ("3-3=-0.0", "0"),
    ],
)
def test_the_result_shown_is_the_one_that_the_calculator_gives(
    call: str, shown: str, written: Written
) -> None:
    path = written({"question": "?", "answer": f"It is <<{call}>>x\n#### 1"})
    [item] = read_scored_items("gsm8k", path)
    _, python, output, _ = item.conversation["messages"][1]["content"]
    assert output["text"] == shown == calculate(python["text"])


@pytest.mark.parametrize("call", ["20%*50=10", "560//10=56", "x+1=y", "2+2=four"])
def test_what_the_calculator_does_not_know_is_left_out(call: str, written: Written) -> None:
    path = written({"question": "?", "answer": f"It is <<{call}>>10\n#### 10"})
    [item] = read_scored_items("gsm8k", path)
    content = item.conversation["messages"][1]["content"]
    assert {part["type"] for part in content} == {"text"}
    assert answer_text(content) == "It is 10\n#### 10"


def test_every_calculation_of_gsm8k_is_what_the_calculator_gives(
    shared_data: Path, written: Written
) -> None:
    calls = 0
    for split, rows in (("train", 7473), ("test", 1319)):
        lines = (shared_data / "eval" / "gsm8k" / f"{split}.jsonl").read_text().splitlines()
        items = read_scored_items("gsm8k", written(*map(json.loads, lines)))
        assert len(items) == rows
        for item in items:
            content = item.conversation["messages"][1]["content"]
            asked = [part["text"] for part in content if part["type"] == "python"]
            given = [part["text"] for part in content if part["type"] == "python_output"]
            assert [calculate(expression) for expression in asked] == given, item.question
            assert "<<" not in answer_text(content)
            calls += len(asked)
    assert calls > 27_000


def test_humaneval_is_asked_by_its_prompt_and_checked_by_its_test(written: Written) -> None:
    [item] = read_scored_items("humaneval", written(ROWS["humaneval"]))
    row = ROWS["humaneval"]
    assert item.question == row["prompt"] and item.expected == row["canonical_solution"]
    assert row["test"] in item.checks and item.checks.endswith("check(double)\n")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match=r"test\.parquet of the data set 'mmlu'.*`make run`"):
        read_scored_items("mmlu", tmp_path / "test.parquet")


def test_file_of_another_kind_is_named_with_what_mends_it(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"<html>not found</html>")
    with pytest.raises(DamagedArtefact, match=r"'mmlu' \(it is not parquet\).*data verify`"):
        read_scored_items("mmlu", tmp_path / "x.parquet")


def test_table_of_other_columns_is_refused(written: Written) -> None:
    with pytest.raises(DamagedArtefact, match=r"'gsm8k' .it has no column 'answer'"):
        read_scored_items("gsm8k", written({"question": "?"}))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mmlu", {"answer": 4}),
        ("mmlu", {"answer": -1}),
        ("mmlu", {"choices": None}),
        ("arc_easy", {"answerKey": "Z"}),
        ("gsm8k", {"answer": "no number"}),
        ("humaneval", {"prompt": None}),
    ],
)
def test_row_of_another_form_is_named(name: str, change: dict[str, Any], written: Written) -> None:
    path = written(ROWS[name], {**ROWS[name], **change})
    with pytest.raises(DamagedArtefact, match=f"'{name}' .row 2 is of another form"):
        read_scored_items(name, path)
    with pytest.raises(DamagedArtefact, match=f"'{name}' .row 2 is of another form"):
        list(read_conversations_of(name, path))


def test_table_cut_in_the_middle_is_reported(written: Written) -> None:
    path = written(*[{"messages": TALK}] * 4000)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes(2000) + whole[2100:])
    with pytest.raises(DamagedArtefact, match="cannot be read to its end"):
        list(read_conversations_of("smoltalk", path))
