"""The generated chat tasks: questions with known answers, for training and, held out, for scoring.

    material = Material(words=..., entries=..., held_out_entries=...)
    items = TASKS["spelling"].items(material, count=1000, seed=1, held_out=False)

| task          | question                                | answer                          |
|---------------|-----------------------------------------|---------------------------------|
| spelling      | Spell the word cat.                     | c a t                           |
| first_letter  | Which letter does cat start with?       | c                               |
| counting      | How many t are in 'cat'?                | 'cat'.count('t') -> 1, then: 1  |
| arithmetic    | What is 23 * 47?                        | 23*47 -> 1081, then: 1081       |
| documentation | Find the name for ... (of four choices) | B                               |

Documentation is categorical (the likeliest of the letters counts), the others are generative.
Training and held-out items never share a word (the word tasks), a pair of operands (arithmetic) or
a document (documentation: held-out ones come from the validation shard). What the model says of
itself is in data/identity.py, the downloaded tasks are in data/tables.py.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_lowercase
from typing import Literal

from nanochat.data.chat_format import Conversation, Part

LETTERS = "ABCDE"
CHOICES = 4  # of a documentation question; ARC has some with five
HELD_OUT_SHARE = 5  # one word or pair of operands in five is never trained on
ATTEMPTS = 20  # draws per wanted item before a task's supply counts as exhausted

SPELLING = (
    "Spell the word {word}.",
    "Spell {word}",
    "How do you spell {word}?",
    "Please spell {word} letter by letter.",
    "What are the letters of {word}?",
)
FIRST_LETTER = (
    "What is the first letter of {word}?",
    "Which letter does {word} start with?",
    "Give me the first letter of {word}.",
    "What letter does {word} begin with?",
)
COUNTING = (
    "How many {letter} are in '{word}'?",
    "How often does {letter} occur in '{word}'?",
    "Count the letter {letter} in '{word}'.",
    "How many times is {letter} in '{word}'?",
)
ARITHMETIC = (
    "What is {a} {sign} {b}?",
    "{a} {sign} {b} = ?",
    "Calculate {a} {sign} {b}",
    "How much is {a} {name} {b}?",
    "Please compute {a} {name} {b}.",
)
SIGNS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
DOCUMENTATION = (
    "Which of these is described as: {summary}",
    "What is it that the documentation describes so: {summary}",
    "Find the name for this description: {summary}",
)


@dataclass(frozen=True)
class Item:
    """One question with its answer. `choices` are a categorical item's, in the order of LETTERS."""

    question: str
    expected: str
    conversation: Conversation
    choices: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    """Where given, an answer is right that contains each of them, in any case."""
    checks: str = ""
    """Python that fails after a wrong program (humaneval); not kept in files of items."""


@dataclass(frozen=True)
class Entry:
    """A documented thing: its name and the first line said about it."""

    name: str
    summary: str


@dataclass(frozen=True)
class Material:
    """What the questions are made of. The held-out entries come from the validation shard."""

    words: Sequence[str]
    entries: Sequence[Entry]
    held_out_entries: Sequence[Entry]


Draw = Callable[[Material, Random, bool], Item | None]


@dataclass(frozen=True)
class Task:
    """A task: its name, how it is scored, how one item of it is drawn, and from what material."""

    name: str
    kind: Literal["generative", "categorical"]
    draw: Draw
    made_of: Literal["words", "entries"] | None

    def items(self, material: Material, count: int, seed: int, held_out: bool) -> list[Item]:
        """Up to `count` items with different questions, fewer where there are no more.

        The same arguments give the same items; `held_out` chooses which side they come from.
        """
        rng = Random(f"{self.name} {held_out} {seed}")
        found: dict[str, Item] = {}
        for _ in range(ATTEMPTS * count):
            item = self.draw(material, rng, held_out)
            if item is not None:
                found.setdefault(item.question, item)
            if len(found) == count:
                break
        return list(found.values())

    def chance(self, items: Sequence[Item]) -> float:
        """Share of `items` that a player right by luck alone gets, in [0, 1]."""
        return (chance_of_choosing if self.kind == "categorical" else chance_of_writing)(items)


def chance_of_choosing(items: Sequence[Item]) -> float:
    """What a random choice gets: the mean of 1 / choices."""
    return sum(1 / len(item.choices) for item in items) / len(items)


