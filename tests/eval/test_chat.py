"""Scores of the chat tasks, given by a model that has learned some answers by heart."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from nanochat.data.chat_format import Conversation, render
from nanochat.data.skills import LETTERS, TASKS, Entry, Item, Material
from nanochat.data.tables import read_scored_items
from nanochat.data.task_files import write_items
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput, MissingArtefact
from nanochat.eval.chat import TRANSCRIPT_QUESTIONS, evaluate_chat
from nanochat.eval.scoring import SCORED, held_out_items, scoring_of
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.registry import TABLES

CONTEXT = 192
ITEMS = 3
TABLE_ROWS: dict[str, list[dict[str, Any]]] = {
    "mmlu": [
        {"question": f"{n} + 1?", "choices": ["1", "2", "3", "4"], "answer": n}
        for n in range(ITEMS)
    ],
    "arc_easy": [
        {
            "question": f"Which is {word}?",
            "choices": {
                "text": [*others, word],
                "label": ["1", "2", "3", "4", "5"][: len(others) + 1],
            },
            "answerKey": str(len(others) + 1),
        }
        for word, others in (("a", ["b", "c", "d", "e"]), ("x", ["y", "z"]), ("u", ["v", "w", "t"]))
    ],
    "gsm8k": [
        {
            "question": f"Twice {n}000?",
            "answer": f"<<2*{n}000={2 * n}000>>{2 * n}000\n#### {2 * n},000",
        }
        for n in (1, 2, 3)
    ],
    "humaneval": [
        {
            "prompt": f'def add_{n}(x):\n    """+{n}"""\n',
            "canonical_solution": f"    return x + {n}\n",
            "test": f"def check(f):\n    assert f(1) == {n + 1}\n",
            "entry_point": f"add_{n}",
        }
        for n in (1, 2, 3)
    ],
}
CHANCE = {"mmlu": 1 / 4, "arc_easy": (1 / 5 + 1 / 3 + 1 / 4) / 3, "gsm8k": 0, "humaneval": 0}
IDENTITY_ANSWERS = ("I am Bo.", "Ada made me.", "I read old books.")
WORDS = ["apple", "banana", "cherry", "orange", "lemon", "melon", "papaya", "quince"]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Item]]:
    """A few items of every task, some of them as they come out of the tables' files."""
    entries = [Entry(f"get_{word}", f"Get a fresh {word}.") for word in WORDS]
    material = Material(WORDS, entries, entries)
    made = {name: task.items(material, ITEMS, 1, held_out=False) for name, task in TASKS.items()}
    made["identity"] = [
        Item(
            f"Who are you? {n}",
            answer,
            exchange(f"Who are you? {n}", answer),
            keys=(answer[-5:-1],),
        )
        for n, answer in enumerate(IDENTITY_ANSWERS)
    ]
    folder = tmp_path_factory.mktemp("tables")
    for name, rows in TABLE_ROWS.items():
        made[name] = read_scored_items(name, written_table(folder / f"{name}.parquet", rows))
    return made


def exchange(question: str, answer: str) -> Conversation:
    user = {"role": "user", "content": question}
    return {"messages": [user, {"role": "assistant", "content": answer}]}


