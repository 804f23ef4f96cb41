"""One killed training: what has to be true after every kill, and in the end (crash_sweep.py).

trial = Trial(training, row, "after call 7", expected)
trial.attempt(after=0.03)
trial.finish()                # the row of the table has counted it; its problems are sentences
"""

import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from mortal import LOST_OTHERS, Ended, Training, latest_or_why, whole_or_why

from nanochat.train.checkpoint_folder import LATEST, SCORES


@dataclass
class Row:
    """A line of the table."""

    trials: int = 0
    killed: int = 0
    """Attempts: in a trial there may be two of them."""
    resumed: int = 0
    """Trials whose last attempt ended well."""
    corrupted: int = 0
    """Folders named step-NNNNNN that were not whole, of those that nobody damaged."""
    resumed_from_damaged: int = 0
    most_steps_lost: int = 0
    bits_differ: int = 0
    problems: list[str] = field(default_factory=list)


class Trial:
    """One training with its troubles, and what was not as promised."""

    def __init__(self, training: Training, row: Row, told: str, expected: dict[str, Any]) -> None:
        self.training, self.row, self.told, self.expected = training, row, told, expected

    def attempt(self, **kill: Any) -> Ended:
        """Makes an attempt that is killed, and looks at what it leaves."""
        ended = self.training.attempt(**kill)
        self.row.killed += ended.was_killed
        for code in ended.codes:
            if code not in (0, -9, LOST_OTHERS):
                self._problem(f"a rank ended with {code}: {self.training.errors()[-300:]}")
        if "at" in kill and ended.codes.count(-9) > 1:
            self._problem("a rank that lost the others did not end")
        store = self.training.store
        for step in store.steps():
            if why := whole_or_why(store, step):
                self.row.corrupted += 1
                self._problem(why)
        if why := latest_or_why(store):
            self._problem(why)
        return ended

    def finish(self, expected_step: int | None = None, damaged_step: int | None = None) -> None:
        """The last attempt, which nobody disturbs, has to continue from the newest checkpoint, or
        where one is damaged from `expected_step`."""
        training = self.training
        self.row.trials += 1
        newest = training.store.steps()[-1:] or [0]
        ended = training.attempt()
        if any(ended.codes):
            self._problem(f"the last attempt ended with {ended.codes}: {training.errors()[-300:]}")
            return
        self.row.resumed += 1
        attempts = training.starts()
        resumed = attempts[-1][0]["step"]
        self.row.resumed_from_damaged += resumed == damaged_step
        if resumed != (newest[0] if expected_step is None else expected_step):
            self._problem(f"continued from step {resumed}")
        for before, after in pairwise(attempts):
            self._count_lost(before, after[0]["step"], is_damaged=damaged_step is not None)
            self._look_at_the_schedule(before)
        self._compare()
        shutil.rmtree(training.folder)

    def _count_lost(self, attempt: list[dict[str, Any]], resumed: int, is_damaged: bool) -> None:
        """In the next attempt, which resumed from that step."""
        steps = [event["step"] for event in attempt if event["event"] in ("start", "step")]
        saved = [event["step"] for event in attempt if event["event"] == "checkpoint"]
        lost = max(steps) - resumed
        self.row.most_steps_lost = max(self.row.most_steps_lost, lost)
        if saved and resumed < saved[-1] and not is_damaged:
            self._problem(f"continued from step {resumed}, though {saved[-1]} had been saved")
        if lost > 1 + is_damaged and not self.training.beside:
            self._problem(f"lost {lost} steps")

    def _look_at_the_schedule(self, attempt: list[dict[str, Any]]) -> None:
        """The next save begins one interval after the one before, or when that has ended; a step
        later where that ended because a validation waited for it."""
        now = attempt[0]["step"]
        due = now + 1
        for event in attempt:
            if event["event"] == "step":
                now = event["step"]
            elif event["event"] == "checkpoint":
                if event["step"] > due:
                    self._problem(f"step {event['step']} was saved, {due} was due")
                due = max(event["step"], now) + 1

    def _compare(self) -> None:
        training = self.training
        if training.result() != self.expected:
            self.row.bits_differ += 1
            self._problem("ended with other bits than an undisturbed training")
        store = training.store
        names = {LATEST, SCORES, *(store.path(step).name for step in store.steps())}
        found = {path.name for path in store.folder.iterdir()}
        if left := {name for name in found - names if not name.startswith("damaged-")}:
            self._problem(f"left behind: {sorted(left)}")
        if why := latest_or_why(store):
            self._problem(why)

    def _problem(self, what: str) -> None:
        self.row.problems.append(f"{self.told}: {what}")
