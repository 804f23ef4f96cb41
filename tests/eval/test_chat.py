"""Scores of the chat tasks, given by a model that has learned some answers by heart."""

from pathlib import Path

import pytest
import torch

from nanochat.data.chat_format import render
from nanochat.data.skills import LETTERS, TASKS, Entry, Item, Material
from nanochat.data.task_files import write_items
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput, MissingArtefact
from nanochat.eval.chat import TRANSCRIPT_QUESTIONS, evaluate_chat
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

CONTEXT = 192
ITEMS = 3
WORDS = ["apple", "banana", "cherry", "orange", "lemon", "melon", "papaya", "quince"]


@pytest.fixture(scope="module")
def items() -> dict[str, list[Item]]:
    """A few items of every task."""
    entries = [Entry(f"get_{word}", f"Get a fresh {word}.") for word in WORDS]
    material = Material(WORDS, entries, entries)
    return {name: task.items(material, ITEMS, 1, held_out=False) for name, task in TASKS.items()}


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
        write_items(path, items[name], TASKS[name].kind)
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
    assert [task["name"] for task in record["tasks"]] == list(TASKS)
    for task in record["tasks"]:
        assert (task["accuracy"], task["centered"], task["items"]) == (1.0, 1.0, ITEMS), task
        assert task["kind"] == TASKS[task["name"]].kind
        assert 0 < task["chance"] == TASKS[task["name"]].chance(items[task["name"]]) < 1
    assert record["chatcore"] == {"value": 1.0, "tasks": list(TASKS)}


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
    assert (task["items"], task["accuracy"]) == (2, 0.0)


def test_categorical_answer_is_one_of_the_letters_whatever_the_model_would_write(
    items: dict[str, list[Item]], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = GPTConfig.from_depth(1, tiny_tokenizer.vocab_size, CONTEXT, 32, head_dim=32)
    untrained = GPT(config, torch.float32)
    untrained.init_weights(seed=2)
    files = written(tmp_path, {"documentation": items["documentation"]})
    [task] = evaluate_chat(untrained, tiny_tokenizer, files, 9, 8, "base")["tasks"]
    assert {example["answer"] for example in task["examples"]} <= set(LETTERS)


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
