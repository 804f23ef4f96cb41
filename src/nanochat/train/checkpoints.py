"""Checkpoints: a folder `step-NNNNNN` is always whole, and its content is verified when it is read.

    store = CheckpointStore(folder, identity, Retention(last=2), rank, world_size)
    store.write_part(step, {"model": pieces, "optimizer": pieces})    # every rank, in a thread
    store.commit(step, loop_state)                                    # rank 0, when all have
    store.verify(step); checkpoint = store.open(step); checkpoint.rows("model", "w", 8, 16)

Below `<checkpoints>/<run>/<stage>/` there is one folder for each fingerprint (the hash of all that
determines the training's result), so that a changed config starts afresh and finds its old
checkpoints when it is changed back. Every rank writes the rows that it owns, and last an entry that
says what it wrote; rank 0 makes a manifest of the entries, and a rename makes a checkpoint of the
folder. From there on only its deletion touches it.

The files are safetensors and JSON, and nothing is unpickled. That is why torch.distributed's own
checkpoints are not used: their index is a pickle, and so are their tensors.

Writes step-NNNNNN/{manifest.json, <part>-RRR-of-WWW.safetensors} and LATEST.json.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nanochat.errors import DiskError, StoppedEarly
from nanochat.files import disk_errors, fsync_directory, make_directory, write_json
from nanochat.train.checkpoint_folder import CheckpointFolder, Retention, only_noted, remove
from nanochat.train.checkpoint_manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    merged,
    read_manifest,
    total_bytes,
    write_manifest,
)
from nanochat.train.parts import Pieces, TensorReader, write_pieces

__all__ = ["Checkpoint", "CheckpointStore", "Identity", "Retention", "read_checkpoint"]


@dataclass(frozen=True)
class Identity:
    """What determines a training's result."""

    fingerprint: str
    parts: dict[str, Any]
    """What the fingerprint was made of, JSON-like: config, data, tokenizer, model, code."""


