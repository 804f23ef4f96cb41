"""The loader: which rows a step trains on is arithmetic, not state.

    loader = RowLoader(row_files, rows_per_step=256, seed=1, bos_id=tokenizer.bos_id)
    for inputs_BT, targets_BT in loader.micro_batches(step, device_rows=32, rank=0, world_size=8):
        ...

Row numbers are shuffled anew each epoch by a keyed permutation that is computed an index at a time,
so any step is reached in O(1), a resumed run needs nothing but its step number, and the rows of a
step are the same whatever the number of ranks. Where `world_size` does not divide `rows_per_step`,
ranks take contiguous slices that differ by one row at most.

Reads the memory-mapped rows of data/rows.py; writes nothing. Letters: N rows, C = T+1 cells, B rows
of a micro-batch.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nanochat.data.packing import Ints
from nanochat.data.rows import PackedRows, open_rows, padding_id
from nanochat.errors import DamagedArtefact

Batch = tuple[torch.Tensor, torch.Tensor]
Keys = npt.NDArray[np.uint64]

IGNORED = -1
FEISTEL_ROUNDS = 6


class RowLoader:
    """Shuffled, endless, resumable access to the rows of one or more files.

    Raises MissingArtefact or DamagedArtefact where a file is not as its record says, or where
    files of different row lengths or tokenizers are mixed.
    """

    def __init__(
        self, row_files: Sequence[Path], rows_per_step: int, seed: int, bos_id: int
    ) -> None:
        assert row_files and rows_per_step > 0
        self.rows_per_step = rows_per_step
        self.seed = seed
        self.bos_id = bos_id
        self._shards = [open_rows(Path(file)) for file in row_files]
        _require_equal(row_files, self._shards, "sequence_len")
        _require_equal(row_files, self._shards, "tokenizer")
        self._first_row = np.cumsum([0] + [len(shard.ids_NC) for shard in self._shards])
        self.n_rows = int(self._first_row[-1])
        self.sequence_len = int(self._shards[0].record["sequence_len"])

    def rows_of_step(self, step: int) -> Ints:
        """Global row numbers, int64 [rows_per_step], of optimizer step `step` (from 0)."""
        positions = np.arange(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        epochs, indices = np.divmod(positions, self.n_rows)
        rows = np.empty_like(indices)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows[here] = permuted(indices[here], self.n_rows, self.seed, epoch)
        return rows

    def micro_batches(
        self, step: int, device_rows: int, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yields (inputs_BT, targets_BT), int64, B <= device_rows: this rank's share of a step.

        Targets are -1 where nothing is to be learned (padding, or a mask of 0); inputs hold BOS in
        place of padding.
        """
        rows = self.rows_of_step(step)
        first, last = _share(len(rows), rank, world_size)
        for start in range(first, last, device_rows):
            yield self._batch(rows[start : min(start + device_rows, last)])

    def _batch(self, rows_B: Ints) -> Batch:
        """Reads rows file by file, into the order asked for."""
        shard_B = np.searchsorted(self._first_row, rows_B, side="right") - 1
        ids_BC = np.empty((len(rows_B), self.sequence_len + 1), dtype=np.int64)
        learned_BC = np.empty(ids_BC.shape, dtype=np.bool_)
        for number in np.unique(shard_B).tolist():
            here = np.flatnonzero(shard_B == number)
            local = rows_B[here] - self._first_row[number]
            ids_BC[here], learned_BC[here] = _read(self._shards[number], local, self.bos_id)
        return _as_batch(ids_BC, learned_BC)


def validation_batches(
    row_file: Path,
    max_rows: int,
    device_rows: int,
    bos_id: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yields the first `max_rows` rows of a file in order, as `RowLoader.micro_batches` does.

    The rows of all ranks together are the same whatever `device_rows` and `world_size` are.
    """
    shard = open_rows(Path(row_file))
    n_rows = min(max_rows, len(shard.ids_NC))
    first, last = _share(n_rows, rank, world_size)
    for start in range(first, last, device_rows):
        local = np.arange(start, min(start + device_rows, last))
        yield _as_batch(*_read(shard, local, bos_id))


def _share(n: int, rank: int, world_size: int) -> tuple[int, int]:
    """Where the rank's slice of range(n) begins and ends; it is empty where ranks outnumber n."""
    return rank * n // world_size, (rank + 1) * n // world_size


def permuted(indices: Ints, n: int, seed: int, epoch: int) -> Ints:
    """Where a random permutation of range(n), keyed by (seed, epoch), sends each index.

    A balanced Feistel network permutes the next larger range of 4^k numbers; a number that lands
    outside range(n) is sent through again until it lands inside ("cycle walking", Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains"). On average under four passes.
    """
    half_bits = max(1, -(-(n - 1).bit_length() // 2))
    keys = _round_keys(seed, epoch)
    values = _feistel(indices.astype(np.uint64), half_bits, keys)
    while (outside := values >= n).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _feistel(values: Keys, half_bits: int, keys: Keys) -> Keys:
    bits, low = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & low
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & low)
    return (left << bits) | right


def _round_keys(seed: int, epoch: int) -> Keys:
    """A key for each round, different for each (seed, epoch)."""
    rounds = np.arange(FEISTEL_ROUNDS, dtype=np.uint64)
    base = _mixed(np.full(FEISTEL_ROUNDS, seed % 2**64, dtype=np.uint64))
    return _mixed(_mixed(base ^ np.uint64(epoch)) ^ rounds)


def _mixed(values: Keys) -> Keys:
    """SplitMix64's output function (Steele, Lea, Flood 2014): every bit depends on every other."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _read(shard: PackedRows, local_B: Ints, bos_id: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Ids [B, C] with BOS for padding, and which of them are targets."""
    stored_BC = shard.ids_NC[local_B]
    padding_BC = stored_BC == padding_id(stored_BC.dtype)
    ids_BC = np.where(padding_BC, stored_BC.dtype.type(bos_id), stored_BC).astype(np.int64)
    if shard.masks_NC is None:
        return ids_BC, ~padding_BC
    return ids_BC, (shard.masks_NC[local_B] != 0) & ~padding_BC


def _as_batch(ids_BC: Ints, learned_BC: npt.NDArray[np.bool_]) -> Batch:
    inputs_BT = np.ascontiguousarray(ids_BC[:, :-1])
    targets_BT = np.where(learned_BC[:, 1:], ids_BC[:, 1:], IGNORED)
    return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


def _require_equal(row_files: Sequence[Path], shards: list[PackedRows], key: str) -> None:
    expected: Any = shards[0].record.get(key)
    for file, shard in zip(row_files, shards, strict=True):
        seen: Any = shard.record.get(key)
        if seen != expected:
            raise DamagedArtefact(
                f"{file} has {key} {seen}, but {row_files[0]} has {expected}: "
                "delete the folder and run `make run` again"
            )
