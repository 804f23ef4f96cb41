"""Muon and AdamW do what their papers say, cover every parameter, and resume bit for bit."""

import pytest
import torch
from torch import Tensor

from nanochat.errors import DamagedArtefact
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.muon import orthogonalize
from nanochat.model.optimizer import MuonAdamW

CONFIG = GPTConfig(vocab_size=100, sequence_len=32, n_layer=3, n_head=2, n_kv_head=2, n_embd=64)
CPU = torch.device("cpu")


def batch(seed: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 100, (4, 33), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:]


def train(model: GPT, optimizer: MuonAdamW, steps: range) -> list[float]:
    losses = []
    for step in steps:
        inputs, targets = batch(step % 4)
        loss = model.loss_sum(inputs, targets) / targets.numel()
        loss.backward()
        optimizer.step(lr_multiplier=1.0, momentum=0.9, weight_decay_multiplier=0.5)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def make(seed: int = 1) -> tuple[GPT, MuonAdamW]:
    model = GPT.fresh(CONFIG, CPU, seed)
    return model, MuonAdamW(model, lr_scale=0.3, weight_decay=0.3)


@pytest.mark.parametrize("shape", [(2, 48, 48), (2, 96, 32), (2, 32, 96)])
def test_an_orthogonalized_matrix_has_singular_values_near_one(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(x))
    assert values.min() > 0.8
    assert values.max() < 1.2
    torch.testing.assert_close(values.square().sum(dim=1), torch.full((2,), float(min(shape[1:]))))


def test_a_zero_gradient_stays_zero() -> None:
    assert orthogonalize(torch.zeros(1, 8, 4)).abs().max() == 0


def test_every_parameter_belongs_to_exactly_one_group_and_moves() -> None:
    model, optimizer = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, optimizer, range(2))
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []
    state = optimizer.state_dict()
    adam = {name.removeprefix("adamw.").rsplit(".", 1)[0] for name in state if "adamw." in name}
    assert adam == {name for name in before if not name.startswith("blocks.")}


def test_the_loss_falls_to_half_on_a_few_batches() -> None:
    model, optimizer = make()
    losses = train(model, optimizer, range(24))
    assert losses[-1] < 0.5 * losses[0]


def test_embedding_rates_fall_with_the_square_root_of_the_width() -> None:
    model, optimizer = make()
    model.embedding.weight.grad = torch.ones_like(model.embedding.weight)
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    before = model.embedding.weight.detach().float().clone()
    optimizer.step(lr_multiplier=0.5, momentum=0.9, weight_decay_multiplier=0.0)
    # Adam's first update of a constant gradient is the learning rate, whatever its size
    moved = (before - model.embedding.weight.detach().float()).mean().item()
    assert moved == pytest.approx(0.3 * 0.3 * (64 / 768) ** -0.5 * 0.5, rel=0.01)


def test_muon_update_has_the_size_of_its_learning_rate() -> None:
    model, optimizer = make()
    weight = model.blocks[0].mlp.expand.weight  # 256 x 64
    before = weight.detach().clone()
    inputs, targets = batch(0)
    model.blocks[0].mlp.project.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model.loss_sum(inputs, targets).backward()
    optimizer.step(lr_multiplier=1.0, momentum=0.9, weight_decay_multiplier=0.0)
    norm = (weight.detach() - before).norm().item()
    assert norm == pytest.approx(0.02 * 0.3 * (256 / 64) ** 0.5 * 64**0.5, rel=0.02)


def test_weight_decay_acts_only_where_it_agrees_with_the_update() -> None:
    def after_step(decay: float) -> Tensor:
        optimizer = MuonAdamW(model, lr_scale=0.3, weight_decay=decay)
        weight.data.copy_(before)
        optimizer.step(lr_multiplier=1.0, momentum=0.9)
        return weight.detach().clone()

    model, _ = make()
    for block in model.blocks:  # the zeros at the start would let no gradient through
        block.mlp.project.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    weight = model.blocks[0].mlp.expand.weight
    before = weight.detach().clone()
    inputs, targets = batch(0)
    model.loss_sum(inputs, targets).backward()
    without, with_decay = after_step(0.0), after_step(1.0)
    update = before - without
    extra = without - with_decay
    agrees = update * before >= 0
    lr = 0.02 * 0.3 * (256 / 64) ** 0.5
    assert torch.allclose(extra[agrees], lr * before[agrees], atol=1e-6)
    assert extra[~agrees].abs().max() < 1e-7
    assert 0.2 < agrees.float().mean() < 0.8


def test_resumed_training_equals_uninterrupted_training_bit_for_bit() -> None:
    straight_model, straight = make()
    train(straight_model, straight, range(6))
    first_model, first = make()
    train(first_model, first, range(3))
    weights = {name: tensor.clone() for name, tensor in first_model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second_model, second = make(seed=2)
    second_model.load_state_dict(weights)
    second.load_state_dict(state)
    train(second_model, second, range(3, 6))
    for name, tensor in straight_model.state_dict().items():
        assert torch.equal(tensor, second_model.state_dict()[name]), name
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_state_of_another_model_is_refused() -> None:
    _, optimizer = make()
    state = optimizer.state_dict()
    state.popitem()
    with pytest.raises(DamagedArtefact, match="another model"):
        optimizer.load_state_dict(state)
