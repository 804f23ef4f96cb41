"""One test a situation that a step can be in, from real files."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nanochat.config import Config
from nanochat.hpc.log_tail import last_error
from nanochat.hpc.outcomes import Outcome
from nanochat.hpc.slurm_text import SlurmJob
from nanochat.hpc.status import StatusRow, Step, road, status_rows
from nanochat.track.journal import Journal, last_events

ROOT = Path(__file__).parents[2]
NOW = datetime.fromtimestamp(1_800_000_000).astimezone()


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def job(state: str, **given: Any) -> SlurmJob:
    fields: dict[str, Any] = dict(
        id="7", name="nanochat-demo-0123abcd", comment="rule_base_train", rule="base_train",
        wildcards="", state=state, reason="", nodes="", submit=ago(hours=2), start=None, end=None,
        time_limit=timedelta(hours=12), restarts=0, exit_code="0:0", partition="gpu-a100", gpus=8,
        work_dir=Path("/tmp"),
    )  # fmt: skip
    return SlurmJob(**{**fields, **given})


class Run:
    """A run's folder, with a base training that may have left a journal, a log and a record."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.record = folder / "record.json"
        self.step = Step("base_train", ("base_train",), (self.record,), folder / "logs",
                         stage="base")  # fmt: skip

    def trained(self, begun: datetime, step: int, steps: int, first: int = 0) -> None:
        """Journals an attempt: its start, and a step every two seconds."""
        journal = Journal(self.folder / "journal.jsonl")
        clock = begun.timestamp()
        self.monkeypatch.setattr(time, "time", lambda: clock)
        journal.write("start", stage="base", step=first, steps=steps)
        for number in range(first + 1, step + 1):
            clock += 2
            journal.write("step", stage="base", step=number, tokens_per_second=500.0)
        self.monkeypatch.undo()
        journal.close()

    def noted(self, event: str, at: datetime, **fields: Any) -> None:
        """Journals one more event."""
        journal = Journal(self.folder / "journal.jsonl")
        self.monkeypatch.setattr(time, "time", at.timestamp)
        journal.write(event, stage="base", **fields)
        self.monkeypatch.undo()
        journal.close()

    def wrote(self, path: Path, text: str, at: datetime) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (at.timestamp(), at.timestamp()))
        return path

    def log(self, text: str, at: datetime) -> Path:
        return self.wrote(self.folder / "logs" / "base_train.log", text, at)

    def row(
        self,
        *jobs: SlurmJob,
        outcome: Outcome | None = None,
        heartbeats: Sequence[Mapping[str, Any]] = (),
    ) -> StatusRow:
        events = last_events(self.folder / "journal.jsonl")
        outcomes = {outcome.job_id: outcome} if outcome else {}
        (row,) = status_rows([self.step], jobs, events, outcomes, NOW, {"base": heartbeats})
        return row


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


# --- without SLURM ------------------------------------------------------------------------------


def test_a_step_without_a_trace_waits(run: Run) -> None:
    assert run.row() == StatusRow("base_train", "waiting", files=1)


def test_a_step_is_done_when_its_files_are_there(run: Run) -> None:
    run.wrote(run.record, "{}", ago(hours=3))
    run.trained(ago(hours=4), step=5, steps=5)
    row = run.row()
    assert (row.state, row.at, row.files_done) == ("done", ago(hours=3), 1)


def test_a_training_with_a_fresh_step_runs(run: Run) -> None:
    run.trained(ago(seconds=240), step=100, steps=1000)
    row = run.row()
    assert (row.state, row.at) == ("running", ago(seconds=240))
    assert row.progress is not None
    assert (row.progress.step, row.progress.steps) == (100, 1000)
    assert row.progress.tokens_per_second == 500
    assert row.progress.eta_seconds == pytest.approx(2 * 900)


def test_a_training_without_a_fresh_step_is_interrupted(run: Run) -> None:
    run.trained(ago(seconds=400), step=100, steps=1000)
    row = run.row()
    assert (row.state, row.at) == ("interrupted", ago(seconds=200))
    assert row.progress is not None and row.progress.step == 100
    assert row.progress.eta_seconds is None and row.progress.tokens_per_second is None


