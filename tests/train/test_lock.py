"""Two processes never train into one folder; a lock never outlives its process."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.errors import StoppedEarly
from nanochat.train import lock
from nanochat.train.checkpoints import CheckpointStore
from nanochat.train.lock import one_writer

HOLD = (
    "import sys, time; from pathlib import Path; from nanochat.train.lock import one_writer\n"
    "with one_writer(Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(float(sys.argv[2]))\n"
)


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds the folder's lock, once this returns."""
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_writer_waits_and_says_for_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(tmp_path, 1.5) as first, one_writer(tmp_path):
        assert first.wait(timeout=10) == 0
    assert f"process {first.pid} on" in capsys.readouterr().err


def test_a_killed_writer_leaves_no_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold(tmp_path, 600) as first:
        first.kill()
        first.wait()
    with one_writer(tmp_path):
        pass
    assert capsys.readouterr().err == ""


def test_the_lock_names_its_slurm_job_while_it_is_held(tmp_path: Path) -> None:
    with one_writer(tmp_path, "17"):
        assert (tmp_path / "lock").read_text().count(" in SLURM job 17 ") == 1
    assert (tmp_path / "lock").read_text() == ""


def test_a_lock_that_another_job_still_running_left_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where locks do not reach other nodes, the kernel grants this one at once."""
    monkeypatch.setattr(lock, "SECONDS_BETWEEN_QUERIES", 0.01)
    (tmp_path / "lock").write_text("process 4 on gpu02 in SLURM job 16\n")
    answers = [True, True, False]

    def is_running(job_id: str) -> bool:
        assert job_id == "16"
        return answers.pop(0)

    with one_writer(tmp_path, "17", is_running):
        assert answers == []
    assert "process 4 on gpu02 in SLURM job 16 is training into" in capsys.readouterr().err


def test_an_earlier_attempt_of_the_own_job_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 4 on gpu02 in SLURM job 17\n")
    with one_writer(tmp_path, "17", lambda _: True):
        pass


def test_slurm_that_gives_no_answer_is_taken_for_a_running_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not lock.may_be_running("16")  # no SLURM here
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nexit 1\n")
    squeue.chmod(0o755)
    assert lock.may_be_running("16")


def test_who_holds_the_lock_sees_that_another_node_took_it_over(tmp_path: Path) -> None:
    """As on a file system whose locks do not reach other nodes: the file is written by both."""
    with one_writer(tmp_path, "17", lambda job: False) as lock:
        assert lock.is_mine()
        (tmp_path / "lock").write_text("process 1 on gpu02 in SLURM job 17 since now\n")
        assert not lock.is_mine()
        store = CheckpointStore(tmp_path, "f" * 64, keep=2, may_write=lock.is_mine)
        with pytest.raises(StoppedEarly, match="another process has taken over"):
            store.save(3, {}, {})
    assert "gpu02" in (tmp_path / "lock").read_text(), "the other's name stays"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_leaves_the_job_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with one_writer(tmp_path, "17", lambda job: False):
        assert "SLURM job 17" in (tmp_path / "lock").read_text()
