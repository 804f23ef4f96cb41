"""Where a training continues: the newest checkpoint that every rank finds whole.

    state = resume(job, store)          # None: there is none

Each rank verifies a share of a checkpoint's files, and all of them take the same one: a file that
only one rank finds damaged is damaged for all; one that a rank cannot reach, or that another
version wrote, ends the start of all, and is not set aside.

Reads checkpoints, and sets damaged ones aside.
"""

from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact, NanochatError
from nanochat.train.checkpoint_manifest import OtherVersion
from nanochat.train.checkpoints import Checkpoint, CheckpointStore
from nanochat.train.job import Job, LoopState
from nanochat.train.random_state import restore_random, seed_everything


def resume(job: Job, store: CheckpointStore) -> LoopState | None:
    """Loads the newest sound checkpoint into the job's model and optimizer; all ranks call it.

    Random states are those of the same rank; a rank that was not there gets a seed of its own.
    """
    seed_everything(job.seed, job.group.rank)
    checkpoint = newest(job, store)
    if checkpoint is None:
        return None
    _load(job, checkpoint)
    own = f"rank-{job.group.rank:03d}."
    names = [name for name in checkpoint.names("random") if name.startswith(own)]
    states = {name.removeprefix(own): checkpoint.rows("random", name) for name in names}
    restore_random(states, job.group.device)
    return LoopState.of(checkpoint.loop_state)


def newest(job: Job, store: CheckpointStore) -> Checkpoint | None:
    """The newest checkpoint that verifies on all ranks; rank 0 sets damaged ones aside."""
    group = job.group
    while True:
        steps = store.steps() if group.is_first else []
        step = int(group.from_first(steps[-1] if steps else -1))
        if step < 0:
            return None
        checkpoint, objection = _verified(store, step, group.rank, group.world_size)
        out_of_reach = isinstance(objection, DiskError | OtherVersion)
        damaged, unread = group.sum([float(objection is not None), float(out_of_reach)])
        if unread:
            raise objection or DiskError(f"{unread:.0f} ranks cannot read {store.path(step)}")
        if not damaged:
            return checkpoint
        set_aside(job, store, step, str(objection or f"{damaged:.0f} ranks found it damaged"))


def set_aside(job: Job, store: CheckpointStore, step: int, why: str) -> None:
    """Takes a checkpoint away from this training, which may be looked at; all ranks call it."""
    if job.group.is_first:
        store.set_aside(step, why)
        job.put_aside.append((step, why))
    job.group.wait()


def _verified(
    store: CheckpointStore, step: int, rank: int, world_size: int
) -> tuple[Checkpoint | None, NanochatError | None]:
    try:
        store.verify(step, rank, world_size)
        return store.open(step), None
    except (DamagedArtefact, MissingArtefact, DiskError) as exc:
        return None, exc


def _load(job: Job, checkpoint: Checkpoint) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in job.model.state_dict().items()}
    found = {name: checkpoint.shape("model", name) for name in checkpoint.names("model")}
    if found != shapes:
        raise DamagedArtefact(
            f"checkpoint {checkpoint.folder} holds {len(found)} tensors that do not match the "
            f"model's {len(shapes)}: it belongs to another model, move it away"
        )
    job.optimizer.load_weights(lambda *rows: checkpoint.rows("model", *rows))
    job.optimizer.load(lambda *rows: checkpoint.rows("optimizer", *rows))
