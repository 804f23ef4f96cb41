"""Identity conversations: different, true to the persona, and scored on unseen phrasings."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from nanochat.data import identity
from nanochat.data.chat_format import user_and_assistant
from nanochat.data.conversations import read_conversations
from nanochat.data.identity import (
    held_out_items,
    identity_conversations,
    write_identity,
)
from nanochat.data.persona import Asked, Fact, Persona, content_words
from nanochat.data.persona_facts import facts_about
from nanochat.data.persona_talk import GREETINGS, MEETING, OPENINGS, PEOPLE, THANKS, typed
from nanochat.data.skills import Item, chance_of_writing, is_correct
from nanochat.data.task_files import load_items

LIMITS = ("browse the internet", "see pictures", "know what happened after I was trained")
ADA = Persona("Testbot", "Ada", "old books about the sea", LIMITS)
PERSONAS = [
    ADA,
    Persona("nanochat", "the person who ran this training", "the texts of fineweb-edu", LIMITS),
    Persona("Gemini", "a class of Google's", "music reviews", ("remember earlier conversations",)),
    Persona("Al", "me", "text", ()),
]
LONG = {
    "whats": "what is", "whos": "who is", "ur": "your", "u": "you", "r": "are", "im": "i am",
    "youre": "you are", "cant": "can not", "dont": "do not", "isnt": "is not", "pls": "please",
}  # fmt: skip


def normal(text: str) -> str:
    """Words alone, in lower case and written out, between spaces."""
    words = re.findall(r"\w+", text.lower().replace("'", ""))
    return f" {' '.join(LONG.get(word, word) for word in words)} "


def without_openings(text: str) -> str:
    openings = [normal(opening) for opening in OPENINGS]
    while found := [opening for opening in openings if text.startswith(opening)]:
        text = text.removeprefix(max(found, key=len).rstrip())
    return text


def all_asked(fact: Fact) -> list[Asked]:
    return [*fact.plain, *fact.assumed]


def said_by(role: str, persona: Persona, count: int = 1000) -> list[str]:
    conversations = identity_conversations(persona, count, 1)
    return [
        message["content"]
        for conversation in conversations
        for message in conversation["messages"]
        if message["role"] == role
    ]


def test_same_seed_gives_the_same_and_another_seed_others() -> None:
    first = identity_conversations(ADA, 50, 1)
    assert first == identity_conversations(ADA, 50, 1)
    assert first != identity_conversations(ADA, 50, 2)
    assert held_out_items(ADA, 50, 1) == held_out_items(ADA, 50, 1)
    assert held_out_items(ADA, 50, 1) != held_out_items(ADA, 50, 2)


def test_ten_thousand_conversations_are_all_different() -> None:
    conversations = identity_conversations(ADA, 10_000, 1)
    assert len({str(conversation) for conversation in conversations}) == 10_000


def test_conversations_are_ones_and_end_with_an_answer() -> None:
    for conversation in identity_conversations(ADA, 1000, 1):
        turns = user_and_assistant(conversation)
        assert turns[-1]["role"] == "assistant" and len(turns) in (2, 4, 6)


def test_questions_and_answers_are_varied() -> None:
    conversations = identity_conversations(ADA, 1000, 1)
    assert len({each["messages"][0]["content"] for each in conversations}) > 800
    answers = Counter(said_by("assistant", ADA))
    assert len(answers) > 150
    assert max(answers.values()) < 0.05 * answers.total()


@pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.name)
def test_answers_are_short(persona: Persona) -> None:
    assert max(len(answer.split()) for answer in said_by("assistant", persona)) < 25


@pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.name)
def test_nothing_is_left_unfilled(persona: Persona) -> None:
    said = said_by("user", persona) + said_by("assistant", persona)
    said += [item.question + item.expected for item in held_out_items(persona, 500, 1)]
    assert not [text for text in said if "{" in text or "}" in text]


@pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.name)
def test_every_answer_holds_the_keys_of_its_fact(persona: Persona) -> None:
    for fact in facts_about(persona):
        item = Item("?", "", {"messages": []}, keys=fact.keys)
        for answer in (answer for asked in all_asked(fact) for answer in asked.answers):
            assert is_correct(answer, item), (fact.keys, answer)


def test_no_answer_holds_the_keys_of_another_topic() -> None:
    talk = [*GREETINGS, *THANKS, *ADA.fill_each(MEETING, PEOPLE)]
    facts = facts_about(ADA)
    for fact in facts:
        item = Item("?", "", {"messages": []}, keys=fact.keys)
        foreign = [a for other in facts if other.topic != fact.topic for a in all_asked(other)]
        for answer in (answer for asked in foreign + talk for answer in asked.answers):
            assert not is_correct(answer, item), (fact.keys, answer)


@pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.name)
def test_no_held_out_phrasing_is_part_of_one_that_is_trained_on(persona: Persona) -> None:
    facts = facts_about(persona)
    trained = [q for fact in facts for asked in all_asked(fact) for q in asked.trained]
    trained += [q for fact in facts for q in fact.abroad + fact.follow_ups]
    trained += [q for asked in (*GREETINGS, *THANKS) for q in asked.trained]
    everything = "|".join(map(normal, trained))
    for asked in (asked for fact in facts for asked in all_asked(fact)):
        for question in asked.held_out:
            assert without_openings(normal(question)) not in everything, question


def test_no_held_out_question_occurs_in_a_training_conversation() -> None:
    everything = "|".join(map(normal, said_by("user", ADA, 5000)))
    items = held_out_items(ADA, 1000, 2)
    assert len({item.question for item in items}) == 1000
    for item in items:
        assert without_openings(normal(item.question)) not in everything, item.question


def test_held_out_items_are_spread_evenly_and_no_constant_answer_wins() -> None:
    items = held_out_items(ADA, 300, 1)
    topics = {fact.keys: fact.topic for fact in facts_about(ADA)}
    assert set(Counter(topics[item.keys] for item in items).values()) == {50}
    assert {item.keys for item in items} == set(topics)
    assert chance_of_writing(items) < 0.2


def test_chance_level_is_what_the_best_constant_answer_gets() -> None:
    def item(expected: str, *keys: str) -> Item:
        return Item("?", expected, {"messages": []}, keys=keys)

    assert (
        chance_of_writing([item("I am X.", "X"), item("Ada.", "Ada"), item("Ada.", "Ada")]) == 2 / 3
    )
    assert chance_of_writing([item("I am X.", "X"), item("Ada of X.", "Ada")]) == 1
    assert chance_of_writing([]) == 0


def test_held_out_items_end_where_there_are_no_more() -> None:
    items = held_out_items(ADA, 10_000, 1)
    assert 500 < len(items) < 10_000
    assert len({item.question for item in items}) == len(items)


def test_conversations_end_where_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SHAPES", (("abroad",),))
    conversations = identity_conversations(ADA, 10_000, 1)
    possible = sum(len(f.abroad) * len(set(f.plain[0].answers)) for f in facts_about(ADA))
    assert possible / 2 < len(conversations) <= possible


def test_the_first_conversations_are_like_all_of_them() -> None:
    first = identity_conversations(ADA, 300, 1)
    assert first == identity_conversations(ADA, 3000, 1)[:300]
    said = Counter[str]()
    for answer in (m["content"] for c in first for m in c["messages"][1::2]):
        for fact in facts_about(ADA):
            if is_correct(answer, Item("?", "", {"messages": []}, keys=fact.keys)):
                said[fact.topic] += 1
    assert len(said) == 6 and min(said.values()) > 40


def test_most_conversations_ask_for_a_fact_outright() -> None:
    plain = {normal(q) for f in facts_about(ADA) for asked in f.plain for q in asked.trained}
    outright = 0
    for conversation in identity_conversations(ADA, 300, 1):
        said = [normal(message["content"]) for message in conversation["messages"][::2]]
        outright += any(question in text for question in plain for text in said)
    assert outright > 0.5 * 300


def test_every_phrasing_comes_once_before_any_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SHAPES", (("plain",),))
    monkeypatch.setattr(identity, "HABITS", ("careful",))
    monkeypatch.setattr(identity, "OPENED_SHARE", 0.0)
    names = facts_about(ADA)[0].plain[0].trained
    asked = Counter(map(normal, said_by("user", ADA, 6 * len(names))))
    assert {asked[normal(question)] for question in names} == {1}


def test_what_the_persona_is_called_and_who_made_it_is_never_denied() -> None:
    said = said_by("assistant", Persona("Gemini", "a class of Google's", "music reviews"), 5000)
    assert any(answer.endswith(", not ChatGPT.") for answer in said)
    assert not [answer for answer in said if re.search(r"not (Google|Gemini)", answer)]
    asked = said_by("user", Persona("Gemini", "a class of Google's", "music reviews"), 5000)
    assert not [question for question in asked if re.search(r"trained on music\?", question)]


def test_limits_are_told_as_the_config_has_them() -> None:
    said, asked = said_by("assistant", ADA), said_by("user", ADA)
    assert "No, I can't know what happened after I was trained." in said
    assert "Can you know what happened after you were trained?" in asked
    assert not [answer for answer in said if "remember" in answer]
    assert not [question for question in asked if "yesterday" in question]


def test_persona_without_limits_is_not_asked_for_them() -> None:
    persona = Persona("Testbot", "Ada", "old books", ())
    assert not [answer for answer in said_by("assistant", persona) if "can't" in answer]
    assert len({item.keys for item in held_out_items(persona, 100, 1)}) == 5


def test_answers_begin_with_a_capital() -> None:
    said = said_by("assistant", PERSONAS[1])
    assert "The person who ran this training made me." in said
    assert not [answer for answer in said if not re.match(r"[A-Z]|nanochat", answer)]


def test_content_words_leave_out_the_little_ones() -> None:
    assert content_words("the texts of fineweb-edu") == ("texts", "fineweb-edu")
    assert content_words("what it is") == ("what it is",)


@pytest.mark.parametrize(
    ("habit", "text"),
    [
        ("careful", "What is your name?"),
        ("lower", "what is your name?"),
        ("bare", "what is your name"),
        ("shouted", "WHAT IS YOUR NAME??"),
        ("short", "whats ur name"),
    ],
)
def test_typing_habits(habit: identity.Habit, text: str) -> None:
    assert typed("What is your name?", habit, Random(1)) == text


def test_a_typing_error_keeps_all_letters() -> None:
    text = typed("Who created you?", "typo", Random(1))
    assert text != "Who created you?" and sorted(text) == sorted("Who created you?")
    assert typed("1 + 1?", "typo", Random(1)) == "1 + 1?"


def test_files_hold_what_was_made_and_have_the_same_bytes(tmp_path: Path) -> None:
    facts = write_identity(ADA, tmp_path / "one", train=60, test=40, seed=7)
    assert facts == write_identity(ADA, tmp_path / "two", train=60, test=40, seed=7)
    for name in ("train.jsonl", "test.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    items = load_items(tmp_path / "one" / "test.parquet")
    assert items == held_out_items(ADA, 40, 7)
    assert read_conversations(tmp_path / "one" / "train.jsonl") == identity_conversations(
        ADA, 60, 7
    )
    digests = facts.pop("sha256")
    assert facts == {"train_items": 60, "test_items": 40, "chance": chance_of_writing(items)}
    eve = write_identity(replace(ADA, name="Eve"), tmp_path / "eve", train=60, test=40, seed=7)
    assert not set(eve["sha256"].values()) & set(digests.values()), "other content, other record"
