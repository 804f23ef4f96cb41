"""Mixtures of conversations as packed rows, and a user's own conversations."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from nanochat.data.chat_format import render
from nanochat.data.conversations import Part, build_chat_rows, read_conversations
from nanochat.data.rows import open_rows, padding_id
from nanochat.data.skills import TASKS, Material
from nanochat.data.task_files import load_items, write_items
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput, MissingArtefact
from nanochat.files import sha256_of

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


@pytest.fixture
def arithmetic(tmp_path: Path) -> Path:
    """A task file of forty conversations with the calculator."""
    items = TASKS["arithmetic"].items(Material([], [], []), 40, 1, held_out=False)
    write_items(tmp_path / "arithmetic" / "train.parquet", items, "generative")
    return tmp_path / "arithmetic" / "train.parquet"


def items(path: Path, limit: int | None = None) -> Part:
    return Part("arithmetic", path, limit, "items")


def own_part(path: Path, limit: int | None = None) -> Part:
    return Part("own", path, limit, "conversations")


def build(
    parts: list[Part], tokenizer: Tokenizer, folder: Path, **changes: Any
) -> tuple[dict[str, Any], Any]:
    settings = {"sequence_len": 128, "name": "sft", "seed": 1, "all_tokens": False, **changes}
    record = build_chat_rows(parts, tokenizer, output_dir=folder, **settings)
    return record, open_rows(folder / f"{settings['name']}.npy")


def jsonl(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_rows_hold_every_exchange_once(
    arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    record, packed = build([items(arithmetic)], tiny_tokenizer, tmp_path)
    used = packed.ids_NC[packed.ids_NC != padding_id(packed.ids_NC.dtype)].tolist()
    text = tiny_tokenizer.decode(used)
    for item in load_items(arithmetic):
        ids, _ = render(item.conversation, tiny_tokenizer)
        assert text.count(tiny_tokenizer.decode(ids[1:])) == 1
    assert text.count("<|user_start|>") == 40
    assert text.count("<|bos|>") == record["conversations"] < 40
    assert record["tokens"] == len(used)
    assert record["truncated"] == record["dropped"] == 0


def test_sft_learns_what_the_assistant_says(
    arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    record, packed = build([items(arithmetic)], tiny_tokenizer, tmp_path)
    masks = [render(item.conversation, tiny_tokenizer)[1] for item in load_items(arithmetic)]
    assert packed.masks_NC is not None
    assert packed.masks_NC.sum() == sum(map(sum, masks)) == record["supervised_tokens"]
    learned = set(packed.ids_NC[packed.masks_NC == 1].tolist())
    assert tiny_tokenizer.special("<|python_start|>") in learned
    assert tiny_tokenizer.special("<|output_start|>") not in learned


def test_all_tokens_learns_everything_but_padding(
    arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    _, packed = build([items(arithmetic)], tiny_tokenizer, tmp_path, all_tokens=True)
    is_token = packed.ids_NC != padding_id(packed.ids_NC.dtype)
    assert np.array_equal(packed.masks_NC == 1, is_token)


def test_same_seed_gives_the_same_bytes(
    arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        build([items(arithmetic)], tiny_tokenizer, tmp_path, name=name, seed=seed)
    one, two, other = ((tmp_path / f"{n}.npy").read_bytes() for n in ("one", "two", "other"))
    assert one == two != other


def test_limit_takes_the_first_items_of_a_source(
    arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    _, packed = build([items(arithmetic, 3)], tiny_tokenizer, tmp_path)
    assert (packed.ids_NC == tiny_tokenizer.special("<|user_start|>")).sum() == 3


def test_long_conversation_is_cut_and_counted(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tail = [{"role": "user", "content": "and?"}, {"role": "assistant", "content": "x" * 500}]
    own = jsonl(tmp_path / "own.jsonl", {"messages": HELLO + tail})
    record, packed = build([own_part(own)], tiny_tokenizer, tmp_path, sequence_len=64)
    assert record["truncated"] == 1 and record["dropped"] == 0
    expected, _ = render({"messages": HELLO + tail}, tiny_tokenizer, max_tokens=65)
    assert packed.ids_NC.tolist() == [expected]


def test_conversation_that_loses_its_answers_is_left_out(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    long = [{"role": "user", "content": "x" * 500}, {"role": "assistant", "content": "y"}]
    own = jsonl(tmp_path / "own.jsonl", HELLO, long)
    record, _ = build([own_part(own)], tiny_tokenizer, tmp_path, sequence_len=64)
    assert record["conversations"] == 1 and record["dropped"] == 1
    only_long = jsonl(tmp_path / "long.jsonl", long)
    with pytest.raises(BadInput, match="no conversation of the mixture 'sft'"):
        build([own_part(only_long)], tiny_tokenizer, tmp_path, sequence_len=64)


def test_own_conversations_are_read_in_both_forms(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "own.jsonl", {"messages": HELLO, "source": "me"}, "", HELLO)
    assert read_conversations(file) == [{"messages": HELLO}] * 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{not json", "line 2 is not JSON"),
        ('"text"', "line 2: a conversation must be"),
        ({"text": "x"}, "line 2: a conversation must be"),
        ([{"role": "user"}], 'line 2: message 1 .* "content"'),
        (HELLO[:1], "line 2: .* ends without the assistant's answer"),
        ([*HELLO, HELLO[1]], "line 2: message 3 .* from 'assistant'"),
    ],
)
def test_malformed_line_is_named_with_its_number(line: Any, sentence: str, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "own.jsonl", HELLO, line)
    with pytest.raises(BadInput, match=sentence) as caught:
        read_conversations(file)
    assert "own.jsonl" in str(caught.value)


def test_missing_empty_and_binary_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="no conversations at"):
        read_conversations(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="holds no conversations"):
        read_conversations(jsonl(tmp_path / "empty.jsonl", ""))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_conversations(tmp_path / "binary.jsonl")


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    """A table of a hundred questions, sorted by subject as the real one is."""
    rows = [
        {"question": f"Is it {i}?", "choices": list("stuv"), "answer": i % 4} for i in range(100)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "mmlu.parquet")
    return tmp_path / "mmlu.parquet"


def questions_in(packed: Any, tokenizer: Tokenizer) -> list[int]:
    used = packed.ids_NC[packed.ids_NC != padding_id(packed.ids_NC.dtype)].tolist()
    return [int(number) for number in re.findall(r"Is it (\d+)\?", tokenizer.decode(used))]


def test_limited_table_gives_a_sample_that_depends_on_the_seed(
    mmlu: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    part = Part("mmlu", mmlu, 20, "table")
    asked = [
        questions_in(build([part], tiny_tokenizer, tmp_path, seed=seed)[1], tiny_tokenizer)
        for seed in (1, 1, 2)
    ]
    assert asked[0] == asked[1] != asked[2]
    assert len(set(asked[0])) == 20
    assert 4 < sum(number >= 50 for number in asked[0]) < 16


def test_conversations_of_a_table_are_not_joined(
    mmlu: Path, arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    parts = [items(arithmetic), Part("mmlu", mmlu, None, "table")]
    record, packed = build(parts, tiny_tokenizer, tmp_path)
    assert sorted(questions_in(packed, tiny_tokenizer)) == list(range(100))
    assert 100 < record["conversations"] < 140
    used = packed.ids_NC[packed.ids_NC != padding_id(packed.ids_NC.dtype)].tolist()
    for conversation in tiny_tokenizer.decode(used).split("<|bos|>"):
        assert "Is it" not in conversation or conversation.count("<|user_start|>") == 1


def test_record_counts_every_part(
    mmlu: Path, arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    talk = pyarrow.Table.from_pylist([{"messages": HELLO}, {"messages": HELLO[1:]}])
    pyarrow.parquet.write_table(talk, tmp_path / "smoltalk.parquet")
    own = jsonl(tmp_path / "own.jsonl", HELLO, HELLO, HELLO)
    parts = [
        items(arithmetic, 10),
        Part("mmlu", mmlu, 5, "table"),
        Part("smoltalk", tmp_path / "smoltalk.parquet", None, "table"),
        own_part(own, 2),
    ]
    record, _ = build(parts, tiny_tokenizer, tmp_path)
    counted = {
        fact["name"]: (fact["conversations"], fact["unusable"]) for fact in record["sources"]
    }
    assert counted == {"arithmetic": (10, 0), "mmlu": (5, 0), "smoltalk": (1, 1), "own": (2, 0)}
    hello = len(render({"messages": HELLO}, tiny_tokenizer)[0])
    tokens = [fact["tokens"] for fact in record["sources"]]
    assert tokens[2:] == [hello, 2 * hello]
    joined = 10 - (record["conversations"] - 8)  # each has lost a bos
    assert record["tokens"] == sum(tokens) - joined
    assert record["sources"][3]["sha256"] == sha256_of(own)


def test_number_of_threads_changes_no_byte(
    mmlu: Path, arithmetic: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    parts = [items(arithmetic), Part("mmlu", mmlu, 90, "table")]
    for name, threads in (("one", 1), ("four", 4)):
        build(parts, tiny_tokenizer, tmp_path, name=name, threads=threads)
    for suffix in (".npy", ".mask.npy", ".json"):
        one, four = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "four"))
        assert one == four
