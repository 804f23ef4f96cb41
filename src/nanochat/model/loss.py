"""Cross-entropy of soft-capped logits, chunk by chunk: the full logits never exist at once.

`chunked_loss_sum` is what training differentiates; `chunked_token_losses` is for evaluation.
Both take the final activations and the head's matrix. Reads and writes no files.

The gradient is made in the same pass as the loss. The cap bounds the logits, so that a softmax
needs no maximum: one sweep over a chunk turns logits into e^logit (times the cap's slope) and sums
it up. The division by that sum is left to the N x C activations, V / C times smaller.

Shapes: N tokens (batch and time flattened), n tokens of one chunk, C channels, V vocabulary.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from nanochat.model.device import CompileMode, compiled

IGNORED = -1
CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""Logits made at a time: on a processor, what its cache holds."""
GROUP_CHUNKS = {"cpu": 8, "cuda": 2}
"""Chunks per product for the weight's gradient, each of which sweeps a matrix of V x C."""

Sweep = Callable[[Tensor, float], Tensor]


def softcap(logits: Tensor, cap: float) -> Tensor:
    """Bends `logits` smoothly into (-cap, cap)."""
    return cap * torch.tanh(logits / cap)


def chunked_loss_sum(
    x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, cap: float, mode: CompileMode = "off"
) -> Tensor:
    """Sum of -log softmax(softcap(x @ weight.T))[target] over targets != -1, in nats, float32.

    x has the compute dtype, the weight is float32, targets are int64. Differentiable in x and
    weight; their gradients are computed here, and only if autograd wants them.
    """
    loss: Tensor = _ChunkedLossSum.apply(  # type: ignore[no-untyped-call]
        x_NC, weight_VC, targets_N, cap, mode
    )
    return loss


@torch.no_grad()
def chunked_token_losses(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, cap: float) -> Tensor:
    """Each token's cross-entropy in nats, float32 [N], 0 where the target is -1."""
    weight_VC = weight_VC.to(x_NC.dtype)
    losses = []
    for chunk in _slices(x_NC.size(0), _chunk_tokens(weight_VC)):
        targets_n = targets_N[chunk]
        logits_nV = (x_NC[chunk] @ weight_VC.T).float().div_(cap).tanh_().mul_(cap)
        at_target_n = logits_nV.gather(1, targets_n.clamp(min=0)[:, None])[:, 0]
        losses.append((logits_nV.exp_().sum(dim=1).log_() - at_target_n) * (targets_n != IGNORED))
    return torch.cat(losses)


def sweep_logits(logits_nV: Tensor, cap: float) -> Tensor:
    """Replaces u by e^z * dz/du, where z = softcap(u), in place; returns the sums of e^z [n]."""
    tanh_nV = logits_nV.float().div_(cap).tanh_()
    exp_nV = (tanh_nV * cap).exp_()
    sums_n = exp_nV.sum(dim=1)
    logits_nV.copy_(exp_nV.mul_(tanh_nV.square_().neg_().add_(1.0)))
    return sums_n


def fusable_sweep_logits(logits_nV: Tensor, cap: float) -> Tensor:
    """What `sweep_logits` does, in operations that a compiler fuses into one vectorised loop."""
    tanh_nV = rational_tanh(logits_nV.float() / cap)
    exp_nV = torch.exp(cap * tanh_nV)
    logits_nV.copy_(exp_nV * (1 - tanh_nV * tanh_nV))
    return exp_nV.sum(dim=1)


def rational_tanh(x: Tensor) -> Tensor:
    """tanh to 2e-5 (to 2e-12 for |x| < 2): Lambert's continued fraction to its ninth term.

    Compiled on a processor, the sweep with it takes 40 % of the time that torch.tanh needs.
    """
    x = x.clamp(-7.0, 7.0)  # beyond, the fraction leaves the tanh
    q = x * x
    above = 34459425 + q * (4729725 + q * (135135 + q * (990 + q)))
    below = 34459425 + q * (16216200 + q * (945945 + q * (13860 + 45 * q)))
    return x * above / below


@functools.cache
def _sweep(mode: CompileMode, device: torch.device) -> Sweep:
    fused = compiled(fusable_sweep_logits, mode, device, any_size=True)
    return sweep_logits if fused is fusable_sweep_logits else fused


