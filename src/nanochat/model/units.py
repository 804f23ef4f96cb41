"""What the optimizer is made of: parts of the parameters, each updated by one rank.

A unit is some rows of a parameter (model/adam.py), or some matrices of one shape (model/muon.py).
Reads and writes no files.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Owned(NamedTuple):
    """Rows of a named tensor that one rank holds."""

    tensor: Tensor
    start: int = 0
    rows: int | None = None
    """Rows of the whole tensor; None where this is the whole."""
    is_copy: bool = False
    """Whether another rank holds the same and saves it; this one only reads it back."""


Read = Callable[[str, int, int | None], Tensor]
"""Reads the rows `start` to `stop` of a named tensor; None: to its end."""


class Update(NamedTuple):
    """What the schedules say of one update."""

    lr_multiplier: float
    momentum: float
    weight_decay: float
    """Muon's, the schedule's multiplier in it."""


class Unit(Protocol):
    """What one rank updates at once. Every rank has every unit; only its owner has the moments."""

    owner: int
    parameters: dict[str, nn.Parameter]

    def gradient(self) -> Tensor:
        """Of the own rows, contiguous; zeros where backward has not been."""

    def update(self, gradient: Tensor, update: Update) -> None:
        """Changes the weights; `gradient` has the shape that `gradient()` returned."""

    def weights(self) -> dict[str, Owned]:
        """The live weights that `update` writes, each contiguous."""

    def moments(self) -> dict[str, Owned]:
        """The live state; empty where another rank is the owner."""


def share(n: int, rank: int, world_size: int) -> tuple[int, int]:
    """Where a rank's part of range(n) begins and ends; parts differ by one at most."""
    return rank * n // world_size, (rank + 1) * n // world_size


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """A rank that had no rows has no gradient either: it adds zeros to the others'."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
