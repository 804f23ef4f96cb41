"""The step lines that a training prints for people, on rank 0.

lines = StepLines(job)
lines.print(state, seconds)      # after every step
"""

import math
import time

from nanochat.track.step_line import StepLine, format_step
from nanochat.train.job import Job, LoopState
from nanochat.train.say import say

SECONDS_BETWEEN_LINES = 5.0


class StepLines:
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
            say(format_step(self._line(state, step_seconds)))

    def _line(self, state: LoopState, step_seconds: float) -> StepLine:
        rate = self.job.loader.rows_per_step * self.job.loader.sequence_len / step_seconds
        peak = (self.job.peak_flops or 0.0) * self.job.group.world_size
        return StepLine(
            stage=self.job.stage,
            step=state.step,
            steps=self.job.steps,
            loss=state.loss(),
            lr=self.job.multipliers(max(state.step - 1, 0)).learning_rate,
            tokens_per_second=round(rate),
            step_seconds=step_seconds,
            eta_seconds=step_seconds * (self.job.steps - state.step),
            mfu=rate * self.job.flops_per_token / peak if peak else None,
        )
