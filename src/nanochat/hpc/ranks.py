"""Which of the processes of one training this one is, and where they meet.

    ranks = ranks_of(os.environ)

srun and torchrun tell it by environment variables; without them a process is alone. One process
drives one device. Asks `scontrol` to expand a list of hosts; writes nothing.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from nanochat.errors import ConfigError
from nanochat.hpc import slurm
from nanochat.hpc.slurm_variables import Variable

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STEP = (
    Variable.PROC_ID,
    Variable.LOCAL_ID,
    Variable.STEP_NUM_TASKS,
    Variable.STEP_NODELIST,
    Variable.JOB_ID,
)
FIRST_PORT, PORTS = 15000, 17000  # below Linux's ephemeral ports, which begin at 32768


@dataclass(frozen=True)
class Ranks:
    """A process's place among the `world_size` processes of a training."""

    rank: int = 0
    local_rank: int = 0
    """Its number on its own node."""
    world_size: int = 1
    address: str = "localhost"
    """Host of rank 0, where all ranks meet ..."""
    port: int = FIRST_PORT
    """... and the port there."""


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """Reads torchrun's variables, else srun's, else says that this process is alone.

    A MASTER_ADDR alone means nothing: many job scripts export it. Raises ConfigError where
    variables are missing or hold no number.
    """
    if any(name in environment for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")):
        return _checked(_of_torchrun(environment))
    if Variable.STEP_ID in environment and environment.get(Variable.STEP_NUM_TASKS) != "1":
        return _checked(_of_step(environment))
    return Ranks()


def threads_of(environment: Mapping[str, str]) -> int | None:
    """Threads that srun gave this task, at most the cores there are; None outside a step.

    OMP_NUM_THREADS says nothing in a step: Snakemake sets it to the cores of the whole job.
    """
    if Variable.STEP_ID not in environment or Variable.CPUS_PER_TASK not in environment:
        return None
    return min(_number(environment, Variable.CPUS_PER_TASK), len(os.sched_getaffinity(0)))


def first_host(nodelist: str) -> str:
    """The first name of a SLURM host list such as `gpu[01-02],login`.

    The pure expansion serves where scontrol is missing or finds no slurm.conf.
    """
    if "[" in nodelist and shutil.which("scontrol"):
        try:
            return slurm.run(["scontrol", "show", "hostnames", nodelist]).split()[0]
        except (slurm.SlurmUnavailable, IndexError):
            pass
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodelist).split(",")[0]


def _of_torchrun(environment: Mapping[str, str]) -> Ranks:
    _require(environment, TORCHRUN, "torchrun")
    rank, local_rank, world_size = (_number(environment, name) for name in TORCHRUN[:3])
    address, port = environment["MASTER_ADDR"], _number(environment, "MASTER_PORT")
    return Ranks(rank, local_rank, world_size, address, port)


def _of_step(environment: Mapping[str, str]) -> Ranks:
    _require(environment, STEP, "srun")
    rank, local_rank, world_size = (_number(environment, name) for name in STEP[:3])
    # Every task of the job comes to the same port, and two jobs on one node rarely do.
    port = FIRST_PORT + _number(environment, Variable.JOB_ID) % PORTS
    return Ranks(
        rank, local_rank, world_size, first_host(environment[Variable.STEP_NODELIST]), port
    )


def _checked(ranks: Ranks) -> Ranks:
    if ranks.rank >= ranks.world_size:
        raise ConfigError(
            f"this process is rank {ranks.rank} of {ranks.world_size}: ranks count from 0, "
            "so the launcher's environment is mixed up; unset RANK and WORLD_SIZE or use srun"
        )
    return ranks


def _require(environment: Mapping[str, str], names: tuple[str, ...], launcher: str) -> None:
    missing = [str(name) for name in names if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"the environment looks like {launcher}'s, but lacks {', '.join(missing)}: start "
            f"training with {launcher}, or unset what is left of its variables"
        )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise ConfigError(f"the environment variable {name} is {text!r}: it takes a whole number")
    return int(text)
