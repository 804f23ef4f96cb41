"""Two processes never train into one folder; a lock never outlives its process."""

import subprocess
import sys
from pathlib import Path

import pytest

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
