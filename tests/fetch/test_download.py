"""What the registry names, downloaded from a real server on loopback: whole, checked, recorded."""

import hashlib
import io
import json
import os
import pickle
import random
import re
import signal
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hub_contents import core_bundle, parquet, plain, shard, table
from hub_server import COMMIT, OnlyFirst, fill_for
from nanochat.data.shards import record_shard
from nanochat.errors import DamagedArtefact, DownloadError, MissingArtefact
from nanochat.fetch import archive, display
from nanochat.fetch.archive import facts_of_folder
from nanochat.fetch.display import Stopped, Transfers, progress_line
from nanochat.fetch.download import download, download_all, write_manifest
from nanochat.fetch.externals import External
from nanochat.registry import (
    CORE_BUNDLE,
    CORPORA,
    ENGLISH_WORDS,
    TABLES,
    VOCABULARIES,
    HubTable,
    Source,
)

CORPUS = CORPORA["climbmix-400b-shuffle"]
SHARD = "shard_00001.parquet"
GSM8K = "openai/gsm8k/main/train/0000.parquet"
BUNDLE = "karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"


@pytest.fixture
def server(hub, monkeypatch: pytest.MonkeyPatch):
    for key in ("HF_ENDPOINT", "NANOCHAT_MIRROR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(key, hub.environment()[key])
    monkeypatch.setenv("NANOCHAT_DOWNLOAD_BACKOFF", "0.01")
    return hub


def external(base: Path, source: Source, part: str = "") -> External:
    """As externals() places them."""
    folder = base / "downloads"
    if source is CORPUS:
        path = base / "base_data" / source.name / f"shard_{part}.parquet"
    elif isinstance(source, HubTable):
        path = folder / "tasks" / source.name / f"{part}.parquet"
    else:
        path = folder / source.name / getattr(source, "file", "")
    record = path.with_suffix(".json") if part else path.with_name(f"{path.name}.record.json")
    return External(source, part, path, record)


def everything(base: Path) -> list[External]:
    tables = [external(base, each, part) for each in TABLES.values() for part in each.splits]
    files = [external(base, each) for each in (CORE_BUNDLE, ENGLISH_WORDS, *VOCABULARIES.values())]
    return [external(base, CORPUS, number) for number in ("00001", "06542")] + tables + files


def left(base: Path) -> set[str]:
    return {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}


def refused(wanted: External) -> str:
    """The sentence of a download that fails, and leaves nothing."""
    with pytest.raises(DownloadError) as caught:
        download(wanted)
    assert left(wanted.path.parent) == set()
    return str(caught.value)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_shard_arrives_with_its_origin_and_nothing_else_is_left(
    server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files[SHARD] = shard()
    wanted = external(tmp_path, CORPUS, "00001")
    download(wanted)
    assert wanted.path.read_bytes() == server.files[SHARD]
    assert left(wanted.path.parent) == {SHARD, f".fetched/{SHARD}.json"}
    fetched = read(wanted.fetched)
    assert fetched["from"] == [
        {
            "url": f"{server.url}/datasets/{CORPUS.repo}/resolve/main/{SHARD}",
            "bytes": len(server.files[SHARD]),
            "sha256": hashlib.sha256(server.files[SHARD]).hexdigest(),
            "commit": COMMIT,
            "revision": "main",
        }
    ]
    assert fetched["attempts"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", fetched["fetched"])
    said = capsys.readouterr().err
    assert re.fullmatch(
        rf"{re.escape(str(wanted.path))}: 0\.0 MB in \d+\.\d s \(\d+\.\d MB/s\)\n", said
    )


def test_what_is_there_already_is_left_alone(
    server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = external(tmp_path, CORPUS, "00001")
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(b"copied by hand")
    download(wanted)
    assert server.requests == []
    assert left(wanted.path.parent) == {SHARD}
    assert capsys.readouterr().err == f"{wanted.path} is there already\n"


def test_the_files_of_a_split_become_one_table_of_just_its_columns(server, tmp_path: Path) -> None:
    parts = [
        parquet({"question": [f"{n}?" for n in range(5)], "answer": [str(n) for n in range(5)]}),
        parquet({"beside": [0] * 7, "answer": [str(n) for n in range(5, 12)],
                 "question": [f"{n}?" for n in range(5, 12)]}),
    ]  # fmt: skip
    server.files[GSM8K.replace("0000", "0001")], server.files[GSM8K] = parts[1], parts[0]
    wanted = external(tmp_path, TABLES["gsm8k"], "train")
    download(wanted)
    rows = pyarrow.parquet.read_table(wanted.path).to_pylist()
    assert rows == [{"question": f"{n}?", "answer": str(n)} for n in range(12)]
    content = wanted.path.read_bytes()
    assert read(wanted.record) == {
        "source": "gsm8k",
        "file": "train.parquet",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": 12,
        "licence": "MIT",
    }
    assert [part["bytes"] for part in read(wanted.fetched)["from"]] == [len(p) for p in parts]
    assert left(wanted.path.parent) == {
        "train.parquet",
        "train.json",
        ".fetched/train.parquet.json",
    }
    before = content, wanted.record.read_bytes()
    for path in (wanted.path, wanted.record, wanted.fetched):
        path.unlink()
    download(wanted)
    assert (wanted.path.read_bytes(), wanted.record.read_bytes()) == before


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_keeps_its_types(server, tmp_path: Path, name: str) -> None:
    source = TABLES[name]
    config, split = source.splits["train" if "train" in source.splits else "test"]
    server.files[f"{source.repo}/{config}/{split}/0000.parquet"] = table(name)
    wanted = external(tmp_path, source, next(iter(source.splits)))
    download(wanted)
    came = pyarrow.parquet.read_table(io.BytesIO(table(name))).select(source.columns)
    assert pyarrow.parquet.read_table(wanted.path).equals(came)


def test_a_lost_connection_between_the_files_of_a_table_costs_only_the_later_one(
    server, tmp_path: Path
) -> None:
    second, content = GSM8K.replace("0000", "0001"), table("gsm8k", 20)
    server.files |= {GSM8K: table("gsm8k"), second: content}
    server.bodies[second] = b"?" * len(content)
    wanted = external(tmp_path, TABLES["gsm8k"], "train")
    with pytest.raises(DownloadError, match=r"0001.parquet \(it came damaged"):
        download(wanted)
    server.bodies.clear()
    server.requests.clear()
    download(wanted)
    assert not any("blobs" in each and "0000" in each for each in server.requests)
    assert pyarrow.parquet.read_metadata(wanted.path).num_rows == 60


def test_a_table_that_is_not_as_the_registry_says_is_refused(server, tmp_path: Path) -> None:
    wanted = external(tmp_path, TABLES["gsm8k"], "train")
    assert "(HTTP status 404): there is no such file" in refused(wanted)
    server.files[GSM8K.replace("parquet", "txt")] = b"no parquet"
    assert "lists no parquet files: the hub has none of openai/gsm8k, main/train" in refused(wanted)
    server.files[GSM8K] = parquet({"question": ["Why?"], "reply": ["So."]})
    assert "came, but it has no column `answer` (it has: question, reply)" in refused(wanted)
    server.files[GSM8K] = b"PAR1 and nothing more"
    assert "came, but it is not a readable parquet file" in refused(wanted)
    empty = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string())])
    server.files[GSM8K] = parquet({"question": [], "answer": []}, empty)
    assert "came, but it has no rows" in refused(wanted)


def test_a_file_arrives_with_its_record(server, tmp_path: Path) -> None:
    (wanted,) = fill_for(server, [external(tmp_path, ENGLISH_WORDS)])
    download(wanted)
    content = plain("english_words")
    assert wanted.path.read_bytes() == content
    assert read(wanted.record) == {
        "source": "english_words",
        "file": "words_alpha.txt",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": ENGLISH_WORDS.licence,
    }


def test_a_file_whose_sha256_the_registry_states_has_to_have_it(server, tmp_path: Path) -> None:
    wanted = external(tmp_path, VOCABULARIES["gpt2_merges"])
    fill_for(server, [wanted])
    assert "it came damaged: SHA-256" in refused(wanted)
    wanted.path.write_bytes(b"something else")
    with pytest.raises(DamagedArtefact, match=r"its SHA-256 is .* and not 1ce1664773c5"):
        download(wanted)


def test_an_archive_becomes_a_folder_of_what_lies_below_its_root(server, tmp_path: Path) -> None:
    (wanted,) = fill_for(server, [external(tmp_path, CORE_BUNDLE)])
    wanted.path.mkdir(parents=True)  # as Snakemake does for its outputs
    download(wanted)
    inside = {name.removeprefix("core_bundle/") for name in left(wanted.path.parent)}
    files = {name for name in zipfile.ZipFile(io.BytesIO(core_bundle())).namelist()}
    ours = {name.removeprefix("eval_bundle/") for name in files if name.startswith("eval_bundle")}
    assert inside == {*ours, "core_bundle.record.json", ".fetched/core_bundle.json"}
    record = read(wanted.record)
    assert record["files"]["core.yaml"]["bytes"] == (wanted.path / "core.yaml").stat().st_size
    assert set(record["files"]) == ours
    assert record == {**record, **facts_of_folder(wanted.path)}


def zipped(**names: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in names.items():
            made.writestr(name, content)
    return buffer.getvalue()


def with_link() -> bytes:
    buffer = io.BytesIO(core_bundle())
    with zipfile.ZipFile(buffer, "a") as made:
        link = zipfile.ZipInfo("eval_bundle/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def damaged() -> bytes:
    content = bytearray(zipped(**{"eval_bundle/core.yaml": b"tasks" * 100}))
    content[content.index(b"tasks")] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"no zip file", "it is not a zip file that can be unpacked (File is not a zip file)"),
     (damaged(), "it is not a zip file that can be unpacked (Bad CRC-32"),
     (core_bundle()[:-2000], "it is not a zip file that can be unpacked"),
     (zipped(**{"eval_bundle/../../core.yaml": b""}), "which leads out of its folder"),
     (zipped(**{"/eval_bundle/core.yaml": b""}), "which leads out of its folder"),
     (zipped(**{"eval_bundle\\..\\core.yaml": b""}), "which leads out of its folder"),
     (with_link(), "it holds 'eval_bundle/link', which is no plain file"),
     (zipped(**{"eval_bundle/core.yaml": b"", "eval_bundle/core.yaml/x": b""}), "twice"),
     (zipped(**{"other/core.yaml": b""}), "it has no eval_bundle/core.yaml")],
    ids=str,
)  # fmt: skip
def test_an_archive_that_is_not_as_it_should_be_is_refused(
    server, tmp_path: Path, content: bytes, sentence: str
) -> None:
    server.files[BUNDLE] = content
    assert sentence in refused(external(tmp_path, CORE_BUNDLE))
    assert left(tmp_path) == set()


