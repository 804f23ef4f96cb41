"""`nanochat memory`, as its function on a config."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from nanochat.cli_memory import memory_command
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.memory import memory_plan


def memory(folder: Path, config: str, *options: str) -> Result:
    (folder / "config.yaml").write_text(f"paths: {{base_dir: {folder}/base}}\n{config}\n")
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(memory_command)
    return CliRunner().invoke(app, ["--config", str(folder / "config.yaml"), *options])


def test_a_gpu_that_is_given_needs_not_be_there(tmp_path: Path) -> None:
    said = memory(tmp_path, "preset: d20", "--ranks", "8", "--gpu-memory", "79.1").stdout
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0] == (
        "each of 8 ranks on a GPU of 79.1 GiB, bfloat16, compiled: 79.10 GiB, of which 71.19 are "
        "planned with"
    )
    assert {"weights 2.48", "optimizer, of a rank 0.46", "rows at a time GiB fits 71.19"} <= {
        *lines
    }
    assert "64 131.43 no" in lines and "32 69.08 yes" in lines
    assert lines[-3:] == [
        "base: a rank has 64 rows in a step; 32 at a time fit",
        "mid: a rank has 32 rows in a step; 32 at a time fit",
        "sft: a rank has 32 rows in a step; 32 at a time fit",
    ]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    said = memory(tmp_path, "preset: d20", "--ranks", "8", "--gpu-memory", "24").stdout
    assert "base: a rank has 64 rows in a step; 4 at a time fit, not the 32 of" in said
    said = memory(tmp_path, "preset: d20", "--ranks", "8", "--gpu-memory", "8").stdout
    assert "not even one at a time fits: lower model.depth, or take more memory" in said


def test_json_has_the_plan_in_bytes(tmp_path: Path) -> None:
    found = json.loads(memory(tmp_path, "preset: d12", "--gpu-memory", "40", "--json").stdout)
    plan = memory_plan(GPTConfig.from_depth(12), 1, 2, "cuda", compiled=True)
    assert found["plan"]["weights"] == plan.weights
    assert found["totals"]["16"] == plan.total(16)
    assert found["memory"] == 40 * 2**30
    assert found["stages"]["base"]["fitting_rows"] == 32


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_processor_is_planned_with_and_that_is_said(tmp_path: Path) -> None:
    config = "preset: local\noperation: {compile: 'off'}"
    said = memory(tmp_path, config).stdout
    assert said.startswith("1 rank on this machine's processor, ")
    assert said.endswith("for a GPU, give --gpu-memory and --ranks\n")
    one, four = (
        json.loads(memory(tmp_path, config, "--json", "--ranks", ranks).stdout)
        for ranks in ("1", "4")
    )
    assert four["memory"] == one["memory"] // 4
    assert [found["stages"]["base"]["asked_rows"] for found in (one, four)] == [8, 2]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_help_gives_the_units(tmp_path: Path) -> None:
    said = " ".join(memory(tmp_path, "preset: local", "--help").stdout.split())
    assert "GiB (2^30 bytes)" in said and "sizes in bytes" in said