def test_a_training_whose_log_ends_with_an_error_failed(run: Run) -> None:
    run.trained(ago(seconds=60), step=20, steps=1000)
    log = run.log("base step ...\nerror: base step 21: the loss is nan\n", ago(seconds=10))
    row = run.row()
    assert (row.state, row.why, row.log) == ("failed", "base step 21: the loss is nan", log)


def test_a_training_that_saved_and_stopped_is_interrupted_and_says_why(run: Run) -> None:
    run.trained(ago(seconds=60), step=20, steps=1000)
    run.noted("checkpoint", ago(seconds=15), step=20)
    run.log("error: SIGTERM stopped base training after step 20 of 1000\n", ago(seconds=10))
    row = run.row()
    assert (row.state, row.why[:15]) == ("interrupted", "SIGTERM stopped")


def test_a_training_that_has_just_stopped_does_not_run(run: Run) -> None:
    run.trained(ago(seconds=60), step=20, steps=1000)
    run.noted("stop", ago(seconds=15), step=20, reason="SIGINT", requeued=False)
    row = run.row()
    assert (row.state, row.at, row.why) == ("interrupted", ago(seconds=15), "stopped: SIGINT")


def test_a_training_that_failed_after_a_save_of_an_earlier_step_failed(run: Run) -> None:
    run.trained(ago(seconds=60), step=20, steps=1000)
    run.noted("checkpoint", ago(seconds=15), step=17)
    run.log("error: base step 21: the loss is nan\n", ago(seconds=10))
    assert run.row().state == "failed"


def test_a_running_training_tells_its_alerts(run: Run) -> None:
    run.trained(ago(seconds=60), step=20, steps=1000)
    run.noted("spike", ago(seconds=15), step=20, loss=9.0, median=3.0, score=20.0)
    standing = {"rank": 3, "host": "gpu07", "section": "data", "since": 240.0, "waits": False}
    row = run.row(heartbeats=[{**standing, "time": NOW.timestamp()}])
    assert row.progress is not None
    assert row.progress.alerts == (
        "1 loss spike, the last at step 20",
        "rank 3 on gpu07: in data for 240 s",
    )


def test_a_job_that_loads_is_not_said_to_stand_where_its_killed_predecessor_did(run: Run) -> None:
    run.trained(ago(minutes=60), step=200, steps=1000)
    standing = {"rank": 3, "host": "gpu07", "section": "data", "since": 9.0, "waits": False}
    row = run.row(
        job("RUNNING", nodes="gpu01", start=ago(minutes=1), restarts=1),
        heartbeats=[{**standing, "time": ago(minutes=50).timestamp()}],
    )
    assert row.progress is not None and row.progress.alerts == ()


def test_a_training_that_does_not_run_has_no_alerts(run: Run) -> None:
    run.trained(ago(minutes=60), step=20, steps=1000)
    run.noted("spike", ago(minutes=50), step=20, loss=9.0, median=3.0, score=20.0)
    standing = {"rank": 3, "host": "gpu07", "section": "data", "since": 240.0, "waits": False}
    row = run.row(heartbeats=[{**standing, "time": ago(minutes=50).timestamp()}])
    assert row.state == "interrupted"
    assert row.progress is not None and row.progress.alerts == ()


def test_the_error_of_an_attempt_before_is_not_this_ones(run: Run) -> None:
    run.log("error: the disk is full\n", ago(hours=3))
    run.trained(ago(seconds=60), step=20, steps=1000)
    assert run.row().state == "running"


def test_a_step_with_a_fresh_log_runs_before_its_first_event(run: Run) -> None:
    run.log("loading\n", ago(seconds=30))
    assert run.row().state == "running"
    run.log("loading\n", ago(minutes=30))
    assert run.row().state == "waiting"


def test_the_last_line_of_a_traceback_is_an_error(run: Run) -> None:
    run.log("Traceback (most recent call last):\n  File ...\nValueError: 7\n", ago(days=1))
    row = run.row()
    assert (row.state, row.why) == ("failed", "ValueError: 7")


