"""SLURM's commands: the boundary with real processes, the rest on a real SLURM where one is up."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from nanochat.errors import SlurmUnavailable
from nanochat.hpc import slurm


def fake(folder: Path, name: str, script: str) -> None:
    """A command of SLURM's that does what a shell script says."""
    command = folder / name
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is looked for commands first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


# --- names --------------------------------------------------------------------------------------


def test_two_spellings_of_a_folder_give_one_job_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    names = {slurm.job_name("d20", Path(p)) for p in ("real", "link", "./link/../real")}
    assert names == {slurm.job_name("d20", tmp_path / "real")}


def test_job_name_is_run_and_eight_hex_digits_of_the_folder() -> None:
    name = slurm.job_name("d20", Path("/nowhere"))
    assert name.startswith("nanochat-d20-") and int(name[-8:], 16) >= 0
    assert name != slurm.job_name("d20", Path("/elsewhere"))


# --- the boundary -------------------------------------------------------------------------------


def test_a_missing_command_is_one_sentence() -> None:
    with pytest.raises(SlurmUnavailable, match=r"cannot run squeue-of-mars \(No such file"):
        slurm.run(["squeue-of-mars"])


def test_a_command_that_fails_is_quoted() -> None:
    with pytest.raises(SlurmUnavailable, match=r"^sh ended with exit code 3: no controller$"):
        slurm.run(["sh", "-c", "echo first >&2; echo no controller >&2; exit 3"])


def test_a_command_that_hangs_is_given_up() -> None:
    start = time.monotonic()
    with pytest.raises(SlurmUnavailable, match=r"sleep gave no answer in 0\.2 s"):
        slurm.run(["sleep", "30"], timeout=0.2)
    assert time.monotonic() - start < 10


def test_a_users_own_squeue_settings_do_not_reach_squeue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    environment = slurm.run(["env"])
    assert "SQUEUE_" not in environment and "SACCT_" not in environment
    assert f"SLURM_TIME_FORMAT={slurm.TIME_FORMAT}" in environment


def test_past_jobs_are_none_where_accounting_is_off(commands: Path) -> None:
    fake(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert slurm.past_jobs("x", datetime.now()) == []


def test_past_jobs_say_that_the_accounts_cannot_be_reached(commands: Path) -> None:
    said = "sacct: error: Problem talking to the database: Connection refused"
    fake(commands, "sacct", f"echo '{said}' >&2; exit 1")
    with pytest.raises(SlurmUnavailable, match="Problem talking to the database"):
        slurm.past_jobs("x", datetime.now())


@pytest.mark.parametrize(
    ("state", "running"),
    [("RUNNING", True), ("COMPLETING", True), ("PENDING", False), ("TIMEOUT", False),
     ("REQUEUE_HOLD", False), ("A_NEW_STATE", True), ("", False)],
)  # fmt: skip
def test_a_job_is_running_while_it_may_have_processes(
    commands: Path, state: str, running: bool
) -> None:
    fake(commands, "squeue", f"echo '{state}'")
    assert slurm.job_is_running("7") is running


def test_a_forgotten_job_is_not_running(commands: Path) -> None:
    fake(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert not slurm.job_is_running("7")


def test_whether_a_job_runs_is_unknown_while_slurm_is_down(commands: Path) -> None:
    fake(commands, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmUnavailable, match="Unable to contact"):
        slurm.job_is_running("7")


# --- a real SLURM -------------------------------------------------------------------------------


@pytest.fixture
def submit() -> Iterator[Callable[..., str]]:
    """Submits a job to the real SLURM; what is left of it is cancelled after the test."""
    ping = ["scontrol", "ping"]
    if not shutil.which("scontrol") or subprocess.run(ping, capture_output=True).returncode:
        pytest.skip("needs a SLURM: `make cluster-up` starts one")
    jobs: list[str] = []

    def sbatch(name: str, *options: str, command: str = "sleep 60") -> str:
        argv = ["sbatch", "--parsable", "--account=class-cse8990", "--partition=cpu", "--mem=10",
                "--time=5", "--chdir=/tmp", "--output=/dev/null", f"--job-name={name}"]  # fmt: skip
        done = subprocess.run(
            [*argv, *options, f"--wrap={command}"], check=True, capture_output=True, text=True
        )
        jobs.append(done.stdout.strip())
        return jobs[-1]

    yield sbatch
    subprocess.run(["scancel", *jobs], check=False)


def until(condition: Callable[[], bool], seconds: float = 40) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


@pytest.mark.slurm
def test_a_submitted_job_is_queued_under_its_name_and_rule(submit: Callable[..., str]) -> None:
    job_id = submit("nanochat-one-00000000", "--comment=rule_chat_eval_wildcards_mid")
    submit("nanochat-two-00000000")
    (job,) = slurm.queued_jobs("nanochat-one-00000000")[-1:]
    assert (job.id, job.rule, job.wildcards) == (job_id, "chat_eval", "mid")
    assert job.time_limit == timedelta(minutes=5) and job.work_dir == Path("/tmp")
    assert job_id in {job.id for job in slurm.queued_jobs("nanochat-one*")}
    assert "nanochat-two-00000000" not in {job.name for job in slurm.queued_jobs("nanochat-one*")}


@pytest.mark.slurm
def test_a_running_job_is_requeued(submit: Callable[..., str]) -> None:
    job_id = submit("nanochat-req-00000000", "--comment=rule_base_train")
    assert until(lambda: slurm.job_is_running(job_id))
    slurm.requeue(job_id)
    again = next(job for job in slurm.queued_jobs("nanochat-req-00000000") if job.id == job_id)
    assert again.restarts == 1 and again.is_live


@pytest.mark.slurm
def test_a_failed_job_is_in_the_accounts(submit: Callable[..., str]) -> None:
    since = datetime.now() - timedelta(minutes=1)
    job_id = submit("nanochat-bad-00000000", "--comment=rule_report", command="exit 3")

    def filed() -> bool:
        past = slurm.past_jobs("nanochat-bad-00000000", since)
        return any((j.id, j.state, j.exit_code) == (job_id, "FAILED", "3:0") for j in past)

    assert until(filed)


@pytest.mark.slurm
def test_slurm_knows_no_job_of_a_number_never_given(submit: Callable[..., str]) -> None:
    assert not slurm.job_is_running("99999999")
    with pytest.raises(SlurmUnavailable, match="Invalid job id"):
        slurm.requeue("99999999")
