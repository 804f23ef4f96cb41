"""SLURM's commands.

    for job in queued_jobs(job_name(run, base_dir)): print(job.rule, job.state)
    ended = past_jobs(job_name(run, base_dir), since)

All jobs of a workflow have one name. `run` is the only place that starts a process, and every
function that calls it raises SlurmUnavailable unless it says otherwise. What the commands print is
parsed in hpc/slurm_text.py. Writes nothing.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from nanochat.errors import SlurmUnavailable
from nanochat.hpc.slurm_text import (
    FAILED_STATES,
    SACCT_FIELDS,
    SQUEUE_FORMAT,
    TERMINAL_STATES,
    WAITING_STATES,
    SlurmJob,
    parse_sacct,
    parse_squeue,
    parse_state,
)

__all__ = ["FAILED_STATES", "TERMINAL_STATES", "WAITING_STATES", "SlurmJob", "SlurmUnavailable"]

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
"""With the offset, so that a job of the night when the clocks change is not an hour off."""


def job_name(run: str, base_dir: Path) -> str:
    """The name of all jobs of a workflow, the same whenever run and base folder are the same."""
    identity = hashlib.sha256(str(base_dir.resolve()).encode()).hexdigest()[:8]
    return f"nanochat-{run}-{identity}"


def slurm_is_here() -> bool:
    """True where this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def queued_jobs(name: str | None = None) -> list[SlurmJob]:
    """This user's jobs that wait, run, or ended less than MinJobAge (300 s) ago.

    `name` is a job name, or the beginning of one with a `*` behind it.
    """
    exact = [] if name is None or name.endswith("*") else [f"--name={name}"]
    command = ["squeue", "--noheader", "--me", "--states=all", *exact, "--Format", SQUEUE_FORMAT]
    jobs = parse_squeue(run(command))
    beginning = name.rstrip("*") if name else ""
    return [job for job in jobs if job.name.startswith(beginning)]


def past_jobs(name: str, since: datetime) -> list[SlurmJob]:
    """Attempts of jobs called `name`, oldest first, from SLURM's accounting; a requeued job has
    several. Empty where the site keeps no accounts."""
    begin = since.astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    command = ["sacct", "--allocations", "--parsable2", "--noheader", "--duplicates"]
    command += [f"--name={name}", f"--starttime={begin}", f"--format={','.join(SACCT_FIELDS)}"]
    try:
        return parse_sacct(run(command))
    except SlurmUnavailable as exc:
        if "accounting storage is disabled" in str(exc):
            return []
        raise


def unknown_partitions(names: Iterable[str | None]) -> list[str]:
    """Those of `names` that this cluster does not have."""
    known = {name.rstrip("*") for name in run(["sinfo", "--noheader", "--format=%R"]).split()}
    return [name for name in names if name and not set(name.split(",")) <= known]


def requeue(job_id: str) -> None:
    """Has SLURM end the job and start it again under its id."""
    run(["scontrol", "requeue", job_id])


def job_is_running(job_id: str) -> bool:
    """True while the job may have processes; False before it starts, after it, and for an id that
    SLURM has forgotten."""
    state = parse_state(_of_job(job_id, "%T"))
    return state != "" and state not in TERMINAL_STATES | WAITING_STATES


def _of_job(job_id: str, field: str) -> str:
    """One field of a job; empty for an id that SLURM does not know (any more)."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format", field]
    try:
        return run(command)
    except SlurmUnavailable as exc:
        if "Invalid job id" in str(exc):
            return ""
        raise


def run(command: list[str], timeout: float = 10.0) -> str:
    """What a command prints; raises SlurmUnavailable in one sentence."""
    name = command[0]
    # A user's own SQUEUE_FORMAT, SQUEUE_STATES, SACCT_... would change what the parsers see.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    environment = {**kept, "SLURM_TIME_FORMAT": TIME_FORMAT, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired as exc:
        message = f"{name} gave no answer in {timeout:g} s: SLURM is busy or down, try again later"
        raise SlurmUnavailable(message) from exc
    except OSError as exc:
        message = f"cannot run {name} ({exc.strerror}): run this where SLURM's commands are"
        raise SlurmUnavailable(message) from exc
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it printed no reason"]
        raise SlurmUnavailable(f"{name} ended with exit code {done.returncode}: {said[-1]}")
    return done.stdout
