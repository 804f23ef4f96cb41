"""Between two steps: what all ranks agree on.

    boundary = Boundary(job, stop, deadline, first_step=state.step)
    agreed = boundary.agree(state, own_targets)

One small sum over the ranks tells each of them how many targets the coming step has, whether a
signal reached any of them, and what rank 0 reads off its clocks: whether to save, whether the time
limit is near, whether SLURM has given the job to somebody else. No rank acts on what it alone
knows, so none is ever left waiting for the others. Reads and writes no files.
"""

import time
from dataclasses import dataclass

from nanochat.hpc.deadline import Deadline
from nanochat.train.job import Job, LoopState
from nanochat.train.stop import CAUGHT, StopFlag

DEADLINE = "deadline"
SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Agreement:
    """The same on all ranks."""

    targets: int
    """Tokens to learn in the coming step, over all ranks; 0 after the last step."""
    save: bool
    leave: str | None
    """Why training ends here and now: a signal's name, DEADLINE or SUPERSEDED."""
    room_to_validate: bool
    """Whether a validation would end before the time limit."""


class Boundary:
    """Keeps the clocks that the agreement needs. Seconds are of this process."""

    def __init__(self, job: Job, stop: StopFlag, deadline: Deadline, first_step: int) -> None:
        self.job, self.stop, self.deadline = job, stop, deadline
        self.saved_step = first_step
        self.last_save = time.monotonic()
        self.slowest = {"step": 0.0, "save": 0.0, "validation": 0.0}

    def took(self, what: str, seconds: float) -> None:
        """Remembers the slowest `step`, `save` or `validation`: the next may be as slow."""
        self.slowest[what] = max(self.slowest[what], seconds)

    def saved(self, state: LoopState, seconds: float) -> None:
        """Starts the interval to the next save."""
        self.took("save", seconds)
        self.saved_step, self.last_save = state.step, time.monotonic()

    def agree(self, state: LoopState, targets: int) -> Agreement:
        """All ranks call this after every step, and before the first one."""
        mine = [targets, *(float(self.stop.requested == number.name) for number in CAUGHT)]
        clocks = self._clocks() if self.job.group.is_first else [False] * 4
        targets_, *said = self.job.group.sum([*mine, *map(float, clocks)])
        signals, (due, near, superseded, room) = said[:-4], map(bool, said[-4:])
        signal = next((n.name for n, count in zip(CAUGHT, signals, strict=True) if count), None)
        last = state.step == self.job.steps
        leave = signal or (DEADLINE if near else None)
        if last:  # all is done but the validation
            leave = None if room else DEADLINE
        wanted = due or last or leave is not None
        return Agreement(
            targets=int(targets_),
            save=wanted and not superseded and state.step > self.saved_step,
            leave=SUPERSEDED if superseded else leave,
            room_to_validate=room,
        )

    def _clocks(self) -> list[bool]:
        """Save due, time limit near, superseded, room for a validation: as rank 0 sees it."""
        elapsed, left = time.monotonic() - self.last_save, self.deadline.seconds_left()
        needed = self.job.operation.leave_before_limit_seconds
        needed += 2 * (self.slowest["step"] + self.slowest["save"])
        return [
            elapsed >= self.job.operation.save_every_minutes * 60,
            left < needed,
            self.deadline.superseded,
            left >= needed + self.slowest["validation"],
        ]
