"""The model: its initialisation, its causality, its refinements, and generation with a cache."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.errors import BadInput
from nanochat.model.attention import KVCache, rotary_tables, rotate
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.scaling import count_parameters

# short windows of 128 in a sequence of 512: the sliding window shows beyond 128 tokens
CONFIG = GPTConfig(vocab_size=100, sequence_len=512, n_layer=4, n_head=4, n_kv_head=2, n_embd=64)
OCTOBER = replace(GPTConfig.october_2025(2, 100, 512, head_dim=32), n_kv_head=2)
CPU = torch.device("cpu")


def random_model(config: GPTConfig = CONFIG, dtype: torch.dtype = torch.float32) -> GPT:
    """A model all of whose parts act: the zeros of the initialisation replaced by noise."""
    model = GPT(config, dtype)
    model.init_weights(seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


def random_ids(batch: int, length: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CONFIG.vocab_size, (batch, length), generator=generator)


def new_cache(model: GPT, batch: int, max_len: int = 300) -> KVCache:
    return KVCache(model.config, batch, max_len, CPU, model.dtype)


@pytest.mark.parametrize("config", [CONFIG, OCTOBER], ids=["current", "october"])
def test_parameters_are_as_many_as_the_scaling_rules_count(config: GPTConfig) -> None:
    model = GPT(config, torch.float32)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total


def test_a_fresh_model_predicts_nearly_uniformly() -> None:
    model = GPT.fresh(CONFIG, CPU, seed=1)
    ids = random_ids(2, 50)
    loss = model.loss_sum(ids, ids.roll(-1, dims=1)) / ids.numel()
    assert loss.item() == pytest.approx(torch.tensor(100.0).log().item(), abs=0.02)


def test_initial_weights_are_the_published_ones() -> None:
    config = replace(CONFIG, vocab_size=5000, n_embd=128)
    model = GPT(config, torch.float32)
    model.init_weights(seed=1)
    block, bound = model.blocks[1], (3 / 128) ** 0.5
    assert model.embedding.weight.std().item() == pytest.approx(0.8, rel=0.01)
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.01)
    for uniform, top in [
        (block.attention.query.weight, bound),
        (block.mlp.expand.weight, 0.4 * bound),
        (model.value_embeddings["1"].weight, bound),
    ]:
        assert uniform.max().item() == pytest.approx(top, rel=0.01)
        assert uniform.min().item() == pytest.approx(-top, rel=0.01)
    assert 0 <= block.attention.value_gate.weight.min() <= 0.002
    assert block.attention.project.weight.abs().max() == block.mlp.project.weight.abs().max() == 0
    assert model.residual_lambdas.tolist() == pytest.approx([1.15, 1.1167, 1.0833, 1.05], abs=1e-4)
    assert model.first_lambdas.tolist() == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert (model.smear_lambda.item(), model.backout_lambda.item()) == pytest.approx((0.0, 0.2))


def test_october_initialisation_is_normal_with_a_zero_head() -> None:
    model = GPT(OCTOBER, torch.float32)
    model.init_weights(seed=1)
    assert model.embedding.weight.std().item() == pytest.approx(1.0, rel=0.02)
    assert model.head.weight.abs().max() == 0
    assert model.blocks[0].mlp.expand.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)


def test_a_model_born_on_meta_has_the_weights_of_its_seed() -> None:
    born_on_meta, other = (GPT.fresh(CONFIG, CPU, seed) for seed in (1, 2))
    direct = GPT(CONFIG, born_on_meta.dtype)
    direct.init_weights(1)
    for name, tensor in direct.state_dict().items():
        assert torch.equal(tensor, born_on_meta.state_dict()[name]), name
    assert not torch.equal(other.embedding.weight, direct.embedding.weight)


def test_rotation_makes_products_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 1, 32, generator=torch.Generator().manual_seed(1))

    def product(query_position: int, key_position: int) -> Tensor:
        positions = torch.tensor([query_position]), torch.tensor([key_position])
        at_q, at_k = (rotary_tables(p, 32, 100_000.0, torch.float32) for p in positions)
        return (rotate(q, at_q) * rotate(k, at_k)).sum()

    torch.testing.assert_close(product(7, 3), product(104, 100), rtol=1e-4, atol=1e-4)
    assert (product(7, 3) - product(8, 3)).abs() > 1e-3


def test_the_future_does_not_change_the_past() -> None:
    model, ids = random_model(), random_ids(1, 40)
    changed = ids.clone()
    changed[0, 20] = (ids[0, 20] + 1) % CONFIG.vocab_size
    before, after = model.logits(ids), model.logits(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


def test_a_short_window_hides_what_lies_before_it() -> None:
    """One layer of window 128 under one full layer that is silenced sees 128 tokens, no more."""
    config = replace(CONFIG, n_layer=2, smear=False)
    model, ids = random_model(config), random_ids(1, 200)
    with torch.no_grad():
        model.blocks[1].attention.project.weight.zero_()
    changed = ids.clone()
    changed[0, 50] = (ids[0, 50] + 1) % CONFIG.vocab_size
    differs = (model.logits(ids) - model.logits(changed)).abs().amax(dim=(0, 2)) > 0
    assert differs.nonzero().flatten().tolist() == list(range(50, 178))


@pytest.mark.parametrize(
    "switch",
    ["value_embeddings", "smear", "backout", "residual_lambdas", "qk_scale", "rope_base"],
)
def test_each_refinement_changes_the_logits(switch: str) -> None:
    off = {"qk_scale": 1.0, "rope_base": 10_000.0}.get(switch, False)
    model = random_model()
    plain = GPT(replace(CONFIG, **{switch: off}), torch.float32)
    plain.load_state_dict(model.state_dict(), strict=False)
    ids = random_ids(1, 30)
    assert (model.logits(ids) - plain.logits(ids)).abs().max() > 1e-3


def test_backout_subtracts_the_stream_after_the_block_at_half_depth() -> None:
    """With nothing added after that block (2 of 0 to 3), all of it backed out leaves nothing."""
    model = random_model(replace(CONFIG, residual_lambdas=False))
    with torch.no_grad():
        model.backout_lambda.fill_(1.0)
        model.blocks[3].attention.project.weight.zero_()
        model.blocks[3].mlp.project.weight.zero_()
    assert model.logits(random_ids(1, 10)).abs().max() == 0


def test_logits_are_capped_and_cropped_to_the_vocabulary() -> None:
    model = random_model()
    with torch.no_grad():
        model.head.weight.mul_(1000)
    logits = model.logits(random_ids(1, 10))
    assert logits.shape == (1, 10, 100)
    assert logits.dtype == torch.float32
    assert logits.abs().max() <= CONFIG.softcap


@pytest.mark.parametrize("config", [CONFIG, OCTOBER], ids=["current", "october"])
def test_loss_is_the_cross_entropy_of_the_logits(config: GPTConfig) -> None:
    model, ids = random_model(config), random_ids(2, 30)
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = -1
    logits = model.logits(ids)
    expected = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none"
    )
    losses = model.token_losses(ids, targets)
    torch.testing.assert_close(losses.flatten(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.loss_sum(ids, targets).detach(), expected.sum())


def test_every_parameter_gets_a_gradient() -> None:
    model, ids = random_model(), random_ids(2, 30)
    model.loss_sum(ids, ids.roll(-1, dims=1)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_same_step_twice_gives_the_same_bits() -> None:
    def gradients() -> list[Tensor]:
        model, ids = GPT.fresh(CONFIG, CPU, seed=1), random_ids(2, 300)
        model.loss_sum(ids, ids.roll(-1, dims=1)).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


@pytest.mark.parametrize(
    ("config", "dtype", "tolerance"),
    [(CONFIG, torch.float32, 1e-4), (OCTOBER, torch.float32, 1e-4), (CONFIG, torch.bfloat16, 0.5)],
    ids=["float32", "october", "bfloat16"],
)
def test_generation_with_a_cache_equals_the_full_forward(
    config: GPTConfig, dtype: torch.dtype, tolerance: float
) -> None:
    """Prompts of different lengths in one batch, longer and shorter than the window."""
    model, lengths = random_model(config, dtype), torch.tensor([140, 1, 60])
    ids = random_ids(3, 150)
    full = model.logits(ids)
    cache = new_cache(model, batch=3)
    padded = ids[:, :140].masked_fill(torch.arange(140) >= lengths[:, None], 0)
    rows = torch.arange(3)
    logits = model.prefill(padded, lengths, cache)
    for step in range(10):
        expected = full[rows, lengths + step - 1]
        torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
        logits = model.decode(ids[rows, lengths + step], cache)
    assert cache.lengths.tolist() == [150, 11, 70]


def test_a_second_turn_continues_the_cache() -> None:
    model, ids = random_model(), random_ids(2, 80)
    cache = new_cache(model, batch=2)
    model.prefill(ids[:, :30], torch.tensor([30, 20]), cache)
    second = torch.stack((ids[0, 30:60], ids[1, 20:50]))
    logits = model.prefill(second, torch.tensor([30, 10]), cache)
    full = model.logits(ids)
    torch.testing.assert_close(logits, full[[0, 1], [59, 29]], rtol=0, atol=1e-4)


def test_logits_with_a_cache_continue_where_it_ends() -> None:
    model, ids = random_model(), random_ids(1, 40)
    cache = new_cache(model, batch=1)
    parts = [model.logits(ids[:, :25], cache), model.logits(ids[:, 25:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model.logits(ids), rtol=0, atol=1e-4)


def test_a_repeated_cache_continues_each_copy_on_its_own() -> None:
    model, ids = random_model(), random_ids(1, 30)
    cache = new_cache(model, batch=1)
    model.prefill(ids, torch.tensor([30]), cache)
    copies = cache.repeat(3)
    next_ids = torch.tensor([5, 6, 7])
    logits = model.decode(next_ids, copies)
    full = model.logits(torch.cat((ids.expand(3, -1), next_ids[:, None]), dim=1))[:, -1]
    torch.testing.assert_close(logits, full, rtol=0, atol=1e-4)
    assert cache.lengths.tolist() == [30]


def test_a_model_cast_for_inference_gives_the_same_logits() -> None:
    model, ids = random_model(dtype=torch.bfloat16), random_ids(2, 40)
    before = model.logits(ids)
    assert torch.equal(model.for_inference().logits(ids), before)
    assert model.head.weight.dtype == torch.bfloat16


def test_more_tokens_than_the_cache_holds_are_refused() -> None:
    model = random_model()
    cache = new_cache(model, batch=1, max_len=10)
    with pytest.raises(BadInput, match="11 tokens do not fit the cache of 10"):
        model.prefill(random_ids(1, 11), torch.tensor([11]), cache)
