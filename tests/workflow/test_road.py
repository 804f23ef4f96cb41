"""The road from text to report: what is done is never done again, and what fails says why."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

DEPENDS_ON_BASE = {
    "base_train": 1,
    "base_eval": 1,
    "mid_train": 1,
    "chat_sft": 1,
    "chat_eval": 2,
    "report": 1,
    "all": 1,
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_road_ends_with_a_report_and_a_model(road) -> None:
    report = road.base_dir / "report" / "local" / "report.md"
    text = report.read_text()
    assert "| Metric | Chance | BASE | MID | SFT |" in text
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (report.parent / figure).read_bytes().startswith(b"\x89PNG")
    for stage in ("base", "mid", "sft"):
        weights = road.base_dir / "models" / "local" / stage / "model.safetensors"
        assert sha256(weights) == road.record("local", stage)["weights_sha256"]


def test_a_second_run_has_nothing_to_do(road) -> None:
    assert road.planned() == {}


def test_the_dry_run_says_why(checkout) -> None:
    checkout.edit(base={"steps": 13})
    output = checkout.run("-n")
    assert "Params have changed since last execution" in output


def test_another_depth_reruns_training_and_what_depends_on_it(checkout) -> None:
    checkout.edit(model={"depth": 3})
    assert checkout.planned() == DEPENDS_ON_BASE


def test_another_context_packs_rows_and_conversations_anew(checkout) -> None:
    checkout.edit(model={"sequence_len": 64})
    planned = checkout.planned()
    assert planned["tokenize_shard"] == 3
    assert planned["chat_rows"] == 2


def test_the_command_line_changes_the_config_too(road) -> None:
    assert road.planned("--config", "model={depth: 3}") == DEPENDS_ON_BASE


def test_another_vocabulary_reruns_all_but_the_corpus_and_what_is_made_from_text(checkout) -> None:
    checkout.edit(tokenizer={"vocab_size": 520})
    planned = checkout.planned()
    assert planned.items() >= {**DEPENDS_ON_BASE, "train_tokenizer": 1, "tokenize_shard": 3}.items()
    assert not {"import_corpus", "generate_tasks", "eval_bundle"} & set(planned)


def test_more_evaluation_reruns_evaluations_only(checkout) -> None:
    checkout.edit(evaluation={"core_items": 9})
    assert checkout.planned() == {"base_eval": 1, "report": 1, "all": 1}
    checkout.edit(evaluation={"chat_items": 9})
    assert checkout.planned() == {"base_eval": 1, "chat_eval": 2, "report": 1, "all": 1}


def test_another_schedule_of_sft_reruns_sft_and_what_depends_on_it(checkout) -> None:
    checkout.edit(sft={"lr_fraction": 0.5})
    assert checkout.planned() == {"chat_sft": 1, "chat_eval": 1, "report": 1, "all": 1}


def test_touching_comments_and_reformatting_rerun_nothing(checkout) -> None:
    config = checkout.config
    config.write_text("# another comment\n" + config.read_text())
    rules = checkout.folder / "workflow" / "rules" / "train.smk"
    rules.write_text(rules.read_text().replace("nanochat train", "nanochat   train"))
    later = time.time() + 60
    for path in [*checkout.base_dir.rglob("*"), *(checkout.folder / "texts").iterdir()]:
        if path.suffix in (".parquet", ".npy", ".safetensors", ".jsonl", ".json", ".tiktoken"):
            os.utime(path, (later, later))
    assert checkout.planned() == {}


def test_a_model_of_other_settings_is_not_believed_when_snakemake_has_forgotten_it(
    checkout,
) -> None:
    shutil.rmtree(checkout.folder / ".snakemake")
    assert checkout.planned() == {}
    checkout.edit(base={"steps": 13})
    output = checkout.run("-n", expect=2)
    assert "error: .nanochat/models/local/base was trained with other settings" in output
    assert "(base.steps 12, now 13)" in output
    shutil.rmtree(checkout.base_dir / "models" / "local" / "base")
    assert checkout.planned().keys() >= {"base_train", "mid_train", "chat_sft"}


def test_operation_settings_rerun_nothing(checkout) -> None:
    checkout.edit(operation={"device_rows": 4, "save_every_minutes": 5})
    assert checkout.planned() == {}


def test_a_changed_text_reruns_what_is_made_from_it(checkout) -> None:
    text = checkout.folder / "texts" / "0000.jsonl"
    before = text.stat()
    text.write_text(text.read_text().replace(" the ", " tha ", 1))
    os.utime(text, (before.st_atime, before.st_mtime))
    planned = checkout.planned()
    assert planned.items() >= {"import_corpus": 1, "train_tokenizer": 1, "base_train": 1}.items()


def test_deleting_the_chat_model_reruns_its_stage_only_and_trains_nothing_anew(checkout) -> None:
    model = checkout.base_dir / "models" / "local" / "sft" / "model.safetensors"
    before = sha256(model)
    journal = checkout.base_dir / "runs" / "local" / "journal.jsonl"
    steps = journal.read_text().count('"event": "step"')
    shutil.rmtree(model.parent)
    assert checkout.planned() == {"chat_sft": 1, "chat_eval": 1, "report": 1, "all": 1}
    checkout.run()
    assert sha256(model) == before
    assert journal.read_text().count('"event": "step"') == steps, "its checkpoint was there"


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(checkout) -> None:
    checkout.edit(run="killed")
    journal = checkout.base_dir / "runs" / "killed" / "journal.jsonl"
    process = checkout.start("--until", "base_train")
    deadline = time.monotonic() + 120
    while not (journal.exists() and '"event": "checkpoint"' in journal.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    checkout.kill(process)
    assert not (checkout.base_dir / "models" / "killed" / "base" / "record.json").exists()
    output = checkout.run("--until", "base_train")
    assert "base resumes after step" in output
    undisturbed, killed = (checkout.record(run, "base") for run in ("local", "killed"))
    assert killed["weights_sha256"] == undisturbed["weights_sha256"]


def test_two_workflows_at_once_are_refused_in_one_sentence(checkout) -> None:
    checkout.edit(run="first", base={"steps": 100_000})
    process = checkout.start("--until", "base_train")
    journal = checkout.base_dir / "runs" / "first" / "journal.jsonl"
    while not journal.exists():
        assert process.poll() is None
        time.sleep(0.05)
    output = checkout.run("--until", "base_train", expect=2)
    assert "error: another workflow is running in" in output
    checkout.kill(process)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (b"", "is not a readable parquet file"),
        (b"PAR1 and then nothing", "is not a readable parquet file"),
        (None, "holds no documents"),
    ],
    ids=["empty file", "garbage", "no documents"],
)
def test_a_bad_shard_gets_one_sentence_and_exit_code_two(
    checkout, damage: bytes | None, sentence: str
) -> None:
    folder = checkout.folder / "shards"
    folder.mkdir()
    made = sorted(checkout.base_dir.glob("base_data/*/*.parquet"))
    for path in made:
        shutil.copy(path, folder)
    bad = folder / made[1].name
    if damage is None:
        table = pyarrow.parquet.read_table(bad)
        pyarrow.parquet.write_table(table.slice(0, 0), bad)
    else:
        bad.write_bytes(damage)
    checkout.edit(data={"source": "shards"})
    output = checkout.run("--until", "tokenize_shard", expect=2)
    assert len(re.findall(f"^error: .*{bad.name}.*{sentence}", output, re.MULTILINE)) >= 1
    assert "Traceback" not in output
    bad.write_bytes(made[1].read_bytes())
    checkout.run("--until", "tokenize_shard")


def test_a_folder_of_real_shards_is_used_in_place(checkout) -> None:
    folder = checkout.base_dir / "base_data" / "mine"
    folder.mkdir()
    made = sorted(checkout.base_dir.glob("base_data/texts-*/*.parquet"))
    for number, path in zip((0, 1, 6542), made, strict=True):
        shutil.copy(path, folder / f"shard_{number:05d}.parquet")
    checkout.edit(data={"source": "mine"})
    checkout.run("--until", "tokenize_shard")
    records = [
        json.loads(path.read_text()) for path in checkout.base_dir.glob("tokens/mine-*/*.json")
    ]
    assert sorted(record["source"]["file"] for record in records) == [
        "shard_00000.parquet",
        "shard_00001.parquet",
        "shard_06542.parquet",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model={dpth: 4}"], "error: unknown config key model.dpth: did you mean model.depth?"),
        (["data={source: nowhere}"], "error: data.source is .nanochat/base_data/nowhere"),
        (["chat={conversations: [none.jsonl]}"], "error: chat.conversations names none.jsonl"),
    ],
    ids=["unknown key", "no such source", "no such conversations"],
)
def test_a_wrong_config_gets_one_sentence_and_exit_code_two(
    road, arguments: list[str], sentence: str
) -> None:
    output = road.run("-n", "--config", *arguments, expect=2)
    assert sentence in output
    assert "Traceback" not in output


def test_a_base_dir_that_cannot_be_written_gets_one_sentence(road, monkeypatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(road.folder / "Snakefile" / "below"))
    output = road.run(expect=80)
    assert "error: cannot write" in output
    assert "a part of the path is a file" in output
    assert "Traceback" not in output


def test_a_full_disk_gets_one_sentence_and_the_run_goes_on_where_there_is_space(
    checkout, small_disk: Path, monkeypatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 80_000))
    output = checkout.run("--until", "train_tokenizer", expect=2)
    assert "the disk is full" in output
    filler.unlink()
    checkout.run("--until", "train_tokenizer")


@pytest.mark.parametrize("suffix", [".npy", ".mask.npy"])
def test_rows_that_are_not_what_their_record_says_are_not_trained_on(checkout, suffix) -> None:
    rows = checkout.base_dir / "task_data" / "local" / "rows" / f"mid{suffix}"
    content = bytearray(rows.read_bytes())
    content[-1] ^= 1
    rows.write_bytes(content)
    command = [sys.executable, "-m", "nanochat", "train", "mid"]
    done = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert "its SHA-256 is not the one in its record" in done.stderr


def test_an_interrupt_saves_a_checkpoint_and_the_next_run_continues(checkout) -> None:
    checkout.edit(run="interrupted", base={"steps": 3000}, operation={"save_every_minutes": 60})
    process = checkout.start("--until", "base_train")
    journal = checkout.base_dir / "runs" / "interrupted" / "journal.jsonl"
    while not (journal.exists() and '"event": "step"' in journal.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "SIGINT stopped base training after step" in output
    folder = checkout.base_dir / "checkpoints" / "interrupted" / "base"
    assert len(list(folder.glob("*/step-*/manifest.json"))) == 1


def test_a_missing_tokenizer_gets_one_sentence_that_says_what_makes_it(checkout) -> None:
    shutil.rmtree(checkout.base_dir / "tokenizer")
    command = [sys.executable, "-m", "nanochat", "train", "base"]
    done = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no ")
    assert "run `make run` first" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_dry_run_of_the_local_profile_lists_every_job(checkout) -> None:
    """From nothing, with the config as it comes; needs no torch and writes nothing."""
    shutil.rmtree(checkout.base_dir)
    checkout.config.write_text("preset: local\n")
    assert checkout.planned() == {
        "downloads": 1,
        "embedded_corpus": 1,
        "train_tokenizer": 1,
        "eval_tokenizer": 1,
        "tokenize_shard": 5,
        "generate_tasks": 1,
        "identity_conversations": 1,
        "chat_rows": 2,
        "eval_bundle": 1,
        **DEPENDS_ON_BASE,
    }
    assert not checkout.base_dir.exists()