class Checkpoint:
    """A checkpoint that can be read: its manifest now, its tensors when they are asked for."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.step: int = manifest["step"]
        self.loop_state: dict[str, Any] = manifest["loop_state"]
        self.world_size: int = manifest["world_size"]
        self._reader = TensorReader(folder, manifest)

    def rows(self, part: str, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows of a tensor, on the CPU, whichever ranks wrote them; all of a 0-d one.

        Raises DamagedArtefact where there is no such tensor, or its file is another.
        """
        return self._reader.rows(part, name, start, stop)

    def names(self, part: str) -> list[str]:
        """The tensors of a part; none where there is no such part."""
        return sorted(self.manifest["tensors"].get(part, {}))

    def shape(self, part: str, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return tuple(self._reader.entry(part, name)["shape"])


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder of any training. Raises MissingArtefact, DamagedArtefact."""
    return Checkpoint(folder, read_manifest(folder))


class CheckpointStore(CheckpointFolder):
    """The checkpoints of one training, identified by its fingerprint; each rank has its own.

    `attempt` is a number that all ranks of this start share, and another start does not.
    """

    def __init__(
        self,
        stage_folder: Path,
        identity: Identity,
        retention: Retention,
        rank: int = 0,
        world_size: int = 1,
        may_write: Callable[[], bool] = lambda: True,
        attempt: int = 0,
    ) -> None:
        folder = stage_folder / identity.fingerprint[:16]
        super().__init__(folder, identity.fingerprint, retention, may_write)
        self.identity = identity
        self.rank, self.world_size, self.attempt = rank, world_size, attempt
        self._committed: int | None = None

    def write_part(self, step: int, parts: Mapping[str, Pieces]) -> int:
        """Writes this rank's pieces, and last its entry; returns the bytes. Raises DiskError."""
        folder = self._unfinished(step)
        entry_file = folder / self._entry_name(self.rank)
        with _disk_errors(folder):
            make_directory(folder)
            entry_file.unlink(missing_ok=True)  # of a save of this step that failed
            entry = write_pieces(folder, parts, self.rank, self.world_size)
            write_json(entry_file, entry)  # fsyncs the folder too
        return total_bytes(entry)

    def commit(self, step: int, loop_state: dict[str, Any]) -> int:
        """Makes a checkpoint of what all ranks have written, then prunes; returns its bytes.

        Rank 0 calls it. Raises DiskError, and leaves the earlier checkpoints as they are, where the
        disk refuses; StoppedEarly where another process has taken the folder over.
        """
        self._require_mine(step)
        folder = self._unfinished(step)
        with _disk_errors(folder):
            manifest = self._gathered(step, loop_state)
            write_manifest(folder, manifest)
            read_manifest(folder)  # as a resume will
            for file in folder.iterdir():
                if file.name != MANIFEST and file.name not in manifest["files"]:
                    remove(file)
            size = total_bytes(manifest) + (folder / MANIFEST).stat().st_size
            self._require_mine(step)  # what came before may have taken long
            self._put_in_place(step)
        self._committed = step
        self._point_latest()
        with only_noted("old checkpoints were not all pruned"):
            self.prune()
        return size

    def abandon(self, step: int) -> None:
        """Removes what a save that failed has written. Rank 0 calls it."""
        remove(self._unfinished(step))

    def open(self, step: int) -> Checkpoint:
        """A checkpoint to read from; `verify` it before. Raises as `manifest` does."""
        return Checkpoint(self.path(step), self.manifest(step))

    def doomed(self, retention: Retention | None = None) -> list[int]:
        """As of any folder, but never the one that was committed last: after a rollback it need not
        be the newest."""
        return [step for step in super().doomed(retention) if step != self._committed]

    def _unfinished(self, step: int) -> Path:
        return self.folder / f".tmp-step-{step:06d}-{self.attempt}"

    def _entry_name(self, rank: int) -> str:
        return f"rank-{rank:03d}-of-{self.world_size:03d}.json"

    def _require_mine(self, step: int) -> None:
        if not self.may_write():
            raise StoppedEarly(
                f"another process has taken over {self.folder.parent}: step {step} was not saved"
            )

    def _gathered(self, step: int, loop_state: dict[str, Any]) -> Manifest:
        """The manifest of what the ranks' entries name, and the folder holds."""
        folder = self._unfinished(step)
        names = [self._entry_name(rank) for rank in range(self.world_size)]
        files, tensors = merged(json.loads((folder / name).read_bytes()) for name in names)
        for name, entry in files.items():
            if (size := (folder / name).stat().st_size) != entry["bytes"]:
                raise DiskError(
                    f"{folder / name} has {size:,} of the {entry['bytes']:,} bytes that were "
                    "written to it: have the file system looked at"
                )
        return {
            "format": FORMAT,
            "step": step,
            "fingerprint": self.identity.fingerprint,
            "identity": self.identity.parts,
            "world_size": self.world_size,
            "files": files,
            "tensors": tensors,
            "loop_state": loop_state,
            "written": round(time.time(), 3),
        }

    def _put_in_place(self, step: int) -> None:
        """Gives the folder its name. An earlier checkpoint of the step stays until that is done."""
        path = self.path(step)
        old = path.with_name(f".old-{path.name}")
        if old.exists():
            self._discard(old)
        if path.exists():
            path.rename(old)
        try:
            self._unfinished(step).rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        fsync_directory(self.folder)
        fsync_directory(self.folder.parent)
        if old.exists():
            with only_noted(f"{old} was not deleted"):
                self._discard(old)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turns whatever a file system can refuse a save with into a DiskError."""
    try:
        with disk_errors(path):
            yield
    except FileNotFoundError as exc:
        raise DiskError(
            f"{exc.filename} has vanished while a checkpoint was written: look for another process "
            "that cleans up there"
        ) from exc
    except OSError as exc:
        raise DiskError(f"cannot write {path}: {exc.strerror or exc}") from exc
