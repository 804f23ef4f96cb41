"""The compute dtype and the decision to compile follow the machine, and the wish of its user."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.errors import ConfigError
from nanochat.model import device as device_module
from nanochat.model.device import compiled, compute_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_the_environment_decides_the_dtype(name: str, dtype: torch.dtype) -> None:
    assert compute_dtype(CPU, {"NANOCHAT_DTYPE": name}) == dtype


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'fp8': use one of bfloat16, float32"):
        compute_dtype(CPU, {"NANOCHAT_DTYPE": "fp8"})


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [("avx512_bf16", torch.bfloat16), ("amx_bf16", torch.bfloat16), ("avx2", torch.float32)],
)
def test_a_processor_computes_in_bfloat16_where_it_can_multiply_it(
    monkeypatch: pytest.MonkeyPatch, capability: str, dtype: torch.dtype
) -> None:
    device_module._multiplies_bf16.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert compute_dtype(CPU, {}) == dtype
    device_module._multiplies_bf16.cache_clear()


def test_compile_off_changes_nothing() -> None:
    assert compiled(abs, "off", CPU) is abs


def run_without_compiler(mode: str, folder: Path) -> str:
    """What a process says that has no compiler on its PATH and compiles a function twice."""
    code = f"""
import logging, torch
from nanochat.errors import ConfigError
from nanochat.model.device import compiled
logging.basicConfig(format="%(message)s")
try:
    print([compiled(f, {mode!r}, torch.device("cpu")) is f for f in (abs, max)])
except ConfigError as exc:
    print(exc)
"""
    environment = {"PATH": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    return result.stdout + result.stderr


def test_without_a_compiler_auto_runs_eagerly_and_says_so_once(tmp_path: Path) -> None:
    said = run_without_compiler("auto", tmp_path)
    assert "[True, True]" in said
    assert said.count("training runs eagerly, because torch.compile does not work here: ") == 1


def test_without_a_compiler_on_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    assert "install g++, or set compile to 'auto'" in run_without_compiler("on", tmp_path)


GRADIENTS = """
import torch
from nanochat.model.device import default_device, same_bits_every_time
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

torch.set_num_threads(2)
same_bits_every_time()
config = GPTConfig.from_depth(1, vocab_size=4096, sequence_len=512, aspect_ratio=128, head_dim=128)
model = GPT.fresh(config, default_device(), seed=1)
model.use_compiled("auto")
ids = torch.rand((8, 513), generator=torch.Generator().manual_seed(1)).pow(3).mul(4096).long()
different = set()
for _ in range(40):
    model.zero_grad()
    model.loss_sum(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).backward()
    different.add(model.embedding.weight.grad.float().numpy().tobytes())
print(len(different))
"""


def test_compiled_gradients_are_the_same_bits_every_time() -> None:
    """Threads that add to one embedding's gradient must do it in the same order each time."""
    command = [sys.executable, "-c", GRADIENTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["1"]


BLOCKS = """
import torch
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

config = GPTConfig.from_depth(3, vocab_size=64, sequence_len=16, aspect_ratio=16, head_dim=16)
models = [GPT(config, torch.float32) for _ in range(2)]
for model in models:
    model.init_weights(1)
models[1].use_compiled("auto", by_block=True)
ids = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(1))
for model in models:
    for rows in (ids[:2], ids):
        model.loss_sum(rows[:, :-1], rows[:, 1:]).backward()
for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
    torch.testing.assert_close(other.grad, one.grad, msg=name)
eager, compiled = (model.token_losses(ids[:, :-1], ids[:, 1:]) for model in models)
print(torch.equal(eager, compiled))
"""


def test_blocks_that_are_compiled_one_by_one_compute_the_same_gradients() -> None:
    """Three blocks of two kinds, with rows of two sizes; evaluation stays eager."""
    command = [sys.executable, "-c", BLOCKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["True"], done.stderr
