"""How a stage's process takes its place: threads, the one writer's lease, the other ranks.

    with launched(checkpoint_folder, os.environ) as launch: ...

Reads the launcher's environment; writes the lease, on rank 0.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch

from nanochat.errors import NoProgress, NotSaved, StoppedEarly, TrainingDiverged
from nanochat.hpc.deadline import Deadline
from nanochat.hpc.ranks import ranks_of, threads_of
from nanochat.train.distributed import RankGroup
from nanochat.train.lease import HeldLease, one_writer
from nanochat.train.stop import warnings_ignored

AGREED_ENDS = (StoppedEarly, NoProgress, TrainingDiverged, NotSaved)
"""What all ranks raise together, and rank 0 alone says."""


class Launch(NamedTuple):
    """A process's place in its training."""

    group: RankGroup
    deadline: Deadline
    """Rank 0's; the others have none, and learn from it."""
    lease: HeldLease | None
    """Rank 0's."""


@contextmanager
def launched(folder: Path, environment: Mapping[str, str]) -> Iterator[Launch]:
    """Joins the ranks, with rank 0 holding the lease of the checkpoints in `folder`.

    Raises ConfigError where the environment is half set, RankLost where the ranks do not meet.
    """
    ranks = ranks_of(environment)
    threads = threads_of(environment)
    if threads is not None:
        torch.set_num_threads(threads)
    first = ranks.rank == 0
    deadline = Deadline.of(environment) if first else Deadline()
    with (
        warnings_ignored(),
        deadline,
        _lease(folder, deadline) if first else nullcontext() as lease,
        RankGroup.join(ranks) as group,
    ):
        try:
            yield Launch(group, deadline, lease)
            group.wait()  # srun may end the others some time after the first one has ended
        except AGREED_ENDS as exc:
            if group.is_first:
                raise
            raise SystemExit(exc.exit_code) from exc


def _lease(folder: Path, deadline: Deadline) -> AbstractContextManager[HeldLease]:
    job = deadline.job
    return one_writer(folder, job.id if job else None, deadline.restarts)
