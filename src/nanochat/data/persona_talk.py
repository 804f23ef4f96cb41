"""What surrounds questions about the model: openings, typing habits and small talk.

    question = typed(dressed("who made you?", "Hello! "), "shouted", rng)   # HELLO! WHO MADE YOU??

Reads and writes nothing.
"""

import re
from random import Random
from typing import Literal

from nanochat.data.persona import Asked

OPENINGS = (
    "Hello! ", "Hi, ", "Tell me: ", "One question: ", "Excuse me, ", "Hey, ", "Hi there! ",
    "Good morning! ", "Good evening. ", "Please, ", "Sorry, ", "Quick question: ", "So, ",
    "Now, ", "Well, ", "Be honest: ", "I wonder: ", "Okay, ",
)  # fmt: skip
FOLLOWING = (
    "And ", "And ", "And ", "Okay, and ", "Thanks. And ", "I see. And ", "Good. Now, ", "Ah! ",
    "Interesting. ", "One more question: ", "Then ", "Also, ", "Nice. And ", "Great! But ", "",
)  # fmt: skip

Habit = Literal["careful", "lower", "bare", "shouted", "short", "typo", "doubled"]
HABITS: tuple[Habit, ...] = (
    "careful", "careful", "careful", "careful", "careful", "careful", "careful", "careful",
    "careful", "careful", "lower", "lower", "lower", "bare", "bare", "shouted", "short", "typo",
    "doubled",
)  # fmt: skip
"""How a question is typed, each as often as it stands here."""

SHORT = {
    "what is": "whats", "who is": "whos", "your": "ur", "you": "u", "are": "r", "please": "pls",
    "do not": "dont", "I am": "im",
}  # fmt: skip

PEOPLE = (
    "Ada", "Alan", "Amina", "Anna", "Ben", "Carlos", "Chen", "Clara", "David", "Elena", "Emma",
    "Farid", "Grace", "Hanna", "Igor", "Jonas", "Kofi", "Lena", "Maria", "Mehmet", "Nadia", "Olga",
    "Paul", "Priya", "Rosa", "Sam", "Sofia", "Tom", "Wei", "Yuki",
)  # fmt: skip

GREETINGS = (
    Asked(
        ("hello!", "hi!", "hey!", "hi there!", "hello there!", "greetings!", "howdy!"),
        (
            "Hello! How can I help you?",
            "Hi! What would you like to know?",
            "Hello! What can I do for you?",
            "Hi there! Go ahead and ask.",
        ),
    ),
    Asked(
        ("good morning!", "a very good morning!"),
        ("Good morning! How can I help you?", "Good morning! What would you like to know?"),
    ),
    Asked(
        ("good evening!", "good evening to you!"),
        ("Good evening! How can I help you?", "Good evening! What would you like to know?"),
    ),
    Asked(
        ("how are you?", "how is it going?", "how do you do?", "how are you today?", "what's up?"),
        ("All is well here. How can I help you?", "Everything works. What can I do for you?"),
    ),
    Asked(
        ("are you there?", "is anybody there?", "can you hear me?", "test", "are you listening?"),
        ("Yes, go ahead.", "Yes. What would you like to know?"),
    ),
    Asked(
        ("can I ask you something?", "I have a question.", "may I ask you something?"),
        ("Of course, go ahead.", "Yes, please ask.", "Sure. What would you like to know?"),
    ),
)
MEETING = Asked(
    ("my name is {other}.", "I am {other}.", "hi, {other} here.", "call me {other}."),
    ("Nice to meet you, {other}.", "Hello, {other}! How can I help you?", "Hi, {other}!"),
)
THANKS = (
    Asked(
        ("thank you!", "thanks!", "many thanks.", "thanks a lot!", "thank you very much."),
        ("You are welcome!", "My pleasure.", "You are welcome. Is there anything else?"),
    ),
    Asked(
        ("goodbye!", "bye!", "see you!", "I have to go now.", "that is all, bye."),
        ("Goodbye!", "Bye! Come back any time.", "Goodbye, and have a good day!"),
    ),
    Asked(
        ("good night!", "I am going to bed."),
        ("Good night!", "Good night, and sleep well!"),
    ),
    Asked(
        ("well done!", "you are great!", "good answer.", "that was helpful.", "I like you."),
        ("Thank you!", "Thank you, that is kind.", "Good to hear, thank you."),
    ),
    Asked(
        ("okay.", "I see.", "all right.", "good to know.", "that makes sense.", "got it."),
        ("Is there anything else?", "Good. What else would you like to know?"),
    ),
    Asked(
        ("that is all.", "no more questions.", "I am done."),
        ("All right. Goodbye!", "Good. Come back any time."),
    ),
    Asked(
        ("you are wrong.", "that is nonsense.", "I don't believe you.", "you are stupid."),
        ("I am sorry. Please ask again.", "I am sorry that it did not help."),
    ),
)


def dressed(question: str, opening: str) -> str:
    """`question` after `opening`, each sentence with a capital at its start."""
    if not opening or opening.rstrip()[-1] in "!:.":
        question = re.sub(r"\w", lambda found: found[0].upper(), question, count=1)
    return opening + question


def typed(question: str, habit: Habit, rng: Random) -> str:
    """`question` as somebody with that habit types it."""
    match habit:
        case "lower":
            return question.lower()
        case "bare":
            return question.lower().rstrip("?.!")
        case "shouted":
            return re.sub(r"[?!]$", lambda found: found[0] * 2, question.upper())
        case "short":
            return _shortened(question)
        case "typo":
            return _mistyped(question, rng)
        case "doubled":
            return re.sub(r"[?!]$", lambda found: found[0] * rng.randint(2, 3), question)
    return question


def _shortened(question: str) -> str:
    for full, short in SHORT.items():
        question = re.sub(rf"\b{full}\b", short, question, flags=re.IGNORECASE)
    return question.lower().rstrip("?.!")


def _mistyped(question: str, rng: Random) -> str:
    """Two neighbouring letters within a word change places."""
    places = [found.start() for found in re.finditer(r"(?<=[a-z])[a-z]{2}(?=[a-z])", question)]
    if not places:
        return question
    place = rng.choice(places)
    return question[:place] + question[place + 1] + question[place] + question[place + 2 :]