# --- with SLURM ---------------------------------------------------------------------------------


def test_a_queued_job_says_why_it_waits_and_until_when(run: Run) -> None:
    row = run.row(job("PENDING", reason="Priority", start=NOW + timedelta(hours=1)))
    assert (row.state, row.jobs, row.at) == ("queued", ("7",), ago(hours=2))
    assert row.why == "others are ahead in the queue"
    assert row.expected_start == NOW + timedelta(hours=1)


def test_a_requeued_job_is_queued_with_the_progress_it_has(run: Run) -> None:
    run.trained(ago(hours=1), step=20, steps=1000)
    row = run.row(job("PENDING", reason="BeginTime", restarts=2))
    assert (row.state, row.requeued) == ("queued", 2)
    assert row.progress is not None and row.progress.step == 20
    assert row.progress.eta_seconds is None


def test_a_running_job_tells_node_time_and_progress(run: Run) -> None:
    run.trained(ago(minutes=10), step=200, steps=1000)
    row = run.row(job("RUNNING", nodes="gpu01", start=ago(minutes=11)))
    assert (row.state, row.nodes, row.at) == ("running", "gpu01", ago(minutes=11))
    assert row.progress is not None and row.progress.eta_seconds == pytest.approx(1600)


def test_a_running_job_does_not_boast_of_the_attempt_before_it(run: Run) -> None:
    run.trained(ago(minutes=60), step=200, steps=1000)
    row = run.row(job("RUNNING", nodes="gpu01", start=ago(minutes=1), restarts=1))
    assert (row.state, row.requeued) == ("running", 1)
    assert row.progress is not None
    assert (row.progress.step, row.progress.eta_seconds) == (200, None)


def test_a_job_in_a_state_never_heard_of_runs(run: Run) -> None:
    assert run.row(job("QUANTUM_HOLD", start=ago(minutes=1))).state == "running"


def test_a_job_that_makes_the_files_again_runs_though_they_are_there(run: Run) -> None:
    run.wrote(run.record, "{}", ago(hours=3))
    assert run.row(job("RUNNING", start=ago(minutes=1))).state == "running"


def test_a_failed_job_is_explained_by_its_outcome(run: Run) -> None:
    log = run.log("whatever\n", ago(minutes=5))
    failed = job("FAILED", start=ago(hours=1), end=ago(minutes=5), exit_code="1:0", nodes="gpu01")
    outcome = Outcome("7", "train base", 77, "the loss is nan", ago(minutes=5).timestamp())
    row = run.row(failed, outcome=outcome)
    assert (row.state, row.why, row.exit_code) == ("failed", "the loss is nan", "77:0")
    assert (row.log, row.jobs, row.at) == (log, ("7",), ago(minutes=5))


def test_a_failed_job_without_an_outcome_is_explained_by_its_log(run: Run) -> None:
    run.log("error: no tokenizer\n", ago(minutes=5))
    row = run.row(job("FAILED", start=ago(hours=1), end=ago(minutes=5), exit_code="2:0"))
    assert (row.state, row.why, row.exit_code) == ("failed", "no tokenizer", "2:0")


def test_a_killed_job_is_explained_by_slurm(run: Run) -> None:
    run.trained(ago(minutes=60), step=200, steps=1000)
    row = run.row(job("OUT_OF_MEMORY", start=ago(hours=1), end=ago(minutes=50), exit_code="0:125"))
    assert (row.state, row.exit_code) == ("failed", "0:125")
    assert row.why == "it needed more memory than it had"
    assert row.progress is not None and row.progress.step == 200


def test_the_outcome_of_an_attempt_before_does_not_explain_a_timeout(run: Run) -> None:
    earlier = Outcome("7", "train base", 75, "stopped", ago(hours=5).timestamp())
    row = run.row(job("TIMEOUT", start=ago(hours=1), end=ago(minutes=5)), outcome=earlier)
    assert (row.state, row.why) == ("failed", "its time was up")


