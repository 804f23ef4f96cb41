"""Training leaves in time: before SLURM's limit, and when its job is no longer its own."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_training import STEPS, assert_same_bits, at_step, make_job, make_store, run

from nanochat.errors import NoProgress, StoppedEarly
from nanochat.hpc.deadline import Deadline, JobNow
from nanochat.hpc.slurm_variables import OwnJob
from nanochat.track.journal import read_events
from nanochat.train import leaving
from nanochat.train.boundary import DEADLINE, Boundary
from nanochat.train.job import LoopState
from nanochat.train.launch import launched
from nanochat.train.stop import StopFlag

LIMIT = 1000.0  # the end of job 17, on a clock that begins at 0


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadline(clock: Clock) -> Deadline:
    return Deadline(OwnJob("17", 0), end=LIMIT, clock=clock)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Puts a scontrol before the real one that ends with a code; returns what it was told."""
    monkeypatch.setattr(leaving, "SECONDS_FOR_SLURM", 0.0)

    def install(code: int) -> Path:
        program = tmp_path / "bin" / "scontrol"
        program.parent.mkdir()
        told = tmp_path / "told"
        program.write_text(f'#!/bin/sh\necho "$@" >> {told}\necho no permission >&2\nexit {code}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        return told

    return install


def move(clock: Clock, to: float) -> Callable[[], None]:
    return lambda: setattr(clock, "now", to)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "run.jsonl") if event["event"] == name]


