"""Checkpoints: a folder `step-NNNNNN` is always whole, and its content is verified when it is read.

    store = CheckpointStore(folder, fingerprint, keep=2)
    store.save(step, {"model": tensors, "optimizer": tensors}, loop_state)
    checkpoint = store.newest()

Below `<checkpoints>/<run>/<stage>/` there is one folder for each fingerprint (the hash of all that
determines the training's result), so that a changed config starts afresh and finds its old
checkpoints when it is changed back. A checkpoint holds safetensors files and manifest.json
(fingerprint, step, loop state, and size and SHA-256 of each file). It is written under a temporary
name and renamed. A damaged one is set aside as `damaged-step-NNNNNN`, and the one before is used.
Nothing is unpickled.
"""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from nanochat.errors import DamagedArtefact, MissingArtefact, StoppedEarly
from nanochat.files import (
    atomic_directory,
    make_directory,
    read_json,
    sha256_of,
    temporary_name,
    write_json,
)
from nanochat.model.weights import write_tensors

STEP_FOLDER = re.compile(r"step-(\d{6,})")
MADE_BY = "make run"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory: `tensors` by part (model, optimizer), on the CPU."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    loop_state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one training, identified by its fingerprint.

    With `read_only`, for all ranks but the first, nothing is touched; only `load` may be called.
    `may_write` is asked before each save: whether the folder is still this process's.
    """

    def __init__(
        self,
        stage_folder: Path,
        fingerprint: str,
        keep: int,
        read_only: bool = False,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.fingerprint = fingerprint
        self.folder = stage_folder / fingerprint[:16]
        self.keep = keep
        self.may_write = may_write
        if read_only:
            return
        make_directory(self.folder)
        for leftover in self.folder.glob(".tmp-*"):  # of a process that was killed while saving
            shutil.rmtree(leftover)

    def save(
        self, step: int, tensors: dict[str, dict[str, Tensor]], loop_state: dict[str, Any]
    ) -> int:
        """Writes `step-NNNNNN` whole, then drops all but the newest `keep`; returns its bytes.

        Raises DiskError, and leaves the earlier checkpoints as they are, where the disk refuses;
        StoppedEarly where another process has taken the folder over.
        """
        if not self.may_write():
            raise StoppedEarly(
                f"another process has taken over {self.folder.parent}: step {step} was not saved"
            )
        with atomic_directory(self.path(step)) as folder:
            files = {}
            for part, named in tensors.items():
                file = folder / f"{part}.safetensors"
                write_tensors(named, file)
                files[file.name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
            manifest = {
                "format": 1,
                "step": step,
                "fingerprint": self.fingerprint,
                "loop_state": loop_state,
                "files": files,
            }
            write_json(folder / "manifest.json", manifest)
        self.prune(self.keep)
        return sum(file.stat().st_size for file in self.path(step).iterdir())

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; damaged ones are set aside and reported."""
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except (DamagedArtefact, MissingArtefact) as exc:
                aside = temporary_name(self.path(step)).name.replace(".tmp-", "damaged-")
                self.path(step).rename(self.folder / aside)
                print(f"{exc}; set aside as {aside}, trying the one before", file=sys.stderr)
        return None

    def load(self, step: int) -> Checkpoint:
        """Reads and verifies one checkpoint; raises DamagedArtefact or MissingArtefact."""
        folder = self.path(step)
        manifest = read_json(folder / "manifest.json", MADE_BY)
        try:
            if (manifest["step"], manifest["fingerprint"]) != (step, self.fingerprint):
                raise DamagedArtefact(f"checkpoint {folder} holds another training's manifest")
            tensors = {
                Path(name).stem: _load_tensors(folder / name, entry["sha256"])
                for name, entry in manifest["files"].items()
            }
            return Checkpoint(step, tensors, manifest["loop_state"])
        except (KeyError, TypeError, AttributeError) as exc:
            raise DamagedArtefact(f"checkpoint {folder} has a damaged manifest ({exc!r})") from exc

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        found = (STEP_FOLDER.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def prune(self, keep: int) -> None:
        """Deletes all but the newest `keep` checkpoints; each vanishes by name first."""
        for step in self.steps()[:-keep]:
            doomed = temporary_name(self.path(step))
            self.path(step).rename(doomed)
            shutil.rmtree(doomed)


def _load_tensors(file: Path, sha256: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise MissingArtefact(f"checkpoint file {file} is missing")
    if sha256_of(file) != sha256:
        raise DamagedArtefact(f"checkpoint file {file} is damaged: its SHA-256 differs")
    return load_file(file)
