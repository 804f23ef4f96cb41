"""The road on the test cluster, run once: with no network but loopback and 5 MB of home."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster_run import CLUSTER, INSIDE, ClusterRun, copy_of_workflow


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skips where no cluster is up: `make cluster-up`."""
    answer = subprocess.run(
        [*INSIDE, "scontrol", "ping"], capture_output=True, text=True, timeout=60
    )
    if "is UP" not in answer.stdout:
        pytest.skip(f"needs the test cluster (make cluster-up): {' '.join(CLUSTER)} status")


@pytest.fixture(scope="session")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder on a file system of 5 MB."""
    home = tmp_path_factory.mktemp("home")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(home)], check=True)
    yield home
    subprocess.run(["umount", str(home)], check=True)


@pytest.fixture(scope="session")
def road(
    slurm: None, tmp_path_factory: pytest.TempPathFactory, english: list[str], small_home: Path
) -> ClusterRun:
    """The whole road from nothing to report.md, on one node with two ranks."""
    folder = tmp_path_factory.mktemp("cluster")
    copy_of_workflow(folder, english)
    run = ClusterRun(folder, "road", variables={"HOME": str(small_home)})
    run.run(seconds=420)
    return run


@pytest.fixture(scope="session")
def long_training(road: ClusterRun) -> ClusterRun:
    """A base training that takes longer than SLURM takes to notice things, undisturbed."""
    run = replace(road, name="long", steps=2000, variables={})
    run.run("--until", "base_train")
    return run


@pytest.fixture
def run(road: ClusterRun, request: pytest.FixtureRequest) -> Iterator[ClusterRun]:
    """Another run beside the finished road, sharing tokenizer and rows: base_train is next."""
    name = re.sub(r"\W+|_", "-", request.node.name).strip("-")[-40:].strip("-")
    run = replace(road, name=name, variables={})
    yield run
    jobs = [job_id for job_id, *_ in run.jobs(rule="rule_")]
    if jobs:
        subprocess.run([*INSIDE, "scancel", *jobs], check=False, timeout=60)
