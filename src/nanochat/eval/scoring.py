"""The ways of scoring a chat task: how long an answer may be, which are right, and what luck gets.

    scoring = scoring_of("gsm8k")
    items = held_out_items("gsm8k", path, max_items=200)
    scoring.judge(answer, items[0])

| kind        | tasks                                | an answer is right if                    |
|-------------|--------------------------------------|------------------------------------------|
| categorical | mmlu, arc_*, documentation           | its letter is the right one              |
| generative  | spelling, counting, ..., identity    | it is the expected text, or has its keys |
| generative  | gsm8k                                | its number after #### is the right one   |
| code        | humaneval                            | the program passes its tests             |

Reads the held-out files; writes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nanochat.data.skills import TASKS, Item, chance_of_choosing, chance_of_writing, is_correct
from nanochat.data.tables import final_number, read_scored_items
from nanochat.data.task_files import load_items
from nanochat.errors import BadInput
from nanochat.eval.sandbox import program_from, run_program
from nanochat.registry import IDENTITY, TABLES

SAMPLE_SEED = 1
"""One for all runs, so that their scores are of the same questions."""


@dataclass(frozen=True)
class Scoring:
    """How a task is scored."""

    kind: str
    max_new_tokens: int
    """Of a written answer; 0 where the likeliest of the choices' letters is the answer."""
    judge: Callable[[str, Item], bool]
    chance: Callable[[Sequence[Item]], float]
    """Share of the items that a player right by luck alone gets, in [0, 1]."""


def _is_number_right(answer: str, item: Item) -> bool:
    return final_number(answer) == item.expected


def _does_program_pass(answer: str, item: Item) -> bool:
    return run_program(program_from(item.question, answer, item.checks)).passed


def _no_chance(_: Sequence[Item]) -> float:
    return 0.0


CHOSEN = Scoring("categorical", 0, is_correct, chance_of_choosing)
WRITTEN = Scoring("generative", 64, is_correct, chance_of_writing)
OF_TABLES = {
    "gsm8k": Scoring("generative", 256, _is_number_right, _no_chance),
    "humaneval": Scoring("code", 512, _does_program_pass, _no_chance),
}
"""Tables that are scored in ways of their own; the others are categorical."""

SCORED_TABLES = [name for name, table in TABLES.items() if "test" in table.splits]
SCORED = (*TASKS, IDENTITY, *SCORED_TABLES)


def scoring_of(name: str) -> Scoring:
    """How the task `name` is scored; raises BadInput for an unknown one."""
    if name not in SCORED:
        raise BadInput(f"there is no task {name!r}: choose from {', '.join(SCORED)}")
    if name in TABLES:
        return OF_TABLES.get(name, CHOSEN)
    return CHOSEN if name in TASKS and TASKS[name].kind == "categorical" else WRITTEN


def held_out_items(name: str, path: Path, max_items: int) -> list[Item]:
    """The items of a task's held-out file; where there are more than `max_items`, a sample of them,
    the same in every run: some files are sorted by subject.

    Raises MissingArtefact or DamagedArtefact.
    """
    items = read_scored_items(name, path) if name in TABLES else load_items(path)
    if len(items) <= max_items:
        return items
    return [items[i] for i in sorted(Random(SAMPLE_SEED).sample(range(len(items)), max_items))]
