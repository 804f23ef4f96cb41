"""Deletes checkpoints for a person, who says how many stay.

    gone = prune("base", stage_folder, Request(keep=1, dry_run=True))

Of the training that saved last, the newest stay; of the others nothing is touched unless that is
asked for. The newest checkpoint that can be read to its last byte stays in any case. Whoever calls
this holds the folder. Loads no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from nanochat.train.checkpoint_folder import CheckpointFolder, Retention, remove
from nanochat.train.checkpoint_review import Found, find, newest_training, trainings


@dataclass(frozen=True)
class Request:
    """What is to be deleted, besides what killed saves have left."""

    keep: int
    """How many of the newest stay."""
    set_aside: bool = False
    """Whether to delete the damaged ones that were set aside."""
    other_trainings: bool = False
    """Whether to delete all that trainings with another config have saved."""
    dry_run: bool = False
    """Whether to delete nothing, and only say what would be."""


def prune(stage: str, stage_folder: Path, request: Request) -> list[Found]:
    """Deletes what is asked for, and returns it as it was found."""
    found = find(stage, stage_folder)
    gone = [each for each in found if each.state in ("unfinished", "leftover") and not _stays(each)]
    folders = {training.folder.name: training for training in trainings(stage_folder)}
    if not request.dry_run:
        for training in folders.values():
            training.clean()
        found = find(stage, stage_folder)
    if request.set_aside:
        gone += _delete_set_aside(found, request.dry_run)
    newest = newest_training(found)
    if newest is not None:
        doomed = set(folders[newest].doomed(Retention(request.keep)))
        gone += [
            each
            for each in found
            if each.training == newest and each.step in doomed and each.path.name.startswith("step")
        ]
        if not request.dry_run:
            folders[newest].prune(Retention(request.keep))
        if request.other_trainings and folders[newest].newest_whole() is not None:
            del folders[newest]
            gone += _delete_trainings(folders, found, request.dry_run)
    return list({each.path: each for each in gone}.values())


def _stays(leftover: Found) -> bool:
    """Whether it will get its name back: its step was about to be saved anew, and was not."""
    own = leftover.path.with_name(leftover.path.name.removeprefix(".old-"))
    return leftover.path.name.startswith(".old-") and not own.exists()


def _delete_set_aside(found: list[Found], dry_run: bool) -> list[Found]:
    gone = [each for each in found if each.state == "set aside"]
    for each in [] if dry_run else gone:
        remove(each.path)
    return gone


def _delete_trainings(
    folders: dict[str, CheckpointFolder], found: list[Found], dry_run: bool
) -> list[Found]:
    for training in [] if dry_run else folders.values():
        training.delete()
    return [each for each in found if each.training in folders]
