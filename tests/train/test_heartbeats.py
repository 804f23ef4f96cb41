"""Whom a rank names that waits, from what the others' files said twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.train.heartbeats import (
    Heartbeat,
    culprit,
    heartbeat_file,
    read_heartbeats,
    remove_heartbeat,
    write_heartbeat,
)

WAITS = Heartbeat(0, "gpu01", 1, "base", "agree", 120, 600.0, True, beat=60, time=0.0)


def rank(number: int, section: str, step: int, waits: bool, since: float = 600.0) -> Heartbeat:
    return Heartbeat(number, f"gpu0{number}", 1, "base", section, step, since, waits, 60, 0.0)


def earlier(*beats: Heartbeat) -> dict[int, Heartbeat]:
    return {beat.rank: replace(beat, beat=beat.beat - 1) for beat in beats}


def blamed(own: Heartbeat, *others: Heartbeat, world_size: int | None = None) -> str | None:
    """What is said where all of these renew their heartbeats."""
    now = {beat.rank: beat for beat in (own, *others)}
    blame = culprit(own, earlier(*others), now, world_size or len(now))
    return blame and blame.what


def test_a_rank_that_does_something_of_its_own_is_behind() -> None:
    others = [rank(1, "agree", 120, True), rank(2, "data", 121, False, 605.4)]
    assert (
        blamed(WAITS, *others) == "rank 2 on gpu02 is behind, in section data of step 121 for 605 s"
    )


def test_of_busy_ranks_the_one_in_the_lowest_step_and_longest_there_is_named() -> None:
    others = [rank(1, "data", 121, False), rank(2, "optimizer", 120, False)]
    others += [rank(3, "forward", 120, False, 700.0)]
    assert (blamed(WAITS, *others) or "").startswith(
        "rank 3 on gpu03 is behind, in section forward"
    )


def test_a_rank_that_waits_in_an_earlier_step_is_behind() -> None:
    others = [rank(1, "agree", 119, True), rank(2, "gradients", 121, True)]
    assert (blamed(WAITS, *others) or "").startswith("rank 1 on gpu01 is behind, in section agree")


def test_a_rank_that_is_busy_comes_before_one_that_waits_in_an_earlier_step() -> None:
    others = [rank(1, "agree", 119, True), rank(2, "data", 121, False)]
    assert (blamed(WAITS, *others) or "").startswith("rank 2 on gpu02 is behind, in section data")


def test_a_heartbeat_that_is_not_renewed_comes_before_all_else() -> None:
    stopped, busy = rank(2, "agree", 120, True), rank(1, "data", 100, False)
    blame = culprit(
        WAITS, {1: replace(busy, beat=1), 2: stopped}, {0: WAITS, 1: busy, 2: stopped}, 3
    )
    assert blame is not None
    assert blame.rank == 2
    assert "is frozen or gone, its heartbeat stopped in section agree of step 120" in blame.what


def test_an_old_file_of_another_process_is_no_earlier_heartbeat() -> None:
    now = rank(1, "agree", 120, True)
    assert culprit(WAITS, {1: replace(now, pid=99)}, {0: WAITS, 1: now}, 2) is None


def test_a_rank_without_a_file_is_gone_where_others_have_one() -> None:
    assert blamed(WAITS, world_size=2) == "rank 1 is gone: it has no heartbeat"
    assert culprit(WAITS, {}, {}, 2) is None


def test_nobody_is_named_where_all_wait_in_the_same_step() -> None:
    assert blamed(WAITS, rank(1, "agree", 120, True), rank(2, "gradients", 121, True)) is None


def test_a_rank_that_is_itself_busy_names_only_one_busy_with_an_earlier_step() -> None:
    """On a GPU a rank in `forward` may wait for weights that another one never sent."""
    own = rank(0, "forward", 121, False)
    assert blamed(own, rank(1, "agree", 120, True), rank(2, "data", 121, False)) is None
    behind = blamed(own, rank(1, "optimizer", 120, False), rank(2, "forward", 121, False))
    assert (behind or "").startswith("rank 1 on gpu01 is behind, in section optimizer")


@pytest.mark.parametrize("text", ["", '{"rank": 1', "[]", "7", '{"rank": 1}', "\xff\x00"])
def test_a_file_that_cannot_be_read_is_no_heartbeat(tmp_path: Path, text: str) -> None:
    write_heartbeat(tmp_path, WAITS)
    heartbeat_file(tmp_path, "base", 1).write_bytes(text.encode("latin-1"))
    assert read_heartbeats(tmp_path, "base", 3) == {0: WAITS}


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    write_heartbeat(tmp_path / "taken", WAITS)
    remove_heartbeat(tmp_path / "taken", "base", 0)
    assert read_heartbeats(tmp_path / "taken", "base", 1) == {}


def test_a_heartbeat_is_a_json_file_that_is_gone_after_its_removal(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_heartbeat(folder, WAITS)
    write_heartbeat(folder, replace(WAITS, beat=61))
    assert [file.name for file in folder.iterdir()] == ["base-rank-0.json"]
    assert json.loads((folder / "base-rank-0.json").read_text())["beat"] == 61
    remove_heartbeat(folder, "base", 0)
    remove_heartbeat(folder, "base", 0)
    assert list(folder.iterdir()) == []
