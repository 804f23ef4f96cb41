"""Muon for the blocks' matrices: updates that are nearly orthogonal, whatever the gradient's size.

Reads and writes no files.

Shapes: K matrices of one shape, stacked, each M rows by N columns.
"""

import math

import torch
from torch import Tensor, nn

from nanochat.model.units import Owned, Update, gradient_of

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


class MuonStack:
    """Muon for matrices of one shape, stacked so that few kernels do the work."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        dtype: torch.dtype,
        lr_scale: float,
        owner: int,
        is_mine: bool,
    ) -> None:
        self.owner = owner
        self.parameters = parameters
        self.dtype = dtype
        self.lr = MUON_LR * lr_scale
        first = next(iter(parameters.values()))
        self.rows, self.columns = first.shape
        self.reduced_axis = -1 if self.rows >= self.columns else -2
        shape = (len(parameters) if is_mine else 0, self.rows, self.columns)
        self.momentum_KMN = first.new_zeros(shape)
        self.second_moment = self.momentum_KMN.mean(dim=self.reduced_axis, keepdim=True)

    def gradient(self) -> Tensor:
        return torch.stack([gradient_of(parameter) for parameter in self.parameters.values()])

    def update(self, gradient: Tensor, update: Update) -> None:
        update_KMN = self.direction(gradient, update)
        for parameter, update_MN in zip(self.parameters.values(), update_KMN, strict=True):
            self.apply(parameter, update_MN, update)

    def direction(self, gradient_KMN: Tensor, update: Update) -> Tensor:
        """Which way the matrices go, float32 [K, M, N]; the owner's moments follow the gradient,
        which is spent."""
        self.momentum_KMN.lerp_(gradient_KMN, 1 - update.momentum)
        gradient_KMN.lerp_(self.momentum_KMN, update.momentum)  # Nesterov
        return self._even_out(orthogonalize(gradient_KMN.to(self.dtype)).float())

    def apply(self, weights: Tensor, update_MN: Tensor, update: Update) -> None:
        """Changes one matrix, or some rows of it; `update_MN` is spent."""
        lr = self.lr * update.lr_multiplier * math.sqrt(max(1.0, self.rows / self.columns))
        # decay only where it pulls the same way as the update (arXiv 2510.12402)
        decayed_MN = weights * (update_MN * weights >= 0)
        weights.sub_(update_MN.add_(decayed_MN, alpha=update.weight_decay), alpha=lr)

    def weights(self) -> dict[str, Owned]:
        return {name: Owned(parameter.detach()) for name, parameter in self.parameters.items()}

    def moments(self) -> dict[str, Owned]:
        moments = {}
        # an owner has as many moments as names, any other rank none
        for name, momentum_MN, second in zip(
            self.parameters, self.momentum_KMN, self.second_moment, strict=False
        ):
            moments[f"muon.{name}.momentum"] = Owned(momentum_MN)
            moments[f"muon.{name}.second_moment"] = Owned(second)
        return moments

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
