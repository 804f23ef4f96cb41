"""What a stage gives the training loop, what the loop keeps, and what it hands back."""

import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from nanochat.data.loader import RowLoader
from nanochat.model.gpt import GPT
from nanochat.model.optimizer import MuonAdamW
from nanochat.settings import OperationSettings
from nanochat.track.journal import Journal
from nanochat.train.distributed import RankGroup
from nanochat.train.exchange import Exchange, ExchangeOf
from nanochat.train.watchdog import Section

LOSS_SMOOTHING = 0.9


class Multipliers(NamedTuple):
    """What the schedules say of one step."""

    learning_rate: float
    """Multiplies every group's learning rate."""
    momentum: float
    """Muon's momentum."""
    weight_decay: float
    """Multiplies Muon's weight decay."""


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
    validate: Callable[[int], float]
    """Bits per byte of held-out text, with so many rows at a time; all ranks call it, and get the
    same number."""
    operation: OperationSettings
    flops_per_token: float
    peak_flops: float | None
    """FLOP/s that a rank's device reaches at best; None where nobody has measured it."""
    group: RankGroup = field(default_factory=RankGroup)
    exchange: ExchangeOf = Exchange
    """How gradients and updates travel between the ranks; what belongs to the optimizer."""
    seed: int = 0
    """Of the random states; each rank's differs."""
    device_rows: int = 32
    """Rows of a micro-batch to begin with."""
    enter: Callable[[Section, int], None] = lambda section, step: None
    """Told what the loop begins to do, and in which step (train/watchdog.py)."""
    remember_rows: Callable[[int], None] = lambda rows: None
    """Told how many rows were left after running out of memory; called on rank 0."""
    lost: Callable[[], bool] = lambda: False
    """Whether another process has taken this training over; asked on rank 0."""
    put_aside: list[tuple[int, str]] = field(default_factory=list)
    """Checkpoints that were set aside, and why, on rank 0; the loop journals them."""
    switches: Path | None = None
    """Folder in which a person may put a file STOP or SAVE."""

    def note(self, journal: Journal, event: str, step: int, **fields: Any) -> None:
        """Writes an event of this training."""
        journal.write(event, stage=self.stage, training=self.training, step=step, **fields)


@dataclass
class LoopState:
    """What a checkpoint keeps beside weights, optimizer and random states."""

    step: int = 0
    tokens: int = 0
    """Tokens trained on, supervised or not, over all steps."""
    seconds: float = 0.0
    """Seconds spent in steps; saving and validating are not in it."""
    smooth_loss: float = 0.0
    """Exponential average of the loss, not yet corrected for its start at zero."""
    losses: int = 0
    """How many losses are in that average."""
    passed_over: int = 0
    """Steps' worth of rows that were left out after going back to a checkpoint."""
    unsound_in_a_row: int = 0
    """Steps without an update, up to the last one, because a number was not finite."""
    rollbacks: int = 0
    recent_losses: list[float] = field(default_factory=list)
    """What the detector of loss spikes looks back on."""

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Self:
        """From a checkpoint's manifest, of an older version too."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in saved.items() if name in known})

    @property
    def data_step(self) -> int:
        """Which step's rows come next."""
        return self.step + self.passed_over

    def add_loss(self, loss: float) -> None:
        """A step's mean loss in nats."""
        self.losses += 1
        self.smooth_loss = LOSS_SMOOTHING * self.smooth_loss + (1 - LOSS_SMOOTHING) * loss

    def loss(self) -> float:
        """The smoothed loss in nats per supervised token."""
        return self.smooth_loss / (1 - LOSS_SMOOTHING ** max(self.losses, 1))


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


def peak_memory_bytes() -> int:
    """Most memory this process has held so far, in bytes: the GPU's where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
