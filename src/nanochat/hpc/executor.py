"""Snakemake's SLURM executor, taught what long trainings need (profiles: `executor: slurm-resume`).

It submits exactly as snakemake-executor-plugin-slurm does. What it does otherwise:

- A workflow that is started again finds the jobs that a killed one left in the queue, and waits for
  them instead of submitting them a second time: all jobs of a run carry one name.
- Whether a failed job is submitted again depends on why it failed (hpc/retry.py); Snakemake's
  `retries` is only the upper bound. A cancelled job stays cancelled.
- A controller that does not answer, and a limit on the number of jobs, are waited for.
- The end of a job is noticed within seconds, while SLURM is asked once a minute: the command of
  every rule leaves a marker when it ends (rules/common.smk).

Reads the run's resolved config ($NANOCHAT_CONFIG); writes SLURM's logs below runs/<run>/slurm.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.utils import get_job_wildcards
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from nanochat.config import TRAINING_RULES, Config, load_config
from nanochat.errors import NanochatError, SlurmUnavailable
from nanochat.hpc import slurm
from nanochat.hpc.outcomes import read_outcome
from nanochat.hpc.retry import GIVEN_UP, verdict
from nanochat.paths import Paths

SECONDS_BETWEEN_QUERIES = 60.0
SECONDS_AFTER_A_MARKER = 60.0
"""How long SLURM is asked every second after a command has ended, while it answers."""
PATIENCE_SECONDS = 1800.0
"""How long a job may be in a state that should pass: unknown, or about to be requeued by SLURM."""
WORTH_WAITING = (
    "Unable to contact",
    "timed out",
    "Connection refused",
    "Zero Bytes were transmitted",
    "temporarily unavailable",
)
"""What sbatch says when the controller is busy or restarting ..."""
TOO_MANY_JOBS = "violates accounting/QOS policy"
"""... and when an account may have no more jobs in the queue."""
STAGE_OF_RULE = {rule: stage for stage, rule in TRAINING_RULES.items()}


class Ended(NamedTuple):
    """A job's marker: its command has ended, perhaps to be started again by SLURM."""

    marked: float
    """When the marker was written, by the file system's clock."""
    seen: float
    """When that was noticed, or SLURM last failed to answer, by this process's clock."""


