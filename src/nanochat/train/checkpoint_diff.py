"""What differs between two checkpoints: tensors, loop state, and what determines the training.

    for difference in differences(read_checkpoint(one), read_checkpoint(other)): print(difference)

How many ranks wrote a checkpoint is no difference. Reads only.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nanochat.progress import track
from nanochat.train.checkpoint_manifest import rows_of
from nanochat.train.checkpoints import Checkpoint

ELEMENTS = 1 << 24
"""Of a tensor, compared at once."""
ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in both."""

    kind: str
    """A part of the tensors (model, optimizer, ...), `step`, `loop_state`, `identity`; `value`."""
    name: str
    one: Any
    """The value here; of a tensor its dtype and shape ..."""
    other: Any
    """... and there."""
    max_difference: float | None = None
    """Largest absolute difference; of a tensor of the same dtype and shape only. None as well where
    it is no number: an infinity or a NaN on one side."""
    elements: int | None = None
    """How many elements differ in their bits."""

    def to_json(self) -> dict[str, Any]:
        """All of it, for --json."""
        return asdict(self)


def differences(one: Checkpoint, other: Checkpoint) -> list[Difference]:
    """Everything that differs; empty where the two are the same, bit for bit."""
    found = [] if one.step == other.step else [Difference("step", "", one.step, other.step)]
    for kind in ("identity", "loop_state"):
        pair = one.manifest[kind], other.manifest[kind]
        found += [replace(each, kind=kind) for each in differing_values(*pair)]
    parts = {**one.manifest["tensors"], **other.manifest["tensors"]}
    names = [
        (part, name) for part in parts for name in sorted({*one.names(part), *other.names(part)})
    ]
    for part, name in track(names, "comparing", unit="tensors"):
        if difference := _of_tensor(part, name, one, other):
            found.append(difference)
    return found


def differing_values(one: Any, other: Any) -> Iterator[Difference]:
    """Leaves of two JSON values that are not equal, by their dotted path."""
    ours, theirs = dict(_leaves(one)), dict(_leaves(other))
    for path in sorted({*ours, *theirs}):
        pair = ours.get(path, ABSENT), theirs.get(path, ABSENT)
        if pair[0] != pair[1]:
            yield Difference("value", path, *pair)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _of_tensor(part: str, name: str, one: Checkpoint, other: Checkpoint) -> Difference | None:
    ours, theirs = _described(one, part, name), _described(other, part, name)
    if ours != theirs:
        return Difference(part, name, ours, theirs)
    elements, largest = 0, 0.0
    for start, stop in _ranges(one.shape(part, name)):
        rows = one.rows(part, name, start, stop), other.rows(part, name, start, stop)
        differing, most = _compared(*rows)
        elements, largest = elements + differing, max(largest, most)
    if not elements:
        return None
    finite = largest if math.isfinite(largest) else None
    return Difference(part, name, ours, theirs, finite, elements)


def _described(checkpoint: Checkpoint, part: str, name: str) -> str:
    entry = checkpoint.manifest["tensors"].get(part, {}).get(name)
    return f"{entry['dtype']} {entry['shape']}" if entry else ABSENT


def _ranges(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Rows that hold about ELEMENTS each: a tensor may be larger than what is free."""
    at_once = max(1, ELEMENTS // max(1, math.prod(shape[1:])))
    for start in range(0, rows_of(shape), at_once):
        yield start, min(start + at_once, rows_of(shape))


def _compared(one: Tensor, other: Tensor) -> tuple[int, float]:
    """How many elements differ in their bits, and the largest absolute difference of these; an
    infinity where a difference is no number."""
    width = one.element_size()
    bytes_of = [each.reshape(-1).view(torch.uint8).reshape(-1, width) for each in (one, other)]
    differ = (bytes_of[0] != bytes_of[1]).any(dim=1)
    count = int(differ.sum())
    if not count:
        return 0, 0.0
    apart = one.reshape(-1)[differ].double() - other.reshape(-1)[differ].double()
    largest = float(apart.abs().max())
    return count, math.inf if math.isnan(largest) else largest
