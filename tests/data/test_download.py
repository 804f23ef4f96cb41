"""Downloads from a real server on loopback: whole and checked, or one sentence and nothing left."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nanochat.data.registry import CORPORA, HubCorpus
from nanochat.errors import ConfigError

NAME = "climbmix-400b-shuffle"
FILE = "shard_00001.parquet"


def parquet(column: str = "text", documents: int = 300) -> bytes:
    buffer = io.BytesIO()
    texts = [f"Document {number} says {number**5}." for number in range(documents)]
    pyarrow.parquet.write_table(pyarrow.table({column: texts}), buffer)
    return buffer.getvalue()


@pytest.fixture
def base_dir(tmp_path: Path, hub) -> Path:
    hub.files[FILE] = parquet()
    (tmp_path / "config.yaml").write_text(json.dumps({"data": {"source": NAME}}))
    (tmp_path / "home").mkdir()
    return tmp_path / "base"


def download(hub, base_dir: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    home = base_dir.with_name("home")
    return subprocess.run(
        [sys.executable, "-m", "nanochat", "data", "download", "--shard", "1",
         "--config", str(base_dir.with_name("config.yaml"))],
        env={
            **hub.environment(),
            "HOME": str(home),
            "NANOCHAT_BASE_DIR": str(base_dir),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip


def refused(hub, base_dir: Path, **environment: str) -> str:
    """The sentence of a download that fails, and leaves nothing."""
    done = download(hub, base_dir, **environment)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert list(base_dir.rglob("*shard_*")) == []
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("error: ")
    return sentence


def test_a_shard_arrives_with_its_record_and_nothing_else_is_left(hub, base_dir) -> None:
    done = download(hub, base_dir)
    assert done.returncode == 0, done.stderr
    folder = base_dir / "base_data" / NAME
    assert (folder / FILE).read_bytes() == hub.files[FILE]
    record = json.loads((folder / "shard_00001.json").read_text())
    assert record["sha256"] == hashlib.sha256(hub.files[FILE]).hexdigest()
    assert (record["documents"], record["source"]) == (300, f"karpathy/{NAME}")
    kept = base_dir / "base_data" / ".huggingface" / ".agent_harnesses.json"
    files = {path for path in base_dir.rglob("*") if path.is_file()}
    assert files == {folder / FILE, folder / "shard_00001.json", kept}
    assert list(base_dir.with_name("home").rglob("*")) == [], "nothing below ~"
    assert f"HEAD /datasets/karpathy/{NAME}/resolve/main/{FILE}" in hub.requests


def test_a_broken_connection_is_taken_up_where_it_broke(hub, base_dir) -> None:
    hub.breaks_after = 500
    done = download(hub, base_dir)
    assert done.returncode == 0, done.stderr
    assert (base_dir / "base_data" / NAME / FILE).read_bytes() == hub.files[FILE]


def test_a_shard_that_was_copied_by_hand_is_recorded_without_any_network(hub, base_dir) -> None:
    target = base_dir / "base_data" / NAME / FILE
    target.parent.mkdir(parents=True)
    target.write_bytes(parquet())
    assert download(hub, base_dir).returncode == 0
    assert hub.requests == []
    assert json.loads(target.with_suffix(".json").read_text())["documents"] == 300


def test_a_file_that_the_hub_lacks_is_an_error(hub, base_dir) -> None:
    hub.files.clear()
    assert re.search(
        r"(?s)cannot download http.*HTTP status 404.*HF_ENDPOINT", refused(hub, base_dir)
    )


@pytest.mark.parametrize(("status", "advice"), [(401, "HF_TOKEN"), (503, "again later")])
def test_a_hub_that_refuses_is_an_error(hub, base_dir, status: int, advice: str) -> None:
    hub.status = status
    sentence = refused(hub, base_dir)
    assert f"HTTP status {status}" in sentence
    assert advice in sentence


def test_a_page_instead_of_the_hub_is_an_error(hub, base_dir) -> None:
    hub.pages[FILE] = b"<html>Please log in</html>"
    assert "was not answered by a hub" in refused(hub, base_dir)


def test_a_page_instead_of_a_shard_is_an_error(hub, base_dir) -> None:
    hub.files[FILE] = b"<!DOCTYPE html><html>Blocked</html>"
    assert "came as an HTML page, not as parquet" in refused(hub, base_dir)


def test_a_shorter_file_than_the_hub_stated_is_an_error(hub, base_dir) -> None:
    hub.bodies[FILE] = hub.files[FILE][:-100]
    size = len(hub.files[FILE])
    assert f"should be of size {size} but has size {size - 100}" in refused(hub, base_dir)


def test_a_file_with_another_hash_than_the_hub_stated_is_an_error(hub, base_dir) -> None:
    content = bytearray(hub.files[FILE])
    content[content.index(b"created_by" if b"created_by" in content else b"parquet-cpp")] ^= 1
    hub.bodies[FILE] = bytes(content)
    assert "came damaged (SHA-256" in refused(hub, base_dir)


def test_a_file_that_is_no_parquet_is_an_error(hub, base_dir) -> None:
    hub.files[FILE] = bytes(1000)
    assert f"{FILE} is not a readable parquet file" in refused(hub, base_dir)


def test_a_file_without_the_column_is_an_error(hub, base_dir) -> None:
    hub.files[FILE] = parquet(column="content")
    assert f"{FILE} has no column `text` (it has: content)" in refused(hub, base_dir)


def test_no_network_is_an_error_at_once(hub, base_dir) -> None:
    hub.stop()
    assert "run this on a host with internet" in refused(hub, base_dir)
    assert "HF_HUB_OFFLINE" in refused(hub, base_dir, HF_HUB_OFFLINE="1")


def test_a_full_disk_is_an_error_and_leaves_its_space(hub, base_dir, small_disk: Path) -> None:
    hub.files[FILE] = parquet(documents=100_000)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
    done = download(hub, base_dir, NANOCHAT_BASE_DIR=str(small_disk))
    assert done.returncode == 2
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert list(small_disk.rglob("*shard_*")) == []


def test_the_held_out_shard_is_the_pinned_one_and_never_trained_on() -> None:
    assert CORPORA[NAME].numbers(2) == [0, 1, 6542]
    assert CORPORA["fineweb-edu-100b-shuffle"].numbers(1822)[-2:] == [1821, 1822]
    assert HubCorpus("a/b", 4, validation=1).numbers(3) == [0, 2, 3, 1]
    with pytest.raises(ConfigError, match="has 4 shards and one of them is held out: give at most"):
        HubCorpus("a/b", 4).numbers(4)
