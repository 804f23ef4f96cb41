"""How many rows fit onto a device: planned before the start, learned when the plan was wrong.

    fit = Fit.of(folder / "device_rows.json", key_of(...), plan, available_bytes(device), rows)
    say(fit.sentence)              # fit.rows is what to begin with
    is_out_of_memory(exc)          # then half the rows are taken, and the next start begins there:
    fit.remember(rows)

The global batch never changes: fewer rows at a time are more micro-batches. What was learned holds
for one device, model, number of ranks and way of computing. Reads and writes device_rows.json,
which is only a hint: a damaged one is ignored, and one that can't be written is done without.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from nanochat.errors import DiskError, OutOfMemory
from nanochat.files import fingerprint, write_json
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.memory import MemoryPlan, usable
from nanochat.train.say import say

GIB = 2**30
OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP, Triton
    "can't allocate memory",  # the processor's allocator
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",  # a workspace of cuBLAS or cuDNN
    "ALLOCATION_FAILED",
)

Note = Callable[[str], None]


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether a pass failed for want of memory, so that one with fewer rows may not.

    False for a collective operation that failed, for whatever reason: it can't be repeated, since
    the other ranks are past it. The kernel's own out-of-memory killer raises nothing.
    """
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(exc, RuntimeError) or isinstance(exc, torch.distributed.DistError):
        return False
    return any(words in str(exc) for words in OUT_OF_MEMORY)


class Start(NamedTuple):
    """What the plan says of a start."""

    rows: int
    """Of a micro-batch, to begin with."""
    sentence: str
    """For people: what takes how much."""


def before_start(plan: MemoryPlan, available: int, rows: int) -> Start:
    """`rows`, or the largest halving of it that the plan says fits; 1 where it says that none does.

    `available` is the device's memory in bytes, of which some is left alone. Raises OutOfMemory
    where there is no room for weights, gradients and optimizer, whatever the rows.
    """
    if plan.fixed > available:
        raise OutOfMemory(
            f"weights, gradients and optimizer take {plan.fixed / GIB:.1f} GiB on each of "
            f"{plan.world_size} ranks, but a rank has {available / GIB:.1f}: lower model.depth, "
            "or take larger devices" + _more_ranks(plan, available)
        )
    fitting = plan.largest_rows(usable(available), rows)
    sentence = _sentence(plan, available, max(1, fitting))
    if not fitting:
        sentence += "; it may well run out of memory"
    elif fitting < rows:
        sentence += f" ({rows} rows would take {plan.total(rows) / GIB:.1f})"
    return Start(max(1, fitting), sentence)


def key_of(
    device_name: str,
    available: int,
    shape: GPTConfig,
    world_size: int,
    compiled: bool,
    shards_weights: bool = False,
) -> str:
    """What a finding holds for, in words that a person can read too."""
    ranks = f"{world_size} rank" + "s" * (world_size > 1)
    compute = "compiled" if compiled else "eager"
    model = fingerprint(shape.to_dict())[:16]
    compute += ", weights divided" * shards_weights
    return f"{device_name}, {available / GIB:.0f} GiB, {ranks}, {compute}, model {model}"


@dataclass(frozen=True)
class Fit:
    """The rows that a training begins with, and where it remembers that they were too many."""

    path: Path
    key: str
    rows: int
    sentence: str

    @classmethod
    def of(
        cls,
        path: Path,
        key: str,
        plan: MemoryPlan,
        available: int,
        rows: int,
        note: Note | None = None,
    ) -> Self:
        """At most the `rows` asked for, what fitted before, and what the plan says fits.

        Raises OutOfMemory as `before_start` does.
        """
        remembered = cls.load(path, key, note)
        if remembered is None or remembered >= rows:
            return cls(path, key, *before_start(plan, available, rows))
        start = before_start(plan, available, remembered)
        learned = f"; {path.name} says that {rows} rows did not fit"
        return cls(path, key, start.rows, start.sentence + learned)

    @staticmethod
    def load(path: Path, key: str, note: Note | None = None) -> int | None:
        """Rows that were left after running out of memory; None where it never did.

        It is a ceiling, however many rows are asked for. What is wrong with the file is told to
        `note`, by default on standard error.
        """
        found = _read(path, note or _to_stderr).get(key)
        return found["rows"] if found else None

    def remember(self, rows: int) -> None:
        """Makes `rows` the ceiling of the next start; rank 0 calls it."""
        findings = {**_read(self.path, _to_stderr), self.key: {"rows": rows}}
        try:
            write_json(self.path, findings)
        except DiskError as exc:
            _to_stderr(f"{exc}; the next start will have to find again that {rows} rows fit")


def _read(path: Path, note: Note) -> dict[str, Any]:
    try:
        findings = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        note(f"{path} can't be read ({exc}): it is only a hint, and is ignored")
        return {}
    if not _are_findings(findings):
        note(f"{path} does not hold numbers of rows: it is only a hint, and is ignored")
        return {}
    return dict(findings)


def _are_findings(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(found, dict) and type(found.get("rows")) is int and found["rows"] > 0
        for found in value.values()
    )


def _sentence(plan: MemoryPlan, available: int, rows: int) -> str:
    parts = {
        "weights": plan.weights,
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        "copy for saving": plan.fixed - plan.weights - plan.gradients - plan.optimizer,
    }
    activations = rows * plan.activations_per_row
    if plan.total(rows) == plan.fixed + plan.update:  # the fullest moment comes after the pass
        parts["update"] = plan.update
    else:
        parts["activations of 1 row" if rows == 1 else f"activations of {rows} rows"] = activations
        parts |= {"copies": plan.copies, "loss": plan.loss}
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size)
    return f"memory: {listed}: {plan.total(rows) / GIB:.1f} of {available / GIB:.1f} GiB"


def _more_ranks(plan: MemoryPlan, available: int) -> str:
    """More ranks help where it is the optimizer, which they divide, that does not fit."""
    on_each = plan.weights + plan.gradients
    if on_each < usable(available):
        return ", or more of them"
    return "; or divide weights and gradients too: operation.shard=weights" * (plan.world_size > 1)


def _to_stderr(sentence: str) -> None:
    say(sentence, sys.stderr)
