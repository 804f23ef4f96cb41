"""Where a run stands: for every step of its road whether it is done, running, queued, interrupted,
failed or waiting, and why.

    rows = status_rows(road(config.disk, records), jobs, last_events(disk.journal), outcomes, now)

Reads which files are there, and the ends of logs; SLURM's jobs, the journal's events, the ranks'
heartbeats and the jobs' outcomes are given. Writes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from nanochat.config import STAGES, TRAINING_RULES
from nanochat.errors import Preempted, StoppedByHand, StoppedEarly
from nanochat.hpc.alerts import standing_rank
from nanochat.hpc.log_tail import last_error
from nanochat.hpc.outcomes import Outcome
from nanochat.hpc.progress_of import Progress, progress_of
from nanochat.hpc.slurm_text import FAILED_STATES, SlurmJob
from nanochat.hpc.words import ending_in_words, reason_in_words
from nanochat.paths import Paths
from nanochat.registry import GENERATED

State = Literal["done", "running", "queued", "interrupted", "failed", "waiting"]
FRESH = timedelta(minutes=2)
"""Without SLURM, what left a sign of life this long ago is running."""
STOPPED = tuple(kind.exit_code for kind in (StoppedEarly, Preempted, StoppedByHand))
"""Exit codes of a training that left a checkpoint of its last step."""
CLOCKS_DIFFER = timedelta(seconds=30)
"""Between a node's clock and the controller's, at most."""
DOWNLOAD_RULES = (
    "download_shard",
    "download_task",
    "download_file",
    "download_eval_bundle",
    "downloads",
)
DATA_RULES = (
    *("embedded_corpus", "import_corpus", "record_shard", "tokenize_shard"),
    *("train_tokenizer", "eval_tokenizer", "generate_tasks", "identity_conversations"),
    *("chat_rows", "eval_bundle"),
)


@dataclass(frozen=True)
class Step:
    """A line of the status: one rule, or several that belong together."""

    name: str
    rules: tuple[str, ...]
    outputs: tuple[Path, ...]
    logs: Path
    """Folder of the run's logs."""
    wildcards: str | None = None
    """The rule's wildcards, where a rule is more than one line."""
    stage: str | None = None
    """The stage that it trains."""

    def runs(self, job: SlurmJob) -> bool:
        """True where `job` is of this step."""
        return job.rule in self.rules and self.wildcards in (None, job.wildcards)

    def log_files(self) -> list[Path]:
        """The logs of this step that are there."""
        if self.wildcards is not None:
            found = [self.logs / rule / f"{self.wildcards}.log" for rule in self.rules]
        else:
            found = [self.logs / f"{rule}.log" for rule in self.rules]
            found += [log for rule in self.rules for log in (self.logs / rule).glob("*.log")]
        return [log for log in found if log.is_file()]


@dataclass(frozen=True)
class StatusRow:
    """One step. Times know their zone; what does not apply is None, empty or 0."""

    step: str
    state: State
    at: datetime | None = None
    """Done, interrupted or failed: since when; running: since when; queued: submitted when."""
    files_done: int = 0
    files: int = 0
    """Declared outputs that are there, and how many there will be."""
    jobs: tuple[str, ...] = ()
    """SLURM ids: of those that run, else of those that wait, else of the one that failed."""
    nodes: str = ""
    requeued: int = 0
    expected_start: datetime | None = None
    progress: Progress | None = None
    why: str = ""
    """Queued: what it waits for; interrupted or failed: how it ended, one sentence."""
    exit_code: str = ""
    log: Path | None = None


def road(
    disk: Paths, shards: Sequence[str], records: Sequence[Path], downloads: Sequence[Path]
) -> list[Step]:
    """The steps from text to the report card. `shards` are the corpus' by name, `records` what they
    hold, `downloads` what comes from the internet."""
    data = [
        *records,
        disk.tokenizer_file,
        disk.compression,
        *(disk.rows_record(shard) for shard in shards),
        *([disk.task_manifest] if disk.config.items_of(GENERATED) else []),
        *([disk.identity_record] if disk.says_who_it_is else []),
        *(disk.chat_rows(stage).with_suffix(".json") for stage in STAGES[1:]),
        disk.eval_bundle / "core.yaml",
    ]
    steps = [Step("data", DATA_RULES, tuple(data), disk.logs)]
    if downloads:
        steps.insert(0, Step("downloads", DOWNLOAD_RULES, tuple(downloads), disk.logs))
    for stage, rule in TRAINING_RULES.items():
        record, evaluation = (disk.stage(stage) / "record.json",), (disk.evaluation(stage),)
        steps.append(Step(rule, (rule,), record, disk.logs, stage=stage))
        if stage == "base":
            steps.append(Step("base_eval", ("base_eval",), evaluation, disk.logs))
        else:
            name = f"chat_eval {stage}"
            steps.append(Step(name, ("chat_eval",), evaluation, disk.logs, wildcards=stage))
    return [*steps, Step("report", ("report",), (disk.report,), disk.logs)]


