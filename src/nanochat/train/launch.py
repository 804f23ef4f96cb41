"""How a stage's process takes its place: threads, the one writer's lock, the other ranks.

    with launched(checkpoint_folder, os.environ) as launch: ...

Reads the launcher's environment; writes the lock file, on rank 0.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch

from nanochat.errors import NoProgress, StoppedEarly, TrainingDiverged
from nanochat.hpc.deadline import Deadline
from nanochat.hpc.ranks import ranks_of, threads_of
from nanochat.hpc.slurm_variables import job_id
from nanochat.train.distributed import RankGroup
from nanochat.train.lock import HeldLock, one_writer
from nanochat.train.stop import warnings_ignored

AGREED_ENDS = (StoppedEarly, NoProgress, TrainingDiverged)
"""What all ranks raise together, and rank 0 alone says."""


class Launch(NamedTuple):
    """A process's place in its training."""

    group: RankGroup
    deadline: Deadline
    """Rank 0's; the others have none, and learn from it."""
    lock: HeldLock | None
    """Rank 0's."""


@contextmanager
def launched(folder: Path, environment: Mapping[str, str]) -> Iterator[Launch]:
    """Joins the ranks, with rank 0 holding the lock of the checkpoints in `folder`.

    Raises ConfigError where the environment is half set, RankLost where the ranks do not meet.
    """
    ranks = ranks_of(environment)
    threads = threads_of(environment)
    if threads is not None:
        torch.set_num_threads(threads)
    first = ranks.rank == 0
    deadline = Deadline.of(environment) if first else Deadline()
    lock = one_writer(folder, job_id(environment)) if first else nullcontext()
    with warnings_ignored(), deadline, lock as held, RankGroup.join(ranks) as group:
        try:
            yield Launch(group, deadline, held)
            group.wait()  # srun may end the others some time after the first one has ended
        except AGREED_ENDS as exc:
            if group.is_first:
                raise
            raise SystemExit(exc.exit_code) from exc
