"""The folder of one training's checkpoints: which there are, which stay, which are set aside.

    folder = CheckpointFolder(stage_folder / fingerprint[:16], fingerprint, Retention(last=2))
    folder.clean()
    folder.verify(step); folder.set_aside(step, why); folder.prune()

A name says what a folder is: `step-NNNNNN` is whole; `.tmp-` is being written; `.old-` waits to be
replaced by another save of its step; `.trash-` is being deleted; `damaged-` was whole once, and is
kept for whoever wants to look at it. One comes from another by a rename, so that a process killed
at any instant leaves a name that is true. LATEST.json is for people and other programs: a resume
looks for itself.

Loads no torch, for commands that only look.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact
from nanochat.files import disk_errors, sha256_of, temporary_name, write_json
from nanochat.train.checkpoint_manifest import MANIFEST, Manifest, check_file, read_manifest

STEP_FOLDER = re.compile(r"step-(\d{6,})")
LATEST = "LATEST.json"
SCORES = "scores.json"
HEADROOM = 1.2
"""Room for what others write meanwhile, as a multiple of what a checkpoint takes."""


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay."""

    last: int
    """The newest ones, at least one."""
    every_steps: int | None = None
    """And those of each multiple of so many steps; None: no such."""
    best: int = 0
    """And those with the lowest scores."""

    def kept(self, steps: Sequence[int], scores: Mapping[int, float | None]) -> set[int]:
        """Of these steps, those that stay; `scores` need no more than those that have one."""
        scored = [(score, step) for step in steps if (score := scores.get(step)) is not None]
        kept = {*sorted(steps)[-max(self.last, 1) :]}
        kept |= {step for step in steps if self.every_steps and step % self.every_steps == 0}
        return kept | {step for _, step in sorted(scored)[: self.best]}