def written_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def model(items: dict[str, list[Item]], tiny_tokenizer: Tokenizer) -> GPT:
    """A tiny model trained on these items until it knows them by heart."""
    config = GPTConfig.from_depth(2, tiny_tokenizer.vocab_size, CONTEXT, 32, head_dim=32)
    model = GPT(config, torch.float32)
    model.init_weights(seed=1)
    rendered = [
        render(each.conversation, tiny_tokenizer) for task in items.values() for each in task
    ]
    longest = max(len(ids) for ids, _ in rendered)
    rows_NC = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rendered])
    masks_NC = torch.tensor([mask + [0] * (longest - len(mask)) for _, mask in rendered])
    targets_NC = rows_NC.masked_fill(masks_NC == 0, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for _ in range(60):
        loss = model.loss_sum(rows_NC[:, :-1], targets_NC[:, 1:]) / masks_NC.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    return model


def written(folder: Path, items: dict[str, list[Item]]) -> dict[str, Path]:
    paths = {name: folder / name / "test.parquet" for name in items}
    for name, path in paths.items():
        if name in TABLE_ROWS:
            written_table(path, TABLE_ROWS[name])
        else:
            write_items(path, items[name], scoring_of(name).kind)
    return paths


def wrong_twice(items: list[Item]) -> list[Item]:
    """The items with two expectations that the model can't meet."""
    wrong = [Item(i.question, "never", i.conversation, i.choices) for i in items[:2]]
    return wrong + items[2:]


def test_model_that_knows_the_answers_scores_one(
    model: GPT, items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    files = written(tmp_path, items)
    record = evaluate_chat(model, tiny_tokenizer, files, 100, batch_rows=4, stage="sft")
    assert record["stage"] == "sft"
    assert [task["name"] for task in record["tasks"]] == list(items)
    for task in record["tasks"]:
        name = task["name"]
        assert (task["accuracy"], task["centered"], task["items"]) == (1.0, 1.0, ITEMS), task
        assert task["kind"] == (TABLES[name].kind if name in TABLES else scoring_of(name).kind)
        if name in TASKS:
            assert 0 < task["chance"] == TASKS[name].chance(items[name]) < 1
    chances = {task["name"]: task["chance"] for task in record["tasks"]}
    assert chances["identity"] == pytest.approx(1 / 3)
    assert {name: chances[name] for name in TABLE_ROWS} == pytest.approx(CHANCE)
    assert record["chatcore"] == {"value": 1.0, "tasks": list(items)}


def test_wrong_answers_lower_the_score_and_are_shown(
    model: GPT, items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    chosen = {name: wrong_twice(items[name]) for name in ("arithmetic", "documentation")}
    record = evaluate_chat(model, tiny_tokenizer, written(tmp_path, chosen), 100, 3, "mid")
    arithmetic, documentation = record["tasks"]
    assert arithmetic["accuracy"] == documentation["accuracy"] == 1 / 3
    assert documentation["centered"] == pytest.approx((1 / 3 - 1 / 4) / (3 / 4))
    centred = (arithmetic["centered"] + documentation["centered"]) / 2
    assert record["chatcore"]["value"] == pytest.approx(centred)
    wrong = [example for example in arithmetic["examples"] if not example["correct"]]
    assert [example["question"] for example in wrong] == [
        i.question for i in items["arithmetic"][:2]
    ]
    assert wrong[0]["expected"] == "never"
    assert wrong[0]["answer"] == items["arithmetic"][0].expected


def test_batch_size_changes_no_score(
    items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = GPTConfig.from_depth(1, tiny_tokenizer.vocab_size, CONTEXT, 32, head_dim=32)
    untrained = GPT(config, torch.float32)
    untrained.init_weights(seed=2)
    files = written(tmp_path, {name: items[name] for name in ("documentation", "identity")})
    one, four = (evaluate_chat(untrained, tiny_tokenizer, files, 9, n, "base") for n in (1, 4))
    assert one == four


def test_task_whose_items_share_one_answer_says_nothing(
    model: GPT, items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    files = written(tmp_path, {"spelling": items["spelling"][:1]})
    [task] = evaluate_chat(model, tiny_tokenizer, files, 9, 8, "sft")["tasks"]
    assert (task["accuracy"], task["chance"], task["centered"]) == (1.0, 1.0, 0.0)


def test_max_items_limits_what_is_asked(
    model: GPT, items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    files = written(tmp_path, {"spelling": wrong_twice(items["spelling"])})
    [task] = evaluate_chat(model, tiny_tokenizer, files, 2, 8, "sft")["tasks"]
    assert task["items"] == 2 and task["accuracy"] < 1
    assert len({example["question"] for example in task["examples"]}) == 2


def test_wrong_programs_and_numbers_are_wrong_whatever_else_is_right(
    model: GPT, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    files = {
        "humaneval": [
            {**row, "test": "def check(f):\n    assert f(1) == 0\n"}
            for row in TABLE_ROWS["humaneval"]
        ],
        "gsm8k": [{**row, "answer": row["answer"] + "1"} for row in TABLE_ROWS["gsm8k"]],
    }
    paths = {
        name: written_table(tmp_path / f"{name}.parquet", rows) for name, rows in files.items()
    }
    record = evaluate_chat(model, tiny_tokenizer, paths, 9, 8, "sft")
    assert [task["accuracy"] for task in record["tasks"]] == [0, 0]
    assert record["chatcore"]["value"] == 0
    assert record["tasks"][0]["examples"][0]["answer"] == (
        'def add_1(x):\n    """+1"""\n    return x + 1\n'
    )


def test_categorical_answer_is_one_of_the_letters_whatever_the_model_would_write(
    items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = GPTConfig.from_depth(1, tiny_tokenizer.vocab_size, CONTEXT, 32, head_dim=32)
    untrained = GPT(config, torch.float32)
    untrained.init_weights(seed=2)
    files = written(tmp_path, {"documentation": items["documentation"]})
    [task] = evaluate_chat(untrained, tiny_tokenizer, files, 9, 8, "base")["tasks"]
    assert {example["answer"] for example in task["examples"]} <= set(LETTERS)


def test_answer_is_never_a_letter_that_names_no_choice(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    row = {"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"}
    files = {"arc_easy": written_table(tmp_path / "arc.parquet", [row])}
    config = GPTConfig.from_depth(1, tiny_tokenizer.vocab_size, CONTEXT, 32, head_dim=32)
    for seed in range(6):
        untrained = GPT(config, torch.float32)
        untrained.init_weights(seed)
        [task] = evaluate_chat(untrained, tiny_tokenizer, files, 9, 8, "base")["tasks"]
        assert task["examples"][0]["answer"] in ("A", "B")


def test_questions_longer_than_the_context_are_scored_all_the_same(
    items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = GPTConfig.from_depth(1, tiny_tokenizer.vocab_size, 64, 32, head_dim=32)
    short = GPT(config, torch.float32)
    short.init_weights(seed=2)
    files = written(tmp_path, {"documentation": items["documentation"]})
    record = evaluate_chat(short, tiny_tokenizer, files, 9, 8, "base")
    assert record["tasks"][0]["items"] == ITEMS
    assert len(record["transcript"]) == 2 * len(TRANSCRIPT_QUESTIONS)


def test_transcript_is_one_conversation_over_the_fixed_questions(
    model: GPT, items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    files = written(tmp_path, {"spelling": items["spelling"]})
    said = evaluate_chat(model, tiny_tokenizer, files, 1, 8, "sft")["transcript"]
    assert tuple(m["content"] for m in said if m["role"] == "user") == TRANSCRIPT_QUESTIONS
    assert [m["role"] for m in said] == ["user", "assistant"] * len(TRANSCRIPT_QUESTIONS)


def test_missing_file_and_unknown_task_are_refused(
    model: GPT, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(MissingArtefact, match="no task file"):
        evaluate_chat(model, tiny_tokenizer, {"spelling": tmp_path / "x"}, 1, 8, "sft")
    with pytest.raises(BadInput, match="no task 'singing'"):
        evaluate_chat(model, tiny_tokenizer, {"singing": tmp_path / "x"}, 1, 8, "sft")
    with pytest.raises(BadInput, match="no chat tasks to score"):
        evaluate_chat(model, tiny_tokenizer, {}, 1, 8, "sft")


def test_every_table_with_a_test_split_is_scored_as_the_registry_says() -> None:
    for name, table in TABLES.items():
        assert (name in SCORED) == ("test" in table.splits)
        if name in SCORED:
            assert scoring_of(name).kind == table.kind


def test_sample_of_a_sorted_table_is_of_all_its_subjects_and_always_the_same(
    tmp_path: Path,
) -> None:
    rows = [
        {"question": f"{n}?", "choices": ["a", "b", "c", "d"], "answer": n // 50}
        for n in range(200)
    ]
    path = written_table(tmp_path / "mmlu.parquet", rows)
    sample = held_out_items("mmlu", path, 40)
    assert sample == held_out_items("mmlu", path, 40)
    assert len({item.question for item in sample}) == 40
    assert {item.expected for item in sample} == set("ABCD")
    assert len(held_out_items("mmlu", path, 200)) == len(held_out_items("mmlu", path, 999)) == 200


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("so 9*2 = 18\n#### 1,018", True),
        ("#### 1018.", True),
        ("####1018 dollars", True),
        ("#### 1018\n#### 5", True),
        ("#### 10181", False),
        ("1018", False),
        ("#### -1018", False),
        ("####", False),
        ("", False),
    ],
)
def test_number_after_the_hashes_is_the_answer(answer: str, right: bool) -> None:
    item = Item("?", "1018", {"messages": []})
    assert scoring_of("gsm8k").judge(answer, item) is right
