"""A checkpoint's manifest: its files, byte for byte, and in which of them each tensor's rows lie.

    files, tensors = merged(entries)                  # what the ranks wrote
    write_manifest(folder, {"files": files, "tensors": tensors, ...})
    manifest = read_manifest(folder)
    for read in check_file(folder, name, manifest["files"][name]): ...

The manifest is JSON and carries the SHA-256 of its own content, so that one flipped bit in it is
found like one in the tensors. It is believed only where it names plain files of its own folder.
Loads no torch, for commands that only look. Writes manifest.json.
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact
from nanochat.files import atomic_write, fingerprint

FORMAT = 2
MANIFEST = "manifest.json"
PART_FILE = re.compile(r"[a-z][a-z_]*-\d{3,}-of-\d{3,}\.safetensors")
KEYS = {"step", "fingerprint", "identity", "world_size", "loop_state", "written"}
"""What a manifest has besides its format, its files, and its tensors."""
CHUNK = 1_000_000
"""Bytes read at once."""
CONTENT_IS_LOST = (errno.EBADMSG, errno.EUCLEAN, errno.EISDIR, errno.ENOTDIR)
"""What a file system answers that cannot give back what was written. EIO is not among these: a
server that is away for a moment answers it too."""

Manifest = dict[str, Any]


class OtherVersion(DamagedArtefact):
    """A checkpoint that nothing is wrong with, but that this version cannot read."""


class TensorEntry(TypedDict):
    """Where the rows of a tensor lie."""

    dtype: str
    shape: list[int]
    pieces: list[list[Any]]
    """[file, first row, row after the last]. A tensor without dimensions counts as one row."""


TensorIndex = dict[str, dict[str, TensorEntry]]
"""By part and name."""


def rows_of(shape: Sequence[int]) -> int:
    """Size of the first dimension; 1 where there is none."""
    return shape[0] if shape else 1


def merged(entries: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], TensorIndex]:
    """Files and tensors of all ranks. Raises DamagedArtefact unless each row is there once."""
    files: dict[str, Any] = {}
    tensors: TensorIndex = {}
    for entry in entries:
        files.update(entry["files"])
        for part, named in entry["tensors"].items():
            known = tensors.setdefault(part, {})
            for name, tensor in named.items():
                empty = TensorEntry(dtype=tensor["dtype"], shape=tensor["shape"], pieces=[])
                _add(known.setdefault(name, empty), tensor, f"{part} {name}")
    _check(tensors, files)
    return files, tensors


def write_manifest(folder: Path, content: Manifest) -> None:
    """Writes `content` with the SHA-256 of its canonical JSON. Raises ValueError for NaN."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # as it will be read: keys are strings
    with atomic_write(folder / MANIFEST) as handle:
        handle.write(_rendered({**plain, "sha256": fingerprint(plain)}))


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a checkpoint; of the files it looks at none.

    Raises MissingArtefact where there is none, DamagedArtefact where it cannot be believed.
    """
    with _reading(folder / MANIFEST):
        content = (folder / MANIFEST).read_bytes()
    try:
        manifest: Manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise OtherVersion(
                f"checkpoint {folder} has format {manifest['format']}, of another version of this "
                f"program, which reads format {FORMAT} only: finish that training with the version "
                "that began it, or move the folder away to start afresh"
            )
        plain = {key: value for key, value in manifest.items() if key != "sha256"}
        if fingerprint(plain) != manifest["sha256"] or _rendered(manifest) != content:
            raise DamagedArtefact(f"{folder / MANIFEST} is damaged: its SHA-256 differs")
        if missing := KEYS - set(manifest):
            raise DamagedArtefact(f"{folder / MANIFEST} has no {' and no '.join(sorted(missing))}")
        _check(manifest["tensors"], manifest["files"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as exc:
        said = f"{type(exc).__name__}: {str(exc)[:80]}"
        raise DamagedArtefact(f"{folder / MANIFEST} is no manifest ({said})") from exc
    return manifest


def check_file(folder: Path, name: str, entry: dict[str, Any]) -> Iterator[int]:
    """Reads a file to its end and compares it with its entry; yields the bytes of each chunk.

    Raises MissingArtefact or DamagedArtefact.
    """
    path = folder / name
    with _reading(path):
        size = path.stat().st_size
    if size != entry["bytes"]:
        raise DamagedArtefact(
            f"checkpoint file {path} is damaged: it has {size:,} bytes, not {entry['bytes']:,}"
        )
    digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK))
    with _reading(path), open(path, "rb", buffering=0) as handle:
        while read := handle.readinto(chunk):
            digest.update(chunk[:read])
            yield read
    if digest.hexdigest() != entry["sha256"]:
        raise DamagedArtefact(f"checkpoint file {path} is damaged: its SHA-256 differs")


def total_bytes(manifest: Manifest) -> int:
    """Bytes of the files that a manifest names."""
    return sum(entry["bytes"] for entry in manifest["files"].values())


def _add(known: TensorEntry, more: TensorEntry, name: str) -> None:
    """Adds a rank's pieces of a tensor to those of other ranks, in the order of their rows."""
    one, other = (f"{entry['dtype']} {entry['shape']}" for entry in (known, more))
    if one != other:
        raise DamagedArtefact(
            f"tensor {name} is {one} on one rank and {other} on another: nothing was saved"
        )
    known["pieces"] = sorted([*known["pieces"], *more["pieces"]], key=lambda piece: piece[1:])


def _check(tensors: TensorIndex, files: dict[str, Any]) -> None:
    """Each row of each tensor lies in one file, and in one only; each file is the folder's own."""
    if strangers := [name for name in files if not PART_FILE.fullmatch(name)]:
        raise DamagedArtefact(f"a checkpoint's manifest names {strangers[0]!r}: no file of its own")
    for part, named in tensors.items():
        for name, tensor in named.items():
            end = 0
            for file, start, stop in tensor["pieces"]:
                if start != end or file not in files:
                    fault = "twice" if start < end else "in no file"
                    raise DamagedArtefact(
                        f"{part} tensor {name}: row {min(start, end)} is there {fault}"
                    )
                end = stop
            if end != rows_of(tensor["shape"]):
                raise DamagedArtefact(f"{part} tensor {name}: row {end} is there in no file")


def _rendered(manifest: Manifest) -> bytes:
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns an OSError into what it says of the checkpoint: missing, damaged, or out of reach."""
    try:
        yield
    except FileNotFoundError as exc:
        raise MissingArtefact(f"checkpoint file {path} is missing") from exc
    except OSError as exc:
        if exc.errno in CONTENT_IS_LOST:
            raise DamagedArtefact(f"checkpoint file {path} cannot be read: {exc.strerror}") from exc
        raise DiskError(
            f"cannot read {path}: {exc.strerror}: have the file system looked at, then run again"
        ) from exc
