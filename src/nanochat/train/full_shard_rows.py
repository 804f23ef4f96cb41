"""Matrices between the ranks that have their rows and the one that needs them whole.

    whole_KMN = matrices.to_owners(rows)       # each rank's rows of all; the whole of the own ones
    rows = matrices.from_owners(whole_KMN)

Muon turns a whole gradient into a whole update. So the rows of a gradient go to the matrix's owner,
and those of the update back: a rank sends and gets its share of each once, 1/W of the matrices'
bytes, which is W times less than one forward pass sends. Reads and writes no files.

Shapes: K matrices of the rank that asks, each M rows by N columns.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.train.distributed import RankGroup
from nanochat.train.full_shards import chunk


class MatrixRows:
    """Matrices of one shape; `names` are those of each owner, the same lists on all ranks."""

    def __init__(
        self, group: RankGroup, shape: tuple[int, int], names: Sequence[Sequence[str]]
    ) -> None:
        self.group, self.shape, self.names = group, shape, names
        ranks = range(group.world_size)
        parts = [chunk(shape[0], rank, group.world_size) for rank in ranks]
        self.rows = [stop - start for start, stop in parts]
        self.own = list(names[group.rank])
        own_rows, columns = self.rows[group.rank], shape[1]
        self._out = [len(names[rank]) * own_rows * columns for rank in ranks]
        self._in = [len(self.own) * rows * columns for rows in self.rows]

    def to_owners(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The own matrices [K, M, N], of which each rank gives the rows that it has."""
        sent = torch.cat([rows[name].flatten() for names in self.names for name in names])
        parts = torch.split(self._exchange(sent, self._out, self._in), self._in)
        K, N = len(self.own), self.shape[1]
        shapes = [(K, M, N) for M in self.rows]
        return torch.cat([p.view(s) for p, s in zip(parts, shapes, strict=True)], dim=1)

    def from_owners(self, whole_KMN: Tensor) -> dict[str, Tensor]:
        """This rank's rows of all matrices, of which each owner gives its own."""
        sent = torch.cat([part.flatten() for part in torch.split(whole_KMN, self.rows, dim=1)])
        got = self._exchange(sent, self._in, self._out)
        names = [name for names in self.names for name in names]
        rows_by_name = got.view(len(names), self.rows[self.group.rank], self.shape[1])
        return dict(zip(names, rows_by_name, strict=True))

    def _exchange(self, sent: Tensor, out: list[int], into: list[int]) -> Tensor:
        got = sent.new_empty(sum(into))
        try:
            dist.all_to_all_single(got, sent, into, out)
        except RuntimeError as exc:
            raise self.group.lost(exc) from exc
        return got