class _ChunkedLossSum(torch.autograd.Function):
    """Loss and gradients in one pass; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, cap: float, mode: CompileMode
    ) -> Tensor:
        if not any(ctx.needs_input_grad[:2]):
            return chunked_token_losses(x_NC, weight_VC, targets_N, cap).sum()
        work = _Pass(x_NC, weight_VC, cap, mode)
        loss = torch.zeros((), device=x_NC.device)
        for group in _slices(x_NC.size(0), work.group_tokens):
            loss += work.add_group(group, targets_N[group])
        ctx.save_for_backward(work.grad_x_NC, work.grad_weight_VC)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_x_NC, grad_weight_VC = ctx.saved_tensors
        return (
            grad_x_NC * grad_loss.to(grad_x_NC.dtype),
            grad_weight_VC * grad_loss,
            None,
            None,
            None,
        )


class _Pass:
    """The gradients of one pass, and the buffers that all of its groups use in turn."""

    def __init__(self, x_NC: Tensor, weight_VC: Tensor, cap: float, mode: CompileMode) -> None:
        self.x_NC, self.cap = x_NC, cap
        self.weight_VC = weight_VC.to(x_NC.dtype)
        self.sweep = _sweep(mode, x_NC.device)
        self.chunk_tokens = _chunk_tokens(weight_VC)
        self.group_tokens = self.chunk_tokens * GROUP_CHUNKS[x_NC.device.type]
        self.grad_x_NC = torch.empty_like(x_NC)
        self.grad_weight_VC = torch.zeros_like(weight_VC)
        rows = min(self.group_tokens, x_NC.size(0))
        self.logits_NV = x_NC.new_empty(rows, weight_VC.size(0))
        self.scaled_NC = torch.empty_like(x_NC[:rows])
        self.share_VC = torch.empty_like(self.weight_VC)

    def add_group(self, group: slice, targets_N: Tensor) -> Tensor:
        """Fills the group's part of the gradient of x, adds to the weight's; returns its loss."""
        x_NC, grad_x_NC = self.x_NC[group], self.grad_x_NC[group]
        N = x_NC.size(0)
        logits_NV, scaled_NC = self.logits_NV[:N], self.scaled_NC[:N]
        loss = torch.zeros((), device=x_NC.device)
        for chunk in _slices(N, self.chunk_tokens):
            torch.mm(x_NC[chunk], self.weight_VC.T, out=logits_NV[chunk])
            losses_n, scale_n1 = _to_gradient(
                logits_NV[chunk], targets_N[chunk], self.cap, self.sweep
            )
            loss += losses_n.sum()
            torch.mm(logits_NV[chunk], self.weight_VC, out=grad_x_NC[chunk])
            grad_x_NC[chunk] *= scale_n1
            torch.mul(x_NC[chunk], scale_n1, out=scaled_NC[chunk])
        self.grad_weight_VC += torch.mm(logits_NV.T, scaled_NC, out=self.share_VC)
        return loss


def _chunk_tokens(weight_VC: Tensor) -> int:
    return max(1, CHUNK_LOGITS[weight_VC.device.type] // weight_VC.size(0))


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _to_gradient(
    logits_nV: Tensor, targets_n: Tensor, cap: float, sweep: Sweep
) -> tuple[Tensor, Tensor]:
    """Replaces logits by their gradient, up to a factor per row; returns losses [n] and factors.

    The gradient is (softmax(z) - one_hot(target)) * dz/du = (e^z - one_hot * sum) * dz/du / sum.
    """
    kept_n = targets_n != IGNORED
    cells_n = (torch.arange(targets_n.size(0), device=targets_n.device), targets_n.clamp(min=0))
    tanh_n = (logits_nV[cells_n].float() / cap).tanh_()
    sums_n = sweep(logits_nV, cap)
    at_target_n = ((cap * tanh_n).exp_() - sums_n) * (1 - tanh_n * tanh_n)
    logits_nV[cells_n] = at_target_n.to(logits_nV.dtype)
    losses_n = (sums_n.log() - cap * tanh_n) * kept_n
    return losses_n, (kept_n / sums_n)[:, None]
