"""AdamW (arXiv 1711.05101) for embeddings, head and scalars, with the settings of each of them.

Reads and writes no files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanochat.model.units import Owned, Update, gradient_of

ADAM_EPS = 1e-10


@dataclass(frozen=True)
class AdamGroup:
    """Settings of AdamW for the parameters whose names begin with one of `prefixes`."""

    prefixes: tuple[str, ...]
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    by_width: bool = False
    """Whether the rate falls with the square root of the model's width."""


ADAM_GROUPS = (
    AdamGroup(("head.",), 0.008, (0.8, 0.96), 0.01, by_width=True),
    AdamGroup(("embedding.",), 0.3, (0.8, 0.995), 0.001, by_width=True),
    AdamGroup(("value_embeddings.",), 0.15, (0.8, 0.995), 0.01, by_width=True),
    AdamGroup(("residual_lambdas",), 0.5 * 0.01, (0.8, 0.95), 0.05),
    AdamGroup(("first_lambdas",), 0.5, (0.96, 0.95), 0.0),
    AdamGroup(("smear_", "backout_"), 0.2, (0.8, 0.95), 0.0),
)


class AdamRows:
    """AdamW for some rows of one parameter."""

    def __init__(
        self,
        group: AdamGroup,
        lr: float,
        name: str,
        parameter: nn.Parameter,
        rows: slice,
        owner: int,
        is_mine: bool,
    ) -> None:
        self.owner = owner
        self.parameters = {name: parameter}
        self.name, self.parameter, self.rows = name, parameter, rows
        self.lr = lr
        self.shard = parameter.detach()[rows]  # the same memory
        if not is_mine:
            return
        self.adam = torch.optim.AdamW(
            [self.shard],
            lr=0.0,
            betas=group.betas,
            eps=ADAM_EPS,
            weight_decay=group.weight_decay,
            fused=True,
        )
        self.adam.state[self.shard] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(self.shard),
            "exp_avg_sq": torch.zeros_like(self.shard),
        }

    def gradient(self) -> Tensor:
        return gradient_of(self.parameter)[self.rows]

    def update(self, gradient: Tensor, update: Update) -> None:
        self.shard.grad = gradient.to(self.shard.dtype)
        self.adam.param_groups[0]["lr"] = self.lr * update.lr_multiplier
        self.adam.step()
        self.shard.grad = None

    def weights(self) -> dict[str, Owned]:
        return {self.name: self._part(self.shard)}

    def moments(self) -> dict[str, Owned]:
        if not hasattr(self, "adam"):
            return {}
        state = self.adam.state[self.shard]
        moments = {
            f"adamw.{self.name}.{key}": self._part(state[key]) for key in ("exp_avg", "exp_avg_sq")
        }
        step = Owned(state["step"], is_copy=self.rows.start > 0)
        moments[f"adamw.{self.name}.step"] = step
        return moments

    def _part(self, tensor: Tensor) -> Owned:
        return Owned(tensor, self.rows.start, len(self.parameter))
