"""A training that starts afresh beside checkpoints of another one says what is different.

    sentence = started_afresh("base", stage_folder, identity)

A changed key that determines the result makes another training, with a folder of its own: nothing
is mixed, and nothing is lost. But who only forgot a key had better see it now. Reads manifests.
"""

from pathlib import Path

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.train.checkpoint_diff import differing_values
from nanochat.train.checkpoint_manifest import Manifest, read_manifest
from nanochat.train.checkpoint_review import trainings
from nanochat.train.checkpoints import Identity

DETERMINES = ("settings", "inputs", "model")
"""Parts of an identity that the fingerprint is made of."""
SHOWN = 3
"""Differences that are named."""


def started_afresh(stage: str, stage_folder: Path, identity: Identity) -> str | None:
    """Which newer checkpoint is not used, and in what its training differs; None without one."""
    other = _newest(stage_folder, identity.fingerprint)
    if other is None:
        return None
    folder, manifest = other
    ours = {part: value for part, value in identity.parts.items() if part in DETERMINES}
    theirs = {part: value for part, value in manifest["identity"].items() if part in DETERMINES}
    found = [f"{d.name} {d.one!r}, now {d.other!r}" for d in differing_values(theirs, ours)]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (
        f"{stage} starts afresh: the checkpoint of step {manifest['step']} in {folder.name} is of "
        f"another training ({'; '.join(found[:SHOWN])}{more}); change it back to go on from there"
    )


def _newest(stage_folder: Path, fingerprint: str) -> tuple[Path, Manifest] | None:
    """The checkpoint that was written last by any other training."""
    found = []
    for training in trainings(stage_folder):
        if fingerprint.startswith(training.folder.name):
            continue
        for step in training.steps()[-1:]:
            try:
                manifest = read_manifest(training.path(step))
            except (DamagedArtefact, MissingArtefact):
                continue
            found.append((training.folder, manifest))
    return max(found, key=lambda each: each[1]["written"], default=None)
