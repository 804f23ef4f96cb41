"""The test cluster is what later tests take it for. Skips itself where no cluster is up."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(200)]

CLUSTER = Path(__file__).with_name("cluster.py")
STATE = Path(os.environ.get("NANOCHAT_CLUSTER_DIR", "/var/lib/nanochat-cluster"))
ACCOUNT = "--account=class-cse8990"


def slurm(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.25)
    return True


def state(job: str) -> str:
    return slurm("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").stdout.strip()


def in_state(job: str, wanted: str) -> Callable[[], bool]:
    return lambda: state(job) == wanted


@pytest.fixture
def cluster() -> None:
    if not shutil.which("scontrol") or slurm("scontrol", "ping").returncode:
        pytest.skip("no SLURM answers here: make cluster-up (NETWORK=none: cluster.py exec)")
    if not STATE.exists():
        pytest.skip("a SLURM answers, but it is not the test cluster")


@pytest.fixture
def submit(cluster: None, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """sbatch a shell command and give the job's id; cancelled after the test."""
    jobs: list[str] = []

    def sbatch(*options: str, command: str = "sleep 60") -> str:
        done = slurm("sbatch", "--parsable", f"--output={tmp_path}/%j.log", f"--chdir={tmp_path}",
                     ACCOUNT, "--time=5", *options, f"--wrap={command}")  # fmt: skip
        assert done.returncode == 0, done.stderr
        jobs.append(done.stdout.strip())
        return jobs[-1]

    yield sbatch
    slurm("scancel", *jobs)


def test_nodes_are_idle_with_eight_gpus_each(cluster: None) -> None:
    lines = slurm("sinfo", "-h", "-N", "-p", "gpu-a100", "-o", "%N %c %m %G").stdout.splitlines()
    assert lines == ["gpu01 128 1000000 gpu:a100:8", "gpu02 128 1000000 gpu:a100:8"]
    states = slurm("sinfo", "-h", "-N", "-o", "%T").stdout.split()
    assert set(states) <= {"idle", "mixed", "allocated"}


def test_unknown_account_is_refused(cluster: None) -> None:
    refused = slurm("sbatch", "--account=nobody", "--wrap=true")
    assert refused.returncode != 0
    assert "Invalid account" in refused.stderr


@pytest.mark.parametrize("partition", ["gpu-a100", "cpu"])
def test_job_over_twelve_hours_is_refused(cluster: None, partition: str) -> None:
    refused = slurm("sbatch", ACCOUNT, f"--partition={partition}", "--time=721", "--wrap=true")
    assert refused.returncode != 0
    assert re.search("time limit|Job violates accounting/QOS policy", refused.stderr)


def test_finished_job_is_in_the_accounting_and_the_epilog(submit: Callable[..., str]) -> None:
    job = submit("--job-name=ends", "--comment=rule_x", command="exit 3")
    columns = "--format=JobName,Account,QOS,State,ExitCode,Comment"
    expected = "ends|class-cse8990|class-cse8990|FAILED|3:0|rule_x"
    sacct = ("sacct", "-X", "-P", "-n", "-j", job, columns)
    assert until(lambda: slurm(*sacct).stdout.strip() == expected, 20), slurm(*sacct).stdout

    def lines() -> list[dict[str, str]]:
        known = (STATE / "epilog.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, known) if line["id"] == job]

    assert until(lambda: bool(lines()), 10)
    assert (lines()[0]["comment"], lines()[0]["exit_code2"]) == ("rule_x", "3:0")


def test_whole_node_runs_one_job(submit: Callable[..., str]) -> None:
    job = submit("--partition=gpu-a100", "--nodes=1", "--gpus-per-node=8", "--ntasks=128")
    assert until(in_state(job, "RUNNING"), 60), state(job)


def test_urgent_job_preempts_and_the_preempted_one_runs_again(
    submit: Callable[..., str], tmp_path: Path
) -> None:
    low = submit(
        "--partition=gpu-a100",
        "--nodelist=gpu01",
        "--gpus-per-node=8",
        command=f"echo run >> {tmp_path}/low; exec sleep 60",
    )
    assert until(in_state(low, "RUNNING"), 60), state(low)
    urgent = ("--partition=gpu-urgent", "--account=other", "--nodelist=gpu01", "--gpus-per-node=8")
    high = submit(*urgent, command="exec sleep 2")
    assert until(in_state(high, "RUNNING"), 60), state(high)
    assert state(low) == "PENDING"
    assert until(lambda: (tmp_path / "low").read_text() == "run\nrun\n", 40), state(low)


def test_requeued_job_runs_again_under_its_id(submit: Callable[..., str], tmp_path: Path) -> None:
    job = submit(command=f'echo "$SLURM_RESTART_COUNT" >> {tmp_path}/runs; exec sleep 60')
    runs = tmp_path / "runs"
    assert until(runs.exists, 30), state(job)
    assert slurm("scontrol", "requeue", job).returncode == 0
    assert until(lambda: runs.read_text() == "\n1\n", 40), state(job)


def test_four_tasks_on_two_nodes_know_who_they_are(cluster: None) -> None:
    say = (
        "import os, socket; node = os.environ['SLURMD_NODENAME']; socket.gethostbyname(node);"
        "print(os.environ['SLURM_PROCID'], node)"
    )
    ran = slurm("srun", ACCOUNT, "--partition=gpu-a100", "--nodes=2", "--ntasks=4", "--time=1",
                "--ntasks-per-node=2", "/usr/bin/python3", "-c", say)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert sorted(ran.stdout.splitlines()) == ["0 gpu01", "1 gpu01", "2 gpu02", "3 gpu02"]


def test_second_up_says_that_the_cluster_is_up(cluster: None) -> None:
    again = slurm(sys.executable, str(CLUSTER), "up")
    assert (again.returncode, again.stdout) == (0, "the cluster is up already\n"), again.stderr
