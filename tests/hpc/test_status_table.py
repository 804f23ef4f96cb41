"""What `nanochat status` prints, against tests/hpc/golden/status.txt.

Refresh: python tests/hpc/test_status_table.py
"""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from nanochat.hpc.progress_of import Progress
from nanochat.hpc.status import StatusRow
from nanochat.hpc.status_table import print_status
from nanochat.hpc.survey import Status

GOLDEN = Path(__file__).parent / "golden" / "status.txt"
NOW = datetime(2026, 11, 22, 19, 55, 40, tzinfo=UTC)
LOGS = Path("/scratch/nanochat/runs/d20/logs")


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


ALERTS = (
    "the last save failed (2026-11-22 19:50): cannot write step-001800: the disk is full: free "
    "some space there, or set NANOCHAT_BASE_DIR elsewhere",
    "rank 5 on gpu02 is the slowest: 1.42 s a step where the median is 1.01 s",
)
TRAINING = Progress(1914, 5012, 512_345.6, 11_520.0, ago(hours=2), ago(seconds=2), False,
                    alerts=ALERTS)  # fmt: skip
STATUS = Status(
    run="d20",
    base_dir=Path("/scratch/nanochat"),
    job_name="nanochat-d20-0123abcd",
    at=NOW,
    notices=("SLURM could not be asked: sacct ended with exit code 1: Connection refused",),
    rows=(
        StatusRow("downloads", "done", ago(days=2), 241, 241),
        StatusRow("data", "running", ago(minutes=3), 250, 260, tuple("12345"), "cpu01,cpu02"),
        StatusRow("base_train", "running", ago(hours=2), 0, 1, ("1234",), "gpu[01-02]", 1,
                  progress=TRAINING),
        StatusRow("base_eval", "failed", ago(minutes=9), 0, 1, ("1236",), "gpu01", exit_code="2:0",
                  why="no bundle in /scratch/nanochat/eval_bundle: run `snakemake eval_bundle`",
                  log=LOGS / "base_eval.log"),
        StatusRow("mid_train", "queued", ago(minutes=5), 0, 1, ("1237",), requeued=3,
                  expected_start=NOW + timedelta(hours=1), why="others are ahead in the queue",
                  progress=Progress(40, 310, None, None, ago(hours=3), ago(hours=2), True)),
        StatusRow("chat_eval mid", "failed", ago(hours=1), 0, 1, ("1238",), "gpu02",
                  exit_code="0:125", why="it needed more memory than it had"),
        StatusRow("chat_sft", "interrupted", ago(hours=1), 0, 1,
                  progress=Progress(70, None, None, None, ago(hours=3), ago(hours=1), False)),
        StatusRow("chat_eval sft", "waiting", files=1),
        StatusRow("report", "waiting", files=1),
    ),
)  # fmt: skip


def printed() -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    print_status(STATUS, console)
    assert isinstance(console.file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())


def test_the_table_is_as_it_was() -> None:
    assert printed() == GOLDEN.read_text(), f"refresh: python {Path(__file__).name}"


def test_json_holds_the_same_rows() -> None:
    value = STATUS.to_json()
    assert [row["step"] for row in value["rows"]] == [row.step for row in STATUS.rows]
    training, failed = value["rows"][2], value["rows"][3]
    assert training["at"] == "2026-11-22T17:55:40+00:00"
    assert training["progress"]["eta_seconds"] == 11_520.0
    assert training["progress"]["alerts"] == list(ALERTS)
    assert failed["log"] == str(LOGS / "base_eval.log")


if __name__ == "__main__":
    GOLDEN.write_text(printed())
