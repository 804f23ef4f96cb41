"""The parsers, on what a real SLURM 22.05 printed (refresh: tests/hpc/record.py)."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.hpc.slurm_text import (
    FAILED_STATES,
    TERMINAL_STATES,
    WAITING_STATES,
    SlurmJob,
    parse_comment,
    parse_sacct,
    parse_squeue,
    parse_state,
    parse_time,
    parse_time_limit,
)

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(autouse=True)
def recorded_in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """sacct prints no zone: the recording machine's was UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def queued() -> dict[str, SlurmJob]:
    """Rule -> its job, of those recorded from squeue."""
    return {job.rule: job for job in parse_squeue((RECORDED / "squeue.txt").read_text())}


@pytest.fixture
def past() -> list[SlurmJob]:
    """The attempts recorded from sacct."""
    return parse_sacct((RECORDED / "sacct.txt").read_text())


# --- squeue -------------------------------------------------------------------------------------


def test_squeue_tells_every_state_apart(queued: dict[str, SlurmJob]) -> None:
    assert {rule: (job.state, job.reason) for rule, job in queued.items()} == {
        "chat_eval": ("COMPLETED", ""),
        "base_eval": ("FAILED", "NonZeroExitCode"),
        "mid_train": ("TIMEOUT", "TimeLimit"),
        "tokenize_shard": ("CANCELLED", ""),
        "chat_sft": ("PENDING", "Resources"),
        "report": ("PENDING", "BeginTime"),
        "chat_rows": ("PENDING", "JobHeldUser"),
        "base_train": ("RUNNING", ""),
    }


def test_squeue_gives_exit_codes_as_code_and_signal(queued: dict[str, SlurmJob]) -> None:
    assert queued["base_eval"].exit_code == "2:0"
    assert queued["tokenize_shard"].exit_code == "143:0"
    assert queued["chat_eval"].exit_code == "0:0"
    (killed,) = parse_squeue((RECORDED / "squeue.txt").read_text().splitlines()[0].replace(
        "|36608   |", "|15      |"
    ))  # fmt: skip
    assert killed.exit_code == "0:15"


def test_squeue_counts_requeues(queued: dict[str, SlurmJob]) -> None:
    counts = {rule: job.restarts for rule, job in queued.items() if job.restarts}
    assert counts == {"base_train": 1, "chat_sft": 1}


def test_squeue_gives_times_with_their_zone(queued: dict[str, SlurmJob]) -> None:
    job = queued["mid_train"]
    assert job.start is not None and job.start.tzinfo is not None and job.end is not None
    assert timedelta(minutes=1) <= job.end - job.start < timedelta(minutes=2)
    assert job.time_limit == timedelta(minutes=1)
    assert queued["chat_rows"].start is None


def test_squeue_gives_wildcards_nodes_gpus_and_folder(queued: dict[str, SlurmJob]) -> None:
    assert queued["tokenize_shard"].wildcards == "00003"
    assert (queued["base_train"].nodes, queued["report"].nodes) == ("cpu01", "")
    assert (queued["chat_sft"].gpus, queued["base_train"].gpus) == (8, 0)
    assert {job.work_dir for job in queued.values()} == {Path("/tmp")}
    assert {job.partition for job in queued.values()} == {"cpu", "gpu-a100"}


def test_jobs_that_wait_run_and_are_over_are_told_apart(queued: dict[str, SlurmJob]) -> None:
    assert {rule for rule, job in queued.items() if job.is_live} == {
        "chat_sft", "report", "chat_rows", "base_train"
    }  # fmt: skip
    assert {rule for rule, job in queued.items() if job.is_waiting} == {
        "chat_sft", "report", "chat_rows"
    }  # fmt: skip


def test_what_is_no_job_is_passed_over() -> None:
    assert parse_squeue("") == []
    assert parse_squeue("slurm_load_jobs error: oh | dear\n\n") == []


# --- sacct --------------------------------------------------------------------------------------


def test_sacct_gives_every_attempt_of_a_job(past: list[SlurmJob]) -> None:
    attempts = [job for job in past if job.rule == "base_train"]
    assert [(job.state, job.restarts) for job in attempts] == [("REQUEUED", 0), ("RUNNING", 1)]
    assert len({job.id for job in attempts}) == 1
    assert "PREEMPTED" in [job.state for job in past if job.rule == "chat_sft"]


