"""The optimizer: Muon for the blocks' matrices, AdamW for everything else, as one object.

    optimizer = MuonAdamW(model, lr_scale=plan.lr_scale, weight_decay=plan.weight_decay)
    loss.backward(); optimizer.step(lr_multiplier, momentum, weight_decay_multiplier)
    optimizer.zero_grad()

Reads and writes no files: `state_dict` is a flat {name: tensor} for safetensors, from which
`load_state_dict` continues bit for bit.

Shapes: K matrices of one shape, stacked, each M rows by N columns.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.errors import DamagedArtefact
from nanochat.model.gpt import GPT

ADAM_EPS = 1e-10
REFERENCE_WIDTH = 768  # the width at which the embeddings' learning rates were tuned
MUON_LR = 0.02
MUON_BETA2 = 0.9
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients a, b, c of X <- aX + X(bA + cA^2), A = X^T X (arXiv 2505.16932), per iteration."""


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


class MuonAdamW:
    """Updates the parameters of one model, in place.

    `lr_scale` multiplies every learning rate; `weight_decay` is Muon's (AdamW's are constants).
    Moments have their parameter's dtype.
    """

    def __init__(self, model: GPT, lr_scale: float, weight_decay: float) -> None:
        self.lr_scale = lr_scale
        self.weight_decay = weight_decay
        self.parameters = dict(model.named_parameters())
        blocks = [p for name, p in self.parameters.items() if name.startswith("blocks.")]
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in blocks:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        self._muon = [_MuonStack(parameters, model.dtype) for parameters in by_shape.values()]
        self._adam = self._make_adam(model.config.n_embd)

    def _make_adam(self, width: int) -> torch.optim.AdamW:
        groups: list[dict[str, Any]] = []
        for group in ADAM_GROUPS:
            names = [name for name in self.parameters if name.startswith(group.prefixes)]
            width_factor = (width / REFERENCE_WIDTH) ** -0.5 if group.by_width else 1.0
            settings: dict[str, Any] = {
                "params": [self.parameters[name] for name in names],
                "base_lr": group.lr * width_factor * self.lr_scale,
                "betas": group.betas,
                "weight_decay": group.weight_decay,
            }
            if names:
                groups.append(settings)
        adam = torch.optim.AdamW(groups, lr=0.0, eps=ADAM_EPS, fused=True)
        for settings in groups:
            for parameter in settings["params"]:
                adam.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        return adam

    @torch.no_grad()
    def step(
        self, lr_multiplier: float, momentum: float, weight_decay_multiplier: float = 1.0
    ) -> None:
        """One update from the gradients in place; the arguments come from `schedules`."""
        for group in self._adam.param_groups:
            group["lr"] = group["base_lr"] * lr_multiplier
        self._adam.step()
        decay = self.weight_decay * weight_decay_multiplier
        for stack in self._muon:
            stack.step(MUON_LR * self.lr_scale * lr_multiplier, momentum, decay)

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """All that a bit-exact continuation needs besides the weights; the live tensors."""
        names: dict[Tensor, str] = {p: name for name, p in self.parameters.items()}
        state = {
            f"adamw.{names[parameter]}.{key}": tensor
            for parameter, moments in self._adam.state.items()
            for key, tensor in moments.items()
        }
        for stack in self._muon:
            state[f"muon.{stack.name}.momentum"] = stack.momentum_KMN
            state[f"muon.{stack.name}.second_moment"] = stack.second_moment
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from `state`; raises DamagedArtefact if it belongs to another model."""
        own = self.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if {name: tuple(tensor.shape) for name, tensor in state.items()} != shapes:
            raise DamagedArtefact(
                f"the optimizer's state has {len(state)} tensors that do not match the model's "
                f"{len(own)}: it belongs to another model, delete it and train again"
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])


class _MuonStack:
    """Muon for all matrices of one shape, stacked so that few kernels do the work."""

    def __init__(self, parameters: list[nn.Parameter], dtype: torch.dtype) -> None:
        self.parameters = parameters
        self.dtype = dtype
        first = parameters[0]
        self.rows, self.columns = first.shape
        self.name = f"{self.rows}x{self.columns}"
        self.reduced_axis = -1 if self.rows >= self.columns else -2
        shape = (len(parameters), self.rows, self.columns)
        self.momentum_KMN = first.new_zeros(shape)
        self.second_moment = self.momentum_KMN.mean(dim=self.reduced_axis, keepdim=True)

    def step(self, lr: float, momentum: float, weight_decay: float) -> None:
        gradient_KMN = torch.stack([_gradient(parameter) for parameter in self.parameters])
        self.momentum_KMN.lerp_(gradient_KMN, 1 - momentum)
        gradient_KMN.lerp_(self.momentum_KMN, momentum)  # Nesterov
        update_KMN = orthogonalize(gradient_KMN.to(self.dtype)).float()
        update_KMN = self._even_out(update_KMN)
        lr *= math.sqrt(max(1.0, self.rows / self.columns))
        for parameter, update_MN in zip(self.parameters, update_KMN, strict=True):
            # decay only where it pulls the same way as the update (arXiv 2510.12402)
            decayed_MN = parameter * (update_MN * parameter >= 0)
            parameter.sub_(update_MN.add_(decayed_MN, alpha=weight_decay), alpha=lr)

    def _even_out(self, update_KMN: Tensor) -> Tensor:
        """NorMuon (arXiv 2510.05491): rows, or columns, of like size over time; norm unchanged."""
        squares = update_KMN.square().mean(dim=self.reduced_axis, keepdim=True)
        self.second_moment.lerp_(squares, 1 - MUON_BETA2)
        scale = self.second_moment.clamp_min(1e-10).rsqrt()
        old_norm = squares.sum(dim=(-2, -1), keepdim=True).sqrt()
        new_norm = (squares * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
        return update_KMN * (scale * (old_norm / new_norm.clamp_min(1e-10)))


def orthogonalize(x_KMN: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, with Frobenius norm sqrt(min(M, N)).

    Rows are brought to their mean norm first (MuonEq); then five iterations of Polar Express.
    Computes in x's dtype; bfloat16 is precise enough.
    """
    row_norms = x_KMN.float().norm(dim=-1, keepdim=True)
    mean_norm = row_norms.mean(dim=-2, keepdim=True)
    x_KMN = x_KMN * (mean_norm / row_norms.clamp_min(1e-10)).to(x_KMN.dtype)
    x_KMN = x_KMN / (1.01 * _frobenius(x_KMN) + 1e-6).to(x_KMN.dtype)
    tall = x_KMN.size(-2) > x_KMN.size(-1)
    for a, b, c in POLAR_EXPRESS:
        gram = x_KMN.mT @ x_KMN if tall else x_KMN @ x_KMN.mT
        polynomial = b * gram + c * (gram @ gram)
        x_KMN = a * x_KMN + (x_KMN @ polynomial if tall else polynomial @ x_KMN)
    target = math.sqrt(min(x_KMN.shape[-2:]))
    return x_KMN * (target / _frobenius(x_KMN).clamp_min(1e-10)).to(x_KMN.dtype)


def _frobenius(x_KMN: Tensor) -> Tensor:
    return x_KMN.float().square().sum(dim=(-2, -1), keepdim=True).sqrt()


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "step() without a gradient: call backward() first"
    return parameter.grad
