"""The scaling rules reproduce the published table, and refuse what is no training."""

import pytest

from nanochat.errors import ConfigError
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.scaling import count_parameters, flops_per_token, plan

# depth, width, matrices M, value embeddings M, total M, N_scal M, FLOPs/token, tokens B,
# log2 batch, steps, FLOPs, weight decay: V=32768, T=2048, ratio 12
CURRENT = [
    (4, 256, 3.1, 16.8, 37, 11.5, 8.0e7, 0.14, 18, 528, 1.1e16, 1.890),
    (6, 384, 10.6, 37.7, 74, 23.2, 1.68e8, 0.28, 18, 1062, 4.7e16, 0.940),
    (8, 512, 25.2, 67.1, 126, 41.9, 2.96e8, 0.50, 18, 1920, 1.5e17, 0.520),
    (10, 640, 49.2, 105, 196, 70.1, 4.96e8, 0.84, 19, 1605, 4.2e17, 0.440),
    (12, 768, 84.9, 151, 286, 110, 7.60e8, 1.32, 19, 2520, 1.00e18, 0.280),
    (16, 1024, 201, 268, 537, 235, 1.59e9, 2.82, 19, 5376, 4.5e18, 0.131),
    (18, 1152, 287, 340, 702, 324, 2.18e9, 3.89, 20, 3712, 8.5e18, 0.134),
    (20, 1280, 393, 419, 897, 435, 2.89e9, 5.22, 20, 4980, 1.51e19, 0.100),
    (22, 1408, 523, 508, 1123, 570, 3.76e9, 6.83, 20, 6517, 2.6e19, 0.077),
    (24, 1536, 680, 604, 1384, 730, 4.78e9, 8.76, 20, 8352, 4.2e19, 0.060),
    (26, 1664, 864, 709, 1682, 918, 5.99e9, 11.0, 20, 10510, 6.6e19, 0.048),
    (28, 1792, 1079, 822, 2019, 1138, 7.37e9, 13.7, 20, 13020, 1.01e20, 0.038),
    (32, 2048, 1611, 1074, 2819, 1678, 1.08e10, 20.1, 21, 9600, 2.2e20, 0.037),
]
# depth, total parameters, FLOPs of 20 tokens per parameter: V=65536, T=2048
OCTOBER = [
    (12, 185_597_952, 3.85e18),
    (16, 335_544_320, 1.35e19),
    (20, 560_988_160, 3.92e19),
    (24, 880_803_840, 9.8e19),
    (26, 1_081_999_360, 1.5e20),
    (32, 1_879_048_192, 4.54e20),
]


@pytest.mark.parametrize("row", CURRENT, ids=lambda row: f"d{row[0]}")
def test_parameters_match_the_published_table(row: tuple[float, ...]) -> None:
    depth, width, matrices, value_embeddings, total, scaling, flops, *_ = row
    config = GPTConfig.from_depth(int(depth))
    counts = count_parameters(config)
    assert config.n_embd == width
    assert counts.matrices / 1e6 == pytest.approx(matrices, abs=0.5, rel=0.02)
    assert counts.value_embeddings / 1e6 == pytest.approx(value_embeddings, rel=0.005)
    assert round(counts.total / 1e6) == total
    assert counts.scaling / 1e6 == pytest.approx(scaling, rel=0.005)
    assert flops_per_token(config) == pytest.approx(flops, rel=0.005)


@pytest.mark.parametrize("row", CURRENT, ids=lambda row: f"d{row[0]}")
def test_plan_matches_the_published_table(row: tuple[float, ...]) -> None:
    depth, *_, tokens, log2_batch, steps, flops, weight_decay = row
    it = plan(GPTConfig.from_depth(int(depth)), ratio=12)
    assert it.tokens / 1e9 == pytest.approx(tokens, rel=0.02)
    assert it.total_batch_tokens == 2**log2_batch
    assert it.steps == steps
    assert it.flops == pytest.approx(flops, rel=0.02)
    assert it.weight_decay == pytest.approx(weight_decay, abs=6e-4)
    assert it.lr_scale == (2**log2_batch / 2**19) ** 0.5


def test_d12_has_exactly_the_published_number_of_parameters() -> None:
    assert count_parameters(GPTConfig.from_depth(12)).total == 286_261_730


@pytest.mark.parametrize(("depth", "total", "flops"), OCTOBER)
def test_october_architecture_matches_its_published_sizes(
    depth: int, total: int, flops: float
) -> None:
    config = GPTConfig.october_2025(depth)
    assert count_parameters(config).total == total
    assert 20 * total * flops_per_token(config) == pytest.approx(flops, rel=0.01)


def test_d24_at_ratio_8_takes_the_published_5568_steps() -> None:
    assert plan(GPTConfig.from_depth(24), ratio=8).steps == 5568


def test_steps_and_batch_given_by_hand_take_precedence() -> None:
    it = plan(GPTConfig.from_depth(4, 4096, 512), steps=300, total_batch_tokens=8192)
    assert (it.steps, it.total_batch_tokens, it.tokens) == (300, 8192, 300 * 8192)
    assert it.lr_scale == 0.125


def test_averaging_time_is_the_same_share_of_every_run() -> None:
    """lr * decay * steps is constant, for a tiny run by hand as for the reference."""
    runs = [
        plan(GPTConfig.from_depth(12, 4096, 512)),
        plan(GPTConfig.from_depth(4, 4096, 512), steps=300, total_batch_tokens=8192),
    ]
    shares = [it.lr_scale * it.weight_decay * it.steps for it in runs]
    assert shares[1] == pytest.approx(shares[0], rel=1e-3)


@pytest.mark.parametrize("wrong", [{"ratio": 0}, {"ratio": -1}, {"steps": 0}, {"lr_scale": 0}])
def test_values_that_describe_no_training_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        plan(GPTConfig.from_depth(4), **wrong)  # type: ignore[arg-type]


def test_a_batch_larger_than_the_training_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than the whole training"):
        plan(GPTConfig.from_depth(4), ratio=0.01, total_batch_tokens=2**20)
