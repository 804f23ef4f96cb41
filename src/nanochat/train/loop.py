"""The training loop, one for every stage.

    result = train(job, store, journal)

A step: the rows of the step (arithmetic on the step's number), gradients accumulated over
micro-batches to the total batch, a look at loss and gradients before the update, the update, a line
in the journal. Then, in this order: save, validate, stop if a signal asked for it. The state is
weights, optimizer and a step number; schedules and data follow from the step number, so that a
resumed training ends with the same bits as an undisturbed one.

Writes checkpoints (train/checkpoints.py) and the journal; prints step lines.
"""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from nanochat.config import OperationSettings
from nanochat.data.loader import RowLoader
from nanochat.errors import DamagedArtefact, NanochatError, TrainingDiverged
from nanochat.model.gpt import GPT
from nanochat.model.optimizer import MuonAdamW
from nanochat.track.journal import Journal
from nanochat.track.step_line import StepLine, format_step
from nanochat.train.checkpoints import Checkpoint, CheckpointStore
from nanochat.train.stop import StopFlag

LOSS_SMOOTHING = 0.9
SECONDS_BETWEEN_LINES = 5.0


class Multipliers(NamedTuple):
    """What the schedules say of one step."""

    learning_rate: float
    """Multiplies every group's learning rate."""
    momentum: float
    """Muon's momentum."""
    weight_decay: float
    """Multiplies Muon's weight decay."""


class StoppedEarly(NanochatError):
    """A signal ended training at a step boundary, after a checkpoint: run again to continue."""

    exit_code = 75


@dataclass(frozen=True)
class Job:
    """What a stage gives the loop."""

    stage: str
    training: str
    """What tells this training's lines in the journal from those of another one."""
    model: GPT
    optimizer: MuonAdamW
    loader: RowLoader
    steps: int
    multipliers: Callable[[int], Multipliers]
    """Learning rate, momentum and weight decay of a step."""
    validate: Callable[[], float]
    """Bits per byte of held-out text."""
    operation: OperationSettings
    flops_per_token: float
    peak_flops: float | None
    """FLOP/s that the device reaches at best; None where nobody has measured it."""

    def note(self, journal: Journal, event: str, step: int, **fields: Any) -> None:
        """Writes an event of this training."""
        journal.write(event, stage=self.stage, training=self.training, step=step, **fields)


@dataclass
class LoopState:
    """What a checkpoint keeps beside weights and optimizer."""

    step: int = 0
    tokens: int = 0
    """Tokens trained on, supervised or not, over all steps."""
    seconds: float = 0.0
    """Seconds spent in steps; saving and validating are not in it."""
    smooth_loss: float = 0.0
    """Exponential average of the loss, not yet corrected for its start at zero."""

    def loss(self) -> float:
        """The smoothed loss in nats per supervised token."""
        return self.smooth_loss / (1 - LOSS_SMOOTHING ** max(self.step, 1))


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training reports. Seconds are of all attempts; memory is this process's."""

    steps: int
    tokens: int
    train_loss: float
    validation_bpb: float
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


def train(job: Job, store: CheckpointStore, journal: Journal) -> TrainingResult:
    """Trains to the last step, from the newest checkpoint if there is one.

    Raises TrainingDiverged before an update that would not be finite, StoppedEarly after a signal.
    """
    state = _resume(job, store.newest())
    job.note(journal, "start", state.step, steps=job.steps)
    clock = _Clock(job, store, journal)
    with StopFlag() as stop:
        while state.step < job.steps:
            seconds = _step(job, state, journal)
            if clock.save_is_due(state, stop):
                clock.save(state)
            clock.print_line(state, seconds)
            if stop.requested and state.step < job.steps:
                raise StoppedEarly(
                    f"{stop.requested} stopped {job.stage} training after step {state.step} of "
                    f"{job.steps}; its checkpoint is saved: run the same command to continue"
                )
            if state.step % job.operation.validate_every_steps == 0 and state.step < job.steps:
                _validate(job, state, journal)
    bpb = _validate(job, state, journal)
    result = TrainingResult(
        steps=state.step,
        tokens=state.tokens,
        train_loss=state.loss(),
        validation_bpb=bpb,
        seconds=state.seconds,
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
        peak_memory_bytes=peak_memory_bytes(),
    )
    job.note(journal, "end", state.step)
    return result


