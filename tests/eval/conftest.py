"""A tiny real model with float32 weights that are all random, so that no score is a tie."""

import pytest
import torch

from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig


def make_random_model(seed: int) -> GPT:
    config = GPTConfig(
        vocab_size=512, sequence_len=128, n_layer=1, n_head=2, n_kv_head=2, n_embd=32
    )
    model = GPT(config, dtype=torch.float32)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def random_models() -> list[GPT]:
    return [make_random_model(seed) for seed in range(1, 7)]


@pytest.fixture(scope="session")
def random_model(random_models) -> GPT:
    return random_models[0]


@pytest.fixture(scope="session")
def trainable_model() -> GPT:
    return make_random_model(seed=7)
