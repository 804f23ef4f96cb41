"""Downloaded data sets of tasks: each row as a conversation to train on, or an item to score.

    for conversation in read_conversations_of("smoltalk", path): ...
    items = read_scored_items("gsm8k", path)

| table          | the user says             | the assistant says                       |
|----------------|---------------------------|------------------------------------------|
| smoltalk       | the messages of its conversations, as they are                       |
| mmlu, arc_*    | a question, its choices   | the letter of the right one              |
| gsm8k          | a question                | steps with the calculator, then `#### n` |
| humaneval      | the head of a function    | the whole function                       |

What is asked in scoring is, to the letter, what is trained on. Reads the parquet files of
registry.TABLES, a batch of rows at a time; writes nothing.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from nanochat.data.chat_format import Conversation, Part, user_and_assistant
from nanochat.data.skills import LETTERS, Item, multiple_choice
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.registry import TABLES

Row = Mapping[str, Any]

ROWS_AT_ONCE = 1024
CALCULATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
KNOWN_EXPRESSION = re.compile(r"(?!.*//)[\d\s.,+\-*/()]+")
"""What the model's calculator (model/calculator.py) can take."""
FINAL_NUMBER = re.compile(r"#### *(-?[\d.,]*\d)")
ODD_VALUES = (KeyError, ValueError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True)
class Reader:
    """How a row of a table becomes a conversation and, where the table is scored, an item.

    A row of another form raises one of ODD_VALUES, and BadInput where it is no conversation.
    """

    conversation: Callable[[Row], Conversation]
    item: Callable[[Row], Item] | None


def count_rows(name: str, path: Path) -> int:
    """Rows of a split, from its footer; raises as `read_conversations_of` does."""
    return int(_open(name, path).metadata.num_rows)


def read_conversations_of(
    name: str, path: Path, places: Collection[int] | None = None
) -> Iterator[Conversation]:
    """The rows of a table as conversations, in order; only those at `places`, if given.

    Rows that hold no conversation in the sense of data/chat_format.py are left out. Raises
    MissingArtefact where there is no file and DamagedArtefact where it is not that table.
    """
    reader = READERS[name]
    for place, row in _rows(name, path):
        if places is not None and place not in places:
            continue
        try:
            conversation = reader.conversation(row)
        except BadInput:
            continue
        except ODD_VALUES as exc:
            raise _foreign(name, path, f"row {place + 1} is of another form") from exc
        yield conversation


def read_scored_items(name: str, path: Path) -> list[Item]:
    """The rows of a table that is scored, in order; raises as `read_conversations_of` does."""
    to_item = READERS[name].item
    assert to_item is not None, f"{name} is not scored"
    items = []
    for place, row in _rows(name, path):
        try:
            items.append(to_item(row))
        except ODD_VALUES as exc:
            raise _foreign(name, path, f"row {place + 1} is of another form") from exc
    return items


def _rows(name: str, path: Path) -> Iterator[tuple[int, Row]]:
    columns = list(TABLES[name].columns)
    place = 0
    try:
        for batch in _open(name, path).iter_batches(ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                yield place, row
                place += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise _foreign(name, path, "it cannot be read to its end") from exc


def _open(name: str, path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no file {path} of the data set {name!r}: run `make run`") from exc
    except (pyarrow.ArrowException, OSError) as exc:
        raise _foreign(name, path, "it is not parquet") from exc
    absent = [column for column in TABLES[name].columns if column not in file.schema_arrow.names]
    if absent:
        raise _foreign(name, path, f"it has no column {absent[0]!r}")
    return file


def _foreign(name: str, path: Path, seen: str) -> DamagedArtefact:
    return DamagedArtefact(
        f"{path} does not hold the data set {name!r} ({seen}): run `nanochat data verify`"
    )


def final_number(answer: str) -> str | None:
    """The number after `####`, without commas: how an answer of gsm8k ends."""
    found = FINAL_NUMBER.search(answer)
    return found[1].replace(",", "") if found else None


def _smoltalk(row: Row) -> Conversation:
    conversation = {"messages": row["messages"]}
    user_and_assistant(conversation)
    return conversation


def _mmlu(row: Row) -> Item:
    return _choice(row["question"], row["choices"], row["answer"])


def _arc(row: Row) -> Item:
    """The right one is named by its label, which is a letter in some rows and a digit in others."""
    choices = row["choices"]
    return _choice(row["question"], choices["text"], choices["label"].index(row["answerKey"]))


def _choice(question: str, choices: list[str], right: int) -> Item:
    if not 0 <= right < len(choices) <= len(LETTERS):
        raise ValueError(f"choice {right} of {len(choices)}")
    asked, letter = multiple_choice(question, choices), LETTERS[right]
    return Item(asked, letter, _exchange(asked, letter), choices=tuple(choices))


def _gsm8k(row: Row) -> Item:
    question, answer = row["question"], row["answer"]
    if (number := final_number(answer)) is None:
        raise ValueError("an answer without its number")
    return Item(question, number, _exchange(question, _with_calculator(answer)))


def _with_calculator(answer: str) -> list[Part]:
    """The text of an answer with its `<<expression=result>>` as calls of the calculator.

    A result is written as the calculator writes it (144 for 144.00, 0.4 for .4). What it does not
    know is left out, since the text after it repeats the result.
    """
    parts: list[Part] = []
    end = 0
    for call in CALCULATION.finditer(answer):
        parts.append({"type": "text", "text": answer[end : call.start()]})
        expression, result = call[1], _as_calculated(call[2])
        if result is not None and KNOWN_EXPRESSION.fullmatch(expression):
            parts.append({"type": "python", "text": expression})
            parts.append({"type": "python_output", "text": result})
        end = call.end()
    parts.append({"type": "text", "text": answer[end:]})
    return [part for part in parts if part["text"]]


def _as_calculated(result: str) -> str | None:
    try:
        return f"{Decimal(result.replace(',', '')).normalize() + 0:f}"
    except InvalidOperation:
        return None


def _humaneval(row: Row) -> Item:
    prompt, solution = row["prompt"], row["canonical_solution"]
    checks = f"{row['test']}\n\ncheck({row['entry_point']})\n"
    return Item(prompt, solution, _exchange(prompt, prompt + solution), checks=checks)


def _exchange(question: str, answer: str | list[Part]) -> Conversation:
    user = {"role": "user", "content": question}
    return {"messages": [user, {"role": "assistant", "content": answer}]}


def _scored(to_item: Callable[[Row], Item]) -> Reader:
    return Reader(lambda row: to_item(row).conversation, to_item)


READERS = {
    "smoltalk": Reader(_smoltalk, None),
    "mmlu": _scored(_mmlu),
    "arc_easy": _scored(_arc),
    "arc_challenge": _scored(_arc),
    "gsm8k": _scored(_gsm8k),
    "humaneval": _scored(_humaneval),
}
"""Name in registry.TABLES -> reader."""
