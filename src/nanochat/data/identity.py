"""Conversations about who the model is, made from the config's persona.

    conversations = identity_conversations(persona, count=1000, seed=42)
    items = held_out_items(persona, count=200, seed=42)
    write_identity(persona, folder, train=1000, test=200, seed=42)

Drawn from hand-made phrasings: questions that are asked outright, false assumptions, other
languages, small talk around them, one to three exchanges. Every phrasing comes once before any
comes again, so that the beginning of the list is like the whole of it. Held-out items have
phrasings that are never trained on, as many of each topic.

Writes <folder>/train.jsonl, a conversation a line, and <folder>/test.parquet (see task_files.py).
The same arguments give the same bytes.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

from nanochat.data.chat_format import Conversation
from nanochat.data.persona import Asked, Fact, Persona
from nanochat.data.persona_facts import facts_about
from nanochat.data.persona_talk import (
    FOLLOWING,
    GREETINGS,
    HABITS,
    MEETING,
    OPENINGS,
    PEOPLE,
    THANKS,
    Habit,
    dressed,
    typed,
)
from nanochat.data.skills import Item, chance_of_writing
from nanochat.data.task_files import write_items
from nanochat.files import sha256_of, write_text

Step = Literal["plain", "follow_up", "assumed", "abroad", "greeting", "thanks"]
SHAPES: tuple[tuple[Step, ...], ...] = (
    ("plain",), ("plain",), ("plain",), ("plain",), ("plain",), ("plain",), ("plain",), ("plain",),
    ("plain",), ("assumed",), ("assumed",),
    ("abroad",),
    ("greeting",),
    ("thanks",),
    ("plain", "plain"),
    ("plain", "follow_up"),
    ("assumed", "plain"),
    ("greeting", "plain"),
    ("plain", "thanks"),
    ("plain", "plain", "plain"),
    ("greeting", "plain", "thanks"),
)  # fmt: skip
"""Conversations as what the user says in each exchange, each as often as it stands here."""

HELD_OUT_HABITS: tuple[Habit, ...] = ("careful", "careful", "lower", "bare")
OPENED_SHARE = 0.4  # first questions with words before them
ASSUMED_SHARE = 0.1  # held-out questions that take something for granted
ATTEMPTS = 20  # draws for a new conversation or question before the supply counts as exhausted

T = TypeVar("T")


@dataclass(frozen=True)
class _Card:
    """One way to say something, and what may be answered."""

    question: str
    answers: tuple[str, ...]
    keys: tuple[str, ...] = ()


def identity_conversations(persona: Persona, count: int, seed: int) -> list[Conversation]:
    """`count` different conversations, fewer where no more can be made."""
    return list(
        islice(_different(_Writer(persona, Random(f"identity {seed}")).conversations()), count)
    )


def held_out_items(persona: Persona, count: int, seed: int) -> list[Item]:
    """Up to `count` different questions in phrasings that are never trained on, in turn of each
    topic. An answer with the fact's keys in it is right."""
    rng = Random(f"identity held out {seed}")
    decks = {
        topic: (_deck(plain, rng), _deck(assumed, rng))
        for topic, (plain, assumed) in _held_out_cards(persona).items()
    }
    found: dict[str, Item] = {}
    for topic, _ in zip(cycle(decks), range(count), strict=False):
        for _ in range(ATTEMPTS):
            plain, assumed = decks[topic]
            item = _held_out_item(next(assumed if rng.random() < ASSUMED_SHARE else plain), rng)
            if item.question not in found:
                found[item.question] = item
                break
    return list(found.values())


def write_identity(
    persona: Persona, folder: Path, train: int, test: int, seed: int
) -> dict[str, Any]:
    """Writes conversations and held-out items; returns how many, and the items' chance level."""
    conversations = identity_conversations(persona, train, seed)
    items = held_out_items(persona, test, seed)
    lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in conversations]
    write_text(folder / "train.jsonl", "".join(lines))
    write_items(folder / "test.parquet", items, "generative")
    return {
        "train_items": len(conversations),
        "test_items": len(items),
        "chance": chance_of_writing(items),
        "sha256": {name: sha256_of(folder / name) for name in ("train.jsonl", "test.parquet")},
    }


