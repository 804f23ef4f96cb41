"""300 downloads from a server that does everything wrong, some of them killed again and again."""

import hashlib
import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from hub_contents import core_bundle, parquet, table
from hub_server import Faults
from nanochat.errors import DownloadError
from nanochat.fetch.archive import facts_of_folder
from nanochat.fetch.display import Transfers
from nanochat.fetch.download import download
from nanochat.fetch.externals import External
from nanochat.registry import CORE_BUNDLE, CORPORA, ENGLISH_WORDS, TABLES

CORPUS = CORPORA["climbmix-400b-shuffle"]
SHARDS, WORDS, SPLITS, BUNDLES, KILLED = 200, 40, 20, 20, 20
KILLER = Path(__file__).with_name("killed_downloads.py")
SEED = 20
RATE = 0.35


def shard(number: int) -> bytes:
    rng = random.Random(number)
    return parquet({"text": [rng.randbytes(500).hex() for _ in range(rng.randrange(20, 200))]})


def fill(hub, base: Path) -> list[External]:
    """Puts everything on the hub, of every kind, and says what to ask for."""
    wanted = []
    for number in range(SHARDS + KILLED):
        path = base / "shards" / f"shard_{number:05d}.parquet"
        hub.files[f"{CORPUS.repo}/{path.name}"] = shard(number)
        wanted.append(External(CORPUS, f"{number:05d}", path, path.with_suffix(".json")))
    for number in range(WORDS):
        content = random.Random(number).randbytes(30_000)
        digest = hashlib.sha256(content).hexdigest()
        url = f"https://words.example/{number}/words.txt"
        source = replace(ENGLISH_WORDS, url=url, file="words.txt", sha256=digest)
        path = base / "words" / str(number) / "words.txt"
        hub.files[f"words.example/{number}/words.txt"] = content
        wanted.append(External(source, "", path, path.with_name("words.txt.record.json")))
    for number in range(SPLITS):
        gsm8k = replace(TABLES["gsm8k"], repo=f"tables/gsm8k-{number}")
        path = base / "tables" / str(number) / "train.parquet"
        hub.files[f"{gsm8k.repo}/main/train/0000.parquet"] = table("gsm8k", 1000 + number)
        hub.files[f"{gsm8k.repo}/main/train/0001.parquet"] = table("gsm8k", 500)
        wanted.append(External(gsm8k, "train", path, path.with_suffix(".json")))
    for number in range(BUNDLES):
        bundle = replace(CORE_BUNDLE, url=f"https://bundles.example/{number}.zip")
        hub.files[f"bundles.example/{number}.zip"] = core_bundle(100 + number)
        path = base / "bundles" / str(number)
        wanted.append(External(bundle, "", path, path.with_name(f"{number}.record.json")))
    return wanted


def content_of(hub, external: External, scratch: Path) -> object:
    """What has to be under its name in the end."""
    source, path = external.source, external.path
    if source.name == CORPUS.name:
        return hub.files[f"{CORPUS.repo}/{path.name}"]
    if source.name == "english_words":
        return hub.files[source.url.removeprefix("https://")]
    if source.name == "gsm8k":
        first = int(path.parent.name)
        return 1500 + first
    from io import BytesIO
    from zipfile import ZipFile

    with ZipFile(BytesIO(hub.files[source.url.removeprefix("https://")])) as opened:
        opened.extractall(scratch / path.name)
    return facts_of_folder(scratch / path.name / "eval_bundle")


def content_found(external: External) -> object:
    if external.source.name == "gsm8k":
        rows = pyarrow.parquet.read_table(external.path).to_pylist()
        firsts = [row["question"] == f"What is {n} plus {n}?" for n, row in enumerate(rows[:1000])]
        return len(rows) if all(firsts) else rows
    return facts_of_folder(external.path) if external.path.is_dir() else external.path.read_bytes()


