"""The chunked loss equals autograd on the full logits, in value and in gradient."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.model import loss as loss_module
from nanochat.model.loss import chunked_loss_sum, chunked_token_losses, rational_tanh, softcap

CAP = 15.0
N, C, V = 37, 16, 101


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups, several chunks in each, and a ragged last one."""
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", 5 * V)
    monkeypatch.setitem(loss_module.GROUP_CHUNKS, "cpu", 3)


def problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, weight and targets with logits up to about the cap, some targets ignored."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, C, generator=generator).to(dtype).requires_grad_()
    weight = (2.0 * torch.randn(V, C, generator=generator)).requires_grad_()
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[[0, 7, 36]] = -1
    return x, weight, targets


def full_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = softcap(x.float() @ weight.T, CAP)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def test_loss_and_gradients_equal_autograd_on_full_logits() -> None:
    x, weight, targets = problem(torch.float32)
    theirs = full_loss(x, weight, targets)
    their_gradients = torch.autograd.grad(0.25 * theirs, (x, weight))
    ours = chunked_loss_sum(x, weight, targets, CAP)
    our_gradients = torch.autograd.grad(0.25 * ours, (x, weight))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        assert relative_error(mine, other) < 2e-6


def test_bfloat16_gradients_are_close_to_float32() -> None:
    x, weight, targets = problem(torch.bfloat16)
    theirs = torch.autograd.grad(full_loss(x, weight, targets), (x, weight))
    ours = torch.autograd.grad(chunked_loss_sum(x, weight, targets, CAP), (x, weight))
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine, other) < 0.02


def test_the_gradient_of_a_certain_token_is_not_lost_in_rounding() -> None:
    """softmax - 1 is formed before rounding to bfloat16, so that a probability near 1 counts."""
    x = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[4.0], [-2.5]], requires_grad=True)
    targets = torch.tensor([0])
    (theirs,) = torch.autograd.grad(full_loss(x, weight, targets), weight)
    (ours,) = torch.autograd.grad(chunked_loss_sum(x, weight, targets, CAP), weight)
    assert relative_error(ours, theirs) < 0.02


def test_extreme_logits_stay_finite() -> None:
    x, weight, targets = problem(torch.float32)
    ours = chunked_loss_sum(1000 * x, weight, targets, CAP)
    gradients = torch.autograd.grad(ours, (x, weight))
    assert all(tensor.isfinite().all() for tensor in (ours, *gradients))


def test_token_losses_are_the_loss_token_by_token() -> None:
    x, weight, targets = problem(torch.float32)
    losses = chunked_token_losses(x, weight, targets, CAP)
    theirs = F.cross_entropy(softcap(x @ weight.T, CAP), targets, ignore_index=-1, reduction="none")
    torch.testing.assert_close(losses, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_all_targets_ignored_give_zero_loss_and_zero_gradient() -> None:
    x, weight, targets = problem(torch.float32)
    ours = chunked_loss_sum(x, weight, torch.full_like(targets, -1), CAP)
    gradients = torch.autograd.grad(ours, (x, weight))
    assert ours == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_without_gradients_wanted_none_are_made() -> None:
    x, weight, targets = problem(torch.float32)
    ours = chunked_loss_sum(x.detach(), weight.detach(), targets, CAP)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, full_loss(x, weight, targets).detach(), rtol=1e-6, atol=0)


def test_rational_tanh_is_tanh() -> None:
    x = torch.linspace(-50, 50, 20_001, dtype=torch.float64)
    assert (rational_tanh(x) - x.tanh()).abs().max() < 2e-5
    inner = x[x.abs() < 2]
    assert (rational_tanh(inner) - inner.tanh()).abs().max() < 1e-11


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_loss_equals_the_eager_one() -> None:
    x, weight, targets = problem(torch.float32)
    ours = chunked_loss_sum(x, weight, targets, CAP, "on")
    eager = chunked_loss_sum(x, weight, targets, CAP)
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=0)
    for mine, other in zip(
        torch.autograd.grad(ours, (x, weight)), torch.autograd.grad(eager, (x, weight)), strict=True
    ):
        assert relative_error(mine, other) < 1e-4
