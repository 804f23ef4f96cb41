"""Looks at all checkpoints of a stage, from outside, while a training may be writing them.

    for found in find(stage, stage_folder): found.step, found.state, found.bytes, found.latest
    review = Review(found); for _ in track(review.read(), ...): ...; review.damage

What vanishes between a look and the next has been pruned, and is left out. Loads no torch, and
writes nothing.
"""

import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact
from nanochat.files import read_json
from nanochat.train.checkpoint_folder import LATEST, STEP_FOLDER, CheckpointFolder, Retention
from nanochat.train.checkpoint_manifest import CHUNK, Manifest, check_file, total_bytes

TRAINING = re.compile(r"[0-9a-f]{16}")
LOOK_ONLY = Retention(last=1)
ANY_STEP = re.compile(r"step-(\d+)")
STATES = {
    ".tmp-": "unfinished",
    ".old-": "leftover",
    ".trash-": "leftover",
    "damaged-": "set aside",
}
"""By how a name begins. An unfinished one is being written, or its writer is dead."""


@dataclass(frozen=True)
class Found:
    """A folder that holds a checkpoint, or some of one."""

    stage: str
    training: str
    """The folder of its training: the beginning of the fingerprint."""
    path: Path
    state: str
    """`whole` by its name, manifest and sizes; `damaged`; or as in STATES."""
    step: int | None
    bytes: int
    written: float | None = None
    """Unix time; of anything but a whole one, when the folder was last changed."""
    world_size: int | None = None
    score: float | None = None
    latest: bool = False
    """Whether LATEST.json names it."""
    remark: str = ""
    """What is wrong with a damaged one."""

    def to_json(self) -> dict[str, Any]:
        """All of it, for --json."""
        return {**asdict(self), "path": str(self.path)}


def trainings(stage_folder: Path) -> list[CheckpointFolder]:
    """The folders of a stage's trainings."""
    names = sorted(filter(TRAINING.fullmatch, _names(stage_folder)))
    return [CheckpointFolder(stage_folder / name, name, LOOK_ONLY) for name in names]


def find(stage: str, stage_folder: Path) -> list[Found]:
    """Everything in a stage's folder that is or was a checkpoint, by training and step."""
    found = []
    for training in trainings(stage_folder):
        latest = _latest(training.folder)
        for name in _names(training.folder):
            path = training.folder / name
            if (each := _look(stage, training, path, latest)) and path.exists():
                found.append(each)
    return sorted(found, key=lambda each: (each.training, each.step or 0, each.path.name))


def newest_training(found: Sequence[Found]) -> str | None:
    """The training that wrote a checkpoint last; None where there is no whole one."""
    whole = [(each.written or 0.0, each.training) for each in found if each.state == "whole"]
    return max(whole)[1] if whole else None


class Review:
    """Reads checkpoints to the last byte."""

    def __init__(self, found: Sequence[Found]) -> None:
        self.found = [each for each in found if each.state in ("whole", "damaged")]
        self.chunks = sum(-(-each.bytes // CHUNK) for each in self.found)
        """How often `read` yields, in about."""
        self.damage: dict[Path, list[str]] = {}
        """Of every checkpoint that was there to the end: a sentence for each damaged file."""

    def read(self) -> Iterator[int]:
        """Yields after each megabyte; then `damage` is known."""
        for each in self.found:
            damage = yield from _read(each)
            if damage is not None:
                self.damage[each.path] = damage


def _read(found: Found) -> Generator[int, None, list[str] | None]:
    """Yields after each megabyte; returns what is damaged, or None where it has vanished."""
    training = CheckpointFolder(found.path.parent, found.training, LOOK_ONLY)
    assert found.step is not None
    while True:
        damage, manifest = [], None
        try:
            manifest = training.manifest(found.step)
        except (DamagedArtefact, MissingArtefact) as exc:
            damage.append(str(exc))
        for name, entry in sorted(manifest["files"].items()) if manifest else []:
            try:
                yield from check_file(found.path, name, entry)
            except (DamagedArtefact, MissingArtefact) as exc:
                damage.append(str(exc))
        if not damage:
            return damage
        if not found.path.exists():
            return None
        if manifest is None or _is_still(training, found.step, manifest):
            return damage


def _is_still(training: CheckpointFolder, step: int, manifest: Manifest) -> bool:
    """Whether the manifest is the one that was read: a step may have been saved anew meanwhile."""
    try:
        return training.manifest(step) == manifest
    except (DamagedArtefact, MissingArtefact):
        return True


def _look(stage: str, training: CheckpointFolder, path: Path, latest: str | None) -> Found | None:
    """What a name in a training's folder stands for; None where it is no checkpoint's."""
    if match := STEP_FOLDER.fullmatch(path.name):
        return _checkpoint(stage, training, int(match[1]), path.name == latest)
    state = next((STATES[start] for start in STATES if path.name.startswith(start)), None)
    match = ANY_STEP.search(path.name)
    if state is None or match is None:
        return None
    name = training.folder.name
    return Found(stage, name, path, state, int(match[1]), _size(path), _changed(path))


def _checkpoint(stage: str, training: CheckpointFolder, step: int, latest: bool) -> Found:
    path, name, manifest = training.path(step), training.folder.name, None
    try:
        manifest = training.manifest(step)
        for file, entry in manifest["files"].items():
            _require_size(path / file, entry["bytes"])
    except (DamagedArtefact, MissingArtefact) as exc:
        if manifest and not _is_still(training, step, manifest):  # look at the new one
            return _checkpoint(stage, training, step, latest)
        size, when = _size(path), _changed(path)
        said = str(exc)
        return Found(stage, name, path, "damaged", step, size, when, latest=latest, remark=said)
    return Found(
        stage,
        name,
        path,
        "whole",
        step,
        total_bytes(manifest),
        manifest["written"],
        manifest["world_size"],
        training.scores().get(step),
        latest,
    )


def _require_size(file: Path, size: int) -> None:
    try:
        seen = file.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise MissingArtefact(f"checkpoint file {file} is missing") from exc
    if seen != size:
        raise DamagedArtefact(f"checkpoint file {file} has {seen:,} bytes, not {size:,}")


def _latest(folder: Path) -> str | None:
    try:
        content = read_json(folder / LATEST, "make run")
    except (DamagedArtefact, MissingArtefact, OSError):
        return None
    return content.get("folder") if isinstance(content, dict) else None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise DiskError(f"cannot read {folder}: {exc.strerror}") from exc


def _size(folder: Path) -> int:
    total = 0
    for name in _names(folder):
        try:
            total += (folder / name).stat().st_size
        except FileNotFoundError:
            continue
    return total


def _changed(folder: Path) -> float | None:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return None
