"""When a job ends, and whether it is still ours."""

import math
import time
from collections.abc import Callable

import pytest

from nanochat.errors import SlurmUnavailable
from nanochat.hpc import deadline as module
from nanochat.hpc.deadline import Deadline, JobNow, parse
from nanochat.hpc.slurm_variables import OwnJob, own_job

# What squeue of SLURM 22.05 printed, with our TIME_FORMAT, of an array's two jobs and a held one;
# asked for the array's first job, it prints both.
PRINTED = """\
117                 2026-11-22T20:34:16+0000        RUNNING                         0
118                 2026-11-22T20:34:16+0000        RUNNING                         0
119                 N/A                             PENDING                         0
"""


def deadline_of(*answers: JobNow | SlurmUnavailable | None) -> Deadline:
    """A job of restart 1 whose queries give these answers, seen at second 1000."""
    said = iter(answers)

    def query(job_id: str) -> JobNow | None:
        assert job_id == "17"
        answer = next(said)
        if isinstance(answer, SlurmUnavailable):
            raise answer
        return answer

    return Deadline(OwnJob("17", 1), query=query, clock=lambda: 1000.0)


def test_squeue_s_line_of_the_job_is_read() -> None:
    assert parse(PRINTED.replace("RUNNING   ", "SUSPENDED ", 1), "118") == JobNow(
        1795379656.0, "RUNNING", 0
    )
    assert parse(PRINTED, "119") == JobNow(None, "PENDING", 0)
    assert parse(PRINTED, "11") is None
    assert parse("slurm_load_jobs error: nonsense\n", "118") is None


def test_an_extended_limit_is_followed() -> None:
    deadline = deadline_of(JobNow(1500.0, "RUNNING", 1), JobNow(9000.0, "RUNNING", 1))
    assert deadline.seconds_left() == math.inf
    deadline.refresh()
    assert deadline.seconds_left() == 500.0
    deadline.refresh()
    assert deadline.seconds_left() == 8000.0


def test_the_last_answer_stands_while_slurm_gives_none() -> None:
    deadline = deadline_of(JobNow(1500.0, "RUNNING", 1), SlurmUnavailable("busy"), None)
    for _ in range(3):
        deadline.refresh()
        assert deadline.seconds_left() == 500.0
        assert not deadline.superseded


@pytest.mark.parametrize(
    ("state", "restarts", "superseded", "restarted"),
    [
        ("RUNNING", 1, False, False),
        ("COMPLETING", 1, False, False),
        ("COMPLETING", 2, False, False),  # requeued, and SLURM waits for this process to end
        ("SUSPENDED", 1, False, False),
        ("PENDING", 2, True, True),
        ("RUNNING", 2, True, True),
        ("NODE_FAIL", 1, True, False),
    ],
)
def test_a_job_that_slurm_gave_away_is_noticed(
    state: str, restarts: int, superseded: bool, restarted: bool
) -> None:
    deadline = deadline_of(JobNow(1500.0, state, restarts))
    deadline.refresh()
    assert (deadline.superseded, deadline.restarted) == (superseded, restarted)


def test_an_attempt_whose_number_the_environment_does_not_tell_learns_it_from_slurm() -> None:
    answers = iter([JobNow(1500.0, "RUNNING", 2), JobNow(1500.0, "RUNNING", 3)])
    deadline = Deadline(OwnJob("17", None), query=lambda job_id: next(answers))
    deadline.refresh()
    assert not deadline.superseded, "it is the second restart, and so is this process"
    deadline.refresh()
    assert deadline.restarted


def test_outside_slurm_there_is_no_deadline() -> None:
    with Deadline.of({"SLURM_JOB_END_TIME": "1"}) as deadline:
        assert deadline.seconds_left() == math.inf
        assert not deadline.superseded


def test_the_environment_tells_job_and_end() -> None:
    environment = {"SLURM_JOB_ID": "17", "SLURM_JOB_END_TIME": str(int(time.time()) + 100)}
    assert own_job(environment) == OwnJob("17", None)
    assert own_job({**environment, "SLURM_RESTART_COUNT": "3"}) == OwnJob("17", 3)
    assert 90 < Deadline.of(environment).seconds_left() <= 100


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_thread_keeps_asking_and_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_QUERIES", 0.01)
    asked = 0

    def query(job_id: str) -> JobNow:
        nonlocal asked
        asked += 1
        return JobNow(1000.0 + asked, "RUNNING", 0)

    with Deadline(OwnJob("17", 0), query=query, clock=lambda: 1000.0) as deadline:
        wait_until(lambda: deadline.seconds_left() >= 3 and deadline.seconds_left() < math.inf)
    time.sleep(0.1)
    before = asked
    time.sleep(0.1)
    assert asked == before
