"""Processes that take themselves for srun's tasks, without SLURM: what the tests of ranks share."""

import os
import socket
from collections.abc import Iterator

from nanochat.hpc.ranks import FIRST_PORT, PORTS


def free_job_ids() -> Iterator[int]:
    """Ids at whose rendezvous ports nobody listens."""
    for job_id in range(os.getpid() % PORTS, PORTS):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", FIRST_PORT + job_id)) != 0:
                yield job_id


def environment_of_task(rank: int, ranks: int | str, job_id: int | str) -> dict[str, str]:
    """What srun sets for a task of a step, on this machine."""
    return {
        "SLURM_JOB_ID": str(job_id),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(ranks),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }
