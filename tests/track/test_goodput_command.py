"""`nanochat goodput`, as its function and on a journal on disk."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from nanochat.cli_goodput import goodput_command
from nanochat.config import Config
from nanochat.errors import MissingArtefact
from nanochat.paths import Paths


@pytest.fixture
def disk(tmp_path: Path) -> Paths:
    (tmp_path / "config.yaml").write_text(f"run: demo\npaths: {{base_dir: {tmp_path}/base}}\n")
    return Config.resolve({"run": "demo", "paths": {"base_dir": f"{tmp_path}/base"}}).disk


def goodput(disk: Paths, *options: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(goodput_command)
    config = str(disk.base_dir.parent / "config.yaml")
    return CliRunner().invoke(app, ["--config", config, *options])


def write_journal(disk: Paths, stages: tuple[str, ...] = ("base", "mid")) -> None:
    """Four seconds of loading, six steps of a second, and half a second of saving."""
    events = []
    for stage in stages:
        about = {"stage": stage, "training": stage}
        start = {"event": "start", **about, "process_started": 1000.0}
        events.append({**start, "time": 1004.0, "step": 0})
        for step in range(1, 7):
            events.append({"event": "step", **about, "time": 1004.0 + step, "step": step,
                           "seconds": 1.0})  # fmt: skip
        events.append({"event": "checkpoint", **about, "time": 1010.5, "step": 6,
                       "seconds": 0.5, "stall_seconds": 0.5})  # fmt: skip
        events.append({"event": "end", **about, "time": 1010.5, "step": 6})
    disk.journal.parent.mkdir(parents=True)
    disk.journal.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_every_stage_that_has_begun_is_shown(disk: Paths) -> None:
    write_journal(disk)
    shown = goodput(disk).stdout.splitlines()
    assert shown[0].split() == ["base", "mid"]
    rows = {line.split("  ")[0]: line.split() for line in shown[1:]}
    assert rows["useful"][1:] == ["6s", "57.1", "%", "6s", "57.1", "%"]
    assert rows["start"][1:] == ["4s", "38.1", "%", "4s", "38.1", "%"]
    assert rows["wall time"][2:] == ["10s", "100.0", "%", "10s", "100.0", "%"]
    assert "base: goodput 57.1 %" in shown
    assert any(
        line.startswith("mid: checkpoint interval: 30 s now; 4.9 min would") for line in shown
    )


def test_json_holds_the_seconds_of_every_part(disk: Paths) -> None:
    write_journal(disk)
    shown = json.loads(goodput(disk, "--json", "--stage", "mid").stdout)
    assert list(shown) == ["mid"]
    assert sum(shown["mid"]["seconds"].values()) == pytest.approx(shown["mid"]["wall"])
    assert shown["mid"]["seconds"]["save"] == pytest.approx(0.5)
    assert shown["mid"]["advice"]["save_cost"] == pytest.approx(0.5)


def test_what_has_not_begun_is_said_in_one_sentence(disk: Paths) -> None:
    missing = goodput(disk).exception
    assert isinstance(missing, MissingArtefact) and "no journal" in str(missing)
    write_journal(disk, ("base",))
    missing = goodput(disk, "--stage", "sft").exception
    assert isinstance(missing, MissingArtefact)
    assert "has no training of stage sft yet" in str(missing)
