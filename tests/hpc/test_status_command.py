"""`nanochat status` as a process: what a person sees on a login node, a laptop, or in trouble."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.config import Config
from nanochat.paths import Paths
from nanochat.track.journal import Journal

NANOCHAT = Path(sys.executable).parent / "nanochat"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def disk(tmp_path: Path) -> Paths:
    """Where a run named `demo` lies; its config is in tmp_path."""
    (tmp_path / "config.yaml").write_text(f"run: demo\npaths: {{base_dir: {tmp_path}/base}}\n")
    return Config.resolve({"run": "demo", "paths": {"base_dir": f"{tmp_path}/base"}}).disk


@pytest.fixture
def status(tmp_path: Path) -> Run:
    def run(*options: str, path: str = "") -> "subprocess.CompletedProcess[str]":
        command = [str(NANOCHAT), "status", "--config", str(tmp_path / "config.yaml"), *options]
        environment = {**os.environ, "PATH": path, "COLUMNS": "100"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


def rows(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {row["step"]: row for row in json.loads(done.stdout)["rows"]}


def test_a_run_never_started_waits_and_says_where_it_looked(status: Run, disk: Paths) -> None:
    done = status()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"run demo has not been started in {disk.base_dir}" in done.stdout.replace("\n", " ")
    assert "SLURM" not in done.stdout
    assert {row["state"] for row in rows(status("--json")).values()} == {"waiting"}


def test_a_local_run_in_the_middle_is_told_without_slurm(status: Run, disk: Paths) -> None:
    names = [f"{number:05d}" for number in range(5)]
    layout = [of(name) for name in names for of in (disk.shard_record, disk.rows_record)]
    bundle = disk.eval_bundle / "core.yaml"
    chat = [disk.chat_rows(stage).with_suffix(".json") for stage in ("mid", "sft")]
    made = [*layout, *chat, disk.tokenizer_file, disk.compression, bundle]
    made += [disk.task_manifest, disk.identity_record]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    journal = Journal(disk.journal)
    journal.write("start", stage="base", step=0, steps=40)
    for step in range(1, 11):
        journal.write("step", stage="base", step=step, tokens_per_second=1234.5)
    found = rows(status("--json"))
    assert [row["state"] for row in found.values()] == ["done", "running", *["waiting"] * 6]
    assert found["base_train"]["progress"]["step"] == 10
    printed = status().stdout
    assert "step 10 of 40, 1,234 tok/s" in printed
    assert "data           done" in printed


def test_a_slurm_that_does_not_answer_is_said_in_one_line(
    status: Run, disk: Paths, tmp_path: Path
) -> None:
    for name in ("squeue", "sacct"):
        (tmp_path / name).write_text("#!/bin/sh\necho Unable to contact controller >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    disk.stage("base").mkdir(parents=True)
    (disk.stage("base") / "record.json").touch()
    done = status("--json", path=str(tmp_path))
    assert rows(done)["base_train"]["state"] == "done"
    notices = json.loads(done.stdout)["notices"]
    assert "SLURM could not be asked: squeue ended with exit code 1: Unable" in notices[0]


def test_a_big_journal_costs_no_time(status: Run, disk: Paths) -> None:
    disk.run.mkdir(parents=True)
    event = {"event": "step", "time": time.time(), "stage": "base", "tokens_per_second": 1.0}
    with open(disk.journal, "w") as handle:
        start = {"event": "start", "time": time.time(), "stage": "base", "step": 0, "steps": 10**6}
        handle.write(json.dumps(start) + "\n")
        for step in range(200_000):
            handle.write(json.dumps({**event, "step": step}) + "\n")
    progress = rows(status("--json"))["base_train"]["progress"]
    assert (progress["step"], progress["steps"]) == (199_999, 10**6)


def test_status_loads_no_torch() -> None:
    script = (
        "import sys, nanochat.hpc.survey, nanochat.hpc.status_table, nanochat.track.journal; "
        "sys.exit(bool({'torch', 'snakemake', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