def wrong_ones(hub, wanted: Sequence[External], scratch: Path) -> list[External]:
    there = [external for external in wanted if external.path.exists()]
    return [each for each in there if content_found(each) != content_of(hub, each, scratch)]


def attempted(external: External) -> str | None:
    """The sentence of a failure."""
    try:
        download(external, Transfers(1, 1).begin(external.path.name, 1))
    except DownloadError as exc:
        return str(exc)
    return None


@pytest.mark.slow
def test_whatever_goes_wrong_no_file_is_wrong_and_every_failure_is_said(
    hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("HF_ENDPOINT", "NANOCHAT_MIRROR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(key, hub.environment()[key])
    monkeypatch.setenv("NANOCHAT_DOWNLOAD_BACKOFF", "0.01")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    hub.stall_seconds = 1.5
    wanted = fill(hub, tmp_path / "base")
    killed, others = wanted[SHARDS : SHARDS + KILLED], wanted[:SHARDS] + wanted[SHARDS + KILLED :]
    hub.faults = Faults(SEED, RATE)
    digests = [hashlib.sha256(shard(int(each.part))).hexdigest() for each in killed]
    killer = subprocess.Popen(
        [sys.executable, str(KILLER), str(SEED)],
        env={**os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with killer, ThreadPoolExecutor(8) as pool:
        assert killer.stdin and killer.stdout
        killer.stdin.write(pickle.dumps(list(zip(killed, digests, strict=True))))
        killer.stdin.close()
        sentences = list(pool.map(attempted, others))
        counts = json.loads(killer.stdout.read())
    reported = [each for each, said in zip(others, sentences, strict=True) if said]
    kinds = Counter(re.sub(r".*?\((.*?)[;)].*", r"\1", said) for said in sentences if said)
    ranges = [headers["Range"] for headers in hub.headers if "Range" in headers]
    resumed = sum(int(each.removeprefix("bytes=").rstrip("-")) for each in ranges)
    correct = [each for each in wanted if each.path.exists()]
    with capsys.disabled():
        print(f"\n{len(wanted)} downloads, {len(hub.requests)} requests, seed {SEED}")
        print(f"faults injected: {dict(sorted(hub.faults.injected.items()))}")
        print(f"taken up {len(ranges)} times, which saved {resumed / 1e6:.1f} MB")
        print(f"processes started {counts['started']}, killed {counts['killed']}, "
              f"of which {counts['parts']} left a part")  # fmt: skip
        print(f"correct {len(correct)}, reported {len(reported) + len(counts['reported'])}: "
              f"{dict(kinds)}")  # fmt: skip
    assert sum(hub.faults.injected.values()) > 300 and len(hub.faults.injected) == 7
    assert counts["killed"] >= 10 and counts["parts"] > 0 and len(ranges) > 20
    assert counts["wrong"] == counts["crashed"] == 0
    assert wrong_ones(hub, wanted, tmp_path / "scratch") == []
    missing = {str(each.path) for each in wanted if not each.path.exists()}
    assert missing == {str(each.path) for each in reported} | set(counts["reported"])

    hub.faults = Faults(SEED, 0.0)  # and a second run mends what the first one could not
    asked = len(hub.requests)
    assert [attempted(each) for each in wanted] == [None] * len(wanted)
    assert len(hub.requests) - asked <= 5 * len(missing), "nothing is fetched twice"
    assert wrong_ones(hub, wanted, tmp_path / "scratch") == []
    assert not list(tmp_path.rglob(".part-*")) and not list(tmp_path.rglob(".tmp-*"))
    assert all(each.fetched.exists() for each in wanted)

    for spoilt in (wanted[0].path, wanted[-1].path / "core.yaml"):  # would a wrong one be seen?
        content = bytearray(spoilt.read_bytes())
        content[len(content) // 2] ^= 1
        spoilt.write_bytes(content)
    assert wrong_ones(hub, wanted, tmp_path / "scratch") == [wanted[0], wanted[-1]]