def test_sacct_states_carry_no_user(past: list[SlurmJob]) -> None:
    (job,) = [job for job in past if job.rule == "tokenize_shard"]
    assert "CANCELLED by 0" in (RECORDED / "sacct.txt").read_text()
    assert (job.state, job.is_live) == ("CANCELLED", False)


def test_the_rule_of_a_running_job_comes_from_its_submit_line(past: list[SlurmJob]) -> None:
    lines = (RECORDED / "sacct.txt").read_text().splitlines()
    running = next(line for line in lines if "|RUNNING|" in line)
    assert running.split("|")[2] == ""  # accounts get the comment when the job ends
    assert "base_train" in [job.rule for job in past if job.state == "RUNNING"]


def test_sacct_and_squeue_agree(queued: dict[str, SlurmJob], past: list[SlurmJob]) -> None:
    accounts = {job.rule: job for job in past}
    for rule in ("chat_eval", "base_eval", "mid_train"):
        ours, theirs = queued[rule], accounts[rule]
        assert (ours.id, ours.state, ours.start, ours.end) == (
            theirs.id, theirs.state, theirs.start, theirs.end
        )  # fmt: skip
        assert ours.time_limit == theirs.time_limit and ours.nodes == theirs.nodes


def test_a_submit_line_may_hold_anything() -> None:
    line = (RECORDED / "sacct.txt").read_text().splitlines()[0]
    jobs = parse_sacct(f"{line} | more || of\nthe|submit\n||||||||||||||\nline\n{line}\n")
    assert [job.restarts for job in jobs] == [0, 1]


# --- fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "state"),
    [("CANCELLED by 1000", "CANCELLED"), ("RUNNING+", "RUNNING"), ("COMPLETED", "COMPLETED"),
     (" TIMEOUT \n", "TIMEOUT"), ("NODE_FAIL+", "NODE_FAIL"), ("", "")],
)  # fmt: skip
def test_a_state_loses_its_flags(text: str, state: str) -> None:
    assert parse_state(text) == state


@given(st.sampled_from(sorted(TERMINAL_STATES | WAITING_STATES)), st.integers(0, 2**32))
def test_any_user_may_cancel_and_any_state_may_be_cut_off(state: str, uid: int) -> None:
    assert parse_state(f"{state} by {uid}") == parse_state(f"{state}+") == state


@given(st.text())
def test_a_state_never_heard_of_goes_on(text: str) -> None:
    state = parse_state(text)
    assert state in TERMINAL_STATES or state not in FAILED_STATES | TERMINAL_STATES


@pytest.mark.parametrize("state", ["COMPLETING", "STAGE_OUT", "SUSPENDED", "STATE_OF_2031"])
def test_only_states_that_are_known_to_be_the_end_are_the_end(state: str) -> None:
    assert state not in TERMINAL_STATES


@pytest.mark.parametrize(
    ("text", "limit"),
    [("1:00", timedelta(minutes=1)), ("00:01:00", timedelta(minutes=1)),
     ("12:00:00", timedelta(hours=12)), ("2-03:00:00", timedelta(days=2, hours=3)),
     ("UNLIMITED", None), ("Partition_Limit", None), ("", None)],
)  # fmt: skip
def test_a_time_limit_is_a_span_or_none(text: str, limit: timedelta | None) -> None:
    assert parse_time_limit(text) == limit


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_every_time_limit_is_read_back(limit: timedelta) -> None:
    whole = int(limit.total_seconds())
    days, rest = divmod(whole, 86400)
    text = f"{days}-{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    assert parse_time_limit(text) == timedelta(seconds=whole)


def test_a_time_with_its_zone_is_that_instant() -> None:
    expected = datetime(2026, 11, 22, 18, 55, 40, tzinfo=UTC)
    assert parse_time("2026-11-22T19:55:40+0100") == expected
    naive = parse_time("2026-11-22T19:55:40")
    assert naive is not None and naive.tzinfo is not None


@pytest.mark.parametrize("text", ["N/A", "Unknown", "None", "NONE", "", "2026-11-22T19:55:4+"])
def test_no_time_is_none(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("comment", "rule", "wildcards"),
    [("rule_base_train", "base_train", ""), ("rule_chat_eval_wildcards_mid", "chat_eval", "mid"),
     ("rule_a_wildcards_x-1_y.z", "a", "x-1_y.z"), ("(null)", "", ""), ("my job", "", "")],
)  # fmt: skip
def test_a_comment_names_rule_and_wildcards(comment: str, rule: str, wildcards: str) -> None:
    assert parse_comment(comment) == (rule, wildcards)
