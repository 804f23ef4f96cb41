"""Two phases: `--until downloads` where there is internet, and the rest where there is none."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

NAME = "climbmix-400b-shuffle"
NUMBERS = (0, 1, 6542)
FILES = [f"shard_{number:05d}.parquet" for number in NUMBERS]
ELSEWHERE = {
    "scratch": ".",
    "gpu": {"partition": "gpu", "model": "a100"},
    "internet_hosts": ["login*", "data?"],
}


def parquet(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), buffer)
    return buffer.getvalue()


@pytest.fixture
def checkout(fresh, hub, english: list[str], monkeypatch: pytest.MonkeyPatch):
    """A fresh checkout whose data set is on the hub of this test."""
    hub.files |= {name: parquet(english[place::3]) for place, name in enumerate(FILES)}
    for key in ("HF_ENDPOINT", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(key, hub.environment()[key])
    fresh.edit(data={"source": NAME, "train_shards": 2})
    return fresh


def everything(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("arguments", [["--until", "downloads"], ["downloads"]])
def test_the_first_phase_downloads_and_does_nothing_else(checkout, arguments: list[str]) -> None:
    checkout.run(*arguments)
    made = {path.name for path in everything(checkout.base_dir) if path.suffix != ".log"}
    records = {name.replace(".parquet", ".json") for name in FILES}
    origins = {f"{name}.json" for name in FILES}
    about = {*records, *origins, "downloads.json"}
    assert made == {*FILES, *about, "config.yaml", "workflow.lock"}


def test_the_second_phase_needs_no_network_and_downloads_nothing_again(checkout, hub) -> None:
    checkout.run("--until", "downloads")
    hub.stop()
    asked = len(hub.requests)
    before = everything(checkout.base_dir / "base_data")
    checkout.run("--until", "downloads")
    assert everything(checkout.base_dir / "base_data") == before
    checkout.run("--until", "tokenize_shard")
    assert len(hub.requests) == asked
    assert len(list(checkout.base_dir.glob("tokens/*/*.npy"))) == 3


def test_more_shards_download_only_what_is_not_there(checkout, hub, english) -> None:
    checkout.run("--until", "downloads")
    checkout.edit(data={"train_shards": 3})
    hub.files["shard_00002.parquet"] = parquet(english)
    hub.requests.clear()
    checkout.run("--until", "downloads")
    asked = {request.rpartition("/")[2] for request in hub.requests}
    assert asked & set(hub.files) == {"shard_00002.parquet"}


def test_a_lost_list_of_downloads_reruns_nothing_else(checkout) -> None:
    checkout.run("--until", "tokenize_shard", "downloads")
    listed = checkout.base_dir / "runs" / "local" / "downloads.json"
    assert [file["file"] for file in json.loads(listed.read_text())["files"]] == FILES
    full = checkout.planned()
    listed.unlink()
    assert checkout.planned() == {**full, "downloads": 1}
    listed.write_text("{}")
    assert checkout.planned() == full


def test_with_nothing_to_download_the_first_phase_is_empty(fresh) -> None:
    fresh.run("--until", "downloads")
    listed = fresh.base_dir / "runs" / "local" / "downloads.json"
    assert json.loads(listed.read_text()) == {"files": []}
    assert not (fresh.base_dir / "base_data").exists()


@pytest.mark.parametrize("arguments", [["--until", "downloads"], []])
def test_a_host_without_internet_is_refused_before_anything_runs(
    checkout, hub, arguments: list[str]
) -> None:
    checkout.edit(site=ELSEWHERE)
    output = checkout.run(*arguments, expect=2)
    assert "error: 3 files have to be downloaded first (shard_00000.parquet, shard_0" in output
    assert "`snakemake --profile profiles/local --until downloads` on a host that has (login*" in (
        output
    )
    assert "Traceback" not in output
    assert hub.requests == []
    assert not list(checkout.folder.rglob("*.parquet"))


def test_a_host_without_internet_runs_the_second_phase(checkout, monkeypatch) -> None:
    checkout.edit(site=ELSEWHERE)
    monkeypatch.setenv("NANOCHAT_INTERNET_HOSTS", "*")
    checkout.run("--until", "downloads")
    monkeypatch.delenv("NANOCHAT_INTERNET_HOSTS")
    checkout.run("--until", "tokenize_shard")


def test_a_failed_download_ends_with_its_sentence_and_exit_code_two(checkout, hub) -> None:
    del hub.files[FILES[1]]
    output = checkout.run("--until", "downloads", expect=2)
    assert f"error: cannot download {hub.url}/datasets/karpathy/{NAME}" in output
    assert "Traceback" not in output
    assert not list(checkout.folder.rglob(FILES[1]))


def test_a_shard_that_was_copied_by_hand_is_kept(checkout, hub, english) -> None:
    target = checkout.base_dir / "base_data" / NAME / FILES[0]
    target.parent.mkdir(parents=True)
    target.write_bytes(parquet(english))
    checkout.run("--until", "downloads")
    assert target.read_bytes() == parquet(english)
    assert not any(request.endswith(FILES[0]) for request in hub.requests)


@pytest.mark.parametrize(("preset", "files"), [("d12", 27), ("d20", 102), ("d24", 114)])
def test_the_dry_run_of_a_real_preset_lists_its_downloads(fresh, preset: str, files: int) -> None:
    fresh.config.write_text(f"preset: {preset}\n")
    planned = fresh.planned()
    assert planned["download_shard"] == planned["tokenize_shard"] == files
    assert not fresh.base_dir.exists()


def test_more_shards_than_the_data_set_has_are_refused(fresh) -> None:
    fresh.edit(data={"source": "fineweb-edu-100b-shuffle", "train_shards": 1823})
    output = fresh.run("-n", expect=2)
    assert "error: data.train_shards is 1823, but karpathy/fineweb-edu-100b-shuffle has" in output
