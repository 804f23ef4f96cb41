"""Between two steps: what all ranks agree on.

    boundary = Boundary(job, stop, deadline, first_step=state.step)
    agreed = boundary.agree(state, own_targets)

One small sum over the ranks tells each of them how many targets the coming step has, whether a
signal reached any of them, whether one ran out of memory, and what rank 0 reads off its clocks and
switches: whether to save, whether the time limit is near, whether SLURM has given the job to
somebody else, whether a person has put a file STOP or SAVE into the run's folder. No rank acts on
what it alone knows, so none is ever left waiting for the others. Removes SAVE; writes no files.
"""

import os
import time
from dataclasses import dataclass

from nanochat.hpc.deadline import Deadline
from nanochat.train.job import Job, LoopState
from nanochat.train.stop import CAUGHT, StopFlag

DEADLINE = "deadline"
SUPERSEDED = "superseded"
SWITCH = "STOP"
"""Name of the file that stops a training, and why it stopped."""
SAVE_SWITCH = "SAVE"
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_AFTER_A_FAILED_SAVE = 60.0


@dataclass(frozen=True)
class Agreement:
    """The same on all ranks."""

    targets: int
    """Tokens to learn in the coming step, over all ranks; 0 after the last step."""
    save: bool
    leave: str | None
    """Why training ends here and now: a signal's name, DEADLINE, SUPERSEDED or SWITCH."""
    room_to_validate: bool
    """Whether a validation would end before the time limit."""
    out_of_memory: bool
    """Whether some rank ran out of memory in the last step."""


class Boundary:
    """Keeps the clocks that the agreement needs. Seconds are of this process."""

    def __init__(self, job: Job, stop: StopFlag, deadline: Deadline, first_step: int) -> None:
        self.job, self.stop, self.deadline = job, stop, deadline
        self.saved_step = first_step
        self.next_save = time.monotonic() + self._interval
        self.slowest = {"step": 0.0, "save": 0.0, "validation": 0.0}
        self._next_look = 0.0
        self._asked_to_save, self._last_asked = False, 0.0

    @property
    def _interval(self) -> float:
        return self.job.operation.save_every_minutes * 60

    def took(self, what: str, seconds: float) -> None:
        """Remembers the slowest `step`, `save` or `validation`: the next may be as slow."""
        self.slowest[what] = max(self.slowest[what], seconds)

    def saving(self) -> None:
        """A save begins: the interval to the next one does too."""
        self._asked_to_save = False
        self.next_save = time.monotonic() + self._interval

    def saved(self, step: int, seconds: float) -> None:
        """There is a checkpoint of `step`, which took so long."""
        self.took("save", seconds)
        self.saved_step = step

    def not_saved(self) -> None:
        """A save failed: the next one is tried soon."""
        self.next_save = time.monotonic() + min(self._interval, SECONDS_AFTER_A_FAILED_SAVE)

    def save_soon(self) -> None:
        """After the next sound step."""
        self._asked_to_save = True

    def agree(self, state: LoopState, targets: int, out_of_memory: bool = False) -> Agreement:
        """All ranks call this after every step, and before the first one."""
        mine = [targets, float(out_of_memory)]
        mine += [float(self.stop.requested == number.name) for number in CAUGHT]
        clocks = self._clocks() if self.job.group.is_first else [False] * 5
        targets_, ran_out, *said = self.job.group.sum([*mine, *map(float, clocks)])
        signals, (due, near, superseded, room, switched) = said[:-5], map(bool, said[-5:])
        signal = next((n.name for n, count in zip(CAUGHT, signals, strict=True) if count), None)
        last = state.step == self.job.steps
        leave = (SWITCH if switched else signal) or (DEADLINE if near else None)
        if last:  # all is done but the validation
            leave = None if room else DEADLINE
        # A step that made no update is nothing to go back to.
        due = (due or self._is_to_be_kept(state.step)) and not state.unsound_in_a_row
        wanted = due or last or leave is not None
        return Agreement(
            targets=int(targets_),
            save=wanted and not superseded and state.step > self.saved_step,
            leave=SUPERSEDED if superseded else leave,
            room_to_validate=room,
            out_of_memory=bool(ran_out),
        )

    def _is_to_be_kept(self, step: int) -> bool:
        """Whether a checkpoint of this step is wanted: as a best one perhaps, or as a multiple."""
        operation, every = self.job.operation, self.job.operation.keep_every_steps
        best = operation.keep_best > 0 and step % operation.validate_every_steps == 0
        return step > 0 and (best or (every is not None and step % every == 0))

    def _clocks(self) -> list[bool]:
        """Save due, time limit near, superseded, room for a validation, switched off: as rank 0
        sees it."""
        left = self.deadline.seconds_left()
        needed = self.job.operation.leave_before_limit_seconds
        needed += 2 * (self.slowest["step"] + self.slowest["save"])
        stop = self._look_at_switches()
        return [
            self._asked_to_save or time.monotonic() >= self.next_save,
            left < needed,
            self.deadline.superseded or self.job.lost(),
            left >= needed + self.slowest["validation"],
            stop,
        ]

    def _look_at_switches(self) -> bool:
        """Whether STOP is there, and SAVE, which is used up; once a second."""
        folder, now = self.job.switches, time.monotonic()
        if folder is None or now < self._next_look:
            return False
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        save = folder / SAVE_SWITCH
        try:
            asked = save.stat().st_mtime
            if asked != self._last_asked:
                self._last_asked, self._asked_to_save = asked, True
                save.unlink()
        except OSError:  # not there; or another user's, which this one may not remove
            pass
        return os.path.exists(folder / SWITCH)
