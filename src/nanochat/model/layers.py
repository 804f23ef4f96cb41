"""What all layers are made of: the product, the norm, and the draw of initial weights.

Used by `attention.py` and `gpt.py`. Reads and writes nothing.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class Linear(nn.Linear):
    """A bias-free product whose float32 master weight is cast to the input's dtype at use."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last axis, without parameters."""
    return F.rms_norm(x, (x.size(-1),), eps=NORM_EPS)


class Draw:
    """Fills weights from one generator on the host: the same on every kind of device.

    `matrix` gives a product's weights a standard deviation of about 1 / sqrt(inputs): uniform as in
    the current architecture, or normal as in that of October 2025.
    """

    def __init__(self, seed: int, init: str) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.is_uniform = init == "uniform"

    def normal(self, weight: Tensor, std: float) -> None:
        weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=self.generator))

    def uniform(self, weight: Tensor, low: float, high: float) -> None:
        weight.copy_(torch.empty(weight.shape).uniform_(low, high, generator=self.generator))

    def matrix(self, linear: Linear, scale: float = 1.0) -> None:
        """`scale` shrinks the uniform kind only, as published."""
        rows, columns = linear.weight.shape
        if self.is_uniform:
            bound = scale * math.sqrt(3 / columns)
            self.uniform(linear.weight, -bound, bound)
        else:
            self.normal(linear.weight, min(1.0, math.sqrt(rows / columns)) / math.sqrt(columns))

    def gate(self, linear: Linear) -> None:
        self.uniform(linear.weight, 0.0, 0.02)
