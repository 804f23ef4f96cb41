"""`make gpu-check` says in one sentence that there is no GPU; its checks hold where they run."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("gpu_check")
    monkeypatch.setattr(module, "SMALL", module.GPTConfig.from_depth(1, 256, 64))
    monkeypatch.setattr(module, "DEVICE_ROWS", 2)
    return module


def test_without_a_gpu_it_says_so_in_one_sentence_and_exits_2() -> None:
    result = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu_check.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 2
    assert result.stderr == "no CUDA GPU is visible to torch: run this on a GPU node\n"
    assert result.stdout == ""


def test_the_precision_check_holds_on_a_processor(gpu_check: ModuleType) -> None:
    assert gpu_check.check_precision(torch.device("cpu"))["holds"]


def test_the_resume_check_holds_on_a_processor(gpu_check: ModuleType) -> None:
    assert gpu_check.check_resume(torch.device("cpu")) == {"different_tensors": [], "holds": True}


def test_the_resume_check_notices_a_difference(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check.MuonAdamW, "load_state_dict", lambda self, state: None)
    assert not gpu_check.check_resume(torch.device("cpu"))["holds"]