def peak_memory_bytes() -> int:
    """Most memory this process has held so far, in bytes: the GPU's where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resume(job: Job, checkpoint: Checkpoint | None) -> LoopState:
    if checkpoint is None:
        return LoopState()
    job.model.load_state_dict(checkpoint.tensors["model"])
    job.optimizer.load_state_dict(checkpoint.tensors["optimizer"])
    state = LoopState(**checkpoint.loop_state)
    print(f"{job.stage} resumes after step {state.step} of {job.steps}", flush=True)
    return state


def _step(job: Job, state: LoopState, journal: Journal) -> float:
    """One update; returns its seconds."""
    start = time.monotonic()
    loss = _accumulate_gradients(job, state.step)
    multipliers = job.multipliers(state.step)
    if not math.isfinite(loss) or not _gradients_are_finite(job.model):
        job.note(journal, "diverged", state.step + 1, loss=repr(loss))
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


def _accumulate_gradients(job: Job, step: int) -> float:
    """Gradients of the mean loss over the step's supervised tokens; returns that loss in nats.

    The sum over micro-batches is divided once by the number of targets in the whole step, so that
    a micro-batch with few of them counts for no more than these.
    """
    device = job.model.device
    batches = list(job.loader.micro_batches(step, job.operation.device_rows))
    targets = sum(int((targets_BT >= 0).sum()) for _, targets_BT in batches)
    if targets == 0:
        raise DamagedArtefact(
            f"{job.stage} step {step + 1} has no token to learn: its rows are all padding or masked"
        )
    total = torch.zeros((), device=device)
    for inputs_BT, targets_BT in batches:
        loss = job.model.loss_sum(
            inputs_BT.to(device, non_blocking=True), targets_BT.to(device, non_blocking=True)
        )
        (loss / targets).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return float(total) / targets


def _gradients_are_finite(model: GPT) -> bool:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
    return bool(norms.isfinite().all())


def _validate(job: Job, state: LoopState, journal: Journal) -> float:
    bpb = job.validate()
    job.note(journal, "validation", state.step, bpb=bpb)
    print(f"{job.stage} step {state.step:05d} | validation {bpb:.4f} bits per byte", flush=True)
    return bpb


class _Clock:
    """When to save and when to print, by the wall clock."""

    def __init__(self, job: Job, store: CheckpointStore, journal: Journal) -> None:
        self.job, self.store, self.journal = job, store, journal
        self.last_save = time.monotonic()
        self.last_line = -math.inf
        self.steps = 0
        self.seconds = 0.0

    def save_is_due(self, state: LoopState, stop: StopFlag) -> bool:
        """At the interval, when a signal asked to stop, and at the end."""
        elapsed = time.monotonic() - self.last_save
        interval = self.job.operation.save_every_minutes * 60
        return elapsed >= interval or stop.requested is not None or state.step == self.job.steps

    def save(self, state: LoopState) -> None:
        """Writes a checkpoint and says so in the journal."""
        start = time.monotonic()
        tensors = {
            "model": dict(self.job.model.state_dict()),
            "optimizer": self.job.optimizer.state_dict(),
        }
        size = self.store.save(state.step, tensors, asdict(state))
        self.last_save = time.monotonic()
        self.job.note(
            self.journal,
            "checkpoint",
            state.step,
            seconds=round(self.last_save - start, 3),
            bytes=size,
        )

    def print_line(self, state: LoopState, seconds: float) -> None:
        """Prints the first and the last step, and one every few seconds between them."""
        self.steps += 1
        self.seconds += seconds
        last = state.step == self.job.steps
        if not last and time.monotonic() - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = time.monotonic()
        step_seconds = self.seconds / self.steps
        rate = self.job.loader.rows_per_step * self.job.loader.sequence_len / step_seconds
        peak = self.job.peak_flops
        line = StepLine(
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
        print(format_step(line), flush=True)
        self.steps, self.seconds = 0, 0.0