class CheckpointFolder:
    """The checkpoints of a training, as found on disk.

    `fingerprint`, or its beginning, is what their manifests must carry. `may_write` is asked before
    anything is removed: whether the folder is still this process's.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        retention: Retention,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.retention, self.may_write = retention, may_write
        self._sure: set[int] = set()  # verified by this process: to write is not to know

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        with disk_errors(self.folder):
            names = os.listdir(self.folder) if self.folder.is_dir() else []
        matches = (STEP_FOLDER.fullmatch(name) for name in names)
        steps = sorted(int(match[1]) for match in matches if match)
        return [step for step in steps if self.path(step).name in names]  # not step-0000012

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def manifest(self, step: int) -> Manifest:
        """A checkpoint's manifest; raises MissingArtefact, DamagedArtefact."""
        manifest = read_manifest(self.path(step))
        if manifest["step"] != step or not manifest["fingerprint"].startswith(self.fingerprint):
            raise DamagedArtefact(f"checkpoint {self.path(step)} holds another one's manifest")
        return manifest

    def verify(self, step: int, rank: int = 0, world_size: int = 1) -> None:
        """Reads the manifest and, of its files, this rank's share to the last byte.

        Raises MissingArtefact or DamagedArtefact. All ranks call it, to share the work; what one of
        them finds, it must tell the others.
        """
        files = self.manifest(step)["files"]
        for name in sorted(files)[rank::world_size]:
            for _ in check_file(self.path(step), name, files[name]):
                pass
        self._sure.add(step)

    def set_aside(self, step: int, why: str) -> None:
        """Renames a checkpoint that cannot be used, and says so; nothing is lost by it."""
        aside = temporary_name(self.path(step)).name.replace(".tmp-", "damaged-")
        with disk_errors(self.path(step)):
            self.path(step).rename(self.folder / aside)
        self._forget(step)
        self._point_latest()
        print(f"{why}; set aside as {aside}, trying the one before", file=sys.stderr)

    def leftovers(self) -> list[Path]:
        """What killed saves and deletions have left, and saves that are being made."""
        patterns = (".tmp-*", ".trash-*", ".old-*")
        return sorted(path for pattern in patterns for path in self.folder.glob(pattern))

    def clean(self) -> None:
        """Removes leftovers; one that was about to be replaced, and was not, gets its name back."""
        for old in self.folder.glob(".old-*"):
            own = self.folder / old.name.removeprefix(".old-")
            if not own.exists():
                with disk_errors(own):
                    old.rename(own)
        for leftover in self.leftovers():
            remove(leftover)
        if self.folder.is_dir():
            self._point_latest()

    def doomed(self, retention: Retention | None = None) -> list[int]:
        """Steps whose checkpoints the retention would remove.

        One that was read and found whole stays. Where none of those that stay anyway was, the
        newest is read now, and those before it until one is whole; where none is, none is doomed.
        """
        retention, steps = retention or self.retention, self.steps()
        doomed = sorted(set(steps) - retention.kept(steps, self._scores_of(steps, retention)))
        if not doomed:
            return []
        kept_and_sure = [step for step in steps if step in self._sure and step not in doomed]
        sure = kept_and_sure[-1] if kept_and_sure else self.newest_whole()
        return [] if sure is None else [step for step in doomed if step != sure]

    def newest_whole(self) -> int | None:
        """The newest step that this process has verified; it verifies from the newest downwards
        until there is one. None where there is none."""
        return next((step for step in reversed(self.steps()) if self._is_sure(step)), None)

    def score(self, step: int, value: float) -> None:
        """Notes what a checkpoint is worth, the lower the better, for the retention's `best`."""
        with only_noted(f"the score of step {step} was not noted"):
            kept = {each: known for each, known in self.scores().items() if each in self.steps()}
            scores = {**kept, step: value}
            write_json(self.folder / SCORES, {str(each): scores[each] for each in sorted(scores)})

    def scores(self) -> dict[int, float]:
        """What was noted, by step; a file that cannot be believed is passed over."""
        try:
            found = json.loads((self.folder / SCORES).read_bytes())
            return {int(step): float(value) for step, value in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def prune(self, retention: Retention | None = None) -> list[int]:
        """Deletes what the retention dooms; returns these steps."""
        doomed = self.doomed(retention)
        for step in doomed:
            if not self.may_write():
                return []
            self._forget(step)
            self._discard(self.path(step))
        return doomed

    def delete(self) -> None:
        """Deletes all that this training has saved."""
        for step in self.steps():
            self._discard(self.path(step))
        remove(self.folder)

    def require_room(self, size: int, files: int) -> None:
        """Raises DiskError where a checkpoint of `size` bytes in so many `files` has no room."""
        existing = self.folder.absolute()
        while not existing.exists():
            existing = existing.parent
        found = os.statvfs(existing)
        free, needed = found.f_bavail * found.f_frsize, HEADROOM * size
        if free < needed:
            raise DiskError(
                f"a checkpoint needs {needed / 1e9:.3g} GB at {self.folder}, and {free / 1e9:.3g} "
                "GB are free: free some space there, or set NANOCHAT_BASE_DIR elsewhere"
            )
        if found.f_files and found.f_favail < files:  # some file systems count no files
            raise DiskError(
                f"a checkpoint needs {files} files at {self.folder}, and the file system has room "
                f"for {found.f_favail}: delete files there, or set NANOCHAT_BASE_DIR elsewhere"
            )

    def _is_sure(self, step: int) -> bool:
        if step not in self._sure:
            try:
                self.verify(step)
            except (DamagedArtefact, MissingArtefact):
                return False
        return True

    def _scores_of(self, steps: Sequence[int], retention: Retention) -> dict[int, float | None]:
        """Scores by step; none where they decide nothing."""
        noted = self.scores() if retention.best else {}
        return {step: noted.get(step) for step in steps}

    def _discard(self, path: Path) -> None:
        """Deletes a folder; it vanishes by name first, so that no name stands for a part of it."""
        doomed = temporary_name(path)
        doomed = doomed.with_name(doomed.name.replace(".tmp-", ".trash-", 1))
        with disk_errors(path):
            path.rename(doomed)
        remove(doomed)

    def _forget(self, step: int) -> None:
        self._sure.discard(step)

    def _point_latest(self) -> None:
        """Lets LATEST.json name the newest."""
        steps, latest = self.steps(), self.folder / LATEST
        with only_noted(f"{latest} was not updated"):
            if not steps:
                latest.unlink(missing_ok=True)
                return
            path = self.path(steps[-1])
            manifest = path / MANIFEST
            digest = sha256_of(manifest) if manifest.is_file() else None
            content = {"step": steps[-1], "folder": path.name, "manifest_sha256": digest}
            write_json(latest, content)


def remove(path: Path) -> None:
    """Deletes a file or a folder as far as it can be: what stays is a leftover, for the next."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def only_noted(what: str) -> Iterator[None]:
    """Lets a failure pass that costs no work, with a sentence."""
    try:
        yield
    except (DiskError, OSError) as exc:
        print(f"{what} ({exc})", file=sys.stderr)
