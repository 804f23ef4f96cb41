"""What goes wrong inside a training, and what it does about it."""

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STEPS, assert_same_bits, at_step, make_job, make_store, run

from nanochat.data.loader import Batch
from nanochat.errors import NotSaved, OutOfMemory, StoppedByHand, TrainingDiverged
from nanochat.track.journal import read_events
from nanochat.train import boundary, parts
from nanochat.train.checkpoints import CheckpointStore
from nanochat.train.job import Job
from nanochat.train.watchdog import Section


def events(folder: Path, name: str, run: str = "run") -> list[dict[str, Any]]:
    return [event for event in read_events(folder / f"{run}.jsonl") if event["event"] == name]


def poison_data_steps(job: Job, bad: set[int]) -> list[int]:
    """Makes the loss of some data steps NaN; returns the list of all data steps, as they come."""
    honest, read = job.model.loss_sum, job.loader.micro_batches
    seen: list[int] = []

    def micro_batches(step: int, *rest: int) -> Iterator[Batch]:
        seen.append(step)
        return read(step, *rest)

    def loss_sum(*batch: torch.Tensor) -> torch.Tensor:
        return honest(*batch) * (float("nan") if seen[-1] in bad else 1.0)

    job.loader.micro_batches = micro_batches  # type: ignore[method-assign]
    job.model.loss_sum = loss_sum  # type: ignore[method-assign]
    return seen


# --- numbers that are not finite ----------------------------------------------------------------


def test_a_step_that_is_not_finite_changes_nothing_and_training_goes_on(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file)
    poison_data_steps(job, {2})
    result = run(job, tmp_path)
    assert result.steps == STEPS
    steps = events(tmp_path, "step")
    assert [event["step"] for event in steps if event.get("skipped")] == [3]
    assert [event["step"] for event in events(tmp_path, "checkpoint")] == [1, 2, 4, 5, 6]
    assert all(value.isfinite().all() for value in job.model.state_dict().values())


def test_after_some_such_steps_in_a_row_training_goes_back_and_on_with_other_rows(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file, roll_back_after_steps=2)
    seen = poison_data_steps(job, {2, 3})
    run(job, tmp_path)
    # data steps 2 and 3 fail; 4 was read in advance, and is read again after going back to step 2
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7]
    (rollback,) = events(tmp_path, "rollback")
    assert (rollback["step"], rollback["from_step"]) == (2, 4)
    assert [event["step"] for event in events(tmp_path, "step")] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert all(value.isfinite().all() for value in job.model.state_dict().values())


def test_a_training_killed_after_going_back_ends_with_the_same_bits(
    row_file: Path, tmp_path: Path
) -> None:
    def job_with_bad_rows() -> Job:
        job = make_job(row_file, roll_back_after_steps=2)
        poison_data_steps(job, {2, 3})
        return job

    undisturbed, killed, resumed = (job_with_bad_rows() for _ in range(3))
    run(undisturbed, tmp_path, "undisturbed")

    def die() -> None:
        raise ZeroDivisionError

    at_step(killed, 6, die)  # the second step after going back
    with pytest.raises(ZeroDivisionError):
        run(killed, tmp_path)
    run(resumed, tmp_path)
    assert_same_bits(undisturbed, resumed)


def test_a_training_that_stays_bad_ends_after_as_many_rollbacks_as_allowed(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file, roll_back_after_steps=2, rollbacks=1)
    poison_data_steps(job, set(range(2, 100)))
    with pytest.raises(TrainingDiverged, match="after going back 1 times") as caught:
        run(job, tmp_path)
    assert caught.value.exit_code == 77
    assert len(events(tmp_path, "rollback")) == 1
    assert make_store(tmp_path / "run").steps() == [1, 2]


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file, roll_back_after_steps=2)
    poison_data_steps(job, {0, 1})
    with pytest.raises(TrainingDiverged, match="no checkpoint to go back to"):
        run(job, tmp_path)


# --- memory -------------------------------------------------------------------------------------


