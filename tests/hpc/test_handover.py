"""A workflow that starts while an earlier one's jobs are still in the queue."""

from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.config import Config
from nanochat.errors import BadInput
from nanochat.hpc.handover import require_same_config
from nanochat.hpc.slurm_text import SlurmJob, parse_squeue

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def running() -> SlurmJob:
    jobs = [job for file in RECORDED.glob("squeue*") for job in parse_squeue(file.read_text())]
    return replace(next(job for job in jobs if job.state == "RUNNING"), id="17", rule="base_train")


def config(**given: object) -> Config:
    return Config.resolve({"preset": "local", **given})


def filed(tmp_path: Path, earlier: Config) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(earlier.yaml())
    return path


def test_the_same_config_goes_on(tmp_path: Path, running: SlurmJob) -> None:
    require_same_config(filed(tmp_path, config()), config(), lambda: [running])


def test_how_training_operates_may_differ(tmp_path: Path, running: SlurmJob) -> None:
    now = config(operation={"save_every_minutes": 3})
    require_same_config(filed(tmp_path, config()), now, lambda: [running])


def test_another_config_waits_for_no_job(tmp_path: Path, running: SlurmJob) -> None:
    done = replace(running, state="COMPLETED")
    require_same_config(filed(tmp_path, config()), config(seed=7), lambda: [done])


@pytest.mark.parametrize("earlier", ["seed: 42", "no_such_key: 1", "seed: ["])
def test_another_config_is_refused_while_jobs_of_the_old_one_live(
    tmp_path: Path, running: SlurmJob, earlier: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(earlier)
    with pytest.raises(
        BadInput, match=r"1 jobs of an earlier workflow \(base_train\).*`scancel 17`"
    ):
        require_same_config(path, config(seed=7), lambda: [running])


def test_without_an_earlier_workflow_slurm_is_not_asked(tmp_path: Path) -> None:
    def ask() -> list[SlurmJob]:
        raise AssertionError

    require_same_config(tmp_path / "none.yaml", config(), ask)
