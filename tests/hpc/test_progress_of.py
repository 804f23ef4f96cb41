from typing import Any

import pytest

from nanochat.hpc.progress_of import progress_of


def start(time: float, step: int = 0, steps: int = 100) -> dict[str, Any]:
    return {"event": "start", "stage": "base", "time": time, "step": step, "steps": steps}


def step(time: float, number: int, rate: float = 100.0, stage: str = "base") -> dict[str, Any]:
    return {"event": "step", "stage": stage, "time": time, "step": number,
            "tokens_per_second": rate}  # fmt: skip


def test_a_stage_without_events_has_no_progress() -> None:
    assert progress_of([], "base") is None
    assert progress_of([step(1, 1, stage="sft")], "base") is None


def test_only_the_last_attempt_counts() -> None:
    slow = [start(0), *(step(100.0 * n, n, rate=1.0) for n in range(1, 11))]
    again = [start(5000, step=5), *(step(5000 + n, 5 + n) for n in range(1, 4))]
    progress = progress_of([*slow, *again], "base")
    assert progress is not None
    assert (progress.step, progress.steps, progress.tokens_per_second) == (8, 100, 100)
    assert progress.eta_seconds == pytest.approx(92)
    assert progress.began.timestamp() == 5000 and progress.last.timestamp() == 5003


def test_an_attempt_without_a_step_is_at_its_checkpoint() -> None:
    progress = progress_of([start(0), step(1, 1), start(9, step=7)], "base")
    assert progress is not None
    assert (progress.step, progress.eta_seconds, progress.tokens_per_second) == (7, None, None)


def test_time_left_follows_from_the_last_fifty_steps() -> None:
    warming_up = [step(100.0 * n, n) for n in range(1, 11)]
    steady = [step(1000 + 2.0 * (n - 10), n) for n in range(11, 71)]
    progress = progress_of([start(0), *warming_up, *steady], "base")
    assert progress is not None and progress.eta_seconds == pytest.approx(2 * 30)


def test_saving_and_validating_are_part_of_the_time_left() -> None:
    checkpoint = {"event": "checkpoint", "stage": "base", "time": 13.0, "step": 2}
    progress = progress_of([start(0), step(1, 1), step(2, 2), checkpoint, step(15, 3)], "base")
    assert progress is not None and progress.eta_seconds == pytest.approx(7 * 97)
    assert not progress.saved


def test_a_training_whose_last_act_was_to_save_says_so() -> None:
    checkpoint = {"event": "checkpoint", "stage": "base", "time": 3.0, "step": 2}
    progress = progress_of([start(0), step(1, 1), step(2, 2), checkpoint], "base")
    assert progress is not None and progress.saved


def test_a_checkpoint_of_a_step_before_the_last_saves_not_all() -> None:
    """Saves are written beside training: this one was whole two steps after its own."""
    checkpoint = {"event": "checkpoint", "stage": "base", "time": 3.0, "step": 1}
    progress = progress_of([start(0), step(1, 1), step(2, 2), step(3, 3), checkpoint], "base")
    assert progress is not None and not progress.saved


def test_a_stop_has_saved() -> None:
    stop = {"event": "stop", "stage": "base", "time": 3.0, "step": 2, "reason": "SIGTERM"}
    progress = progress_of([start(0), step(1, 1), step(2, 2), stop], "base")
    assert progress is not None and (progress.saved, progress.stopped) == (True, "SIGTERM")


def test_without_its_start_an_attempt_has_no_end() -> None:
    progress = progress_of([step(1, 41), step(2, 42)], "base")
    assert progress is not None
    assert (progress.step, progress.steps, progress.eta_seconds) == (42, None, None)
