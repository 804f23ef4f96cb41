"""The journal: append-only, and torn by nothing but a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.errors import MissingArtefact
from nanochat.track.journal import Journal, last_events, read_events


def test_events_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(3):
        journal.write("step", stage="base", step=step, loss=1.5)
    journal.close()
    events = list(read_events(journal.path))
    assert [event["step"] for event in events] == [0, 1, 2]
    assert all(event["event"] == "step" and event["time"] > 0 for event in events)


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    for step in range(2):
        journal = Journal(tmp_path / "journal.jsonl")
        journal.write("step", step=step)
        journal.close()
    assert [event["step"] for event in read_events(tmp_path / "journal.jsonl")] == [0, 1]


def test_a_torn_line_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"event": "step", "step": 1}) + '\n{"event": "st')
    journal = Journal(path)
    journal.write("step", step=2)
    journal.close()
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_events_of_a_killed_process_are_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = (
        "import os, sys, signal; from pathlib import Path\n"
        "from nanochat.track.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.write('step', step=7)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [event["step"] for event in read_events(path)] == [7]


def test_a_loss_that_json_cannot_say_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(ValueError):
        journal.write("step", loss=float("nan"))
    assert os.path.getsize(journal.path) == 0


def test_a_missing_journal_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="no journal"):
        list(read_events(tmp_path / "none.jsonl"))


def test_last_events_of_no_journal_and_of_an_empty_one_are_none(tmp_path: Path) -> None:
    assert last_events(tmp_path / "none.jsonl") == []
    (tmp_path / "empty.jsonl").touch()
    assert last_events(tmp_path / "empty.jsonl") == []


@pytest.mark.parametrize("tail_bytes", [1, 40, 300, 5_000, 10**9])
def test_last_events_are_the_start_and_the_tail_of_what_follows(
    tmp_path: Path, tail_bytes: int
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for stage in ("base", "mid"):
        journal.write("start", stage=stage, step=0, steps=30)
        for step in range(30):
            journal.write("step", stage=stage, step=step)
    journal.close()
    everything = list(read_events(journal.path))
    tail = last_events(journal.path, tail_bytes)
    starts = [event for event in everything if event["event"] == "start"]
    assert tail[-1:] == everything[-1:] and tail[0] in starts
    assert tail[1:] == everything[len(everything) - len(tail) + 1 :]
    whole = tail_bytes > journal.path.stat().st_size
    assert (tail == everything) is whole


def test_last_events_pass_over_a_torn_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("start", stage="base", step=0, steps=3)
    journal.close()
    with open(journal.path, "a") as handle:
        handle.write('{"event": "st')
    assert [event["event"] for event in last_events(journal.path)] == ["start"]
