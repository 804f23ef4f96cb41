"""What status says of a training that runs and should be looked after."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nanochat.hpc.alerts import alerts_of, heartbeats_in, standing_rank
from nanochat.hpc.progress_of import progress_of

NOW = datetime(2026, 11, 22, 19, 55, 40, tzinfo=UTC)
Event = dict[str, Any]


def event(name: str, **fields: Any) -> Event:
    return {"event": name, "stage": "base", "time": NOW.timestamp(), "step": 120, **fields}


FAILED = event("save_failed", step=100, reason="the disk is full")


def test_an_undisturbed_training_has_no_alerts() -> None:
    ranks = event("ranks", seconds=[1.0, 1.19], data_seconds=[0.0, 0.0], slowest=1, host="gpu07")
    assert alerts_of([event("start"), event("step"), event("checkpoint"), ranks]) == ()


def test_a_save_that_failed_is_told_until_one_succeeds() -> None:
    (alert,) = alerts_of([event("checkpoint"), FAILED, event("step")])
    at = NOW.astimezone()
    assert alert == f"the last save failed ({at:%Y-%m-%d %H:%M}): the disk is full"
    assert alerts_of([FAILED, event("step"), event("checkpoint")]) == ()
    assert len(alerts_of([FAILED, event("checkpoint"), FAILED])) == 1


def test_spikes_and_rollbacks_are_counted() -> None:
    spikes = [event("spike", step=number) for number in (7, 9)]
    rollback = event("rollback", step=5, from_step=9, reason="not finite")
    assert alerts_of([*spikes, rollback]) == (
        "1 rollback, the last to step 5: not finite",
        "2 loss spikes, the last at step 9",
    )


def test_fewer_rows_after_running_out_of_memory_are_told() -> None:
    (alert,) = alerts_of([event("out_of_memory", rows_before=32, rows_now=16)])
    assert alert == "out of memory with 32 rows at once: 16 from then on"


@pytest.mark.parametrize(
    ("seconds", "data", "took"),
    [
        ([1.0, 1.0, 1.5, 1.0], [0.0] * 4, "1.50 s a step where the median is 1.00 s"),
        ([1.0, 1.0, 1.0, 1.0], [0.1, 0.1, 0.9, 0.1], "1.90 s a step where the median is 1.10 s"),
        ([1.0, 1.0, 1.5], None, "1.50 s a step where the median is 1.00 s"),
    ],
)
def test_the_slowest_rank_is_named(
    seconds: list[float], data: list[float] | None, took: str
) -> None:
    told = event("ranks", seconds=seconds, data_seconds=data, slowest=2, host="gpu07")
    assert alerts_of([told]) == (f"rank 2 on gpu07 is the slowest: {took}",)


def test_of_two_ranks_the_slow_one_is_measured_by_the_fast_one() -> None:
    told = event("ranks", seconds=[1.0, 1.3], data_seconds=[0.0, 0.0], slowest=1, host="gpu07")
    assert len(alerts_of([told])) == 1


def test_only_the_last_comparison_of_the_ranks_counts() -> None:
    slow = event("ranks", seconds=[1.0, 9.0, 1.0], slowest=1, host="gpu07")
    even = event("ranks", seconds=[1.0, 1.0, 1.0], slowest=0, host="gpu01")
    assert alerts_of([slow, even]) == ()


def test_alerts_are_of_the_present_attempt_while_it_runs() -> None:
    again = event("start", steps=200)
    progress = progress_of([event("start"), FAILED, again, event("spike")], "base")
    assert progress is not None
    assert progress.alerts == ("1 loss spike, the last at step 120",)
    assert progress.standing().alerts == ()


# --- heartbeats ---------------------------------------------------------------------------------


def beat(rank: int, since: float, age: float = 0.0, **fields: Any) -> Event:
    told = {"rank": rank, "host": f"gpu{rank:02d}", "section": "gradients", "waits": True}
    return {**told, "since": since, "time": NOW.timestamp() - age, **fields}


BEGAN = NOW - timedelta(hours=1)
DATA = {"section": "data", "waits": False}


def test_the_rank_that_the_others_wait_for_is_named() -> None:
    beats = [beat(0, 241), beat(1, 230, age=10, **DATA), beat(2, 241)]
    assert standing_rank(beats, BEGAN, NOW) == "rank 1 on gpu01: in data for 240 s"


def test_a_rank_that_has_stopped_telling_stands_in_what_it_told_last() -> None:
    assert standing_rank([beat(0, 1, age=300, **DATA)], BEGAN, NOW) == (
        "rank 0 on gpu00: in data for 301 s"
    )


def test_ranks_on_their_way_are_not_named() -> None:
    assert standing_rank([beat(0, 40, age=10, **DATA), beat(1, 59)], BEGAN, NOW) is None
    assert standing_rank([], BEGAN, NOW) is None


def test_the_heartbeats_of_a_killed_attempt_say_nothing() -> None:
    assert standing_rank([beat(0, 5, age=2 * 3600, **DATA)], BEGAN, NOW) is None


def test_heartbeats_are_read_by_stage_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "base-rank-0.json").write_text(json.dumps(beat(0, 5)))
    (tmp_path / "base-rank-1.json").write_text('{"rank": 1, "ho')
    (tmp_path / "base-rank-2.json").write_text('{"rank": 2}')
    (tmp_path / "base-rank-3.json").write_text("[]")
    (tmp_path / "mid-rank-0.json").write_text(json.dumps(beat(0, 7)))
    assert [found["since"] for found in heartbeats_in(tmp_path, "base")] == [5]
    assert heartbeats_in(tmp_path / "nowhere", "base") == []