@pytest.mark.parametrize("code", [75, 76, 93])
def test_a_job_that_stopped_with_a_checkpoint_is_interrupted(run: Run, code: int) -> None:
    stopped = Outcome("7", "train base", code, "SIGUSR1 stopped it", ago(minutes=5).timestamp())
    row = run.row(job("FAILED", start=ago(hours=1), end=ago(minutes=5)), outcome=stopped)
    assert (row.state, row.why) == ("interrupted", "SIGUSR1 stopped it")


def test_the_newest_of_several_failures_counts(run: Run) -> None:
    first = job("TIMEOUT", id="6", start=ago(hours=9), end=ago(hours=8))
    row = run.row(job("NODE_FAIL", start=ago(hours=2), end=ago(hours=1)), first)
    assert (row.jobs, row.why) == (("7",), "its node failed")


def test_a_local_training_after_a_failed_job_runs(run: Run) -> None:
    run.trained(ago(seconds=60), step=20, steps=1000)
    assert run.row(job("FAILED", start=ago(hours=9), end=ago(hours=8))).state == "running"


def test_a_job_of_another_rule_changes_nothing(run: Run) -> None:
    assert run.row(job("RUNNING", rule="mid_train")).state == "waiting"


def test_wildcards_tell_two_lines_of_one_rule_apart(tmp_path: Path) -> None:
    mid, sft = (
        Step(f"chat_eval {stage}", ("chat_eval",), (tmp_path / stage,), tmp_path, wildcards=stage)
        for stage in ("mid", "sft")
    )
    running = job("RUNNING", rule="chat_eval", wildcards="sft")
    rows = status_rows([mid, sft], [running], [], {}, NOW)
    assert [row.state for row in rows] == ["waiting", "running"]


def test_several_rules_of_a_line_are_summed(tmp_path: Path) -> None:
    files = tuple(tmp_path / f"shard_{n}.json" for n in range(4))
    files[0].touch()
    step = Step("data", ("tokenize_shard", "train_tokenizer"), files, tmp_path / "logs")
    running = [job("RUNNING", id=str(n), rule="tokenize_shard", wildcards=f"0000{n}",
                   nodes=f"cpu0{n}", start=ago(minutes=n)) for n in (1, 2)]  # fmt: skip
    queued = job("PENDING", id="3", rule="tokenize_shard", wildcards="00003")
    (row,) = status_rows([step], [*running, queued], [], {}, NOW)
    assert (row.state, row.files_done, row.files) == ("running", 1, 4)
    assert (row.jobs, row.nodes, row.at) == (("1", "2"), "cpu01,cpu02", ago(minutes=2))


def test_the_log_of_a_failed_shard_is_found(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "tokenize_shard" / "00003.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: shard 3 is damaged\n")
    step = Step("data", ("tokenize_shard",), (tmp_path / "x",), tmp_path / "logs")
    failed = job("FAILED", rule="tokenize_shard", wildcards="00003", exit_code="2:0")
    (row,) = status_rows([step], [failed], [], {}, NOW)
    assert (row.state, row.log) == ("failed", log)


def test_every_rule_of_the_workflow_is_on_a_line() -> None:
    text = "".join(file.read_text() for file in (ROOT / "workflow" / "rules").glob("*.smk"))
    rules = set(re.findall(r"^ *rule (\w+):", text, re.MULTILINE))
    lines = road(Config.resolve({}).disk, [], [], downloads=[Path("x")])
    assert rules == {rule for line in lines for rule in line.rules}


def test_the_error_of_a_rank_that_was_left_alone_is_not_the_cause(tmp_path: Path) -> None:
    log = tmp_path / "base_train.log"
    alone = "error: rank 1 of 2 lost the others (closed): see which rank failed first"
    log.write_text(f"error: cannot write x: the disk is full\n{alone}\nsrun: error: exit code 2\n")
    assert last_error(log) == "cannot write x: the disk is full"
    log.write_text(f"{alone}\n")
    assert last_error(log).startswith("rank 1 of 2 lost the others")
