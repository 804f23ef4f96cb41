"""What a stage will cost, before it starts."""

import pytest

from nanochat.config import Config
from nanochat.model.gpt_config import shape_of
from nanochat.model.hardware import peak_of
from nanochat.model.scaling import flops_per_token, plan
from nanochat.model.workload import evaluation_flops, training_flops


@pytest.mark.parametrize("preset", ["local", "d12", "d20"])
def test_pretraining_costs_what_its_plan_says(preset: str) -> None:
    config = Config.resolve({"preset": preset})
    base = config.base
    planned = plan(shape_of(config), base.tokens_per_parameter, base.steps, base.total_batch_tokens)
    assert training_flops(config, "base") == planned.flops


def test_twice_the_epochs_cost_twice_as_much() -> None:
    once = Config.resolve({"preset": "d12"})
    twice = Config.resolve({"preset": "d12", "mid": {"epochs": 2}})
    assert training_flops(twice, "mid") == pytest.approx(2 * training_flops(once, "mid"))


def test_evaluating_is_a_forward_pass_of_what_is_scored() -> None:
    config = Config.resolve({"preset": "local"})
    more = Config.resolve({"preset": "local", "evaluation": {"validation_tokens": 65536 * 2}})
    difference = evaluation_flops(more, "base") - evaluation_flops(config, "base")
    assert difference == pytest.approx(65536 * flops_per_token(shape_of(config)) / 3)
    assert evaluation_flops(config, "sft") > 0


def test_a_gpu_is_found_by_slurm_s_name_and_by_its_own() -> None:
    assert peak_of("a100") == peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_of("k80") is None
