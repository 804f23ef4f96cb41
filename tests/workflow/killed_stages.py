"""Trains stages of a run on ranks that are killed at random points, for test_exactness.py.

    python killed_stages.py CONFIG RUN:STAGE:RANKS:JOB_ID:KILL_AT ...

One training after the other, each on processes of its own: a fork saves importing torch for each.
KILL_AT counts the sections of a step (data, forward, backward, ... of each micro-batch) that rank 0
enters; there SIGKILL ends all ranks at once. 0: nobody is killed. Prints, as JSON, a list for each
training: the ranks' exit codes, and how many sections rank 0 entered where it was not killed.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from nanochat.config import load_config
from nanochat.errors import NanochatError
from nanochat.eval.bpb import bits_per_byte
from nanochat.train.stages import train_base, train_chat
from nanochat.train.watchdog import Section, Watchdog
from srun_tasks import environment_of_task

entered = 0


def kill_at_section(number: int) -> None:
    """Has this process kill its group at the section; counts those that it enters."""
    enter = Watchdog.enter

    def counting(watchdog: Watchdog, section: Section, step: int) -> None:
        global entered
        entered += 1
        if entered == number:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        enter(watchdog, section, step)

    Watchdog.enter = counting  # type: ignore[method-assign]


def train(config_file: Path, run: str, stage: str) -> int:
    config = load_config(config_file).model_copy(update={"run": run})
    try:
        if stage == "base":
            train_base(config, bits_per_byte)
        else:
            train_chat(config, stage, bits_per_byte)
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def start(config_file: Path, spec: str, rank: int, group: int, counted: Path) -> int:
    """Forks a rank into the process group of rank 0; returns its process id."""
    run, stage, ranks, job_id, kill_at = spec.split(":")
    process = os.fork()
    if process:
        return process
    os.setpgid(0, group)
    os.environ |= environment_of_task(rank, ranks, job_id)
    os.dup2(2, 1)
    if rank == 0:
        kill_at_section(int(kill_at))
    code = train(config_file, run, stage)
    if rank == 0:
        counted.write_text(str(entered))
    os._exit(code)


def main() -> None:
    config_file, *specs = sys.argv[1:]
    counted = Path(f"sections-{os.getpid()}")
    told = []
    for spec in specs:
        ranks = int(spec.split(":")[2])
        processes: list[int] = []
        for rank in range(ranks):
            group = processes[0] if processes else 0
            processes.append(start(Path(config_file), spec, rank, group, counted))
            os.setpgid(processes[-1], processes[0])
        codes = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in processes]
        told.append([codes, int(counted.read_text()) if counted.exists() else None])
        counted.unlink(missing_ok=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
