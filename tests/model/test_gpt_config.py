"""The config describes the published shapes, survives a round trip, refuses what cannot work."""

from dataclasses import replace

import pytest

from nanochat.errors import ConfigError, DamagedArtefact
from nanochat.model.gpt_config import GPTConfig


def test_depth_sets_width_and_heads() -> None:
    config = GPTConfig.from_depth(4)
    assert (config.n_embd, config.n_head, config.head_dim) == (256, 2, 128)


def test_odd_depth_rounds_the_width_up_to_whole_heads() -> None:
    assert GPTConfig.from_depth(5).n_embd == 384


def test_vocabulary_is_padded_to_a_multiple_of_64() -> None:
    assert GPTConfig.from_depth(4, vocab_size=1000).padded_vocab_size == 1024


def test_window_pattern_repeats_and_the_last_layer_sees_everything() -> None:
    assert GPTConfig.from_depth(6, sequence_len=2048).windows == (512, 512, 512, 2048, 512, 2048)


def test_short_window_never_exceeds_the_sequence() -> None:
    assert GPTConfig.from_depth(4, sequence_len=64).windows == (64, 64, 64, 64)


@pytest.mark.parametrize(("depth", "layers"), [(4, (1, 3)), (5, (0, 2, 4))])
def test_every_second_layer_up_to_the_last_owns_a_value_embedding(
    depth: int, layers: tuple[int, ...]
) -> None:
    assert GPTConfig.from_depth(depth).value_layers == layers


def test_config_survives_a_round_trip_through_its_dict() -> None:
    config = replace(GPTConfig.from_depth(4), smear=False, qk_scale=1.1)
    assert GPTConfig.from_dict(config.to_dict()) == config


def test_another_version_is_refused_with_what_to_do() -> None:
    values = GPTConfig.from_depth(4).to_dict() | {"version": 99}
    with pytest.raises(DamagedArtefact, match=r"version 99.*train again"):
        GPTConfig.from_dict(values)


def test_a_missing_or_unknown_field_is_refused_by_name() -> None:
    values = GPTConfig.from_depth(4).to_dict()
    values["smeer"] = values.pop("smear")
    with pytest.raises(DamagedArtefact, match=r"lacks \['smear'\].*unknown \['smeer'\]"):
        GPTConfig.from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"n_layer": 0},
        {"n_embd": 250},
        {"n_kv_head": 3},
        {"window_pattern": "SX"},
        {"window_pattern": ""},
        {"softcap": 100.0},
    ],
)
def test_a_shape_that_cannot_work_is_a_config_error(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(GPTConfig.from_depth(4), **change)