def test_training_saves_and_requeues_its_job_before_the_limit_and_the_job_continues(
    row_file: Path,
    tmp_path: Path,
    clock: Clock,
    deadline: Deadline,
    scontrol: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = scontrol(0)
    undisturbed = make_job(row_file, save_every_minutes=60)
    run(undisturbed, tmp_path, "undisturbed")
    job = at_step(make_job(row_file, save_every_minutes=60), 3, move(clock, LIMIT - 119))
    sentence = "base: time limit near after step 3 of 6; saved; job 17 is requeued"
    with pytest.raises(StoppedEarly, match=sentence) as caught:
        run(job, tmp_path, deadline=deadline)
    assert caught.value.exit_code == 75
    assert sentence in capsys.readouterr().out
    assert told.read_text() == "requeue 17\n"
    assert make_store(tmp_path / "run").steps() == [3]
    (stop,) = events(tmp_path, "stop")
    assert (stop["step"], stop["reason"], stop["requeued"]) == (3, DEADLINE, True)
    clock.now = 0.0
    resumed = make_job(row_file, save_every_minutes=60)
    run(resumed, tmp_path, deadline=Deadline(OwnJob("17", 1), end=LIMIT, clock=clock))
    assert_same_bits(undisturbed, resumed)
    assert [(e["job_id"], e["restarts"]) for e in events(tmp_path, "start")] == [
        ("17", 0),
        ("17", 1),
    ]


def test_a_job_that_slurm_will_not_requeue_says_why_and_asks_to_be_run_again(
    row_file: Path,
    tmp_path: Path,
    clock: Clock,
    deadline: Deadline,
    scontrol: Callable[[int], Path],
) -> None:
    scontrol(1)
    job = at_step(make_job(row_file), 2, move(clock, LIMIT - 1))
    with pytest.raises(StoppedEarly, match=r"after step 2 of 6; saved, but .* no permission"):
        run(job, tmp_path, deadline=deadline)
    (stop,) = events(tmp_path, "stop")
    assert stop["requeued"] is False


def test_a_limit_without_a_step_is_not_tried_again(
    row_file: Path,
    tmp_path: Path,
    clock: Clock,
    deadline: Deadline,
    scontrol: Callable[[int], Path],
) -> None:
    told = scontrol(0)
    clock.now = LIMIT - 100
    with pytest.raises(NoProgress, match="ask for a longer time limit") as caught:
        run(make_job(row_file), tmp_path, deadline=deadline)
    assert caught.value.exit_code == 2
    assert not told.exists()
    assert make_store(tmp_path / "run").steps() == []


def test_the_time_for_two_steps_and_two_saves_is_kept_free(
    row_file: Path, clock: Clock, deadline: Deadline
) -> None:
    job = make_job(row_file)
    boundary = Boundary(job, StopFlag(), deadline, first_step=0)
    boundary.took("step", 50.0)
    boundary.took("step", 20.0)
    boundary.took("validation", 60.0)
    boundary.saved(1, 30.0)
    for left, near, room in ((281, False, False), (279, True, False), (341, False, True)):
        clock.now = LIMIT - left
        agreed = boundary.agree(LoopState(step=2), 1)
        assert (agreed.leave == DEADLINE, agreed.room_to_validate) == (near, room), left


def test_a_validation_that_would_not_fit_is_not_begun(
    row_file: Path,
    tmp_path: Path,
    deadline: Deadline,
    clock: Clock,
    scontrol: Callable[[int], Path],
) -> None:
    """After the last step, too: all that is left is for the job that continues."""
    scontrol(0)
    job = at_step(make_job(row_file, save_every_minutes=60), STEPS, move(clock, LIMIT - 1))
    with pytest.raises(StoppedEarly, match="after step 6 of 6; saved"):
        run(job, tmp_path, deadline=deadline)
    assert [event["step"] for event in events(tmp_path, "validation")] == [2, 4]
    clock.now = 0.0
    run(make_job(row_file, save_every_minutes=60), tmp_path, deadline=deadline)
    assert [event["step"] for event in events(tmp_path, "validation")] == [2, 4, 6]


def test_validations_too_slow_for_the_time_left_are_passed_over(
    row_file: Path,
    tmp_path: Path,
    deadline: Deadline,
    monkeypatch: pytest.MonkeyPatch,
    scontrol: Callable[[int], Path],
) -> None:
    scontrol(0)

    def took(boundary: Boundary, what: str, seconds: float) -> None:
        boundary.slowest[what] = LIMIT - 100 if what == "validation" else 0.0

    monkeypatch.setattr(Boundary, "took", took)
    with pytest.raises(StoppedEarly, match="after step 6 of 6; saved"):
        run(make_job(row_file), tmp_path, deadline=deadline)
    assert [event["step"] for event in events(tmp_path, "validation")] == [2]


def test_a_signal_in_the_last_step_lets_training_finish(row_file: Path, tmp_path: Path) -> None:
    job = make_job(row_file)
    run(at_step(job, STEPS, lambda: os.kill(os.getpid(), signal.SIGTERM)), tmp_path)
    assert [event["step"] for event in events(tmp_path, "end")] == [STEPS]


def test_a_warning_signal_outside_the_loop_kills_nothing(tmp_path: Path) -> None:
    with launched(tmp_path, {}):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)


def answer(deadline: Deadline, state: str, restarts: int) -> Callable[[], None]:
    def told() -> None:
        deadline._query = lambda _: JobNow(math.inf, state, restarts)
        deadline.refresh()

    return told


def test_a_job_that_runs_elsewhere_by_now_is_left_without_writing_anything(
    row_file: Path, tmp_path: Path, deadline: Deadline
) -> None:
    job = at_step(make_job(row_file, save_every_minutes=0), 3, answer(deadline, "RUNNING", 1))
    with pytest.raises(StoppedEarly, match="nothing was saved"):
        run(job, tmp_path, deadline=deadline)
    assert make_store(tmp_path / "run").steps() == [1, 2]
    assert events(tmp_path, "stop") == []


def test_a_job_whose_node_slurm_has_given_up_saves_nothing(
    row_file: Path, tmp_path: Path, deadline: Deadline
) -> None:
    job = at_step(make_job(row_file, save_every_minutes=0), 3, answer(deadline, "NODE_FAIL", 0))
    with pytest.raises(StoppedEarly, match="nothing was saved"):
        run(job, tmp_path, deadline=deadline)
    assert make_store(tmp_path / "run").steps() == [1, 2]
    assert [event["reason"] for event in events(tmp_path, "stop")] == ["superseded"]
