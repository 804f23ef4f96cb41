"""A training that is killed over and over ends with the bits of one that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nanochat.train.checkpoint_diff import differences
from nanochat.train.checkpoints import Checkpoint, read_checkpoint
from srun_tasks import free_job_ids

SCRIPT = Path(__file__).with_name("killed_stages.py")
KILLS = 5
BEFORE = {"mid": "base", "sft": "mid"}


def launch(folder: Path, *trainings: str) -> list[tuple[list[int], int]]:
    """Runs trainings `run:stage:ranks:kill_at` one after the other."""
    specs = []
    for training, job_id in zip(trainings, free_job_ids(), strict=False):
        run, stage, ranks, kill_at = training.split(":")
        specs.append(f"{run}:{stage}:{ranks}:{job_id}:{kill_at}")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "exact.yaml", *specs],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": "", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return [(codes, sections) for codes, sections in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def folder(road, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A copy of the finished road, whose trainings accumulate, validate and save often."""
    folder = tmp_path_factory.mktemp("exact") / "road"
    shutil.copytree(road.folder, folder, symlinks=True)
    os.environ.pop("NANOCHAT_BASE_DIR", None)
    resolved = folder / ".nanochat" / "runs" / "local" / "config.yaml"
    config = yaml.safe_load(resolved.read_text())
    config["operation"] |= {
        "device_rows": 2,
        "validate_every_steps": 3,
        "save_every_minutes": 0.002,
    }
    (folder / "exact.yaml").write_text(yaml.safe_dump(config))
    return folder


def prepare(folder: Path, run: str, stage: str) -> None:
    """Gives a run of its own name what the stage reads."""
    base_dir = folder / ".nanochat"
    for kind in ("task_data", "models"):
        (base_dir / kind / run).mkdir(parents=True, exist_ok=True)
    rows = base_dir / "task_data" / run / "rows"
    if not rows.exists():
        rows.symlink_to(base_dir / "task_data" / "local" / "rows")
    if stage in BEFORE:
        before = base_dir / "models" / run / BEFORE[stage]
        before.symlink_to(base_dir / "models" / "local" / BEFORE[stage])


def last_checkpoint(folder: Path, run: str, stage: str) -> Checkpoint:
    checkpoints = folder / ".nanochat" / "checkpoints" / run / stage
    (found,) = checkpoints.glob("*/step-*")
    return read_checkpoint(found)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", ["base", "mid", "sft"])
def test_a_stage_killed_at_five_random_points_ends_with_the_same_bits(
    folder: Path, stage: str, ranks: int
) -> None:
    straight, killed = f"straight-{stage}-{ranks}", f"killed-{stage}-{ranks}"
    for run in (straight, killed):
        prepare(folder, run, stage)
    ((codes, sections),) = launch(folder, f"{straight}:{stage}:{ranks}:0")
    assert codes == [0] * ranks
    points = kill_points(sections, seed=f"{stage}{ranks}")
    kills = [f"{killed}:{stage}:{ranks}:{point}" for point in points]
    *interrupted, (codes, _) = launch(folder, *kills, f"{killed}:{stage}:{ranks}:0")
    assert [codes_ for codes_, _ in interrupted] == [[-signal.SIGKILL] * ranks] * KILLS
    assert codes == [0] * ranks
    one, other = (last_checkpoint(folder, run, stage) for run in (straight, killed))
    assert one.step == other.step
    of_tensors = [
        found for found in differences(one, other) if found.kind in one.manifest["tensors"]
    ]
    assert of_tensors == []
    records = [
        json.loads((folder / ".nanochat" / "models" / run / stage / "record.json").read_text())
        for run in (straight, killed)
    ]
    assert records[0]["weights_sha256"] == records[1]["weights_sha256"]
    for name in ("train_loss", "validation_bpb", "tokens", "steps"):
        assert records[0]["result"][name] == records[1]["result"][name], name


def kill_points(sections: int, seed: str) -> list[int]:
    """Where each attempt is killed, counted from its own start: all five before the last step."""
    drawn = random.Random(seed)
    return [drawn.randint(1, sections // KILLS) for _ in range(KILLS)]
