"""Asks SLURM and the disk where a run stands; what they say becomes rows in hpc/status.py.

    status = survey(config.disk, records, downloaded, last_events(disk.journal))

Works without SLURM, and while SLURM does not answer: then `notices` says so. Writes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nanochat.config import STAGES
from nanochat.errors import SlurmUnavailable
from nanochat.hpc.alerts import heartbeats_in
from nanochat.hpc.outcomes import read_outcome
from nanochat.hpc.slurm import job_name, past_jobs, queued_jobs, slurm_is_here
from nanochat.hpc.slurm_text import FAILED_STATES, SlurmJob
from nanochat.hpc.status import StatusRow, road, status_rows
from nanochat.paths import Paths

LOOKED_BACK = timedelta(days=7)
"""A failure before that is told by its log only."""


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    run: str
    base_dir: Path
    job_name: str
    """The name of its SLURM jobs."""
    at: datetime
    notices: tuple[str, ...]
    rows: tuple[StatusRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; times are ISO 8601 with their offset."""
        value: dict[str, Any] = _json(asdict(self))
        return value


def survey(
    disk: Paths,
    shards: Sequence[str],
    records: Sequence[Path],
    downloads: Sequence[Path],
    events: Sequence[Mapping[str, Any]],
) -> Status:
    """Where the run of `disk` stands now; for its shards and downloads see `road`."""
    run = disk.config.run
    name, now = job_name(run, disk.base_dir), datetime.now().astimezone()
    jobs, notices = _jobs(name, now) if slurm_is_here() else ([], [])
    if not disk.run.is_dir() and not jobs:
        notices.append(
            f"run {run} has not been started in {disk.base_dir.absolute()}: is this its base "
            "folder ($NANOCHAT_BASE_DIR, paths.base_dir)?"
        )
    failed = {job.id for job in jobs if job.state in FAILED_STATES}
    outcomes = {i: found for i in failed if (found := read_outcome(disk.outcomes, i))}
    heartbeats = {stage: heartbeats_in(disk.heartbeats, stage) for stage in STAGES}
    steps = road(disk, shards, records, downloads)
    rows = status_rows(steps, jobs, events, outcomes, now, heartbeats)
    return Status(run, disk.base_dir, name, now, tuple(notices), tuple(rows))


def _jobs(name: str, now: datetime) -> tuple[list[SlurmJob], list[str]]:
    """The run's jobs as the controller knows them, and those it has forgotten as the accounts do;
    with a notice for either that cannot be asked. Both are asked at once."""
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(_asked, lambda: past_jobs(name, now - LOOKED_BACK))
        queued, trouble = _asked(lambda: queued_jobs(name))
        past, more_trouble = asking.result()
    last_attempts = {job.id: job for job in past}
    if not trouble:  # what only the accounts call running, the controller has lost
        last_attempts = {job.id: job for job in last_attempts.values() if not job.is_live}
    jobs = last_attempts | {job.id: job for job in queued}
    return list(jobs.values()), [*trouble, *more_trouble]


def _asked(question: Callable[[], list[SlurmJob]]) -> tuple[list[SlurmJob], list[str]]:
    try:
        return question(), []
    except SlurmUnavailable as exc:
        return [], [f"SLURM could not be asked: {exc}"]


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return str(value) if isinstance(value, Path) else value
