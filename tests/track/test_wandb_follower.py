"""Weights & Biases at arm's length: real offline runs, and a wandb that fails or hangs."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.track.journal import Journal
from nanochat.track.wandb_follower import follow, start_follower


def write_stage(journal: Journal, stage: str) -> None:
    for step in (1, 2):
        journal.write("step", stage=stage, step=step, loss=3.0 / step, lr_multiplier=1.0)
    journal.write("validation", stage=stage, step=2, bpb=2.0)
    journal.write("end", stage=stage, step=2)


def test_the_follower_yields_its_stage_up_to_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("step", stage="base", step=9)
    offset = journal.path.stat().st_size
    for stage in ("mid", "base"):
        write_stage(journal, stage)
    events = list(follow(journal.path, "base", offset, trainer=os.getpid()))
    assert [event["event"] for event in events] == ["step", "step", "validation", "end"]


def test_the_follower_ends_when_the_trainer_is_gone(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("step", stage="base", step=1)
    events = list(follow(journal.path, "base", 0, trainer=int(gone.stdout)))
    assert [event["step"] for event in events] == [1]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
@pytest.mark.parametrize("wanted", ["offline", "online"])
def test_an_offline_run_is_written_also_where_a_job_has_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    if wanted == "online":
        monkeypatch.setenv("WANDB_MODE", "offline")
    journal = Journal(tmp_path / "journal.jsonl")
    process = start_follower(journal.path, "base", "test", wanted, tmp_path / "wandb")
    write_stage(journal, "base")
    assert process.wait(timeout=120) == 0, (tmp_path / "wandb-base.log").read_text()
    files = list((tmp_path / "wandb").rglob("*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 0


@pytest.mark.parametrize(
    ("body", "ends"),
    [("raise RuntimeError('wandb is broken')", True), ("import time; time.sleep(600)", False)],
    ids=["fails", "hangs"],
)
def test_a_wandb_that_fails_or_hangs_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, ends: bool
) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    journal = Journal(tmp_path / "journal.jsonl")
    process = start_follower(journal.path, "base", "test", "offline", tmp_path / "wandb")
    write_stage(journal, "base")
    journal.close()  # all that training does is done, whatever the follower does
    if ends:
        assert process.wait(timeout=60) != 0
        assert "wandb is broken" in (tmp_path / "wandb-base.log").read_text()
    else:
        time.sleep(1.0)
        assert process.poll() is None
        process.kill()
        process.wait()
