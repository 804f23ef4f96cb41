"""The training loop, one for every stage.

    result = train(job, store, journal, deadline)

A step: the rows of the step (arithmetic on the step's number), of which each rank takes its share;
gradients accumulated over micro-batches to the total batch and summed over the ranks; a look at
loss and gradients before the update; the update; a line in the journal. Then, in this order: save,
leave if a signal or the time limit asks for it, validate. The state is weights, optimizer and a
step number; schedules and data follow from the step number, so that a resumed training ends with
the same bits as an undisturbed one.

Writes checkpoints (train/checkpoints.py) and the journal; prints step lines: rank 0 only.
"""

import math
import platform
import time
from dataclasses import asdict
from typing import NamedTuple

import torch

from nanochat.data.loader import Batch
from nanochat.errors import DamagedArtefact, TrainingDiverged
from nanochat.hpc.deadline import Deadline
from nanochat.model.gpt import GPT
from nanochat.track.journal import Journal
from nanochat.track.step_line import StepLine, format_step
from nanochat.train.boundary import Agreement, Boundary
from nanochat.train.checkpoints import CheckpointStore
from nanochat.train.job import (
    LOSS_SMOOTHING,
    Job,
    LoopState,
    TrainingResult,
    peak_memory_bytes,
)
from nanochat.train.leaving import leave
from nanochat.train.stop import StopFlag

SECONDS_BETWEEN_LINES = 5.0


class Share(NamedTuple):
    """What a rank contributes to one step."""

    batches: list[Batch]
    targets: int
    """Tokens to learn in these batches."""
    seconds: float
    """How long they took to read."""


def train(
    job: Job, store: CheckpointStore, journal: Journal, deadline: Deadline | None = None
) -> TrainingResult:
    """Trains to the last step, from the newest checkpoint if there is one.

    All ranks call it; all raise what ends it. Raises TrainingDiverged before an update that would
    not be finite, StoppedEarly after a signal or near the time limit, NoProgress where the limit
    came before a step.
    """
    deadline = deadline or Deadline()
    state = _resume(job, store)
    _note_start(job, state, journal, deadline)
    with StopFlag() as stop:
        _train(job, state, store, journal, Boundary(job, stop, deadline, state.step))
    bpb = _validate(job, state, journal)
    job.note(journal, "end", state.step)
    return TrainingResult(
        steps=state.step,
        tokens=state.tokens,
        train_loss=state.loss(),
        validation_bpb=bpb,
        seconds=state.seconds,
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
        peak_memory_bytes=peak_memory_bytes(),
    )


def _train(
    job: Job, state: LoopState, store: CheckpointStore, journal: Journal, boundary: Boundary
) -> None:
    """Steps, saves and validations up to the last step's save."""
    first, lines = state.step, _Lines(job)
    share = _read(job, state.step)
    agreed = boundary.agree(state, share.targets)
    while state.step < job.steps and agreed.leave is None:
        seconds = _step(job, state, share, agreed.targets, journal)
        boundary.took("step", seconds)
        share = _read(job, state.step)
        agreed = boundary.agree(state, share.targets)
        if agreed.save:
            _save(job, state, store, journal, boundary)
        lines.print(state, seconds)
        if _validation_is_due(job, state, agreed):
            start = time.monotonic()
            _validate(job, state, journal)
            boundary.took("validation", time.monotonic() - start)
    if agreed.leave is not None:
        leave(job, state, journal, boundary.deadline, agreed.leave, state.step - first)


def _resume(job: Job, store: CheckpointStore) -> LoopState:
    """Rank 0 finds the newest checkpoint that verifies, and all ranks load that one."""
    newest = store.newest() if job.group.is_first else None
    step = int(job.group.from_first(newest.step if newest else -1))
    if step < 0:
        return LoopState()
    checkpoint = newest or store.load(step)
    job.model.load_state_dict(checkpoint.tensors["model"])
    job.optimizer.load_state_dict(checkpoint.tensors["optimizer"])
    state = LoopState(**checkpoint.loop_state)
    if job.group.is_first:
        print(f"{job.stage} resumes after step {state.step} of {job.steps}", flush=True)
    return state


def _note_start(job: Job, state: LoopState, journal: Journal, deadline: Deadline) -> None:
    own = deadline.job
    job.note(
        journal,
        "start",
        state.step,
        steps=job.steps,
        job_id=own.id if own else None,
        restarts=deadline.restarts or 0,
        host=platform.node(),
        world_size=job.group.world_size,
    )


def _read(job: Job, step: int) -> Share:
    """This rank's share of a step; nothing after the last one."""
    if step == job.steps:
        return Share([], 0, 0.0)
    start, group = time.monotonic(), job.group
    rows = job.operation.device_rows
    batches = list(job.loader.micro_batches(step, rows, group.rank, group.world_size))
    targets = sum(int((targets_BT >= 0).sum()) for _, targets_BT in batches)
    return Share(batches, targets, time.monotonic() - start)


