"""When SLURM ends this job, and whether the job is still this process's.

    with Deadline.of(os.environ) as deadline:
        if deadline.seconds_left() < 120: ...

It asks squeue once at the start, and a thread asks every 30 s, so that an extended limit is
followed; while SLURM gives no answer, the last one stands. Outside SLURM there is no deadline.
Writes nothing.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

from nanochat.errors import SlurmUnavailable
from nanochat.hpc import slurm
from nanochat.hpc.slurm_text import TERMINAL_STATES, WAITING_STATES, parse_state, parse_time
from nanochat.hpc.slurm_variables import OwnJob, Variable, own_job

SECONDS_BETWEEN_QUERIES = 30.0
FORMAT = "JobID:20,EndTime:32,State:32,RestartCnt:16"


class JobNow(NamedTuple):
    """What SLURM says of a job."""

    end: float | None
    """When its time is up, in seconds since 1970; None where it has no limit."""
    state: str
    restarts: int


def ask(job_id: str) -> JobNow | None:
    """Asks squeue; None where it does not know the job. Raises SlurmUnavailable."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--Format", FORMAT]
    return parse(slurm.run(command), job_id)


def parse(text: str, job_id: str) -> JobNow | None:
    """The job's line in what squeue printed in FORMAT; an array's id names several lines."""
    for line in text.splitlines():
        match line.split():
            case [number, end, state, restarts] if number == job_id and restarts.isdigit():
                time_up = parse_time(end)
                seconds = time_up.timestamp() if time_up else None
                return JobNow(seconds, parse_state(state), int(restarts))
    return None


class Deadline:
    """The end of the own job's time, kept up to date while its block runs."""

    def __init__(
        self,
        job: OwnJob | None = None,
        end: float | None = None,
        query: Callable[[str], JobNow | None] = ask,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.job = job
        self._end = end
        self._query, self._clock = query, clock
        self._state, self._restarts = "RUNNING", 0
        self.restarts = job.restarts if job else None
        """Of the own attempt: where the environment does not say it, SLURM's first answer does."""
        self._over = threading.Event()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The deadline of a process with this environment."""
        end = environment.get(Variable.JOB_END_TIME, "")
        return cls(own_job(environment), float(end) if end.isdecimal() else None)

    def __enter__(self) -> Self:
        if self.job is not None:
            self.refresh()
            threading.Thread(target=self._follow, daemon=True, name="deadline").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # not joined: a squeue that hangs holds nobody up

    def seconds_left(self) -> float:
        """Until SLURM ends the job; infinite where no end is known."""
        return math.inf if self.job is None or self._end is None else self._end - self._clock()

    @property
    def restarted(self) -> bool:
        """True where SLURM has requeued the job: it is another process's now.

        While the job is COMPLETING, SLURM still waits for this process to end.
        """
        moved = self.restarts is not None and self._restarts > self.restarts
        return moved and self._state != "COMPLETING"

    @property
    def superseded(self) -> bool:
        """True where SLURM counts this process as gone: its node was lost, and it lives on."""
        return self.restarted or self._state in TERMINAL_STATES | WAITING_STATES

    def refresh(self) -> None:
        """Asks SLURM once."""
        assert self.job is not None
        try:
            now = self._query(self.job.id)
        except SlurmUnavailable:
            return
        if now is None:
            return
        self._end, self._state, self._restarts = now.end, now.state, now.restarts
        if self.restarts is None:
            self.restarts = now.restarts

    def _follow(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_QUERIES):
            self.refresh()
