"""Packed rows on disk: memory-mapped arrays of T+1 token ids, each with a JSON record.

    write_rows(directory, "shard_00000", rows_NC, masks=None, record={...})
    packed = open_rows(directory / "shard_00000.npy")

Files of one name, the record last, since it vouches for the others:

    shard_00000.npy        ids [N, C], C = T+1: uint16 (uint32 for a vocabulary of 65,535 or more);
                           cells that hold no token hold the largest value of the type
    shard_00000.mask.npy   optional, uint8 [N, C]: 1 where the token is a target to learn
    shard_00000.json       rows, sequence_len, dtype, sha256 and what the packer says; no timestamps

Letters: N rows, C cells a row, T = C-1 tokens of context.
"""

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.files import atomic_write, read_json, sha256_of, write_json

Ids = npt.NDArray[np.unsignedinteger[Any]]
Masks = npt.NDArray[np.uint8]

MADE_BY = "make run"


@dataclass(frozen=True)
class PackedRows:
    """An opened file of rows: ids_NC and masks_NC are memory maps, read as they are indexed."""

    ids_NC: Ids
    masks_NC: Masks | None
    record: dict[str, Any]


def id_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """Smallest type whose largest value, which means padding, is no id of the vocabulary."""
    return np.uint16 if vocab_size < np.iinfo(np.uint16).max else np.uint32


def padding_id(dtype: npt.DTypeLike) -> int:
    """The value of a cell without a token: the largest of the type, which no vocabulary reaches."""
    return int(np.iinfo(np.dtype(dtype)).max)


def mask_path(row_file: Path) -> Path:
    """Where the mask of `shard_00000.npy` lies: `shard_00000.mask.npy`."""
    return row_file.with_suffix(".mask.npy")


def write_rows(
    directory: Path, name: str, rows_NC: Ids, masks_NC: Masks | None, record: dict[str, Any]
) -> dict[str, Any]:
    """Writes rows, their masks and their record; returns the record with what was added to it."""
    row_file = directory / f"{name}.npy"
    _save_array(row_file, rows_NC)
    added = {
        "rows": rows_NC.shape[0],
        "sequence_len": rows_NC.shape[1] - 1,
        "dtype": rows_NC.dtype.name,
        "sha256": sha256_of(row_file),
    }
    if masks_NC is None:
        mask_path(row_file).unlink(missing_ok=True)
    else:
        _save_array(mask_path(row_file), masks_NC)
        added["mask_sha256"] = sha256_of(mask_path(row_file))
    whole = {**record, **added}
    write_json(row_file.with_suffix(".json"), whole)
    return whole


def open_rows(row_file: Path) -> PackedRows:
    """Memory-maps a file of rows, after a look at its size and header only.

    Raises MissingArtefact where a file is missing, DamagedArtefact where the array is not of the
    size and type its record says.
    """
    record = read_json(row_file.with_suffix(".json"), MADE_BY)
    try:
        shape = (int(record["rows"]), int(record["sequence_len"]) + 1)
        dtype = np.dtype(record["dtype"])
    except (KeyError, TypeError, ValueError) as exc:
        record_file = row_file.with_suffix(".json")
        raise DamagedArtefact(
            f"{record_file} lacks the size of its rows: delete it and run `{MADE_BY}` again"
        ) from exc
    ids_NC = _map_array(row_file, shape, dtype)
    masks_NC = None
    if "mask_sha256" in record:
        masks_NC = _map_array(mask_path(row_file), shape, np.dtype(np.uint8))
    return PackedRows(ids_NC, masks_NC, record)


def verify_rows(row_file: Path) -> PackedRows:
    """Opens a file of rows after reading all of it: a few seconds a gigabyte.

    Raises DamagedArtefact where ids or mask are not the bytes that the record vouches for.
    """
    packed = open_rows(row_file)
    for path, key in ((row_file, "sha256"), (mask_path(row_file), "mask_sha256")):
        if (key == "sha256" or key in packed.record) and sha256_of(path) != packed.record.get(key):
            raise DamagedArtefact(
                f"{path} is damaged: its SHA-256 is not the one in its record: "
                f"delete both and run `{MADE_BY}` again"
            )
    return packed


def _save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes what np.save would, but a full disk is reported with its errno."""
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    with atomic_write(path) as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        handle.write(array.data)


def _map_array(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no rows at {path}: run `{MADE_BY}` first") from exc
    except (ValueError, EOFError, SyntaxError, BadZipFile, TokenError) as exc:
        raise _not_as_recorded(path, shape, dtype, "a file that is cut or no array") from exc
    if array.shape != shape or array.dtype != dtype:
        seen = f"{array.dtype} {list(array.shape)}"
        raise _not_as_recorded(path, shape, dtype, seen)
    return array  # type: ignore[no-any-return]


def _not_as_recorded(
    path: Path, shape: tuple[int, int], dtype: np.dtype[Any], seen: str
) -> DamagedArtefact:
    return DamagedArtefact(
        f"{path} is {seen}, but its record says {dtype} {list(shape)}: "
        f"delete both and run `{MADE_BY}` again"
    )