def _step(job: Job, state: LoopState, share: Share, targets: int, journal: Journal) -> float:
    """One update; returns its seconds. `targets` are those of all ranks."""
    start = time.monotonic() - share.seconds
    if targets == 0:
        raise DamagedArtefact(
            f"{job.stage} step {state.step + 1} has no token to learn: its rows are all padding "
            "or masked"
        )
    own_loss = _accumulate_gradients(job, share, targets)
    job.group.sum_gradients(job.model)
    finite = math.isfinite(own_loss) and _gradients_are_finite(job.model)
    # The count of ranks that object decides, so that all decide alike: a NaN would not add up.
    loss_sum, objections = job.group.sum([own_loss, float(not finite)])
    loss = loss_sum / targets
    multipliers = job.multipliers(state.step)
    if objections:
        job.note(journal, "diverged", state.step + 1, loss=repr(loss))
        job.group.wait()
        raise TrainingDiverged(
            f"{job.stage} step {state.step + 1}: the loss is {loss} or a gradient is not finite; "
            "the update was not made and the last checkpoint stands: lower base.lr_scale"
        )
    job.optimizer.step(*multipliers)
    job.optimizer.zero_grad()
    seconds = time.monotonic() - start
    tokens = job.loader.rows_per_step * job.loader.sequence_len
    state.step += 1
    state.tokens += tokens
    state.seconds += seconds
    state.smooth_loss = LOSS_SMOOTHING * state.smooth_loss + (1 - LOSS_SMOOTHING) * loss
    job.note(
        journal,
        "step",
        state.step,
        loss=loss,
        lr_multiplier=multipliers.learning_rate,
        tokens=state.tokens,
        tokens_per_second=round(tokens / seconds, 1),
        memory_bytes=peak_memory_bytes(),
    )
    return seconds


def _accumulate_gradients(job: Job, share: Share, targets: int) -> float:
    """Gradients of this rank's part of the step's mean loss; returns its summed loss in nats.

    The sum over micro-batches is divided by the number of targets in the whole step, of all ranks,
    so that a micro-batch with few of them counts for no more than these.
    """
    device = job.model.device
    total = torch.zeros((), device=device)
    for inputs_BT, targets_BT in share.batches:
        loss = job.model.loss_sum(
            inputs_BT.to(device, non_blocking=True), targets_BT.to(device, non_blocking=True)
        )
        (loss / targets).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return float(total)


def _gradients_are_finite(model: GPT) -> bool:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
    return bool(norms.isfinite().all())


def _save(
    job: Job, state: LoopState, store: CheckpointStore, journal: Journal, boundary: Boundary
) -> None:
    """Rank 0 writes a checkpoint and says so in the journal; the others go on."""
    start = time.monotonic()
    if job.group.is_first:
        tensors = {
            "model": dict(job.model.state_dict()),
            "optimizer": job.optimizer.state_dict(),
        }
        size = store.save(state.step, tensors, asdict(state))
        seconds = round(time.monotonic() - start, 3)
        job.note(journal, "checkpoint", state.step, seconds=seconds, bytes=size)
    boundary.saved(state, time.monotonic() - start)


def _validation_is_due(job: Job, state: LoopState, agreed: Agreement) -> bool:
    """At the interval; the one after the last step is made in any case, so not here."""
    due = state.step % job.operation.validate_every_steps == 0 and state.step < job.steps
    return due and agreed.leave is None and agreed.room_to_validate


def _validate(job: Job, state: LoopState, journal: Journal) -> float:
    bpb = job.validate()
    job.note(journal, "validation", state.step, bpb=bpb)
    if job.group.is_first:
        print(f"{job.stage} step {state.step:05d} | validation {bpb:.4f} bits per byte", flush=True)
    return bpb


class _Lines:
    """Prints the first and the last step, and one every few seconds between them."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.last_line = -math.inf
        self.steps = 0
        self.seconds = 0.0

    def print(self, state: LoopState, seconds: float) -> None:
        """Called after every step, with its seconds."""
        self.steps += 1
        self.seconds += seconds
        last = state.step == self.job.steps
        if not last and time.monotonic() - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = time.monotonic()
        step_seconds = self.seconds / self.steps
        self.steps, self.seconds = 0, 0.0
        if self.job.group.is_first:
            print(format_step(self._line(state, step_seconds)), flush=True)

    def _line(self, state: LoopState, step_seconds: float) -> StepLine:
        rate = self.job.loader.rows_per_step * self.job.loader.sequence_len / step_seconds
        peak = (self.job.peak_flops or 0.0) * self.job.group.world_size
        return StepLine(
            stage=self.job.stage,
            step=state.step,
            steps=self.job.steps,
            loss=state.loss(),
            lr=self.job.multipliers(state.step - 1).learning_rate,
            tokens_per_second=round(rate),
            step_seconds=step_seconds,
            eta_seconds=step_seconds * (self.job.steps - state.step),
            mfu=rate * self.job.flops_per_token / peak if peak else None,
        )
