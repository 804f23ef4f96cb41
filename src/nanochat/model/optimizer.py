"""The optimizer: Muon for the blocks' matrices, AdamW for everything else, as one object.

    optimizer = MuonAdamW(model, lr_scale=plan.lr_scale, weight_decay=plan.weight_decay)
    loss.backward(); optimizer.step(lr_multiplier, momentum, weight_decay_multiplier)
    optimizer.zero_grad()

It is made of units (model/units.py). Among several ranks each unit has an owner, who alone holds
its moments and updates its weights (ZeRO, arXiv 1910.02054, stage 1); train/exchange.py carries
gradients to the owners and weights back. Rows are divided evenly, whatever the number of ranks:
nothing has to be divisible.

Reads and writes no files: `state_dict` is a flat {name: tensor} for safetensors, from which
`load_state_dict` continues bit for bit; `owned` is the same of one rank.
"""

import torch
from torch import Tensor, nn

from nanochat.errors import DamagedArtefact
from nanochat.model.adam import ADAM_GROUPS, AdamRows
from nanochat.model.gpt import GPT
from nanochat.model.muon import MuonStack
from nanochat.model.units import Owned, Read, Unit, Update, share

REFERENCE_WIDTH = 768  # the width at which the embeddings' learning rates were tuned
SMALLEST_TO_DIVIDE = 2**16  # numbers; what is smaller has one owner


class MuonAdamW:
    """Updates the parameters of one model, in place.

    `lr_scale` multiplies every learning rate; `weight_decay` is Muon's (AdamW's are constants).
    Moments have their parameter's dtype. `units` are in the order in which backward finishes their
    gradients, the same on all ranks.
    """

    def __init__(
        self,
        model: GPT,
        lr_scale: float,
        weight_decay: float,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.weight_decay = weight_decay
        self.rank = rank
        self.parameters = dict(model.named_parameters())
        units: list[Unit] = [
            *adam_units(model, self.parameters, lr_scale, rank, world_size),
            *muon_units(model, self.parameters, lr_scale, rank, world_size),
        ]
        layers = model.config.n_layer
        self.units = sorted(units, key=lambda unit: _finished(unit, layers))

    def update(self, lr_multiplier: float, momentum: float, decay_multiplier: float) -> Update:
        """The numbers of one update; the arguments come from `schedules`."""
        return Update(lr_multiplier, momentum, self.weight_decay * decay_multiplier)

    @torch.no_grad()
    def step(
        self, lr_multiplier: float, momentum: float, weight_decay_multiplier: float = 1.0
    ) -> None:
        """One update of all units, by a process that is alone."""
        update = self.update(lr_multiplier, momentum, weight_decay_multiplier)
        for unit in self.units:
            unit.update(unit.gradient(), update)

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def owned(self) -> dict[str, Owned]:
        """This rank's part of all that a bit-exact continuation needs besides the weights."""
        return {name: part for name, part in self._moments().items() if not part.is_copy}

    def owned_weights(self) -> dict[str, Owned]:
        """This rank's part of the weights."""
        mine = [unit for unit in self.units if unit.owner == self.rank]
        return {name: part for unit in mine for name, part in unit.weights().items()}

    @torch.no_grad()
    def load(self, read: Read) -> None:
        """Continues from what `read` finds, written by any number of ranks."""
        for name, part in self._moments().items():
            stop = None if part.rows is None else part.start + len(part.tensor)
            part.tensor.copy_(read(name, part.start, stop))

    @torch.no_grad()
    def load_weights(self, read: Read) -> None:
        """All weights, on every rank."""
        for name, parameter in self.parameters.items():
            parameter.copy_(read(name, 0, None))

    def _moments(self) -> dict[str, Owned]:
        return {name: part for unit in self.units for name, part in unit.moments().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The state of a process that is alone; the live tensors."""
        return {name: part.tensor for name, part in self.owned().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from `state`; raises DamagedArtefact if it belongs to another model."""
        own = self.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if {name: tuple(tensor.shape) for name, tensor in state.items()} != shapes:
            raise DamagedArtefact(
                f"the optimizer's state has {len(state)} tensors that do not match the model's "
                f"{len(own)}: it belongs to another model, delete it and train again"
            )
        self.load(lambda name, start, stop: state[name])


def _finished(unit: Unit, layers: int) -> int:
    """When backward has finished all of a unit's gradients: the head's first, the blocks' from the
    last to the first, and last those of what every layer uses."""

    def when(name: str) -> int:
        match name.split("."):
            case ["head", *_]:
                return 0
            case ["blocks" | "value_embeddings", layer, *_]:
                return layers - int(layer)
            case _:
                return layers + 1

    return max(when(name) for name in unit.parameters)


def adam_units(
    model: GPT,
    parameters: dict[str, nn.Parameter],
    lr_scale: float,
    rank: int,
    world_size: int,
) -> list[AdamRows]:
    """Rows of everything but the blocks' matrices, divided over the ranks."""
    units: list[AdamRows] = []
    for group in ADAM_GROUPS:
        width_factor = (model.config.n_embd / REFERENCE_WIDTH) ** -0.5 if group.by_width else 1.0
        lr = group.lr * width_factor * lr_scale
        for name, parameter in parameters.items():
            if not name.startswith(group.prefixes):
                continue
            parts = 1 if parameter.numel() < SMALLEST_TO_DIVIDE else world_size
            for part in range(parts):
                rows = slice(*share(len(parameter), part, parts))
                owner = part if parts > 1 else len(units) % world_size
                units.append(AdamRows(group, lr, name, parameter, rows, owner, owner == rank))
    return units


def muon_units(
    model: GPT,
    parameters: dict[str, nn.Parameter],
    lr_scale: float,
    rank: int,
    world_size: int,
) -> list[MuonStack]:
    """The blocks' matrices by shape, divided over the ranks; a rank has one stack of a shape."""
    by_shape: dict[torch.Size, list[str]] = {}
    for name, parameter in parameters.items():
        if name.startswith("blocks."):
            by_shape.setdefault(parameter.shape, []).append(name)
    units: list[MuonStack] = []
    for turn, names in enumerate(by_shape.values()):
        for part in range(world_size):
            owner = (part + turn) % world_size  # so that not always the same rank has one more
            mine = names[slice(*share(len(names), part, world_size))]
            if mine:
                stack = {name: parameters[name] for name in mine}
                units.append(MuonStack(stack, model.dtype, lr_scale, owner, owner == rank))
    return units
