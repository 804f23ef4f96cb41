"""Snakemake's SLURM executor, taught what long trainings need (profiles: `executor: slurm-resume`).

It submits exactly as snakemake-executor-plugin-slurm does. What it does otherwise:

- A workflow that is started again finds the jobs that a killed one left in the queue, and waits for
  them instead of submitting them a second time: all jobs of a run carry one name.
- Whether a failed job is submitted again depends on why it failed (hpc/retry.py); Snakemake's
  `retries` is only the upper bound. A cancelled job stays cancelled.
- A controller that does not answer is waited for: by queries, and before a submission.
- The end of a job is noticed within seconds, while SLURM is asked once a minute: the command of
  every rule leaves a marker when it ends (rules/common.smk).

Reads the run's resolved config ($NANOCHAT_CONFIG); writes SLURM's logs below runs/<run>/slurm.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.utils import get_job_wildcards
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from nanochat.config import Config, Paths, load_config
from nanochat.errors import SlurmUnavailable
from nanochat.hpc import slurm
from nanochat.hpc.outcomes import read_outcome
from nanochat.hpc.retry import verdict

SECONDS_BETWEEN_QUERIES = 60.0
SECONDS_AFTER_A_MARKER = 60.0
"""How long SLURM is asked every second after a command has ended, while it answers."""
STAGE_OF_RULE = {"base_train": "base", "mid_train": "mid", "chat_sft": "sft"}
CONTROLLER_TROUBLE = ("Unable to contact", "Socket timed out", "timed out", "Connection refused")
PATIENCE = 30
"""Queries in a row in which a job that SLURM no longer knows is waited for."""


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
        self.asked_again = False
        self.missing: dict[str, int] = {}
        self.progress: dict[int, float] = {}
        self.failures: dict[int, int] = {}
        self.ended: dict[str, Ended] = {}
        self.submitted: dict[str, SubmittedJobInfo] = {}

    @cached_property
    def run_config(self) -> Config:
        """The run's resolved config."""
        return load_config(Path(os.environ["NANOCHAT_CONFIG"]))

    @property
    def disk(self) -> Paths:
        """Where the run's files lie."""
        return self.run_config.disk

    # --- submitting -----------------------------------------------------------------------------

    def run_job(self, job: Any) -> None:
        """Submits a job, unless an earlier workflow's submission of it is still in the queue."""
        # Known only now: the workflow files its config after this object is made.
        self.run_uuid = slurm.job_name(self.run_config.run, self.disk.base_dir)
        self.slurm_logdir = self.disk.run.absolute() / "slurm"
        self.progress.setdefault(job.jobid, newest_checkpoint(self.disk, job.rule.name))
        running = self._already_queued(job)
        if running is None:
            super().run_job(job)
            return
        wildcards = get_job_wildcards(job)
        log = self.slurm_logdir / f"rule_{job.name}" / wildcards / f"{running.id}.log"
        self.logger.info(
            f"Job {job.jobid} ({job.name}) is already in the queue as SLURM job {running.id} "
            f"({running.state.lower()}): waiting for that one."
        )
        info = SubmittedJobInfo(job, external_jobid=running.id, aux={"slurm_logfile": log})
        self._report_job_submission_threadsafe(info)

    def _already_queued(self, job: Any) -> slurm.SlurmJob | None:
        wildcards = get_job_wildcards(job)
        comment = f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")
        queued = self._jobs_of_this_run()
        return next((j for j in queued if j.comment == comment and j.is_live), None)

    def _jobs_of_this_run(self) -> list[slurm.SlurmJob]:
        """Asks until SLURM answers: a controller may be restarting."""
        told = False
        while True:
            try:
                return slurm.queued_jobs(self.run_uuid)
            except SlurmUnavailable as error:
                if not self.wait:  # the workflow is being shut down
                    raise
                if not told:
                    self.logger.warning(f"{error}; waiting for it.")
                told = True
                time.sleep(5)

    # --- waiting --------------------------------------------------------------------------------

    async def sleep(self) -> None:
        """Until a command has ended, at most a minute; a second where one has just ended."""
        end = time.monotonic() + SECONDS_BETWEEN_QUERIES
        while self.wait and time.monotonic() < end:
            await asyncio.sleep(1)
            if self._a_command_ended():
                return

    def _a_command_ended(self) -> bool:
        """Whether an active job's command ended in the last minute, by its marker."""
        now = time.monotonic()
        for job_id in list(self.submitted):
            try:
                marked = (self.disk.ended / job_id).stat().st_mtime
            except FileNotFoundError:
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
        try:
            queued = await asyncio.to_thread(slurm.queued_jobs, self.run_uuid)
        except SlurmUnavailable as error:
            if not self.asked_again:
                self.logger.warning(f"{error}; jobs go on, asking again.")
            self.asked_again = True
            now = time.monotonic()
            self.ended = {job_id: Ended(marked, now) for job_id, (marked, _) in self.ended.items()}
            for info in active_jobs:
                yield info
            return
        self.asked_again = False
        states = {job.id: job.state for job in queued}
        for info in active_jobs:
            state = await asyncio.to_thread(self._state, info.external_jobid, states)
            if state == "COMPLETED":
                self._forget(info)
                self.report_job_success(info)
            elif state in slurm.FAILED_STATES and not self._slurm_requeues(info, state):
                self._forget(info)
                self._report_end(info, state)
            else:
                yield info

    def _state(self, job_id: str, states: dict[str, str]) -> str:
        """A job's state: the accounting's where the controller has forgotten it, FAILED where
        nobody has known it for long."""
        if job_id in states:
            self.missing.pop(job_id, None)
            return states[job_id]
        since = datetime.now() - timedelta(days=30)
        try:
            attempts = [job for job in slurm.past_jobs(self.run_uuid, since) if job.id == job_id]
        except SlurmUnavailable:
            return "UNKNOWN"
        if attempts:
            return attempts[-1].state
        self.missing[job_id] = self.missing.get(job_id, 0) + 1
        return "FAILED" if self.missing[job_id] > PATIENCE else "UNKNOWN"

    def _slurm_requeues(self, info: SubmittedJobInfo, state: str) -> bool:
        """Whether SLURM itself is about to start the job again: a state on the way to PENDING."""
        if state not in ("NODE_FAIL", "PREEMPTED"):
            return False
        key = f"{info.external_jobid} {state}"
        self.missing[key] = self.missing.get(key, 0) + 1
        return self.missing[key] <= PATIENCE

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Remembers the job until it has ended."""
        self.submitted[str(job_info.external_jobid)] = job_info
        super().report_job_submission(job_info, register_job=register_job)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """On Ctrl-C: all jobs, also those whose state is being asked for at this moment."""
        super().cancel_jobs(list(self.submitted.values()))

    def _forget(self, info: SubmittedJobInfo) -> None:
        self.submitted.pop(info.external_jobid, None)
        self.ended.pop(info.external_jobid, None)
        (self.disk.ended / str(info.external_jobid)).unlink(missing_ok=True)

    # --- failing --------------------------------------------------------------------------------

    def _report_end(self, info: SubmittedJobInfo, state: str) -> None:
        job = info.job
        outcome = read_outcome(self.disk.outcomes, info.external_jobid)
        newest = newest_checkpoint(self.disk, job.rule.name)
        progressed = newest > self.progress[job.jobid]
        decision = verdict(
            state,
            outcome.exit_code if outcome else None,
            progressed,
            self.failures.get(job.jobid, 0),
        )
        self.progress[job.jobid] = newest
        self.failures[job.jobid] = 0 if progressed else self.failures.get(job.jobid, 0) + 1
        if not decision.again:
            job.attempt = job.restart_times + 1
        said = f" It said: {outcome.sentence}" if outcome else ""
        log = str(info.aux.get("slurm_logfile"))
        super().report_job_error(
            info,
            msg=f"SLURM job {info.external_jobid} ended as {state}; {decision.why}.{said}\n",
            aux_logs=[log],
        )

    def report_job_error(self, job_info: SubmittedJobInfo, msg: Any = None, **kwargs: Any) -> None:
        """A submission that failed: again if the controller was in trouble, else not."""
        transient = any(words in str(msg) for words in CONTROLLER_TROUBLE)
        if not transient:
            job_info.job.attempt = job_info.job.restart_times + 1
        super().report_job_error(job_info, msg=msg, **kwargs)


def newest_checkpoint(disk: Paths, rule: str) -> float:
    """When the newest checkpoint of a training rule appeared; 0 without one and for other rules."""
    stage = STAGE_OF_RULE.get(rule)
    if stage is None:
        return 0.0
    folders = disk.checkpoints(stage).glob("*/step-*")
    return max((folder.stat().st_mtime for folder in folders), default=0.0)