def with_memory_for(job: Job, rows: int) -> Job:
    honest = job.model.loss_sum

    def loss_sum(ids_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        loss = honest(ids_BT, targets_BT)
        if len(ids_BT) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss

    job.model.loss_sum = loss_sum  # type: ignore[method-assign]
    return job


def test_out_of_memory_halves_the_rows_and_the_result_is_that_of_so_many_rows(
    row_file: Path, tmp_path: Path
) -> None:
    small = make_job(row_file, device_rows=2)
    run(small, tmp_path, "small")
    remembered: list[int] = []
    squeezed = with_memory_for(
        make_job(row_file, device_rows=8, remember_rows=remembered.append), 3
    )
    run(squeezed, tmp_path)
    assert_same_bits(small, squeezed)
    assert remembered == [2]
    (told,) = events(tmp_path, "out_of_memory")
    assert (told["step"], told["rows_before"], told["rows_now"]) == (1, 8, 2)


def test_a_row_that_does_not_fit_is_one_sentence(row_file: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="not even one row of 16 tokens fits"):
        run(with_memory_for(make_job(row_file), 0), tmp_path)


# --- the disk -----------------------------------------------------------------------------------


def test_a_disk_that_is_full_for_a_while_costs_only_the_saves_of_that_while(
    row_file: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = make_job(row_file)
    run(undisturbed, tmp_path, "undisturbed")
    ballast = small_disk / "ballast"

    def fill() -> None:
        with open(ballast, "wb", buffering=0) as handle:
            try:
                while handle.write(bytes(2**12)):
                    pass
            except OSError:
                pass

    def empty(section: Section, step: int) -> None:
        if section is Section.FORWARD and step == 5:
            ballast.unlink(missing_ok=True)

    job = make_job(row_file, enter=empty)
    at_step(job, 3, fill)
    run(job, small_disk)
    assert_same_bits(undisturbed, job)
    assert [event["step"] for event in events(small_disk, "checkpoint")] == [1, 2, 5, 6]
    assert "0 GB are free" in events(small_disk, "save_failed")[0]["reason"]
    assert "was not saved, training goes on" in capsys.readouterr().err
    assert make_store(small_disk / "run").steps() == [5, 6]


def test_a_disk_that_fails_in_the_middle_of_a_file_leaves_the_checkpoint_before(
    row_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room enough by statvfs; then the device reports an error."""
    honest = parts.write_tensors_hashed

    def failing(path: Path, tensors: Any) -> tuple[int, str]:
        if "step-000003" in str(path) and "optimizer" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return honest(path, tensors)

    monkeypatch.setattr(parts, "write_tensors_hashed", failing)
    run(make_job(row_file), tmp_path)
    (failed,) = events(tmp_path, "save_failed")
    assert failed["step"] == 3
    assert "I/O error" in failed["reason"]
    assert [event["step"] for event in events(tmp_path, "checkpoint")] == [1, 2, 4, 5, 6]


def test_a_last_checkpoint_that_cannot_be_written_is_exit_code_80(
    row_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, tensors: Any) -> tuple[int, str]:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(parts, "write_tensors_hashed", failing)
    with pytest.raises(NotSaved, match="quota is used up") as caught:
        run(make_job(row_file, save_every_minutes=60), tmp_path)
    assert caught.value.exit_code == 80


# --- saving beside training ---------------------------------------------------------------------


def test_training_goes_on_while_a_checkpoint_is_written_and_it_holds_its_own_step(
    row_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes until step 4 to write what was asked for after step 1."""
    four_done = threading.Event()
    honest = CheckpointStore.write_part

    def slow(store: CheckpointStore, step: int, pieces: Any) -> int:
        assert step != 1 or four_done.wait(60)
        return honest(store, step, pieces)

    monkeypatch.setattr(CheckpointStore, "write_part", slow)
    job = make_job(row_file, save_every_minutes=60, switches=tmp_path)
    (tmp_path / "SAVE").touch()
    at_step(job, 5, four_done.set)
    run(job, tmp_path)
    first, last = events(tmp_path, "checkpoint")
    assert (first["step"], last["step"]) == (1, STEPS)
    order = [(e["event"], e["step"]) for e in read_events(tmp_path / "run.jsonl")]
    assert order.index(("checkpoint", 1)) > order.index(("step", 4))
    saved_early = make_job(row_file)
    run(saved_early, tmp_path, "each-step", keep=STEPS)
    one, other = (make_store(tmp_path / name).open(1) for name in ("run", "each-step"))
    for part in ("model", "optimizer"):
        for name in one.names(part):
            assert torch.equal(one.rows(part, name), other.rows(part, name)), name


# --- a person -----------------------------------------------------------------------------------


def test_a_file_stop_ends_training_with_a_checkpoint_and_is_not_started_again(
    row_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "SECONDS_BETWEEN_LOOKS", 0.0)
    job = make_job(row_file, save_every_minutes=60, switches=tmp_path)
    at_step(job, 2, (tmp_path / "STOP").touch)
    with pytest.raises(StoppedByHand, match="STOP stopped base training after step 2") as caught:
        run(job, tmp_path)
    assert caught.value.exit_code == 93
    assert make_store(tmp_path / "run").steps() == [2]


# --- randomness ---------------------------------------------------------------------------------


def test_random_draws_go_on_where_they_were(row_file: Path, tmp_path: Path) -> None:
    def with_noise() -> Job:
        job = make_job(row_file)
        honest = job.model.loss_sum

        def noisy(*batch: torch.Tensor) -> torch.Tensor:
            return honest(*batch) * (0.5 + torch.rand(()))

        job.model.loss_sum = noisy  # type: ignore[method-assign]
        return job

    def die() -> None:
        raise ZeroDivisionError

    undisturbed, killed, resumed = with_noise(), with_noise(), with_noise()
    run(undisturbed, tmp_path, "undisturbed")
    at_step(killed, 4, die)
    with pytest.raises(ZeroDivisionError):
        run(killed, tmp_path)
    run(resumed, tmp_path)
    assert_same_bits(undisturbed, resumed)
