"""Gradients to the rank that owns them, and updated weights back to all.

    exchange = Exchange(group, optimizer)
    with exchange.overlapping():          # the last micro-batch: what is finished leaves at once
        loss.backward()
    squares = exchange.collect()          # this rank's part of the squared norm of the gradients
    exchange.update(update)               # or exchange.drop()

Gradients are summed in float32, unit by unit (model/units.py), always in the same order: collective
operations have to be begun alike by all ranks, also by one that has no rows. Each leaves as soon as
backward has finished it and all before it, while backward goes on with the layers below. Updated
weights are sent while the next unit is being updated. Reads and writes no files.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from nanochat.data.loader import Batch, RowLoader
from nanochat.model.optimizer import MuonAdamW
from nanochat.model.units import Update
from nanochat.train.distributed import RankGroup, Transfer


class AnyExchange(Protocol):
    """What a step asks of it; see Exchange."""

    def micro_batches(self, loader: RowLoader, step: int, device_rows: int) -> list[Batch]: ...

    def overlapping(self, is_last: bool = True) -> AbstractContextManager[None]: ...

    def collect(self) -> float: ...

    def update(self, update: Update) -> None: ...

    def drop(self) -> None: ...


ExchangeOf = Callable[[RankGroup, MuonAdamW], AnyExchange]


class Exchange:
    """Of one model and its optimizer, for this rank."""

    def __init__(self, group: RankGroup, optimizer: MuonAdamW) -> None:
        self.group, self.optimizer, self.units = group, optimizer, optimizer.units
        self._units_of: dict[nn.Parameter, list[int]] = {}
        for number, unit in enumerate(self.units):
            for parameter in unit.parameters.values():
                self._units_of.setdefault(parameter, []).append(number)
        self._is_last_backward = False
        self._sent: list[tuple[Tensor, Transfer]] = []
        self._missing: list[int] = []
        self._gradients: dict[int, Tensor] = {}
        if group.world_size > 1:
            for parameter in self._units_of:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._finished
                )

    def micro_batches(self, loader: RowLoader, step: int, device_rows: int) -> list[Batch]:
        """This rank's rows of a step; none where there are fewer rows than ranks."""
        group = self.group
        return list(loader.micro_batches(step, device_rows, group.rank, group.world_size))

    @contextmanager
    def overlapping(self, is_last: bool = True) -> Iterator[None]:
        """Around a backward pass; after the step's last one no gradient changes any more.

        A pass that failed may be repeated: what has left already is not sent again.
        """
        if not is_last:
            yield
            return
        self._missing = [len(unit.parameters) for unit in self.units]
        self._is_last_backward = True
        try:
            yield
        finally:
            self._is_last_backward = False

    @torch.no_grad()
    def collect(self) -> float:
        """Sends what has not left, waits for all of it; returns the sum of squares of the own
        units' gradients: a step is sound where the sum over all ranks is finite."""
        while len(self._sent) < len(self.units):
            self._send()
        for number, (gradient, transfer) in enumerate(self._sent):
            transfer.wait()
            if self.units[number].owner == self.group.rank:
                self._gradients[number] = gradient
        self._sent = []
        self.optimizer.zero_grad()
        if not self._gradients:
            return 0.0
        norms = torch._foreach_norm([*self._gradients.values()], dtype=torch.float32)
        return float(torch.stack(norms).double().square().sum())

    @torch.no_grad()
    def update(self, update: Update) -> None:
        """Updates the own units and hands their weights to all ranks."""
        arriving = []
        for number, unit in enumerate(self.units):
            if unit.owner == self.group.rank:
                unit.update(self._gradients.pop(number), update)
            if self.group.world_size > 1:
                parts = unit.weights().values()
                arriving += [self.group.broadcast(part.tensor, unit.owner) for part in parts]
        for transfer in arriving:
            transfer.wait()

    def drop(self) -> None:
        """Forgets the gradients of a step that is not made."""
        self._gradients.clear()

    def _finished(self, parameter: nn.Parameter) -> None:
        """Called by autograd whenever it has added to a parameter's gradient."""
        if not self._is_last_backward:
            return
        for number in self._units_of[parameter]:
            self._missing[number] -= 1
        while len(self._sent) < len(self.units) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        unit = self.units[len(self._sent)]
        gradient = unit.gradient()
        if self.group.world_size > 1:
            gradient = gradient.float()
        for parameter in unit.parameters.values():
            if len(self._units_of[parameter]) == 1:
                parameter.grad = None  # the unit has it now
        self._sent.append((gradient, self.group.reduce(gradient, unit.owner)))


def norm_of(squares: float) -> float:
    """The gradients' norm from the sum of all ranks' squares."""
    return math.sqrt(squares) if squares >= 0 else math.nan
