"""What the executor decides by itself; what it does to real jobs is in tests/slurm."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from nanochat.config import Config
from nanochat.errors import SlurmUnavailable
from nanochat.hpc import executor as module
from nanochat.hpc.executor import Executor, newest_checkpoint
from nanochat.hpc.slurm_text import SlurmJob, parse_squeue

RECORDED = Path(__file__).parent / "recorded"
JOB = next(job for file in RECORDED.glob("squeue*") for job in parse_squeue(file.read_text()))


class Asked:
    """Stands for SLURM: `jobs` are in the queue, or it does not answer."""

    def __init__(self) -> None:
        self.queued: list[list[SlurmJob] | SlurmUnavailable] = [[]]
        self.past: list[SlurmJob] | SlurmUnavailable = []

    def queued_jobs(self, name: str) -> list[SlurmJob]:
        answer = self.queued.pop(0) if len(self.queued) > 1 else self.queued[0]
        if isinstance(answer, SlurmUnavailable):
            raise answer
        return answer

    def past_jobs(self, name: str, since: object) -> list[SlurmJob]:
        if isinstance(self.past, SlurmUnavailable):
            raise self.past
        return self.past


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    slurm = Asked()
    monkeypatch.setattr(module.slurm, "queued_jobs", slurm.queued_jobs)
    monkeypatch.setattr(module.slurm, "past_jobs", slurm.past_jobs)
    return slurm


@pytest.fixture
def executor(tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """Our executor without the plugin's threads; refusals are answered at once."""
    monkeypatch.setattr(SlurmExecutor, "__init__", lambda self: None)
    monkeypatch.setattr(SlurmExecutor, "__post_init__", lambda self: None)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_QUERIES", 0.0)
    made = Executor()
    made.__post_init__()
    made.logger, made.run_uuid = logging.getLogger("test"), "nanochat-local-00000000"
    made.run_config = Config.resolve({"preset": "local", "paths": {"base_dir": str(tmp_path)}})
    made.reported = []
    monkeypatch.setattr(
        SlurmExecutor,
        "_report_job_error_threadsafe",
        lambda self, info, message: made.reported.append(message),
    )
    return made


def a_job() -> SimpleNamespace:
    rule = SimpleNamespace(name="base_train")
    return SimpleNamespace(
        jobid=1, name="base_train", rule=rule, attempt=1, restart_times=20, log=[]
    )


@pytest.fixture(autouse=True)
def no_wildcards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_job_wildcards", lambda job: "")


def refusing(monkeypatch: pytest.MonkeyPatch, *messages: str) -> list[str]:
    """sbatch refuses with these words, one a submission, and then takes the job."""
    left = list(messages)

    def run_job(self: Executor, job: object) -> None:
        if left:
            self._report_job_error_threadsafe(SubmittedJobInfo(job), left.pop(0))

    monkeypatch.setattr(SlurmExecutor, "run_job", run_job)
    return left


def test_a_busy_controller_is_asked_again(executor, monkeypatch) -> None:
    left = refusing(monkeypatch, "Socket timed out on send/recv", "Unable to contact slurm")
    job = a_job()
    executor.run_job(job)
    assert not left and not executor.reported and job.attempt == 1


def test_a_limit_on_jobs_is_waited_for_while_there_are_any(executor, monkeypatch) -> None:
    refusal = "Job violates accounting/QOS policy (job submit limit)"
    executor.submitted["7"] = SubmittedJobInfo(a_job())
    assert refusing(monkeypatch, refusal, refusal) == [refusal, refusal]
    executor.run_job(a_job())
    assert not executor.reported
    executor.submitted.clear()
    refusing(monkeypatch, refusal)
    executor.run_job(a_job())
    assert executor.reported == [refusal], "nothing will ever make room for it"


def test_another_refusal_is_final(executor, monkeypatch) -> None:
    refusing(monkeypatch, "Invalid account or account/partition combination specified")
    job = a_job()
    executor.run_job(job)
    assert len(executor.reported) == 1 and job.attempt > job.restart_times


def test_an_error_before_the_submission_is_reported(executor, asked) -> None:
    executor.stopping.set()
    asked.queued = [SlurmUnavailable("squeue gave no answer")]
    executor.run_job(a_job())
    assert executor.reported == ["squeue gave no answer"]


def test_a_job_that_is_just_ending_is_not_taken_over(executor, asked, monkeypatch) -> None:
    ending = replace(JOB, comment="rule_base_train", state="COMPLETING")
    asked.queued = [[ending], [replace(ending, state="CANCELLED")]]
    monkeypatch.setattr(executor.stopping, "wait", lambda seconds: False)
    assert executor._already_queued(a_job()) is None


def test_a_silent_slurm_changes_no_state(executor, asked) -> None:
    asked.queued = [SlurmUnavailable("busy")]
    assert executor._states(["7"]) == {}
    asked.queued, asked.past = [[]], SlurmUnavailable("sacct is not there")
    assert executor._states(["7"]) == {}


def test_a_job_that_nobody_knows_has_failed_in_the_end(executor, asked, monkeypatch) -> None:
    assert executor._states(["7"]) == {}
    monkeypatch.setattr(module, "PATIENCE_SECONDS", -1.0)
    assert executor._states(["7"]) == {"7": "FAILED"}
    asked.past = [replace(JOB, id="7", state="COMPLETED")]
    assert executor._states(["7"]) == {"7": "COMPLETED"}, "the accounting knows it"


def test_a_marker_that_is_written_again_is_seen_again(executor) -> None:
    executor.submitted["7"] = SubmittedJobInfo(a_job())
    assert not executor._a_command_ended()
    marker = executor.disk.ended / "7"
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert executor._a_command_ended()
    executor.ended["7"] = executor.ended["7"]._replace(seen=-1000.0)
    assert not executor._a_command_ended()
    marker.unlink()
    marker.touch()
    assert executor._a_command_ended()


def test_the_newest_checkpoint_is_found_while_others_vanish(executor, monkeypatch) -> None:
    folder = executor.disk.checkpoints("base") / "f" / "step-000001"
    folder.mkdir(parents=True)
    gone = executor.disk.checkpoints("base") / "f" / "step-000002"
    gone.symlink_to("nowhere")
    assert newest_checkpoint(executor.disk, "base_train") == folder.stat().st_mtime
    assert newest_checkpoint(executor.disk, "train_tokenizer") == 0.0


def test_ctrl_c_cancels_the_jobs_whose_state_is_being_asked_for(executor, monkeypatch) -> None:
    cancelled: list[SubmittedJobInfo] = []
    monkeypatch.setattr(SlurmExecutor, "cancel_jobs", lambda self, jobs: cancelled.extend(jobs))
    info = SubmittedJobInfo(a_job(), external_jobid="7")
    executor.submitted["7"] = info
    executor.cancel_jobs([])
    assert cancelled == [info]


def test_a_failed_state_that_slurm_requeues_is_left_alone(executor, asked) -> None:
    info = SubmittedJobInfo(a_job(), external_jobid="7")
    asked.queued = [[replace(JOB, id="7", state="NODE_FAIL")]]

    async def still_active() -> list[SubmittedJobInfo]:
        return [job async for job in executor.check_active_jobs([info])]

    assert asyncio.run(still_active()) == [info]
