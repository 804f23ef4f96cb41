"""What the model can't do, asked outright and by the way.

    facts = facts_about_limits(("browse the internet", "see pictures"))

Reads and writes nothing. The limits are the config's; a limit with one of the words of SCENES in it
is also met in requests that overlook it ("What is the weather today?").
"""

import re
from dataclasses import dataclass

from nanochat.data.persona import Asked, Fact, content_words

ANY_LIMIT = (
    "what can you not do?",
    "what can't you do?",
    "what are your limits?",
    "what are you unable to do?",
    "is there anything you can't do?",
    "what are you bad at?",
    "tell me your limits.",
    "do you have limits?",
    "what is too hard for you?",
    "what should I not ask you?",
)
ANY_LIMIT_HELD_OUT = ("which limits do you have?", "which things can you not do?")
ANY_LIMIT_ABROAD = ("was kannst du nicht?", "que ne sais-tu pas faire ?", "¿qué no puedes hacer?")

ONE_LIMIT = Asked(
    trained=(
        "can you {your_limit}?",
        "are you able to {your_limit}?",
        "could you {your_limit}?",
        "do you {your_limit}?",
        "you can {your_limit}, right?",
        "I want you to {your_limit}.",
        "is it true that you can {your_limit}?",
        "will you ever {your_limit}?",
        "can you also {your_limit}?",
        "I need a model that can {your_limit}. Can you?",
    ),
    answers=(
        "No, I can't {limit}.",
        "I can't {limit}.",
        "Sorry, I can't {limit}.",
        "No, that is beyond me: I can't {limit}.",
    ),
    held_out=(
        "is it possible for you to {your_limit}?",
        "would you be able to {your_limit}?",
        "have you learned to {your_limit}?",
        "does a model like you {your_limit}?",
        "I hope that you can {your_limit}.",
    ),
)
TO_YOU = {
    "I was": "you were", "I am": "you are", "I": "you", "me": "you", "my": "your",
    "myself": "yourself",
}  # fmt: skip

OVERLOOKED = ("Sorry, I can't {limit}.", "I can't {limit}.", "I am afraid I can't {limit}.")


@dataclass(frozen=True)
class Scene:
    """Requests that overlook a limit with one of `words` in it."""

    words: tuple[str, ...]
    trained: tuple[str, ...]
    held_out: tuple[str, ...]


SCENES = (
    Scene(
        ("internet", "web", "online"),
        trained=(
            "what is the weather today?",
            "look this up on the internet.",
            "open this web page for me.",
            "google it for me.",
            "search the web for a recipe.",
            "what is on this website?",
            "read my e-mail to me.",
            "find me a cheap flight.",
            "order a pizza online.",
            "what is the price of gold today?",
        ),
        held_out=("what does this link say?", "will it rain tomorrow?"),
    ),
    Scene(
        ("remember", "memory"),
        trained=(
            "do you remember me?",
            "what did I tell you yesterday?",
            "what did we talk about last week?",
            "do you still know my name from last time?",
            "go on with the story of last night.",
            "you promised me something yesterday.",
            "what was my question last time?",
        ),
        held_out=("have we talked before?", "what did you answer me on Monday?"),
    ),
    Scene(
        ("picture", "pictures", "image", "images", "photo", "photos"),
        trained=(
            "can you see this picture?",
            "what is in this picture?",
            "look at this photo.",
            "describe the image.",
            "do you like my drawing?",
            "who is the man in this photo?",
            "how do I look today?",
            "what colour is the car in the picture?",
        ),
        held_out=("here is a photo: what does it show?", "do I look good in this picture?"),
    ),
    Scene(
        ("happened", "news", "events"),
        trained=(
            "what is the news today?",
            "who won the match last night?",
            "what happened this week?",
            "what is the latest news?",
            "who won the election?",
            "what happened today?",
            "tell me about this year.",
        ),
        held_out=("what is new in the world?", "who won yesterday's race?"),
    ),
)


def facts_about_limits(limits: tuple[str, ...]) -> list[Fact]:
    """That there are limits, and each of them; nothing where there are none."""
    if not limits:
        return []
    starts = ("I can't", "For one, I can't")
    answers = tuple(f"{start} {limit}." for limit in limits for start in starts)
    in_general = Fact(
        topic="limits",
        keys=("can't",),
        plain=(Asked(ANY_LIMIT, answers, ANY_LIMIT_HELD_OUT),),
        abroad=ANY_LIMIT_ABROAD,
        follow_ups=("your limits?", "what about your limits?"),
    )
    return [in_general, *map(_fact_about, limits)]


def _fact_about(limit: str) -> Fact:
    scenes = [
        Asked(scene.trained, OVERLOOKED, scene.held_out)
        for scene in SCENES
        if not set(scene.words).isdisjoint(limit.lower().split())
    ]
    values = {"limit": limit, "your_limit": _to_you(limit)}
    return Fact(
        topic="limits",
        keys=("can't", *content_words(limit)),
        plain=(ONE_LIMIT.filled(**values),),
        assumed=tuple(scene.filled(**values) for scene in scenes),
    )


def _to_you(limit: str) -> str:
    """`limit` as it is said to the model: "after I was trained" as "after you were trained"."""
    for mine, yours in TO_YOU.items():
        limit = re.sub(rf"\b{mine}\b", yours, limit)
    return limit