def chance_of_writing(items: Sequence[Item]) -> float:
    """What the best constant answer gets, among those that some item expects; 0 of no items."""
    if not items:
        return 0.0
    alike = Counter((_plain(item.expected), item.keys) for item in items)
    if not any(keys for _, keys in alike):
        return max(alike.values()) / len(items)
    return max(
        sum(is_correct(answer, item) for item in items) for answer in {text for text, _ in alike}
    ) / len(items)


def is_held_out(key: str) -> bool:
    """Which side of the partition `key` (a word, a pair of operands) is on, for ever."""
    digest = hashlib.sha256(key.encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def is_correct(answer: str, item: Item) -> bool:
    """Whether `answer` contains the item's keys, or, where there are none, is the expected text;
    both but for case and spaces, the second but for a final full stop."""
    if item.keys:
        return all(_plain(key) in _plain(answer) for key in item.keys)
    return _plain(answer) == _plain(item.expected)


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """The question with its choices, each followed by its letter.

    The letter comes last and without a space before it, so that it is the very token that the
    answer is: a small model need not learn that " A" and "A" are the same.
    """
    lines = [f"- {choice}={letter}" for choice, letter in zip(choices, LETTERS, strict=False)]
    return "\n".join([question, *lines, "Answer with the letter only."])


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".")


def _item(
    question: str, answer: str | list[Part], expected: str, choices: tuple[str, ...] = ()
) -> Item:
    user = {"role": "user", "content": question}
    assistant = {"role": "assistant", "content": answer}
    return Item(question, expected, {"messages": [user, assistant]}, choices)


def _through_calculator(expression: str, result: str) -> list[Part]:
    return [
        {"type": "python", "text": expression},
        {"type": "python_output", "text": result},
        {"type": "text", "text": result},
    ]


def _word(material: Material, rng: Random, held_out: bool) -> str | None:
    word = rng.choice(material.words)
    return word if is_held_out(word) == held_out else None


def _spelling(material: Material, rng: Random, held_out: bool) -> Item | None:
    if (word := _word(material, rng, held_out)) is None:
        return None
    letters = " ".join(word)
    return _item(rng.choice(SPELLING).format(word=word), letters, letters)


def _first_letter(material: Material, rng: Random, held_out: bool) -> Item | None:
    if (word := _word(material, rng, held_out)) is None:
        return None
    return _item(rng.choice(FIRST_LETTER).format(word=word), word[0], word[0])


def _counting(material: Material, rng: Random, held_out: bool) -> Item | None:
    wanted = rng.randrange(4)  # each number is as likely, so that always saying "1" gains little
    words = [word for word in rng.choices(material.words, k=40) if is_held_out(word) == held_out]
    fitting = [(w, x) for w in words for x in ascii_lowercase if w.count(x) == wanted]
    if not fitting:
        return None
    word, letter = rng.choice(fitting)
    answer = _through_calculator(f"'{word}'.count('{letter}')", str(wanted))
    question = rng.choice(COUNTING).format(word=word, letter=letter)
    return _item(question, answer, str(wanted))


def _arithmetic(_: Material, rng: Random, held_out: bool) -> Item | None:
    sign = rng.choice("+-*/")
    largest = rng.choice((99, 99, 999)) if sign in "+-" else 99
    a, b = rng.randint(0, largest), rng.randint(1, largest)
    if sign == "/":
        a *= b
    if is_held_out(f"{min(a, b)} {sign} {max(a, b)}") != held_out:
        return None
    result = str({"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign])
    question = rng.choice(ARITHMETIC).format(a=a, b=b, sign=sign, name=SIGNS[sign])
    return _item(question, _through_calculator(f"{a}{sign}{b}", result), result)


def _documentation(material: Material, rng: Random, held_out: bool) -> Item | None:
    entries = material.held_out_entries if held_out else material.entries
    if len(entries) < CHOICES:
        return None
    right, *others = rng.sample(entries, CHOICES)
    names = [right.name, *(other.name for other in others)]
    if len(set(names)) < len(names):
        return None
    rng.shuffle(names)
    letter = LETTERS[names.index(right.name)]
    question = rng.choice(DOCUMENTATION).format(summary=right.summary)
    return _item(multiple_choice(question, names), letter, letter, choices=tuple(names))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("spelling", "generative", _spelling, "words"),
        Task("first_letter", "generative", _first_letter, "words"),
        Task("counting", "generative", _counting, "words"),
        Task("arithmetic", "generative", _arithmetic, None),
        Task("documentation", "categorical", _documentation, "entries"),
    )
}
