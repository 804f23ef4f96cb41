"""How a SLURM job's command ended, in a file that outlives the job.

    write_outcome(disk.outcomes, "1234", "train base", error.exit_code, str(error))
    outcome = read_outcome(disk.outcomes, "1234")

SLURM keeps an exit code and a log that the next attempt overwrites; the sentence is kept here.
Reads and writes <folder>/<job id>.json.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact, StoppedEarly
from nanochat.files import read_json, write_json
from nanochat.hpc.slurm_variables import job_id

RANKS_END_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """What a command of a job said last. `time` is seconds since 1970."""

    job_id: str
    command: str
    exit_code: int
    sentence: str
    time: float


def leave_outcome(
    environment: Mapping[str, str], command: str, exit_code: int, sentence: str
) -> None:
    """In a SLURM job of the workflow: files how its command ended, for status and executor."""
    folder, job = environment.get("NANOCHAT_OUTCOMES"), job_id(environment)
    if folder and job:
        try:
            write_outcome(Path(folder), job, command, exit_code, sentence)
        except DiskError as exc:  # must not hide why the command ended
            print(f"the outcome was not filed: {exc}", file=sys.stderr)


def write_outcome(
    folder: Path, job_id: str, command: str, exit_code: int, sentence: str
) -> Outcome:
    """Files how an attempt ended, and returns what stands in the file.

    Of an attempt's ranks the first one to end with an error of its own is believed: others may say,
    sooner, that they were left alone.
    """
    earlier, now = read_outcome(folder, job_id), round(time.time(), 3)
    if earlier and now - earlier.time < RANKS_END_WITHIN_SECONDS:
        left_alone = earlier.exit_code == StoppedEarly.exit_code != exit_code
        if not left_alone:
            return earlier
    outcome = Outcome(job_id, command, exit_code, sentence, now)
    write_json(folder / f"{job_id}.json", asdict(outcome))
    return outcome


def read_outcome(folder: Path, job_id: str) -> Outcome | None:
    """How the job's last attempt ended; None where nothing readable says so."""
    try:
        return Outcome(**read_json(folder / f"{job_id}.json", "snakemake"))
    except (MissingArtefact, DamagedArtefact, TypeError):
        return None
