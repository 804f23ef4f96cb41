"""The road from what a hub serves: fetched once, and run with no network but loopback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_contents import shard

SCORED = {"mmlu", "gsm8k", "arc_easy", "arc_challenge", "humaneval", "spelling", "identity"}


@pytest.fixture
def fetched(fetched_road, tmp_path: Path):
    """A copy of the finished road, for a test that changes something."""
    folder = tmp_path / "checkout"
    shutil.copytree(fetched_road.folder, folder, symlinks=True)
    return type(fetched_road)(folder)


def test_the_road_ends_with_the_scores_of_what_was_fetched(fetched_road) -> None:
    stage = fetched_road.base_dir / "models" / "local" / "sft"
    scores = json.loads((stage / "eval.json").read_text())
    assert set(scores["chatcore"]["tasks"]) == SCORED
    base = json.loads((stage.with_name("base") / "eval.json").read_text())
    assert not base["core"]["missing"]
    report = (fetched_road.base_dir / "report" / "local" / "report.md").read_text()
    assert "humaneval" in report.lower()
    [compression] = fetched_road.base_dir.glob("tokenizer/*/compression.json")
    assert all(
        row["gpt2"] and row["gpt4"] for row in json.loads(compression.read_text())["compression"]
    )


def test_there_is_nothing_left_to_do_and_nothing_was_asked_twice(fetched_road) -> None:
    assert fetched_road.planned() == {}
    requests = (fetched_road.folder / "requests").read_text().splitlines()
    transfers = [request for request in requests if request.startswith("GET /blobs/")]
    assert len(transfers) == len(set(transfers)) == 3 + 10  # shards, files of tables


def test_the_manifest_says_what_came_from_where(fetched_road) -> None:
    manifest = json.loads((fetched_road.base_dir / "runs/local/downloads.json").read_text())
    assert len(manifest["files"]) == 3 + 10 + 1 + 4
    for file in manifest["files"]:
        assert file["sha256"] and file["licence"] and file["fetched"] and file["url"], file


def test_nothing_of_a_library_is_left(fetched_road) -> None:
    found = {path.name for path in fetched_road.base_dir.rglob("*")}
    assert not {
        name for name in found if name.startswith((".part-", ".tmp-", ".lock", "datasets--"))
    }
    assert ".huggingface" not in found


def test_more_shards_change_neither_what_was_trained_nor_what_is_held_out(fetched) -> None:
    fetched.edit(run="larger", data={"train_shards": 3})
    planned = fetched.planned()
    assert planned["download_shard"] == planned["record_shard"] == planned["tokenize_shard"] == 1
    assert "train_tokenizer" not in planned
    assert "shard_06542" not in fetched.run("-n", "--until", "tokenize_shard").split("reason:")[0]
    folder = fetched.base_dir / "base_data" / "climbmix-400b-shuffle"
    (folder / "shard_00002.parquet").write_bytes(shard())
    fetched.edit(run="local", data={"train_shards": 2})
    assert fetched.planned() == {}


def test_a_shared_folder_is_used_in_place(fetched_road, fresh, monkeypatch) -> None:
    fresh.config.write_text(fetched_road.config.read_text())
    monkeypatch.setenv("NANOCHAT_SHARED_DIR", str(fetched_road.base_dir))
    fresh.run("--until", "downloads", "tokenize_shard", "chat_rows", "eval_tokenizer")
    shards = sorted((fresh.base_dir / "base_data").glob("*/*.parquet"))
    assert len(shards) == 3
    assert all(path.is_symlink() for path in shards)
    assert (fresh.base_dir / "downloads" / "core_bundle" / "core.yaml").is_file()
    theirs = {path: path.stat().st_mtime_ns for path in fetched_road.base_dir.rglob("*")}
    assert fresh.planned("--until", "downloads", "tokenize_shard") == {}
    assert theirs == {path: path.stat().st_mtime_ns for path in fetched_road.base_dir.rglob("*")}


def test_a_shared_folder_that_is_not_there_is_an_error(fresh, monkeypatch) -> None:
    monkeypatch.setenv("NANOCHAT_SHARED_DIR", "/nowhere")
    assert "error: the shared folder /nowhere is not there" in fresh.run("-n", expect=2)


@pytest.mark.slow
def test_the_whole_fetch_phase_of_d20_ends_with_nothing_left_to_download(fresh, serving) -> None:
    fresh.config.write_text("preset: d20\n")
    assert fresh.planned()["download_shard"] == 102
    with serving(fresh) as hub:
        command = [sys.executable, "-m", "nanochat", "data", "fetch"]
        done = subprocess.run(command, cwd=fresh.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        asked = len(hub.requests)
        fresh.run("--until", "downloads")
        assert len(hub.requests) == asked, "what was fetched is not asked for again"
    manifest = json.loads((fresh.base_dir / "runs/local/downloads.json").read_text())
    assert len(manifest["files"]) == 102 + 10 + 1 + 4
    assert not [rule for rule in fresh.planned() if rule.startswith(("download", "record"))]


def test_a_deleted_shard_is_fetched_without_training_again(fetched, serving) -> None:
    shard_file = fetched.base_dir / "base_data" / "climbmix-400b-shuffle" / "shard_06542.parquet"
    shard_file.unlink()
    assert fetched.planned() == {}, "nobody needs it"
    (fetched.base_dir / "models" / "local" / "base" / "eval.json").unlink()
    (fetched.base_dir / "report" / "local" / "report.md").unlink()
    assert "note: 1 of the downloaded files are gone" in fetched.run("-n")
    refused = fetched.run(expect=2)
    assert "bring them back with `nanochat data fetch`" in refused
    with serving(fetched):
        command = [sys.executable, "-m", "nanochat", "data", "fetch"]
        done = subprocess.run(command, cwd=fetched.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert fetched.planned() == {"base_eval": 1, "report": 1, "all": 1}


def test_a_failed_download_keeps_everything_else_from_starting(fresh, serving) -> None:
    from nanochat.registry import CORE_BUNDLE

    fresh.edit(
        data={"source": "climbmix-400b-shuffle", "train_shards": 2}, evaluation={"bundle": "core"}
    )
    with serving(fresh) as hub:
        [bundle] = [name for name in hub.files if CORE_BUNDLE.url.endswith(name)]
        del hub.files[bundle]
        output = fresh.run("--keep-going", expect=2)
    assert "error: cannot download" in output
    assert not list(fresh.base_dir.glob("models/*/*"))
