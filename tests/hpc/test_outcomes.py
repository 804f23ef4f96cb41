from pathlib import Path

import pytest

from nanochat.hpc import outcomes
from nanochat.hpc.outcomes import read_outcome, write_outcome


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = write_outcome(tmp_path / "outcomes", "7", "train base", 77, "it diverged")
    assert read_outcome(tmp_path / "outcomes", "7") == written
    assert (written.exit_code, written.sentence) == (77, "it diverged")


def test_the_first_rank_that_ends_is_believed(tmp_path: Path) -> None:
    write_outcome(tmp_path, "7", "train base", 77, "it diverged")
    write_outcome(tmp_path, "7", "train base", 2, "rank 0 is gone")
    outcome = read_outcome(tmp_path, "7")
    assert outcome is not None and outcome.sentence == "it diverged"


def test_a_later_attempt_replaces_the_outcome_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_outcome(tmp_path, "7", "train base", 75, "stopped")
    monkeypatch.setattr(outcomes, "RANKS_END_WITHIN_SECONDS", 0.0)
    assert write_outcome(tmp_path, "7", "train base", 75, "again").sentence == "again"


def test_a_rank_that_was_left_alone_does_not_hide_why(tmp_path: Path) -> None:
    write_outcome(tmp_path, "7", "train base", 75, "rank 1 lost the others")
    assert write_outcome(tmp_path, "7", "train base", 2, "the disk is full").exit_code == 2
    assert write_outcome(tmp_path, "7", "train base", 75, "rank 2 too").exit_code == 2


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"job_id": "7", "more": 1}'])
def test_what_cannot_be_read_is_no_outcome(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "7.json").write_text(content)
    assert read_outcome(tmp_path, "7") is None
