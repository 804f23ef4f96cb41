"""What a user or a machine can get wrong, as one tree of exceptions.

    NanochatError            one sentence: what, what was seen, what to do; exit code 2
    ├── ConfigError          a key or value of the config
    ├── BadInput             a user's file or argument that can't be used
    ├── MissingArtefact      a file that an earlier stage should have made
    ├── DamagedArtefact      a file that exists and does not hold what its record says
    ├── DiskError            full, read-only or unwritable
    ├── DownloadError        a file that could not be fetched, or is not what was asked for
    ├── SlurmUnavailable     SLURM's commands are missing, fail, or give no answer
    ├── NoProgress           a time limit in which no step could be made
    ├── StoppedEarly         a signal or the time limit ended training after a checkpoint; exit 75
    ├── RankLost             another process of the same training is gone; exit code 75
    └── TrainingDiverged     a loss or gradient that is not finite; exit code 77

The command line prints these in one sentence and leaves with `exit_code`. Any other exception is a
bug of ours and shows its traceback.
"""


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
    """The disk is full, read-only, or not writable for this user."""


class SlurmUnavailable(NanochatError):
    """A command of SLURM's is not there, failed, or gave no answer in time."""


class DownloadError(NanochatError):
    """A file could not be fetched from the internet, or what came is not what was asked for."""


class NoProgress(NanochatError):
    """A job's time limit came near before training made a step: starting again changes nothing."""


class StoppedEarly(NanochatError):
    """Training left at a step boundary with a checkpoint: run again to continue."""

    exit_code = 75


class RankLost(NanochatError):
    """Another process of this training is gone or never came: run again to continue.

    srun reports the highest exit code of its tasks, so that whatever killed that one is seen.
    """

    exit_code = 75


class TrainingDiverged(NanochatError):
    """A loss or gradient is not finite: stopped before the update, nothing was overwritten."""

    exit_code = 77
