"""What goes wrong inside a training, and what it does about it."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STEPS, assert_same_bits, at_step, make_job, make_store, run

from nanochat.data.loader import Batch
from nanochat.errors import (
    DamagedArtefact,
    DiskError,
    NotSaved,
    OutOfMemory,
    StoppedByHand,
    StoppedEarly,
    TrainingDiverged,
)
from nanochat.track.journal import read_events
from nanochat.train import boundary, loop, parts
from nanochat.train.checkpoint_manifest import OtherVersion
from nanochat.train.checkpoints import CheckpointStore, Retention
from nanochat.train.job import Job, Multipliers
from nanochat.train.saver import Saver
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


def test_training_goes_back_further_where_it_did_not_get_beyond_a_checkpoint(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file, roll_back_after_steps=2, rollbacks=3)
    poison_data_steps(job, set(range(3, 100)))
    with pytest.raises(TrainingDiverged, match="the checkpoint of step 2 stands"):
        run(job, tmp_path)
    assert [event["step"] for event in events(tmp_path, "rollback")] == [3, 2, 2]
    (aside,) = events(tmp_path, "set_aside")
    assert (aside["step"], "did not get beyond it" in aside["reason"]) == (3, True)
    assert make_store(tmp_path / "run").steps() == [2], "the only one is kept"


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file, roll_back_after_steps=2)
    poison_data_steps(job, {0, 1})
    with pytest.raises(TrainingDiverged, match="no checkpoint to go back to"):
        run(job, tmp_path)


def test_weights_that_an_update_spoiled_are_not_saved_and_training_goes_back_behind_them(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file, roll_back_after_steps=2)
    rates = iter([1.0, 1.0, float("nan")])
    gentle = Multipliers(1.0, 0.9, 1.0)
    job = replace(job, multipliers=lambda step: gentle)
    honest = job.optimizer.update
    job.optimizer.update = lambda *_: honest(next(rates, 1.0), 0.9, 1.0)  # type: ignore[method-assign]
    run(job, tmp_path)
    (failed, *_) = events(tmp_path, "save_failed")
    assert failed["step"] == 3
    assert "not finite" in failed["reason"]
    (rollback,) = events(tmp_path, "rollback")
    assert (rollback["step"], rollback["from_step"]) == (2, 5)
    assert all(value.isfinite().all() for value in job.model.state_dict().values())


def test_a_checkpoint_saved_among_bad_steps_is_not_gone_back_to(
    row_file: Path, tmp_path: Path
) -> None:
    job = make_job(row_file, roll_back_after_steps=2)
    poison_data_steps(job, {2, 3})
    at_step(job, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))  # the first of them
    with pytest.raises(StoppedEarly):
        run(job, tmp_path)
    assert make_store(tmp_path / "run").steps() == [2, 3]
    again = make_job(row_file, roll_back_after_steps=2)
    poison_data_steps(again, {2, 3})
    run(again, tmp_path)
    (rollback,) = events(tmp_path, "rollback")
    assert (rollback["step"], rollback["from_step"]) == (2, 4)
    (aside,) = events(tmp_path, "set_aside")
    assert "saved among steps without an update" in aside["reason"]


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
    monkeypatch.setattr(loop, "PATIENCE_FOR_ROOM", 0.0)
    with pytest.raises(NotSaved, match="quota is used up") as caught:
        run(make_job(row_file, save_every_minutes=60), tmp_path)
    assert caught.value.exit_code == 80


def test_a_host_without_memory_for_the_copy_costs_a_save(
    row_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Saver._buffer

    def failing(saver: Saver, key: str, tensor: torch.Tensor) -> torch.Tensor:
        if saver._loop_state.step == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return honest(saver, key, tensor)

    monkeypatch.setattr(Saver, "_buffer", failing)
    run(make_job(row_file), tmp_path)
    (failed,) = events(tmp_path, "save_failed")
    assert (failed["step"], "no memory" in failed["reason"]) == (3, True)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(DiskError("cannot read it"), "cannot read it"), (OtherVersion("format 3"), "format 3")],
)
def test_checkpoints_that_cannot_be_read_just_now_are_not_set_aside(
    row_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    sentence: str,
) -> None:
    run(make_job(row_file), tmp_path)

    def unreadable(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error), match=sentence):
        patch.setattr(CheckpointStore, "verify", unreadable)
        run(make_job(row_file), tmp_path)
    assert make_store(tmp_path / "run").steps() == [5, 6]
    assert events(tmp_path, "start")[-1]["step"] == 0, "it did not start"


def test_the_checkpoint_that_verified_outlives_one_that_the_disk_spoiled(
    row_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits flip between writing and reading back; the one before is known to be whole."""
    honest = CheckpointStore._put_in_place

    def spoiling(store: CheckpointStore, step: int) -> None:
        honest(store, step)
        if step == 4:
            file = next(store.path(step).glob("model*"))
            file.write_bytes(file.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(CheckpointStore, "_put_in_place", spoiling)
    job = make_job(row_file)
    at_step(job, 5, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(job, tmp_path, retention=Retention(1))
    run(make_job(row_file), tmp_path, retention=Retention(1))
    assert [event["step"] for event in events(tmp_path, "start")] == [0, 3]


# --- validation ---------------------------------------------------------------------------------


def test_the_best_checkpoints_are_those_of_the_steps_that_were_validated_best(
    row_file: Path, tmp_path: Path
) -> None:
    measured = iter([5.0, 3.0, 4.0, 9.0, 8.0, 7.0])
    job = make_job(
        row_file,
        save_every_minutes=60,
        validate_every_steps=1,
        validate=lambda: next(measured),
        keep_best=2,
    )
    run(job, tmp_path, retention=Retention(1, best=2))
    assert make_store(tmp_path / "run").steps() == [2, 3, 6]


def test_a_validation_in_which_training_was_killed_is_made_after_the_resume(
    row_file: Path, tmp_path: Path
) -> None:
    measured = iter([2.0])
    job = make_job(row_file, validate=lambda: next(measured))
    with pytest.raises(StopIteration):
        run(job, tmp_path)  # in the validation after step 4
    run(make_job(row_file), tmp_path)
    assert [event["step"] for event in events(tmp_path, "validation")] == [2, 4, 6]


def test_the_last_save_waits_for_somebody_to_make_room(
    row_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, refused = parts.write_tensors_hashed, iter([True, True, True])

    def full_for_a_while(path: Path, tensors: Any) -> tuple[int, str]:
        if "model" in path.name and next(refused, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(path, tensors)

    monkeypatch.setattr(parts, "write_tensors_hashed", full_for_a_while)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_TRIES", 0.01)
    run(make_job(row_file, save_every_minutes=60), tmp_path)
    assert [event["step"] for event in events(tmp_path, "save_failed")] == [STEPS] * 3
    assert make_store(tmp_path / "run").steps() == [STEPS]


def test_where_every_checkpoint_is_damaged_a_person_decides(row_file: Path, tmp_path: Path) -> None:
    run(make_job(row_file), tmp_path)
    store = make_store(tmp_path / "run")
    for step in store.steps():
        (store.path(step) / "manifest.json").write_bytes(b"")
    with pytest.raises(DamagedArtefact, match="all 2 checkpoints are damaged") as caught:
        run(make_job(row_file), tmp_path)
    assert caught.value.exit_code == 2
    run(make_job(row_file), tmp_path)  # who runs it again has decided
    assert [event["step"] for event in events(tmp_path, "start")] == [0, 0]


def test_multiples_of_a_number_of_steps_are_saved_and_stay(row_file: Path, tmp_path: Path) -> None:
    job = make_job(row_file, save_every_minutes=60, keep_every_steps=2)
    run(job, tmp_path, retention=Retention(1, every_steps=2))
    assert make_store(tmp_path / "run").steps() == [2, 4, 6]


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
    job = make_job(row_file, save_every_minutes=60, validate_every_steps=60, switches=tmp_path)
    (tmp_path / "SAVE").touch()
    at_step(job, 5, four_done.set)
    run(job, tmp_path)
    first, last = events(tmp_path, "checkpoint")
    assert (first["step"], last["step"]) == (1, STEPS)
    order = [(e["event"], e["step"]) for e in read_events(tmp_path / "run.jsonl")]
    assert order.index(("checkpoint", 1)) > order.index(("step", 4))
    saved_early = make_job(row_file)
    run(saved_early, tmp_path, "each-step", retention=Retention(STEPS))
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