def test_an_archive_that_would_fill_the_disk_is_refused(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 7000)
    server.files[BUNDLE] = core_bundle()
    wanted = external(tmp_path, CORE_BUNDLE)
    assert "it would unpack to 5 files of 0.0 GB in all" in refused(wanted)


@pytest.mark.parametrize("source", [TABLES["gsm8k"], ENGLISH_WORDS, CORE_BUNDLE])
def test_what_was_copied_by_hand_gets_the_record_that_a_download_has(
    server, tmp_path: Path, source: Source
) -> None:
    (wanted,) = fill_for(
        server, [external(tmp_path, source, "train" if isinstance(source, HubTable) else "")]
    )
    download(wanted)
    before = wanted.record.read_bytes()
    wanted.record.unlink()
    server.requests.clear()
    download(wanted)
    assert wanted.record.read_bytes() == before
    assert server.requests == []


def test_a_copied_table_that_is_damaged_is_not_recorded(server, tmp_path: Path) -> None:
    wanted = external(tmp_path, TABLES["gsm8k"], "train")
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_bytes(table("gsm8k")[:-10])
    with pytest.raises(DamagedArtefact, match=r"is not a readable parquet file.*: delete it"):
        download(wanted)
    assert not wanted.record.exists()


@pytest.mark.parametrize("stated", [True, False])
def test_a_shard_that_is_none_is_refused(server, tmp_path: Path, stated: bool) -> None:
    wanted = external(tmp_path, CORPUS, "00001")
    if not stated:
        server.unstated.add(SHARD)
    server.files[SHARD] = bytes(1000)
    assert f"{SHARD} is not a readable parquet file" in refused(wanted)
    server.files[SHARD] = parquet({"content": ["Not text."]})
    assert f"{SHARD} has no column `text` (it has: content)" in refused(wanted)
    server.files[SHARD] = parquet({"text": pyarrow.array([], pyarrow.string())})
    assert f"{SHARD} holds no documents" in refused(wanted)


