"""What a rank writes of a checkpoint, and how rows are found again, however many ranks wrote them.

    entry = write_pieces(folder, {"model": {"w": Piece(tensor, start=8, rows=16)}}, rank, of)
    tensor = TensorReader(folder, manifest).rows("model", "w", 4, 12)

A tensor is divided along its rows, its first dimension, and each row has one owner. So a rank that
needs other rows than those that one rank wrote reads them from two files: that is all there is to
continuing on another number of ranks.

Writes <part>-RRR-of-WWW.safetensors, one file a part that the rank has pieces of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanochat.errors import DamagedArtefact
from nanochat.train.checkpoint_file import write_tensors_hashed
from nanochat.train.checkpoint_manifest import Manifest, TensorEntry, rows_of


@dataclass(frozen=True)
class Piece:
    """Some rows of a named tensor, or all of it."""

    tensor: Tensor
    """On the host or not yet: [rows from `start`, ...], or any shape where it is the whole."""
    start: int = 0
    """The first of these rows, counted in the whole tensor."""
    rows: int | None = None
    """Rows of the whole tensor; None: this is the whole (which may have no dimension)."""

    @property
    def stop(self) -> int:
        """The row after the last one."""
        return self.start + rows_of(self.tensor.shape)

    @property
    def whole_shape(self) -> list[int]:
        """Shape of the tensor that this is a piece of."""
        shape = list(self.tensor.shape)
        return shape if self.rows is None else [self.rows, *shape[1:]]


Pieces = dict[str, Piece]
"""By the name of the whole tensor. A rank may have no piece of it; each row has one owner."""


def write_pieces(
    folder: Path, parts: Mapping[str, Mapping[str, Piece]], rank: int, world_size: int
) -> dict[str, Any]:
    """Writes a file for each part; returns its rank's entry: files, and index of their tensors.

    Raises OSError where the disk refuses.
    """
    files: dict[str, Any] = {}
    tensors: dict[str, dict[str, TensorEntry]] = {}
    for part, pieces in parts.items():
        file = f"{part}-{rank:03d}-of-{world_size:03d}.safetensors"
        tensors[part] = {name: _index(piece, file) for name, piece in pieces.items()}
        some = [name for name, entry in tensors[part].items() if entry["pieces"]]
        if some:
            written = {name: pieces[name].tensor for name in some}
            size, sha256 = write_tensors_hashed(folder / file, written)
            files[file] = {"bytes": size, "sha256": sha256}
    return {"files": files, "tensors": tensors}


def _index(piece: Piece, file: str) -> TensorEntry:
    """Where a piece is found. One without rows is nowhere; its tensor is known all the same."""
    return {
        "dtype": str(piece.tensor.dtype).removeprefix("torch."),
        "shape": piece.whole_shape,
        "pieces": [[file, piece.start, piece.stop]] if piece.stop > piece.start else [],
    }


class TensorReader:
    """Reads rows of the tensors of a checkpoint, from whichever of its files hold them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._files: dict[str, Any] = {}

    def entry(self, part: str, name: str) -> TensorEntry:
        """A tensor's dtype, shape and pieces; raises DamagedArtefact where there is none."""
        found: TensorEntry | None = self.manifest["tensors"].get(part, {}).get(name)
        if found is None:
            raise DamagedArtefact(
                f"checkpoint {self.folder} has no tensor {name} of the {part}: it belongs to "
                "another model, so move it away and train again"
            )
        return found

    def rows(self, part: str, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The rows from `start` up to `stop`, on the CPU; all of a tensor without dimensions."""
        entry = self.entry(part, name)
        shape = entry["shape"]
        stop = rows_of(shape) if stop is None else stop
        assert 0 <= start <= stop <= rows_of(shape), (part, name, start, stop, shape)
        # Always a copy: what the library hands out is the file itself, mapped.
        result = torch.empty([stop - start, *shape[1:]], dtype=self._dtype(entry))
        for file, first, end in entry["pieces"]:
            low, high = max(start, first), min(stop, end)
            if low < high:
                read = self._read(file, name, entry, low - first, high - first)
                result[low - start : high - start] = read
        return result if shape else result.reshape(())

    def _read(self, file: str, name: str, entry: TensorEntry, low: int, high: int) -> Tensor:
        """Rows of one file; raises DamagedArtefact where it does not hold what the index says."""
        path, shape = self.folder / file, entry["shape"]
        try:
            if file not in self._files:
                self._files[file] = safe_open(path, framework="pt")
            opened = self._files[file]
            tensor: Tensor = opened.get_slice(name)[low:high] if shape else opened.get_tensor(name)
        except (SafetensorError, OSError) as exc:
            raise DamagedArtefact(f"checkpoint file {path} cannot be read ({exc})") from exc
        expected = [high - low, *shape[1:]] if shape else []
        if tensor.dtype != self._dtype(entry) or list(tensor.shape) != expected:
            raise DamagedArtefact(f"checkpoint file {path} holds another {name} than was saved")
        return tensor

    def _dtype(self, entry: TensorEntry) -> torch.dtype:
        dtype = getattr(torch, entry["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise DamagedArtefact(f"checkpoint {self.folder} names a dtype {entry['dtype']!r}")
        return dtype
