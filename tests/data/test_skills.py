"""The generated tasks: right answers, honest chance levels, and nothing shared with training."""

import re

import pytest

from nanochat.data.skills import (
    LETTERS,
    TASKS,
    Entry,
    Item,
    Material,
    chance_of_writing,
    is_correct,
    is_held_out,
)
from nanochat.model.calculator import calculate
from nanochat.registry import GENERATED

WORDS = re.findall(
    r"[a-z]+",
    """
    apple banana cherry lemon little summer winter spring mirror coffee bottle pepper kettle
    window garden yellow orange purple silver golden hammer needle thread button pocket jacket
    river ocean island forest desert valley meadow stream bridge tunnel street castle harbor
    strawberry mississippi parallel committee success balloon terrific address
    """,
)


@pytest.fixture(scope="module")
def material() -> Material:
    def entries(side: str) -> list[Entry]:
        return [Entry(f"{side}_{word}", f"Return the {side} {word}.") for word in WORDS]

    return Material(WORDS, entries("get"), entries("put"))


def both_sides(name: str, material: Material) -> tuple[list[Item], list[Item]]:
    task = TASKS[name]
    return task.items(material, 200, 1, held_out=False), task.items(material, 100, 1, held_out=True)


def test_the_registry_lists_the_generated_tasks() -> None:
    assert tuple(TASKS) == GENERATED


@pytest.mark.parametrize("name", TASKS)
def test_items_depend_on_the_seed_alone(name: str, material: Material) -> None:
    task = TASKS[name]
    first = task.items(material, 20, 1, held_out=False)
    assert first == task.items(material, 20, 1, held_out=False)
    assert first != task.items(material, 20, 2, held_out=False)


@pytest.mark.parametrize("name", TASKS)
def test_no_question_occurs_twice_or_on_both_sides(name: str, material: Material) -> None:
    trained, held_out = both_sides(name, material)
    questions = [item.question for item in trained + held_out]
    assert trained and held_out
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", ["spelling", "first_letter", "counting"])
def test_held_out_words_are_in_no_training_question(name: str, material: Material) -> None:
    trained, held_out = both_sides(name, material)
    seen = set(re.findall(r"[a-z]{5,}", " ".join(item.question for item in trained)))
    asked = set(re.findall(r"[a-z]{5,}", " ".join(item.question for item in held_out)))
    assert seen & asked & set(WORDS) == set()
    assert asked & set(WORDS) == {word for word in asked if word in WORDS and is_held_out(word)}


def test_held_out_operands_are_in_no_training_question(material: Material) -> None:
    def pairs(items: list[Item]) -> set[tuple[frozenset[str], str]]:
        expressions = [item.conversation["messages"][1]["content"][0]["text"] for item in items]
        matches = [re.fullmatch(r"(\d+)([-+*/])(\d+)", text) for text in expressions]
        return {(frozenset((m[1], m[3])), m[2]) for m in matches if m}

    trained = TASKS["arithmetic"].items(material, 5000, 1, held_out=False)
    held_out = TASKS["arithmetic"].items(material, 500, 1, held_out=True)
    assert len(pairs(held_out)) > 400
    assert pairs(trained) & pairs(held_out) == set()


@pytest.mark.parametrize("name", ["counting", "arithmetic"])
def test_calculator_gives_what_the_conversation_says(name: str, material: Material) -> None:
    trained, held_out = both_sides(name, material)
    for item in trained + held_out:
        python, output, text = item.conversation["messages"][1]["content"]
        assert calculate(python["text"]) == output["text"] == text["text"] == item.expected


def test_the_right_answer_counts_and_others_do_not(material: Material) -> None:
    item = TASKS["spelling"].items(material, 1, 1, held_out=True)[0]
    assert is_correct(item.expected, item)
    assert is_correct(f" {item.expected.upper()}. ", item)
    assert not is_correct(item.expected + " x", item)
    assert not is_correct("", item)


def test_answer_with_every_key_counts_whatever_else_it_says() -> None:
    item = Item("?", "I am Testbot of Ada.", {"messages": []}, keys=("Testbot", "Ada L."))
    assert is_correct("testbot is my name; it was ada  l. who made me", item)
    assert not is_correct("I am Testbot.", item)
    assert not is_correct("", item)


def test_multiple_choice_letter_names_the_right_choice(material: Material) -> None:
    for item in TASKS["documentation"].items(material, 50, 1, held_out=True):
        name = item.choices[LETTERS.index(item.expected)]
        assert f"- {name}={item.expected}\n" in item.question
        assert f"Return the put {name.removeprefix('put_')}." in item.question


def test_chance_of_a_generative_task_is_the_best_constant_answer(material: Material) -> None:
    def item(expected: str) -> Item:
        return Item("?", expected, {"messages": []})

    assert TASKS["counting"].chance([item("1"), item("1"), item("2"), item("3")]) == 0.5
    assert TASKS["spelling"].chance([item("a"), item("b"), item("c"), item("d")]) == 0.25


def test_chance_counts_every_item_whose_keys_the_constant_answer_has() -> None:
    def item(expected: str, *keys: str) -> Item:
        return Item("?", expected, {"messages": []}, keys=keys)

    items = [item("I am Bo.", "bo"), item("Bo, made by Ada", "ada"), item("Old books", "books")]
    assert chance_of_writing(items) == 2 / 3


def test_chance_of_a_categorical_task_is_one_in_its_choices(material: Material) -> None:
    items = TASKS["documentation"].items(material, 40, 1, held_out=True)
    assert TASKS["documentation"].chance(items) == 0.25


def test_counting_is_not_won_by_one_constant_answer(material: Material) -> None:
    items = TASKS["counting"].items(material, 100, 1, held_out=False)
    assert TASKS["counting"].chance(items) < 0.4
