"""What a user or a machine can get wrong, as one tree of exceptions; and what exit codes mean.

    NanochatError            one sentence: what, what was seen, what to do; exit code 2
    ├── ConfigError          a key or value of the config
    ├── BadInput             a user's file or argument that can't be used
    ├── MissingArtefact      a file that an earlier stage should have made
    ├── DamagedArtefact      a file that exists and does not hold what its record says
    ├── DiskError            full, read-only, unwritable or not answering; exit code 80
    │   └── NotSaved         the same, of the checkpoint with which training wanted to leave
    ├── DownloadError        a file that could not be fetched, or is not what was asked for
    ├── SlurmUnavailable     SLURM's commands are missing, fail, or give no answer
    ├── NoProgress           a time limit in which no step could be made
    ├── OutOfMemory          a device too small for a single row
    ├── StoppedEarly         a signal or the time limit ended training after a checkpoint; exit 75
    │   ├── Preempted        the same, by SLURM's SIGTERM; exit code 76
    │   └── StoppedByHand    the same, by a person's file STOP; exit code 93
    ├── RankLost             another process of the same training is gone; exit code 75
    ├── TrainingDiverged     losses or gradients that are not finite; exit code 77
    └── HangDetected         a training that stood still; exit code 79

The command line prints these in one sentence and leaves with `exit_code`. Any other exception is a
bug of ours and shows its traceback.
"""

from typing import Literal, NamedTuple


class ExitCode(NamedTuple):
    """What a command's exit code says; docs/explanation/surviving.md shows the same table."""

    name: str
    meaning: str
    again: Literal["nothing to do", "no", "if progressed, else once more"]
    """Whether the workflow submits the job again (hpc/retry.py)."""


EXIT_CODES = {
    0: ExitCode("done", "all is made", "nothing to do"),
    2: ExitCode(
        "bad input",
        "an error that would come again, in one sentence; also a time limit before the first step, "
        "and a device too small for one row",
        "no",
    ),
    75: ExitCode(
        "stopped",
        "stopped with a checkpoint, by a signal or the time limit; or another rank is gone",
        "if progressed, else once more",
    ),
    76: ExitCode(
        "preempted",
        "stopped with a checkpoint, by a SIGTERM inside a SLURM job",
        "if progressed, else once more",
    ),
    77: ExitCode(
        "diverged",
        "losses or gradients were not finite, and going back to a checkpoint did not help",
        "no",
    ),
    79: ExitCode(
        "hang",
        "training stood still; the sentence says on which rank and host, and in what",
        "if progressed, else once more",
    ),
    80: ExitCode("disk", "the disk is full, read-only or does not answer: for a person", "no"),
    93: ExitCode("do not restart", "stopped with a checkpoint, by a person's file STOP", "no"),
}


class NanochatError(Exception):
    """Base of everything that is not a bug; `str(error)` is the sentence a user reads."""

    exit_code = 2


class ConfigError(NanochatError):
    """A key or a value of the config cannot be used."""


class BadInput(NanochatError):
    """A file or an argument given by the user cannot be used."""


class MissingArtefact(NanochatError):
    """A file that an earlier stage makes is not there."""


class DamagedArtefact(NanochatError):
    """A file is there, but its content is not what its record says."""


class DiskError(NanochatError):
    """The disk is full, read-only, not writable for this user, or gives no answer."""

    exit_code = 80


class NotSaved(DiskError):
    """The checkpoint with which training wanted to leave could not be written; all ranks say so."""


class SlurmUnavailable(NanochatError):
    """A command of SLURM's is not there, failed, or gave no answer in time."""


class DownloadError(NanochatError):
    """A file could not be fetched from the internet, or what came is not what was asked for."""


class NoProgress(NanochatError):
    """A job's time limit came near before training made a step: starting again changes nothing."""


class OutOfMemory(NanochatError):
    """Even one row at a time does not fit into the device's memory."""


class StoppedEarly(NanochatError):
    """Training left at a step boundary with a checkpoint: run again to continue."""

    exit_code = 75


class Preempted(StoppedEarly):
    """SLURM ended the job with SIGTERM, for one of a higher priority or for its administrator."""

    exit_code = 76


class StoppedByHand(StoppedEarly):
    """A person put a file STOP into the run's folder: nothing starts it again while it is there."""

    exit_code = 93


class RankLost(NanochatError):
    """Another process of this training is gone or never came: run again to continue.

    srun reports the highest exit code of its tasks, so that whatever killed that one is seen.
    """

    exit_code = 75


class TrainingDiverged(NanochatError):
    """Losses or gradients are not finite: stopped before an update with them."""

    exit_code = 77


class HangDetected(NanochatError):
    """Training has not moved for many times as long as it usually takes."""

    exit_code = 79
