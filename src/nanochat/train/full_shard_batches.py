"""Equally many batches for all ranks, whose passes over divided weights need each other.

    most = most_batches(rows, device_rows, world_size)
    for inputs_BT, targets_BT in evened(batches, most, sequence_len):
        ...

Ranks have rows that differ by one, so that one of them may have a batch less, or none. Reads and
writes no files.
"""

from collections.abc import Iterable, Iterator

import torch

from nanochat.data.loader import IGNORED, Batch


def most_batches(rows: int, device_rows: int, world_size: int) -> int:
    """Batches of the rank that has most of so many rows (data/loader.py divides them)."""
    of_a_rank = -(-rows // world_size)
    return -(-of_a_rank // device_rows)


def evened(batches: Iterable[Batch], most: int, sequence_len: int) -> Iterator[Batch]:
    """`batches`, and after them rows without a target, until there have been `most`."""
    inputs_BT, made = torch.zeros((1, sequence_len), dtype=torch.int64), 0
    for inputs_BT, targets_BT in batches:
        yield inputs_BT, targets_BT
        made += 1
    for _ in range(made, most):  # of a size that has been seen: nothing is compiled for it
        yield torch.zeros_like(inputs_BT), torch.full_like(inputs_BT, IGNORED)
