"""What a stage prepares before the loop begins."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanochat.config import Config
from nanochat.errors import BadInput, OutOfMemory
from nanochat.model.gpt_config import shape_of
from nanochat.train import prepare, stages
from nanochat.train.checkpoints import Identity
from nanochat.train.distributed import RankGroup


class EightGpus(RankGroup):
    """Eight ranks that say what this one says."""

    def __init__(self) -> None:
        super().__init__(0, 8)
        self.device = torch.device("cuda")

    def gather(self, value: float) -> list[float]:
        return [value] * 8

    def gather_text(self, text: str) -> list[str]:
        return [f"{text}{rank}" for rank in range(8)]


def fit(folder: Path, monkeypatch: pytest.MonkeyPatch, shard: str) -> Any:
    monkeypatch.setattr(prepare, "available_bytes", lambda device, sharing: 80 * 2**30)
    monkeypatch.setattr(prepare, "device_name", lambda device: "A100")
    given: dict[str, Any] = {
        "preset": "d20",
        "paths": {"base_dir": str(folder)},
        "model": {"depth": 64},
        "operation": {"shard": shard, "device_rows": 1, "compile": "off"},
    }
    config = Config.resolve(given)
    model = SimpleNamespace(config=shape_of(config), dtype=torch.bfloat16)
    return prepare.fit_of(config, SimpleNamespace(name="base", model=model), EightGpus())  # type: ignore[arg-type]


def test_a_model_that_no_device_holds_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutOfMemory, match=r"operation\.shard=weights"):
        fit(tmp_path, monkeypatch, "optimizer")


def test_the_same_model_fits_where_its_weights_are_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fit(tmp_path, monkeypatch, "weights")
    assert found.rows == 1
    assert "weights divided" in found.key


def test_ranks_that_would_compute_differently_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    group = EightGpus()
    identity = Identity("f" * 64, {"computing": {"dtype": "torch.bfloat16"}})
    stages._require_alike(identity, group)
    monkeypatch.setattr(group, "gather", lambda value: [value, value + 1.0])
    with pytest.raises(BadInput, match="the ranks would not compute the same"):
        stages._require_alike(identity, group)
