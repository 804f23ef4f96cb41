"""What is submitted again, and what waits for a person."""

import pytest

from nanochat.hpc.retry import verdict


@pytest.mark.parametrize(
    ("state", "exit_code", "progressed", "failures", "again"),
    [
        ("CANCELLED", None, True, 0, False),
        ("CANCELLED", 75, True, 0, False),
        ("FAILED", 2, True, 0, False),
        ("FAILED", 77, True, 0, False),
        ("FAILED", 75, True, 5, True),
        ("FAILED", 75, False, 0, True),
        ("FAILED", 75, False, 1, False),
        ("FAILED", None, True, 3, True),
        ("FAILED", None, False, 0, True),
        ("FAILED", None, False, 1, False),
        ("OUT_OF_MEMORY", None, False, 0, True),
        ("OUT_OF_MEMORY", None, False, 1, False),
        ("TIMEOUT", None, True, 0, True),
        ("TIMEOUT", None, False, 0, False),
        ("NODE_FAIL", None, False, 3, True),
        ("PREEMPTED", 75, False, 3, True),
        ("BOOT_FAIL", None, False, 3, True),
    ],
)
def test_the_verdict_follows_the_cause(
    state: str, exit_code: int | None, progressed: bool, failures: int, again: bool
) -> None:
    assert verdict(state, exit_code, progressed, failures).again is again
