"""Everything there is to know about the model: six topics.

    for fact in facts_about(persona): print(fact.topic, fact.plain[0].trained[0])

Reads and writes nothing. The phrasings are in persona_origin.py, persona_nature.py and
persona_limits.py. What to heed when adding some: every answer holds its fact's keys, is short and
true of any persona; no held-out question is part of one that is trained on, even with its
contractions written out. tests/data/test_identity.py sees to it.
"""

from nanochat.data.persona import Fact, Persona
from nanochat.data.persona_limits import facts_about_limits
from nanochat.data.persona_nature import facts_about_nature
from nanochat.data.persona_origin import facts_about_origin


def facts_about(persona: Persona) -> list[Fact]:
    """The facts about `persona`, its own words filled in."""
    return [
        *facts_about_origin(persona),
        *facts_about_nature(persona),
        *facts_about_limits(persona.limits),
    ]
