"""What is submitted again, and what waits for a person; and what each exit code means."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.errors import EXIT_CODES, NanochatError
from nanochat.hpc.retry import verdict

SURVIVING = Path(__file__).parents[2] / "docs" / "explanation" / "surviving.md"


@pytest.mark.parametrize(
    ("state", "exit_code", "progressed", "failures", "again"),
    [
        ("CANCELLED", None, True, 0, False),
        ("CANCELLED", 75, True, 0, False),
        ("FAILED", 2, True, 0, False),
        ("FAILED", 77, True, 0, False),
        ("FAILED", 80, True, 0, False),
        ("FAILED", 93, True, 0, False),
        ("FAILED", 1, True, 0, False),
        ("PREEMPTED", 93, True, 0, False),
        ("FAILED", 75, True, 5, True),
        ("FAILED", 75, False, 0, True),
        ("FAILED", 75, False, 1, False),
        ("FAILED", 76, True, 5, True),
        ("FAILED", 76, False, 1, False),
        ("FAILED", 79, True, 5, True),
        ("FAILED", 79, False, 0, True),
        ("FAILED", 79, False, 1, False),
        ("FAILED", None, True, 3, True),
        ("FAILED", None, False, 0, True),
        ("FAILED", None, False, 1, False),
        ("OUT_OF_MEMORY", None, False, 0, True),
        ("OUT_OF_MEMORY", None, False, 1, False),
        ("TIMEOUT", 0, True, 0, True),
        ("TIMEOUT", None, True, 0, True),
        ("TIMEOUT", None, False, 0, False),
        ("NODE_FAIL", None, False, 3, True),
        ("PREEMPTED", 75, False, 3, True),
        ("PREEMPTED", 76, False, 3, True),
        ("BOOT_FAIL", None, False, 3, True),
    ],
)
def test_the_verdict_follows_the_cause(
    state: str, exit_code: int | None, progressed: bool, failures: int, again: bool
) -> None:
    assert verdict(state, exit_code, progressed, failures).again is again


def tree(error: type[NanochatError]) -> Iterator[type[NanochatError]]:
    yield error
    for below in error.__subclasses__():
        yield from tree(below)


def test_every_error_ends_with_a_code_of_the_table() -> None:
    used = {error.exit_code for error in tree(NanochatError)}
    assert used == set(EXIT_CODES) - {0}


def test_the_documentation_shows_the_table_of_exit_codes() -> None:
    section = SURVIVING.read_text().split("## Exit codes\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:3] != "|--"]
    shown = {int(row[0]): tuple(row[1:]) for row in rows if row[0].isdigit()}
    assert shown == EXIT_CODES
