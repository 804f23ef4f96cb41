"""The page that people read, against a golden file, and what is said when a part is gone."""

import difflib
import json
import shutil
from pathlib import Path

import pytest

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.report.curves import load_journal
from nanochat.report.figures import TIME_COLOURS, smooth
from nanochat.report.records import MADE_BY, TimeSpent, load_records
from nanochat.report.report import write_report
from nanochat.report.spent import KINDS, PARTS, where_time_went
from nanochat.track import goodput
from nanochat.track.journal import read_events
from nanochat.track.time_spent import time_spent

FOLDER = Path(__file__).parent
TRAININGS = {stage: f"{stage[0]}000000000000000" for stage in ("base", "mid", "sft")}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of the synthetic records, to be changed."""
    shutil.copytree(FOLDER / "records", tmp_path / "records")
    return tmp_path


def report_of(run: Path) -> str:
    records = {name: run / "records" / f"{name}.json" for name in MADE_BY}
    journal = run / "records" / "journal.jsonl"
    write_report(
        "synthetic",
        records,
        journal,
        lambda stage, training: time_spent(read_events(journal), stage, 15, training),
        run / "report.md",
        run / "figures",
    )
    return (run / "report.md").read_text()


def edit(run: Path, name: str, *keys: str | int, value: object = None) -> None:
    """Sets the value at a path of keys, or deletes the key without a value."""
    path = run / "records" / f"{name}.json"
    record = json.loads(path.read_text())
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(record))


def test_report_is_the_golden_one(run):
    golden = (FOLDER / "golden" / "report.md").read_text()
    difference = difflib.unified_diff(golden.splitlines(), report_of(run).splitlines(), lineterm="")
    lines = list(difference)
    assert not lines, "\n".join([*lines, "if wanted: python tests/report/refresh.py"])


def test_the_pictures_it_shows_are_there(run):
    page = report_of(run)
    shown = [part.partition(")")[0] for part in page.split("](")[1:]]
    names = ("chat_scores", "time", "training")
    assert sorted(shown) == [f"figures/{name}.png" for name in names]
    assert all((run / name).read_bytes().startswith(PNG) for name in shown)


def test_the_same_records_give_the_same_bytes(run):
    report_of(run)
    first = {path: path.read_bytes() for path in (run / "figures").iterdir()}
    report_of(run)
    assert {path: path.read_bytes() for path in (run / "figures").iterdir()} == first


@pytest.mark.parametrize("name", MADE_BY)
def test_a_missing_record_is_named_with_the_rule_that_makes_it(run, name):
    (run / "records" / f"{name}.json").unlink()
    with pytest.raises(MissingArtefact, match=rf"{name}\.json.*--until {MADE_BY[name]}`") as caught:
        report_of(run)
    assert "\n" not in str(caught.value)
    assert not (run / "report.md").exists()
    assert not (run / "figures").exists()


def test_a_record_that_was_not_asked_for_is_named(run):
    with pytest.raises(MissingArtefact, match="no corpus record"):
        load_records({})


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("base", ("result", "validation_bpb")),
        ("mid", ("plan", "flops_per_token")),
        ("sft", ("provenance", "commit")),
        ("base_eval", ("core", "missing")),
        ("sft_eval", ("tasks", 1, "chance")),
        ("corpus", ("validation",)),
        ("tokenizer", ("compression", 0, "gpt2")),
    ],
)
def test_a_missing_key_names_itself_and_its_file(run, name, keys):
    edit(run, name, *keys)
    dotted = ".".join(map(str, keys)).replace(".", r"\.")
    with pytest.raises(DamagedArtefact, match=rf"{name}\.json has no usable key '{dotted}'") as e:
        report_of(run)
    assert MADE_BY[name] in str(e.value)
    assert "\n" not in str(e.value)


def test_a_record_that_is_not_json_is_damaged(run):
    (run / "records" / "mid.json").write_text('{"stage": "mid"')
    with pytest.raises(DamagedArtefact, match=r"mid\.json is not valid JSON"):
        report_of(run)


def test_a_missing_journal_is_an_error(run):
    (run / "records" / "journal.jsonl").unlink()
    with pytest.raises(MissingArtefact, match=r"no journal at .*journal\.jsonl: run `snakemake"):
        report_of(run)


@pytest.mark.parametrize("event", ["step", "validation"])
def test_a_stage_without_curves_is_an_error(run, event):
    path = run / "records" / "journal.jsonl"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if f'"{event}"' not in line or '"stage": "mid"' not in line]
    path.write_text("\n".join(kept) + "\n")
    with pytest.raises(DamagedArtefact, match=f"has no {event} of stage mid"):
        report_of(run)


def test_a_journal_step_without_its_loss_is_an_error(run):
    with open(run / "records" / "journal.jsonl", "a") as handle:
        handle.write('{"event": "step", "stage": "base", "training": "", "step": 3}\n')
    with pytest.raises(DamagedArtefact, match="has a step without a usable 'loss'"):
        report_of(run)


def test_the_last_line_of_a_step_counts_and_no_line_of_another_training(tmp_path):
    journal = tmp_path / "journal.jsonl"
    events = [
        {"event": "step", "training": training, "step": step, "loss": loss, "lr_multiplier": 1.0}
        for training, step, loss in [
            *(("older", 2, 7.0), ("older", 4, 9.0)),
            *(("this", 1, 5.0), ("this", 2, 4.0), ("this", 3, 3.5)),
            *(("this", 2, 4.25), ("this", 3, 3.25)),
        ]
    ]
    events += [
        {"event": "validation", "training": training, "step": 3, "bpb": bpb}
        for training, bpb in [("this", 2.0), ("older", 9.9)]
    ]
    events = [{"stage": "base", **event} for event in events]
    journal.write_text("".join(json.dumps(event) + "\n" for event in events))
    curves = load_journal(journal, {"base": "this"})
    assert [point.bpb for point in curves.validations["base"]] == [2.0]
    assert [(step.step, step.loss) for step in curves.steps["base"]] == [
        (1, 5),
        (2, 4.25),
        (3, 3.25),
    ]


def test_a_step_whose_update_was_skipped_is_no_point_of_the_curve(run):
    """It has no loss; the golden journal has three of them, which were made again later."""
    with open(run / "records" / "journal.jsonl", "a") as handle:
        step = {"event": "step", "stage": "base", "training": "b000000000000000"}
        handle.write(json.dumps({**step, "step": 61, "skipped": True}) + "\n")
    journal = load_journal(run / "records" / "journal.jsonl", TRAININGS)
    assert [step.step for step in journal.steps["base"]] == [*range(1, 61)]


def test_the_time_is_of_the_training_that_the_record_names(run):
    before = report_of(run)
    with open(run / "records" / "journal.jsonl", "a") as handle:
        for name in ("start", "end"):
            event = {"event": name, "time": 1760000000.0, "stage": "base", "step": 0}
            handle.write(json.dumps({**event, "training": "another"}) + "\n")
    assert report_of(run) == before


def test_a_run_without_alerts_says_so():
    shares = dict.fromkeys(PARTS, 0.0)
    quiet = TimeSpent(
        seconds={**shares, "useful": 3.0, "lost": 1.0}, wall=4.0, goodput=0.75,
        attempts=1, failures=0, lost_steps=2, alerts=[], advice=None,
    )  # fmt: skip
    page = where_time_went({"base": quiet}, "figures/time.png")
    assert "Nothing out of the ordinary was noted." in page
    assert "| **Goodput** | 75.0 % | — | — |" in page
    assert "| Steps lost | 1.0 s (25.0 %) | — | — |" in page


def test_every_part_and_every_alert_has_its_words():
    assert tuple(PARTS) == tuple(TIME_COLOURS) == goodput.PARTS
    assert tuple(KINDS) == goodput.ALERTS


def test_torn_lines_are_counted_and_said(run):
    journal = run / "records" / "journal.jsonl"
    assert "1 line was torn" in report_of(run)
    journal.write_text('{"event": "st\n' + journal.read_text())
    assert "2 lines were torn" in report_of(run)


def test_chatcores_of_different_tasks_are_not_put_side_by_side_without_a_word(run):
    edit(run, "mid_eval", "chatcore", "tasks", value=["spelling", "arithmetic"])
    page = report_of(run)
    assert "spelling, arithmetic after mid-training" in page
    assert "cannot be compared" in page


def test_a_task_measured_at_one_stage_only_has_a_dash_at_the_other(run):
    edit(run, "mid_eval", "tasks", 0)
    assert "| spelling (200 items) | 0.0 % | — | — | 93.0 % |" in report_of(run)


def test_what_a_model_writes_cannot_break_the_page(run):
    nasty = "```\n# not a heading\n</details> | a | b |"
    edit(run, "base_eval", "samples", value=[{"prompt": "p", "text": nasty}])
    example = {"question": nasty, "expected": "x", "answer": nasty, "correct": False}
    edit(run, "sft_eval", "tasks", 0, "examples", value=[example])
    page = report_of(run)
    assert f"````text\n{nasty}\n````" in page
    assert page.count("</details>") == page.count("<details>") + 1  # the one in the code block


def test_the_drawn_average_does_not_lag():
    line = [float(n) for n in range(100)]
    assert smooth(line) == pytest.approx(line)
    assert smooth([3.0]) == [3.0]
