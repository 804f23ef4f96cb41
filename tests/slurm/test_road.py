"""The road on a real SLURM: each stage a job of its own, what is done is never done again."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cluster_run import ClusterRun, on_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(480)]

EXPECTED = {
    "rule_base_train": ("gpu-a100", 4, "256000M", 2),
    "rule_mid_train": ("gpu-a100", 4, "256000M", 2),
    "rule_chat_sft": ("gpu-a100", 4, "256000M", 2),
}


def accounted(run: ClusterRun) -> dict[str, str]:
    """Comment -> `partition|TRES|time limit` of the run's completed jobs."""
    text = on_cluster(
        "sacct", "-X", "-n", "-P", "-o", "JobName,State,Comment,Partition,AllocTRES,Timelimit"
    )
    rows = [line.split("|") for line in text.splitlines()]
    return {
        row[2]: "|".join(row[3:])
        for row in rows
        if row[0].startswith(f"nanochat-{run.name}-") and row[1] == "COMPLETED"
    }


def test_the_road_ends_with_a_report_with_no_network_and_5_mb_of_home(road: ClusterRun) -> None:
    report = road.base_dir / "report" / "road" / "report.md"
    assert "| Metric | Chance | BASE | MID | SFT |" in report.read_text()


def test_each_stage_was_a_job_with_what_the_profile_says(road: ClusterRun) -> None:
    jobs = accounted(road)
    training = "gpu-a100|billing=16,cpu=16,gres/gpu:a100=2,gres/gpu=2,mem=250G,node=1|00:31:00"
    evaluation = "gpu-a100|billing=8,cpu=8,gres/gpu:a100=1,gres/gpu=1,mem=125G,node=1|00:31:00"
    assert jobs["rule_base_train"] == training
    assert jobs["rule_mid_train"] == jobs["rule_chat_sft"] == training
    assert jobs["rule_base_eval"] == jobs["rule_chat_eval_wildcards_sft"] == evaluation
    assert jobs["rule_train_tokenizer"].startswith("cpu|billing=8,cpu=8,mem=32000M,node=1|04:00:00")
    assert not [comment for comment in jobs if "download" in comment or "report" in comment]


def test_a_second_run_has_nothing_to_do(road: ClusterRun) -> None:
    assert "Nothing to be done" in road.run("-n")


def test_deleting_the_sft_model_reruns_its_stage_only(road: ClusterRun) -> None:
    before = road.record("sft")["weights_sha256"]
    earlier = set(accounted(road))
    shutil.rmtree(road.base_dir / "models" / "road" / "sft")
    mark = len(road.output())
    road.run()
    printed = road.output()[mark:]
    submitted = {line.split(":")[0] for line in printed.splitlines() if line.startswith("rule ")}
    assert submitted == {"rule chat_sft", "rule chat_eval"}
    assert road.record("sft")["weights_sha256"] == before
    assert set(accounted(road)) == earlier


def test_every_stage_ran_offline(road: ClusterRun) -> None:
    """The cluster of CI has no network but loopback; elsewhere this shows the hubs' switches."""
    logs = (road.base_dir / "runs" / "road" / "slurm").rglob("*.log")
    assert all("Traceback" not in path.read_text() for path in logs)
    home = Path(road.variables["HOME"])
    used = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    assert used < 5_000_000, sys.platform


def test_status_says_what_is_done(road: ClusterRun) -> None:
    import subprocess

    command = [sys.executable, "-m", "nanochat", "status", "--config"]
    config = str(road.base_dir / "runs" / "road" / "config.yaml")
    environment = {**road.environment, "NANOCHAT_BASE_DIR": str(road.base_dir)}
    done = subprocess.run(
        [*command, config], cwd=road.folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "base_train" in done.stdout and "done" in done.stdout


def test_a_run_of_another_name_shares_text_tokenizer_and_rows(road: ClusterRun) -> None:
    output = replace(road, name="sharing").run("-n", "--until", "base_train")
    assert "rule base_train" in output
    assert "rule train_tokenizer" not in output and "rule tokenize_shard" not in output