class Executor(SlurmExecutor):  # type: ignore[misc]
    """One workflow's jobs on SLURM."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stopping = threading.Event()
        self.refusal = threading.local()
        self.slurm_is_silent = False
        self.submitted: dict[str, SubmittedJobInfo] = {}
        self.ended: dict[str, Ended] = {}
        self.passing: dict[tuple[str, str], float] = {}
        self.progress: dict[int, float] = {}
        self.failures: dict[int, int] = {}

    @cached_property
    def run_config(self) -> Config:
        """The run's resolved config."""
        return load_config(Path(os.environ["NANOCHAT_CONFIG"]))

    @property
    def disk(self) -> Paths:
        """Where the run's files lie."""
        return self.run_config.disk

    def shutdown(self) -> None:
        """Ends the waiting for SLURM, too."""
        self.stopping.set()
        super().shutdown()

    def cancel(self) -> None:
        """On Ctrl-C."""
        self.stopping.set()
        super().cancel()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """All jobs, also those whose state is being asked for at this moment."""
        super().cancel_jobs(list(self.submitted.values()))

    # --- submitting -----------------------------------------------------------------------------

    def run_job(self, job: Any) -> None:
        """Submits a job, unless an earlier workflow's submission of it is still in the queue."""
        try:
            # Known only now: the workflow files its config after this object is made.
            self.run_uuid = slurm.job_name(self.run_config.run, self.disk.base_dir)
            self.slurm_logdir = self.disk.run.absolute() / "slurm"
            self._submit_or_adopt(job)
        except (NanochatError, OSError) as error:
            self.refusal.message = None
            self._give_up(SubmittedJobInfo(job), str(error))

    def _submit_or_adopt(self, job: Any) -> None:
        while True:
            queued = self._already_queued(job)
            if queued is not None:
                self._adopt(job, queued)
                return
            newest = newest_checkpoint(self.disk, job.rule.name)
            self.progress.setdefault(job.jobid, newest)
            for log in job.log:  # of an earlier attempt: Snakemake would show it as this one's
                Path(log).unlink(missing_ok=True)
            self.refusal.message = None
            super().run_job(job)
            refused = self.refusal.message
            if refused is None:
                return
            if not self._is_worth_waiting(refused) or self.stopping.wait(SECONDS_BETWEEN_QUERIES):
                self._give_up(SubmittedJobInfo(job), refused)
                return

    def _report_job_error_threadsafe(self, job_info: SubmittedJobInfo, msg: str) -> None:
        """The plugin's word for a submission that failed: `_submit_or_adopt` decides about it."""
        self.refusal.message = msg

    def _give_up(self, info: SubmittedJobInfo, message: str) -> None:
        GIVEN_UP.append(f"{info.job.name} could not be submitted: {message.splitlines()[0]}")
        info.job.attempt = info.job.restart_times + 1
        super()._report_job_error_threadsafe(info, message)

    def _is_worth_waiting(self, refused: str) -> bool:
        if any(words in refused for words in WORTH_WAITING):
            self.logger.warning("SLURM is busy or restarting: the job is submitted again.")
            return True
        return TOO_MANY_JOBS in refused and bool(self.submitted)

    def _already_queued(self, job: Any) -> slurm.SlurmJob | None:
        """A live job of an earlier workflow; one that is just ending is waited for."""
        wildcards = get_job_wildcards(job)
        comment = f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")
        while True:
            mine = [j for j in self._jobs_of_this_run() if j.comment == comment and j.is_live]
            if not any(j.state == "COMPLETING" for j in mine) or self.stopping.wait(2):
                return next(iter(mine), None)

    def _jobs_of_this_run(self) -> list[slurm.SlurmJob]:
        """Asks until SLURM answers: a controller may be restarting."""
        told = False
        while True:
            try:
                return slurm.queued_jobs(self.run_uuid)
            except SlurmUnavailable as error:
                if not told:
                    self.logger.warning(f"{error}; waiting for it.")
                told = True
                if self.stopping.wait(5):
                    raise

    def _adopt(self, job: Any, queued: slurm.SlurmJob) -> None:
        log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / f"{queued.id}.log"
        self.logger.info(
            f"Job {job.jobid} ({job.name}) is already in the queue as SLURM job {queued.id} "
            f"({queued.state.lower()}): waiting for that one."
        )
        # What it has saved since it started is its progress.
        started = queued.start or queued.submit
        self.progress[job.jobid] = started.timestamp() if started else 0.0
        info = SubmittedJobInfo(job, external_jobid=queued.id, aux={"slurm_logfile": log})
        self._report_job_submission_threadsafe(info)

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Remembers the job until it has ended."""
        self.submitted[str(job_info.external_jobid)] = job_info
        super().report_job_submission(job_info, register_job=register_job)

    # --- waiting --------------------------------------------------------------------------------

    async def sleep(self) -> None:
        """Until a command has ended, at most a minute; a second where one has just ended."""
        end = time.monotonic() + SECONDS_BETWEEN_QUERIES
        while self.wait and time.monotonic() < end:
            await asyncio.sleep(1)
            if self._a_command_ended():
                return

    def _a_command_ended(self) -> bool:
        """Whether the command of a job ended in the last minute, by its marker."""
        now = time.monotonic()
        for job_id in list(self.submitted):
            try:
                marked = (self.disk.ended / job_id).stat().st_mtime
            except OSError:  # none yet, or a file system that is away for a moment
                continue
            if job_id not in self.ended or self.ended[job_id].marked != marked:
                self.ended[job_id] = Ended(marked, now)
        return any(now - ended.seen < SECONDS_AFTER_A_MARKER for ended in self.ended.values())

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncIterator[SubmittedJobInfo]:
        """Reports what has ended and yields the rest."""
        if not active_jobs:
            return
        states = await asyncio.to_thread(self._states, [str(j.external_jobid) for j in active_jobs])
        for info in active_jobs:
            state = states.get(info.external_jobid, "UNKNOWN")
            if state == "COMPLETED":
                self._forget(info)
                self.report_job_success(info)
            elif state in slurm.FAILED_STATES and not self._should_pass(info, state):
                self._forget(info)
                self._report_end(info, state)
            else:
                yield info

    def _states(self, job_ids: list[str]) -> dict[str, str]:
        """The jobs' states: the accounting's where the controller has forgotten one."""
        try:
            states = {job.id: job.state for job in slurm.queued_jobs(self.run_uuid)}
            forgotten = [job_id for job_id in job_ids if job_id not in states]
            if forgotten:
                since = datetime.now() - timedelta(days=2)
                past = slurm.past_jobs(self.run_uuid, since)
                states |= {job.id: job.state for job in past if job.id in forgotten}
        except SlurmUnavailable as error:
            self._note_silence(error)
            return {}
        self.slurm_is_silent = False
        for job_id in job_ids:
            if job_id not in states and self._passed(job_id, "UNKNOWN"):
                states[job_id] = "FAILED"
        return states

    def _note_silence(self, error: SlurmUnavailable) -> None:
        if not self.slurm_is_silent:
            self.logger.warning(f"{error}; jobs go on, asking again.")
        self.slurm_is_silent = True
        now = time.monotonic()
        self.ended = {job_id: Ended(marked, now) for job_id, (marked, _) in self.ended.items()}

    def _should_pass(self, info: SubmittedJobInfo, state: str) -> bool:
        """Whether SLURM itself is about to start the job again: a state on the way to PENDING."""
        return state in ("NODE_FAIL", "PREEMPTED") and not self._passed(info.external_jobid, state)

    def _passed(self, job_id: str, state: str) -> bool:
        """Whether a job has been in such a state for longer than there is patience for."""
        first = self.passing.setdefault((job_id, state), time.monotonic())
        return time.monotonic() - first > PATIENCE_SECONDS

    def _forget(self, info: SubmittedJobInfo) -> None:
        job_id = info.external_jobid
        self.submitted.pop(job_id, None)
        self.ended.pop(job_id, None)
        self.passing = {key: first for key, first in self.passing.items() if key[0] != job_id}
        (self.disk.ended / job_id).unlink(missing_ok=True)

    # --- failing --------------------------------------------------------------------------------

    def _report_end(self, info: SubmittedJobInfo, state: str) -> None:
        job = info.job
        outcome = read_outcome(self.disk.outcomes, info.external_jobid)
        newest = newest_checkpoint(self.disk, job.rule.name)
        progressed = newest > self.progress.get(job.jobid, 0.0)
        decision = verdict(
            state,
            outcome.exit_code if outcome else None,
            progressed,
            self.failures.get(job.jobid, 0),
        )
        self.progress[job.jobid] = newest
        self.failures[job.jobid] = 0 if progressed else self.failures.get(job.jobid, 0) + 1
        said = f" It said: {outcome.sentence}" if outcome else ""
        if not decision.again:
            job.attempt = job.restart_times + 1
            why = outcome.sentence if outcome else f"{decision.why} ({state})"
            GIVEN_UP.append(f"{job.name}, SLURM job {info.external_jobid}: {why}")
        self.report_job_error(
            info,
            msg=f"SLURM job {info.external_jobid} ended as {state}; {decision.why}.{said}\n",
            aux_logs=[str(info.aux.get("slurm_logfile"))],
        )


def newest_checkpoint(disk: Paths, rule: str) -> float:
    """When the newest checkpoint of a training rule appeared; 0 without one and for other rules."""
    stage = STAGE_OF_RULE.get(rule)
    if stage is None:
        return 0.0
    times = [0.0]
    for folder in disk.checkpoints(stage).glob("*/step-*"):
        try:
            times.append(folder.stat().st_mtime)
        except FileNotFoundError:  # a running trainer has pruned it meanwhile
            continue
    return max(times)
