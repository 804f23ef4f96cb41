"""One step on this rank: rows, gradients, a look at them, the update.

    share = stepper.read(state)
    made = stepper.step(state, share, targets)       # targets of all ranks

An update is made by all ranks or by none: what they sum before it is finite for all or for none.
Where a micro-batch does not fit into memory, half as many rows are taken at a time and the step's
gradients are computed again from its start: the rows, the batch and, to rounding, the result stay
the same. Reads packed rows; writes nothing.
"""

import gc
import math
import time
from typing import NamedTuple

import torch

from nanochat.data.loader import Batch
from nanochat.errors import DamagedArtefact, OutOfMemory
from nanochat.train.exchange import norm_of
from nanochat.train.fitting import is_out_of_memory
from nanochat.train.job import Job, LoopState
from nanochat.train.saver import Saver
from nanochat.train.watchdog import Section


class Share(NamedTuple):
    """What a rank contributes to one step."""

    batches: list[Batch]
    targets: int
    """Tokens to learn in these batches."""
    seconds: float
    """How long they took to read."""


class StepMade(NamedTuple):
    """What came of a step."""

    loss: float
    """Mean over all targets, in nats; not finite where the step is unsound."""
    gradient_norm: float
    is_sound: bool
    """Whether the update was made."""
    seconds: float
    """From reading to update."""
    data_seconds: float
    stall_seconds: float
    """Of `seconds`, waiting for a save's copy."""
    compute_seconds: float
    """Of `seconds`, in this rank's own forward and backward passes."""


class Stepper:
    """Makes the steps of one training."""

    def __init__(self, job: Job, saver: Saver) -> None:
        self.job, self.saver = job, saver
        self.exchange = job.exchange(job.group, job.optimizer)
        self.device_rows = job.device_rows
        self.ran_out_of_memory = False
        """Since it was last asked."""

    def read(self, state: LoopState) -> Share:
        """This rank's rows of the coming step; none after the last one."""
        if state.step == self.job.steps:
            return Share([], 0, 0.0)
        self.job.enter(Section.DATA, state.step + 1)
        start = time.monotonic()
        batches = self._batches(state)
        targets = sum(int((targets_BT >= 0).sum()) for _, targets_BT in batches)
        return Share(batches, targets, time.monotonic() - start)

    def step(self, state: LoopState, share: Share, targets: int) -> StepMade:
        """Makes the step after `state.step`; counts nothing in `state`."""
        job, number = self.job, state.step + 1
        if targets == 0:
            raise DamagedArtefact(
                f"{job.stage} step {number} has no token to learn: its rows are all padding or "
                "masked"
            )
        start = time.monotonic()
        own_loss = self._gradients(state, share, targets)
        computed = time.monotonic()
        job.enter(Section.GRADIENTS, number)
        loss_sum, squares = job.group.sum([own_loss, self.exchange.collect()])
        is_sound = math.isfinite(loss_sum) and math.isfinite(squares)
        job.enter(Section.SAVE, number)
        stall = self.saver.before_update()
        job.enter(Section.OPTIMIZER, number)
        if is_sound:
            self.exchange.update(job.optimizer.update(*job.multipliers(state.step)))
        else:
            self.exchange.drop()
        return StepMade(
            loss=loss_sum / targets,
            gradient_norm=norm_of(squares),
            is_sound=is_sound,
            seconds=time.monotonic() - start + share.seconds,
            data_seconds=share.seconds,
            stall_seconds=stall,
            compute_seconds=computed - start,
        )

    def _batches(self, state: LoopState) -> list[Batch]:
        return self.exchange.micro_batches(self.job.loader, state.data_step, self.device_rows)

    def _gradients(self, state: LoopState, share: Share, targets: int) -> float:
        """This rank's gradients, with as many rows at a time as fit; its summed loss in nats."""
        batches = share.batches
        while True:
            try:
                return self._accumulate(batches, targets, state.step + 1)
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
                self._halve(exc)
            self.job.optimizer.zero_grad()
            gc.collect()
            if self.job.group.device.type == "cuda":
                torch.cuda.empty_cache()
            batches = self._batches(state)

    def _halve(self, exc: BaseException) -> None:
        if self.device_rows == 1:
            raise OutOfMemory(
                f"{self.job.stage}: not even one row of {self.job.loader.sequence_len} tokens fits "
                "into memory: lower model.depth or model.sequence_len, or take a larger device"
            ) from exc
        self.device_rows = max(1, self.device_rows // 2)
        self.ran_out_of_memory = True

    def _accumulate(self, batches: list[Batch], targets: int, number: int) -> float:
        """The gradients of this rank's part of the step's mean loss.

        The sum over micro-batches is divided by the number of targets in the whole step, of all
        ranks, so that a micro-batch with few of them counts for no more than these.
        """
        job = self.job
        total = torch.zeros((), device=job.model.device)
        for inputs_BT, targets_BT in batches:
            job.enter(Section.FORWARD, number)
            loss = job.model.loss_sum(
                inputs_BT.to(total.device, non_blocking=True),
                targets_BT.to(total.device, non_blocking=True),
            )
            job.enter(Section.BACKWARD, number)
            is_last = inputs_BT is batches[-1][0]
            with self.exchange.overlapping(is_last):
                (loss / targets).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)
