"""What to do about a job that ended without success: submit it again, or leave it to a person.

    verdict("TIMEOUT", exit_code=None, progressed=True, failures_without_progress=0)

Pure: how SLURM says it ended, the exit code its command left (hpc/outcomes.py), and whether its
training got further than the attempt before. What a code means stands in errors.EXIT_CODES.
"""

from typing import NamedTuple

from nanochat.errors import EXIT_CODES

GIVEN_UP: list[str] = []
"""A sentence for each job of this process's workflow that is not submitted again, for its end."""
NOT_ITS_FAULT = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED")


class Verdict(NamedTuple):
    """Whether to submit again, and why, for people."""

    again: bool
    why: str


def verdict(
    state: str, exit_code: int | None, progressed: bool, failures_without_progress: int
) -> Verdict:
    """Decides on a job that SLURM reports as ended in `state`.

    `exit_code` is its command's, None where it left none (it was killed); `progressed` says whether
    a newer checkpoint is there than at the attempt before; `failures_without_progress` counts the
    attempts before this one that had none, in a row.
    """
    if state == "CANCELLED":
        return Verdict(False, "it was cancelled: start the workflow again to continue")
    if exit_code is not None and _would_end_the_same(exit_code):
        return Verdict(False, "running it again would end the same way")
    if state in NOT_ITS_FAULT:
        return Verdict(True, "the cluster took its node")
    if progressed:
        return Verdict(True, "it made progress and resumes from its checkpoint")
    if state == "TIMEOUT":
        return Verdict(False, "a whole allocation made no progress: it needs more time a step")
    if failures_without_progress:
        return Verdict(False, "it failed twice without getting any further")
    return Verdict(True, "it may have been bad luck: once more")


def _would_end_the_same(exit_code: int) -> bool:
    """True as well for a code that nobody has given a meaning."""
    return exit_code not in EXIT_CODES or EXIT_CODES[exit_code].again == "no"