def status_rows(
    steps: Sequence[Step],
    jobs: Sequence[SlurmJob],
    events: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Outcome],
    now: datetime,
    heartbeats: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> list[StatusRow]:
    """One row a step. `jobs` may hold several attempts under one id; `outcomes` is by job id,
    `heartbeats` by stage."""
    rows = [_row(step, [j for j in jobs if step.runs(j)], events, outcomes, now) for step in steps]
    beats = [(heartbeats or {}).get(step.stage or "", ()) for step in steps]
    return [_with_rank(row, said, now) for row, said in zip(rows, beats, strict=True)]


def _row(
    step: Step,
    jobs: Sequence[SlurmJob],
    events: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Outcome],
    now: datetime,
) -> StatusRow:
    progress = progress_of(events, step.stage) if step.stage else None
    there = [path.stat().st_mtime for path in step.outputs if path.exists()]
    row = StatusRow(step.name, "waiting", files_done=len(there), files=len(step.outputs))
    live = [job for job in jobs if job.is_live]
    if live:
        return _live(replace(row, progress=progress), live)
    if row.files_done == row.files:
        return replace(row, state="done", at=_local(max(there)))
    return _not_done(replace(row, progress=progress), step, jobs, outcomes, now)


def _live(row: StatusRow, live: Sequence[SlurmJob]) -> StatusRow:
    running = [job for job in live if not job.is_waiting]
    shown = running or live
    start = min((job.start for job in shown if job.start), default=None)
    ids = tuple(job.id for job in shown)
    row = replace(row, jobs=ids, requeued=max(job.restarts for job in shown))
    if not running:
        submit = min((job.submit for job in shown if job.submit), default=None)
        why = reason_in_words(shown[0].reason, shown[0].id)
        return replace(_standing(row), state="queued", at=submit, expected_start=start, why=why)
    nodes = ",".join(dict.fromkeys(job.nodes for job in running if job.nodes))
    if row.progress and start and row.progress.began < start - CLOCKS_DIFFER:
        row = _standing(row)  # the last lines are of an attempt before this one
    return replace(row, state="running", at=start, nodes=nodes)


def _not_done(
    row: StatusRow,
    step: Step,
    jobs: Sequence[SlurmJob],
    outcomes: Mapping[str, Outcome],
    now: datetime,
) -> StatusRow:
    """Of a step without live jobs and without all of its files: the newest sign decides."""
    progress = row.progress
    logs = {log: _local(log.stat().st_mtime) for log in step.log_files()}
    errors = {log: error for log in logs if (error := last_error(log))}
    signs = [written for log, written in logs.items() if log not in errors]
    alive = max([*signs, *([progress.last] if progress else [])], default=_local(0))
    failed = max((job for job in jobs if job.state in FAILED_STATES), key=_ended, default=None)
    log = max(errors, key=lambda log: logs[log], default=None)
    if failed and alive < _ended(failed) + FRESH:
        return _failed_job(_standing(row), failed, outcomes.get(failed.id), errors, step)
    if log and alive <= logs[log] + CLOCKS_DIFFER:
        # A training that was told to stop saves first, and says so after it.
        state: State = "interrupted" if progress and progress.saved else "failed"
        return replace(_standing(row), state=state, at=logs[log], why=errors[log], log=log)
    if progress and progress.stopped and alive <= progress.last + CLOCKS_DIFFER:
        why = f"stopped: {progress.stopped}"
        return replace(_standing(row), state="interrupted", at=progress.last, why=why)
    was_a_job_s = any(alive <= _ended(job) + CLOCKS_DIFFER for job in jobs)
    if now - alive < FRESH and not was_a_job_s:
        return replace(row, state="running", at=progress.began if progress else None)
    if progress:
        return replace(_standing(row), state="interrupted", at=progress.last)
    return row


def _failed_job(
    row: StatusRow,
    job: SlurmJob,
    outcome: Outcome | None,
    errors: Mapping[Path, str],
    step: Step,
) -> StatusRow:
    log = _log_of(step, job)
    said, code, stopped = errors.get(log, "") if log else "", job.exit_code, False
    began = job.start or job.submit or _local(0)
    if outcome and _local(outcome.time) > began - CLOCKS_DIFFER:  # not of an attempt before
        said, code = outcome.sentence, f"{outcome.exit_code}:0"
        stopped = outcome.exit_code in STOPPED
    ending = ending_in_words(job.state)
    return replace(
        row,
        state="interrupted" if stopped else "failed",
        at=job.end,
        jobs=(job.id,),
        nodes=job.nodes,
        requeued=job.restarts,
        why=f"{ending}: {said}" if said and job.state != "FAILED" else said or ending,
        exit_code=code,
        log=log,
    )


def _with_rank(row: StatusRow, beats: Sequence[Mapping[str, Any]], now: datetime) -> StatusRow:
    """With the rank that stands still, where one does."""
    if row.state != "running" or row.progress is None:
        return row
    rank = standing_rank(beats, row.at or row.progress.began, now)
    return replace(row, progress=row.progress.alerting(rank)) if rank else row


def _standing(row: StatusRow) -> StatusRow:
    """The row without speed and time left: nothing is running."""
    return replace(row, progress=row.progress and row.progress.standing())


def _log_of(step: Step, job: SlurmJob) -> Path | None:
    name = f"{job.rule}/{job.wildcards}.log" if job.wildcards else f"{job.rule}.log"
    log = step.logs / name
    return log if log.is_file() else None


def _ended(job: SlurmJob) -> datetime:
    return job.end or job.submit or _local(0)


def _local(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp).astimezone()
