"""The optimizer of weights that no rank has whole (train/full_shards.py).

    shard_weights(model, group)
    optimizer = FullShardOptimizer(model, lr_scale, weight_decay, group)

AdamW updates each rank's rows where they are. Muon needs whole matrices, so each of these has an
owner, who alone holds its moments; train/full_shard_exchange.py carries rows to it and back. What a
checkpoint gets of it has the names and rows of model/optimizer.py: a training may go on with the
other kind of sharding, and on another number of ranks. Reads and writes no files.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from nanochat.model.gpt import GPT
from nanochat.model.optimizer import MuonAdamW, adam_units, muon_units
from nanochat.model.units import Owned, Read
from nanochat.train.distributed import RankGroup
from nanochat.train.full_shards import chunk, give_up_whole_weights, own_rows


class FullShardOptimizer(MuonAdamW):
    """Of this rank's rows of a model that `shard_weights` has divided."""

    def __init__(self, model: GPT, lr_scale: float, weight_decay: float, group: RankGroup) -> None:
        give_up_whole_weights(model)
        self.model, self.weight_decay, self.rank = model, weight_decay, group.rank
        self.parameters = dict(model.named_parameters())
        self.rows = {name: own_rows(p.detach()) for name, p in self.parameters.items()}
        self.starts = {
            name: chunk(len(parameter), group.rank, group.world_size)[0]
            for name, parameter in self.parameters.items()
        }
        # AdamW is, on each rank, that of a process which is alone with its rows
        rows = cast(dict[str, nn.Parameter], self.rows)
        self.adam = adam_units(model, rows, lr_scale, 0, 1)
        shapes = cast(dict[str, nn.Parameter], _without_memory(self.parameters, group.device))
        self.muon = muon_units(model, shapes, lr_scale, group.rank, group.world_size)
        self.units = [*self.adam, *self.muon]

    def owned_weights(self) -> dict[str, Owned]:
        """This rank's rows of all weights."""
        return {name: self._placed(name, Owned(rows)) for name, rows in self.rows.items()}

    @torch.no_grad()
    def load_weights(self, read: Read) -> None:
        """This rank's rows of all weights; no rank reads the others'."""
        give_up_whole_weights(self.model)
        for name, rows in self.rows.items():
            start = self.starts[name]
            rows.copy_(read(name, start, start + len(rows)))

    def _moments(self) -> dict[str, Owned]:
        moments = {
            name: self._placed(unit.name, part)
            for unit in self.adam
            for name, part in unit.moments().items()
        }
        for stack in self.muon:
            moments |= stack.moments()
        return moments

    def _placed(self, name: str, part: Owned) -> Owned:
        """Says where the rows of a parameter, or of its moments, are in the whole."""
        start = self.starts[name]
        if part.tensor.dim() == 0:
            return part._replace(is_copy=start > 0)
        return part._replace(start=start, rows=len(self.parameters[name]))


def _without_memory(
    parameters: Mapping[str, nn.Parameter], device: torch.device
) -> dict[str, Tensor]:
    """Tensors of the whole shapes: one number each, seen everywhere."""
    return {
        name: torch.zeros((), dtype=parameter.dtype, device=device).expand(parameter.shape)
        for name, parameter in parameters.items()
    }
