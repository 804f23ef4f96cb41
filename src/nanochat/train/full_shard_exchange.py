"""Updates of weights that no rank has whole: what train/exchange.py is for whole ones.

    exchange = FullShardExchange(group, optimizer)
    batches = exchange.micro_batches(loader, step, device_rows)
    with exchange.overlapping():
        loss.backward()                   # sums the gradients over the ranks, too
    squares = exchange.collect()
    exchange.update(update)               # or exchange.drop()

Reads and writes no files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nanochat.data.loader import Batch, RowLoader
from nanochat.model.muon import MuonStack
from nanochat.model.optimizer import MuonAdamW
from nanochat.model.units import Update
from nanochat.train.distributed import RankGroup
from nanochat.train.full_shard_batches import evened, most_batches
from nanochat.train.full_shard_optimizer import FullShardOptimizer
from nanochat.train.full_shard_rows import MatrixRows
from nanochat.train.full_shards import own_rows, pass_of_all_ranks


class FullShardExchange:
    """Of one sharded model and its optimizer, for this rank."""

    def __init__(self, group: RankGroup, optimizer: MuonAdamW) -> None:
        assert isinstance(optimizer, FullShardOptimizer)
        self.group, self.optimizer = group, optimizer
        by_shape: dict[tuple[int, int], list[MuonStack]] = {}
        for stack in optimizer.muon:
            by_shape.setdefault((stack.rows, stack.columns), []).append(stack)
        self.matrices = [_Matrices(group, stacks, optimizer.rows) for stacks in by_shape.values()]
        self._adam_gradients: list[Tensor] = []

    def micro_batches(self, loader: RowLoader, step: int, device_rows: int) -> list[Batch]:
        """This rank's rows of a step, and rows without a target where another rank has more."""
        group = self.group
        own = loader.micro_batches(step, device_rows, group.rank, group.world_size)
        most = most_batches(loader.rows_per_step, device_rows, group.world_size)
        return list(evened(own, most, loader.sequence_len))

    @contextmanager
    def overlapping(self, is_last: bool = True) -> Iterator[None]:
        """Around any backward pass, not only the last: gradients leave in each, since kept whole
        until the last one they would take the memory that sharding saves."""
        with pass_of_all_ranks(self.group):
            yield

    @torch.no_grad()
    def collect(self) -> float:
        """Brings the matrices' gradients to their owners; the sum of squares of what is here."""
        optimizer = self.optimizer
        gradients = {
            name: _gradient(parameter, optimizer.rows[name])
            for name, parameter in optimizer.parameters.items()
        }
        optimizer.zero_grad()
        self._adam_gradients = [gradients[unit.name] for unit in optimizer.adam]
        for matrices in self.matrices:
            matrices.collect(gradients)
        here = [*self._adam_gradients, *(each.gradient_KMN for each in self.matrices)]
        some = [gradient for gradient in here if gradient.numel()]
        norms = torch._foreach_norm(some, dtype=torch.float32)
        return float(torch.stack([norm.double() for norm in norms]).square().sum())

    @torch.no_grad()
    def update(self, update: Update) -> None:
        """Updates this rank's rows."""
        for unit, gradient in zip(self.optimizer.adam, self._adam_gradients, strict=True):
            unit.update(gradient, update)
        for matrices in self.matrices:
            matrices.update(update)
        self.drop()

    def drop(self) -> None:
        """Forgets the gradients."""
        self._adam_gradients = []
        for matrices in self.matrices:
            matrices.forget()


class _Matrices:
    """Muon's matrices of one shape: this rank's rows of all, whole gradients of those it owns."""

    def __init__(
        self, group: RankGroup, stacks: list[MuonStack], rows: Mapping[str, Tensor]
    ) -> None:
        self.stack = next((each for each in stacks if each.owner == group.rank), None)
        self.any_stack = stacks[0]
        names: list[list[str]] = [[] for _ in range(group.world_size)]
        for each in stacks:
            names[each.owner] += each.parameters
        shape = (self.any_stack.rows, self.any_stack.columns)
        self.carrier = MatrixRows(group, shape, names)
        self.weights = {name: rows[name] for some in names for name in some}
        self.forget()

    def forget(self) -> None:
        some = next(iter(self.weights.values()))
        self.gradient_KMN = some.new_empty((0, *self.carrier.shape))

    def collect(self, gradients: Mapping[str, Tensor]) -> None:
        self.gradient_KMN = self.carrier.to_owners(gradients)

    def update(self, update: Update) -> None:
        update_KMN = self.gradient_KMN
        if self.stack is not None:
            update_KMN = self.stack.direction(update_KMN, update)
        for name, rows in self.carrier.from_owners(update_KMN).items():
            self.any_stack.apply(self.weights[name], rows, update)


def _gradient(parameter: nn.Parameter, rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if parameter.grad is None else own_rows(parameter.grad)
