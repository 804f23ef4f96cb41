"""SLURM's environment variables, by name, in this one place; and what they say of our own job.

own = own_job(os.environ)
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Variable(StrEnum):
    """What SLURM sets in a job, or in the tasks that srun starts inside it (a step)."""

    JOB_ID = "SLURM_JOB_ID"
    RESTART_COUNT = "SLURM_RESTART_COUNT"
    """How often the job was requeued."""
    JOB_END_TIME = "SLURM_JOB_END_TIME"
    """Seconds since 1970; newer SLURMs only."""
    CPUS_PER_TASK = "SLURM_CPUS_PER_TASK"
    STEP_ID = "SLURM_STEP_ID"
    STEP_NUM_TASKS = "SLURM_STEP_NUM_TASKS"
    STEP_NODELIST = "SLURM_STEP_NODELIST"
    PROC_ID = "SLURM_PROCID"
    LOCAL_ID = "SLURM_LOCALID"


class OwnJob(NamedTuple):
    """The job that this process runs in."""

    id: str
    restarts: int | None
    """A job that is requeued keeps its id: this tells its attempts apart. None where the launcher
    dropped the variable, as Snakemake's does."""


def own_job(environment: Mapping[str, str]) -> OwnJob | None:
    """The job of a process with this environment; None outside SLURM."""
    job_id = environment.get(Variable.JOB_ID, "")
    restarts = environment.get(Variable.RESTART_COUNT, "")
    return OwnJob(job_id, int(restarts) if restarts.isdigit() else None) if job_id else None


def job_id(environment: Mapping[str, str]) -> str | None:
    """The own job's id, for the records; None outside SLURM."""
    own = own_job(environment)
    return own.id if own else None