class _Writer:
    """Writes conversations from decks of phrasings."""

    def __init__(self, persona: Persona, rng: Random) -> None:
        self.rng = rng
        self.facts = facts_about(persona)
        self.shapes = _deck(SHAPES, rng)
        self.habits = _deck(HABITS, rng)
        meeting = persona.fill_each(MEETING, PEOPLE)
        self.talk = {
            "greeting": _deck(_cards(GREETINGS) * 6 + _cards(meeting), rng),
            "thanks": _deck(_cards(THANKS), rng),
        }
        self.topics: dict[str, Iterator[str]] = {}
        self.cards: dict[tuple[str, str], Iterator[_Card]] = {}
        for step in ("plain", "follow_up", "assumed", "abroad"):
            cards = self._by_topic(step)
            self.topics[step] = _deck(list(cards), rng)
            for topic, some in cards.items():
                self.cards[step, topic] = _deck(some, rng)

    def conversations(self) -> Iterator[Conversation]:
        """One after the other, for ever; some come twice."""
        while True:
            yield self._conversation(next(self.shapes))

    def _conversation(self, shape: tuple[Step, ...]) -> Conversation:
        messages: list[dict[str, str]] = []
        told: set[str] = set()
        for step in shape:
            card = next(self.talk[step]) if step in self.talk else self._about(step, told)
            question = self._asked(card.question, step, first=not messages)
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": self.rng.choice(card.answers)})
        return {"messages": messages}

    def _about(self, step: Step, told: set[str]) -> _Card:
        """The next phrasing of a topic that the conversation has not had."""
        topic = next(topic for topic in self.topics[step] if topic not in told)
        told.add(topic)
        return next(self.cards[step, topic])

    def _asked(self, question: str, step: Step, first: bool) -> str:
        if step == "abroad":
            return dressed(question, "")
        opening = ""
        if step not in self.talk:
            if not first:
                opening = self.rng.choice(FOLLOWING)
            elif self.rng.random() < OPENED_SHARE:
                opening = self.rng.choice(OPENINGS)
        return typed(dressed(question, opening), next(self.habits), self.rng)

    def _by_topic(self, step: str) -> dict[str, list[_Card]]:
        """The phrasings of every topic that has some for `step`."""
        found: dict[str, list[_Card]] = {}
        for fact in self.facts:
            if cards := _cards(_ways(fact, step)):
                found.setdefault(fact.topic, []).extend(cards)
        return found


def _ways(fact: Fact, step: str) -> Sequence[Asked]:
    match step:
        case "plain":
            return fact.plain
        case "assumed":
            return fact.assumed
        case "abroad":
            return [Asked(fact.abroad, fact.plain[0].answers)]
    return [Asked(fact.follow_ups, fact.plain[0].answers)]


def _cards(ways: Iterable[Asked]) -> list[_Card]:
    return [_Card(question, asked.answers) for asked in ways for question in asked.trained]


def _held_out_cards(persona: Persona) -> dict[str, tuple[list[_Card], list[_Card]]]:
    """Of every topic what asks outright, and what takes something for granted."""
    found: dict[str, tuple[list[_Card], list[_Card]]] = {}
    for fact in facts_about(persona):
        both = found.setdefault(fact.topic, ([], []))
        for cards, ways in zip(both, (fact.plain, fact.assumed), strict=True):
            cards += [_Card(q, asked.answers, fact.keys) for asked in ways for q in asked.held_out]
    return {topic: (plain, assumed or plain) for topic, (plain, assumed) in found.items()}


def _held_out_item(card: _Card, rng: Random) -> Item:
    opening = rng.choice(OPENINGS) if rng.random() < OPENED_SHARE else ""
    question = typed(dressed(card.question, opening), rng.choice(HELD_OUT_HABITS), rng)
    expected = card.answers[0]
    user = {"role": "user", "content": question}
    assistant = {"role": "assistant", "content": expected}
    return Item(question, expected, {"messages": [user, assistant]}, keys=card.keys)


def _deck(cards: Sequence[T], rng: Random) -> Iterator[T]:
    """Cards without end: each comes once before any comes again."""
    while True:
        yield from rng.sample(cards, len(cards))


def _different(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """What has not come before, until ATTEMPTS in succession have."""
    seen: set[str] = set()
    failures = 0
    for conversation in conversations:
        text = json.dumps(conversation)
        failures = failures + 1 if text in seen else 0
        if failures == ATTEMPTS:
            return
        if not failures:
            seen.add(text)
            yield conversation
