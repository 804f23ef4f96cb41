"""Who the model is, and the form in which a fact about it is written down.

    persona = Persona(name="nanochat", maker="Ada", training_text="old books",
                      limits=("browse the internet",))

Reads and writes nothing. The facts and their phrasings are in data/persona_facts.py, what every
conversation may hold besides in data/persona_talk.py; data/identity.py makes conversations of them.
"""

import re
from dataclasses import dataclass

LITTLE_WORDS = """
    a about after all an and any are as at be been before by do for from had has have i if in is it
    its me my of on or our so some than that the their them then they this to up was we were what
    when which while who will with you your
"""


@dataclass(frozen=True)
class Asked:
    """Questions that have the same answers, in lower case but for names. `held_out` ones are
    never trained on."""

    trained: tuple[str, ...]
    answers: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def filled(self, **values: str) -> "Asked":
        """The same with {name}, {maker} and the like replaced, answers with a capital at the
        start ("The people of ... made me.")."""

        def fill(texts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(text.format(**values) for text in texts)

        answers = tuple(answer[0].upper() + answer[1:] for answer in fill(self.answers))
        return Asked(fill(self.trained), answers, fill(self.held_out))


@dataclass(frozen=True)
class Persona:
    """What the model says of itself."""

    name: str
    """What it is called."""
    maker: str
    """Who made it: fits "... trained me"."""
    training_text: str
    """What it was trained on: fits "I learned from ..."."""
    limits: tuple[str, ...] = ()
    """What it can't do: each fits "I can't ..."."""

    def fill(self, asked: Asked, other: str = "") -> Asked:
        """`asked` with the persona's words, and `other` for {other}."""
        return asked.filled(
            name=self.name, maker=self.maker, training_text=self.training_text, other=other
        )

    def fill_each(self, asked: Asked, others: tuple[str, ...]) -> tuple[Asked, ...]:
        """`asked` once for each of `others`, but for those that might be the persona's own."""
        own = " ".join((self.name, self.maker, self.training_text)).lower()
        return tuple(
            self.fill(asked, other)
            for other in others
            if not any(word.lower() in own for word in content_words(other))
        )


@dataclass(frozen=True)
class Fact:
    """One thing to know about the model.

    Every answer of it holds all of `keys`, and no answer about another topic does.
    """

    topic: str
    keys: tuple[str, ...]
    plain: tuple[Asked, ...]
    """What asks for the fact outright."""
    assumed: tuple[Asked, ...] = ()
    """What takes something for granted, mostly wrongly."""
    abroad: tuple[str, ...] = ()
    """Questions in other languages; the first of `plain` has the answers."""
    follow_ups: tuple[str, ...] = ()
    """Questions that only make sense after another; the first of `plain` has the answers."""


def content_words(text: str) -> tuple[str, ...]:
    """The words of `text` that carry its meaning; the whole text where there are none."""
    little = LITTLE_WORDS.split()
    words = re.findall(r"\w[\w.'-]*\w|\w", text)
    return tuple(word for word in words if word.lower() not in little) or (text,)