def test_a_shard_without_a_stated_sha256_is_read_to_its_end(server, tmp_path: Path) -> None:
    content = bytearray(shard())
    content[200:260] = bytes(60)  # pages, of which the footer says nothing
    server.files[SHARD] = bytes(content)
    wanted = external(tmp_path, CORPUS, "00001")
    download(wanted)
    wanted.path.unlink()
    wanted.fetched.unlink()
    server.unstated.add(SHARD)
    assert f"{SHARD} is not a readable parquet file" in refused(wanted)


def test_all_that_is_missing_is_downloaded_and_listed(
    server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = fill_for(server, everything(tmp_path))
    download_all(wanted[:3], connections=2)
    server.requests.clear()
    download_all(wanted, connections=4)
    assert not any("shard" in request for request in server.requests)
    assert not list(tmp_path.rglob(".part-*"))
    for each in wanted[:2]:
        record_shard(each.path, each.record)
    manifest = tmp_path / "runs" / "local" / "downloads.json"
    write_manifest(wanted, manifest)
    listed = read(manifest)["files"]
    assert [(each["name"], each["part"]) for each in listed] == [
        (each.source.name, each.part) for each in wanted
    ]
    assert listed[0] == {
        "name": CORPUS.name,
        "part": "00001",
        "file": SHARD,
        "path": f"base_data/{CORPUS.name}/{SHARD}",
        "bytes": read(wanted[0].record).get("file_bytes", listed[0]["bytes"]),
        "sha256": hashlib.sha256(wanted[0].path.read_bytes()).hexdigest(),
        "licence": CORPUS.licence,
        "documents": 300,
        "fetched": read(wanted[0].fetched)["fetched"],
        "url": f"{server.url}/datasets/{CORPUS.repo}/resolve/main/{SHARD}",
        "commit": COMMIT,
        "revision": "main",
    }
    assert listed[2]["rows"] == 40


def test_the_list_of_a_run_that_downloads_nothing_is_empty(tmp_path: Path) -> None:
    manifest = tmp_path / "runs" / "local" / "downloads.json"
    write_manifest([], manifest)
    assert read(manifest) == {"files": []}
    with pytest.raises(MissingArtefact, match="run `nanochat data fetch` first"):
        write_manifest([external(tmp_path, ENGLISH_WORDS)], manifest)


def test_what_cannot_be_had_does_not_stop_the_others_and_is_said_once_for_all(
    server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = [f"{number:05d}" for number in range(12)]
    wanted = fill_for(server, [external(tmp_path, CORPUS, number) for number in numbers])
    wanted += fill_for(server, [external(tmp_path, ENGLISH_WORDS)])
    for number in range(5):
        del server.files[f"{CORPUS.repo}/shard_{number:05d}.parquet"]
    server.pages["words_alpha.txt"] = b"<html>"
    with pytest.raises(DownloadError, match=r"words_alpha.txt \(an HTML page came instead"):
        download_all(wanted, connections=3)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(said) == 1
    assert re.match(
        r"error: 5 files did not arrive \(shard_0000\d.parquet, shard_0000\d.parquet, "
        r"shard_0000\d.parquet \.\.\.\), for instance: cannot download .* \(HTTP status 404\)",
        said[0],
    )
    assert sum(each.is_there for each in wanted) == 7


def test_an_endpoint_that_nobody_answers_at_is_not_asked_for_every_file(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    wanted = [external(tmp_path, CORPUS, f"{number:05d}") for number in range(100)]
    wanted += fill_for(server, [external(tmp_path, ENGLISH_WORDS)])
    begun = []

    def begin(self: Transfers, name: str, about_bytes: float) -> display.Watch:
        begun.append(name)
        return original(self, name, about_bytes)

    original = Transfers.begin
    monkeypatch.setattr(Transfers, "begin", begin)
    with pytest.raises(DownloadError, match=r"100 files did not arrive.*connection refused"):
        download_all(wanted, connections=2)
    assert len(begun) <= 2 + 1, "two at once found out, and the other host's file"
    assert wanted[-1].is_there


def test_a_full_disk_ends_it(server, small_disk: Path) -> None:
    wanted = [external(small_disk, CORPUS, f"{number:05d}") for number in range(20)]
    big = parquet({"text": [random.Random(number).randbytes(300_000).hex() for number in range(3)]})
    server.files |= {each.path.name: big for each in wanted}
    with pytest.raises(DownloadError, match=r"the disk is full"):
        download_all(wanted, connections=2)
    assert not list(small_disk.rglob(".part-*"))
    assert sum(each.is_there for each in wanted) < 3


def test_an_interrupted_download_of_all_ends_soon_and_keeps_its_parts(
    server, tmp_path: Path
) -> None:
    names = [f"{number:05d}" for number in range(3)]
    wanted = fill_for(server, [external(tmp_path, CORPUS, name) for name in names])
    process = subprocess.Popen(
        [sys.executable, "-c",
         "import pickle, signal, sys; from nanochat.fetch.download import download_all;"
         # what is started in the background ignores it
         "signal.signal(signal.SIGINT, signal.default_int_handler);"
         "download_all(pickle.load(sys.stdin.buffer), 2)"],
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    server.faults = OnlyFirst(2, 1.0, ["stall"])
    server.stall_seconds = 3.0
    assert process.stdin
    process.stdin.write(pickle.dumps(wanted))
    process.stdin.close()
    while not list(tmp_path.rglob(".part-*/shard_*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert not any(each.is_there for each in wanted)
    download_all(wanted)
    assert all(each.is_there for each in wanted)


def test_a_log_gets_a_line_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display.time, "monotonic", iter([0.0, 10.0, 10.0]).__next__)
    many = Transfers(101, 10.1e9)
    for number in range(3):
        watch = many.begin(f"shard_{number:05d}.parquet", 100e6)
        watch.resumed(10_000_000)
        watch.moved(100_000_000, 110_000_000)
    watch.ended(arrived=True)
    assert progress_line(many) == (
        "1 of 101 files: 300.0 of 10,120.0 MB (3 %), 27.0 MB/s, ETA 6m03s"
    )
    one = Transfers(1, 100e6)
    one.begin("shard_00007.parquet", 100e6).moved(25_000_000, None)
    one.stop.set()
    with pytest.raises(Stopped):
        one.watches[0].moved(26_000_000, None)
    one.started = -10.0
    monkeypatch.setattr(display.time, "monotonic", lambda: 0.0)
    assert progress_line(one) == ("shard_00007.parquet: 26.0 of 100.0 MB (26 %), 2.6 MB/s, ETA 28s")


def test_a_terminal_gets_bars(server, tmp_path: Path) -> None:
    fill_for(server, [external(tmp_path, CORPUS, "00001")])
    code = (
        "import sys; sys.stderr.isatty = lambda: True; from pathlib import Path;"
        "from nanochat.fetch.download import download_all; from nanochat.fetch.externals import *;"
        "from nanochat.registry import CORPORA; p = Path(sys.argv[1]);"
        "c = CORPORA['climbmix-400b-shuffle'];"
        "download_all([External(c, f'{n:05d}', p / f'shard_{n:05d}.parquet', p / 'r')"
        " for n in (1, 1)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 2 files" in done.stderr
    assert (tmp_path / SHARD).exists()


def test_an_entry_of_the_registry_can_be_replaced(server, tmp_path: Path) -> None:
    corpus = replace(CORPUS, repo="somebody/else", revision="v1", pattern="part-{:03d}.parquet")
    wanted = external(tmp_path, CORPUS, "00001")
    server.files["somebody/else/part-001.parquet"] = shard()
    download(replace(wanted, source=corpus))
    assert read(wanted.fetched)["from"][0]["revision"] == "v1"
    assert server.requests[0] == "GET /datasets/somebody/else/resolve/v1/part-001.parquet"
