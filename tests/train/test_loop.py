"""The training loop on a real, tiny model: exact resume, accumulation, divergence, signals."""

import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_training import STEPS, assert_same_bits, make_job, make_store, run, state_of

from nanochat.errors import StoppedEarly, TrainingDiverged
from nanochat.files import fingerprint
from nanochat.track.journal import SilentJournal, read_events
from nanochat.train.checkpoints import CheckpointStore, Identity, Retention
from nanochat.train.loop import train


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_training_killed_after_any_step_ends_with_the_same_bits(
    row_file: Path, tmp_path: Path, after: int
) -> None:
    undisturbed = make_job(row_file)
    run(undisturbed, tmp_path, "undisturbed")
    killed = make_job(row_file)
    accumulate = killed.model.loss_sum
    calls = 0

    def die_in_the_middle_of_a_step(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 * after + 2:  # the second micro-batch of the next step
            raise Killed
        return accumulate(*batch)

    killed.model.loss_sum = die_in_the_middle_of_a_step  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run(killed, tmp_path)
    resumed = make_job(row_file)
    run(resumed, tmp_path)
    assert_same_bits(undisturbed, resumed)


def test_a_finished_training_is_not_trained_again(row_file: Path, tmp_path: Path) -> None:
    first = run(make_job(row_file), tmp_path)
    again = make_job(row_file)
    second = run(again, tmp_path)
    assert (second.steps, second.tokens, second.seconds) == (STEPS, first.tokens, first.seconds)
    steps = [e["step"] for e in read_events(tmp_path / "run.jsonl") if e["event"] == "step"]
    assert steps == list(range(1, STEPS + 1))


def test_the_device_batch_changes_rounding_only(row_file: Path, tmp_path: Path) -> None:
    """With padded rows in some micro-batches, and with a last micro-batch that is smaller."""
    whole, split = make_job(row_file, device_rows=8), make_job(row_file, device_rows=3)
    run(whole, tmp_path, "whole")
    run(split, tmp_path, "split")
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[name], tensor, rtol=0, atol=2e-3)


def test_another_training_starts_afresh_and_says_what_is_different(
    row_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scale in (1.0, 0.5, 1.0):
        settings = {"base": {"lr_scale": scale, "steps": STEPS}}
        identity = Identity(
            fingerprint(settings), {"settings": settings, "code": {"commit": scale}}
        )
        store = CheckpointStore(tmp_path / "run", identity, Retention(2))
        train(make_job(row_file), store, SilentJournal())
    said = capsys.readouterr().out
    assert said.count("starts afresh") == 1
    assert f"checkpoint of step {STEPS} in " in said
    assert "is of another training (settings.base.lr_scale 1.0, now 0.5)" in said
    assert f"base resumes after step {STEPS} of {STEPS}" in said, "changed back, it is found again"


def test_training_learns(row_file: Path, tmp_path: Path) -> None:
    job = make_job(row_file)
    run(job, tmp_path)
    losses = [e["loss"] for e in read_events(tmp_path / "run.jsonl") if e["event"] == "step"]
    assert losses[-1] < losses[0] - 0.2


def test_every_step_and_save_and_validation_is_in_the_journal(
    row_file: Path, tmp_path: Path
) -> None:
    run(make_job(row_file), tmp_path)
    events = list(read_events(tmp_path / "run.jsonl"))
    told = [(event["event"], event["step"]) for event in events if event["event"] != "start"]
    expected = []
    for step in range(1, STEPS + 1):
        expected += [("step", step), ("checkpoint", step)]
        expected += [("validation", step)] if step % 2 == 0 else []
    assert told == [*expected, ("end", STEPS)]


def test_a_failing_evaluation_costs_no_checkpoint(row_file: Path, tmp_path: Path) -> None:
    def fail() -> float:
        raise ZeroDivisionError

    for interval, saved in ((2, 2), (1000, STEPS)):
        name = f"validates-every-{interval}"
        job = make_job(row_file, validate=fail, validate_every_steps=interval)
        with pytest.raises(ZeroDivisionError):
            run(job, tmp_path, name)
        assert make_store(tmp_path / name).steps()[-1] == saved


@pytest.mark.parametrize("poisoned", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_update(
    row_file: Path, tmp_path: Path, poisoned: str
) -> None:
    job = make_job(row_file, on_nonfinite="stop")
    honest = job.model.loss_sum
    before: dict[str, torch.Tensor] = {}
    calls = 0

    def poison(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = honest(*batch)
        if calls <= 6:  # three steps of two micro-batches
            return loss
        before.update({name: value.clone() for name, value in state_of(job).items()})
        if poisoned == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    job.model.loss_sum = poison  # type: ignore[method-assign]
    with pytest.raises(TrainingDiverged, match="the update was not made") as caught:
        run(job, tmp_path)
    assert caught.value.exit_code == 77
    for name, tensor in state_of(job).items():
        assert torch.equal(tensor, before[name]), name
    assert make_store(tmp_path / "run").steps()[-1] == 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_saves_at_the_step_boundary_and_the_next_run_continues(
    row_file: Path, tmp_path: Path, name: str
) -> None:
    undisturbed = make_job(row_file, save_every_minutes=60)
    run(undisturbed, tmp_path, "undisturbed")
    job = make_job(row_file, save_every_minutes=60)
    honest = job.model.loss_sum
    calls = 0

    def terminate(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.Signals[name])
        return honest(*batch)

    job.model.loss_sum = terminate  # type: ignore[method-assign]
    with pytest.raises(StoppedEarly, match=f"{name} stopped base training after step 2") as caught:
        run(job, tmp_path)
    assert caught.value.exit_code == 75
    last = list(read_events(tmp_path / "run.jsonl"))[-1]
    assert (last["event"], last["reason"], last["requeued"]) == ("stop", name, False)
    resumed = make_job(row_file, save_every_minutes=60)
    run(resumed, tmp_path)
    assert_same_bits(undisturbed, resumed)
