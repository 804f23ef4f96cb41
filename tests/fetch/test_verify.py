"""Verification reads what is there and finds every damage; what it prints mends it."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nanochat.data.layout import corpus_layout
from nanochat.data.rows import write_rows
from nanochat.data.shards import write_shards
from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.fetch.claims import Check
from nanochat.fetch.externals import External, externals
from nanochat.fetch.verify import complaint, verify
from nanochat.paths import Paths


def look(disk: Paths, quick: bool = False) -> list[Check]:
    return verify(disk, externals(disk), corpus_layout(disk), quick)


def trouble(disk: Paths, quick: bool = False) -> list[Check]:
    """What is not ok."""
    return [check for check in look(disk, quick) if check.status != "ok"]


def external(disk: Paths, name: str, part: str = "") -> External:
    (found,) = (each for each in externals(disk) if (each.source.name, each.part) == (name, part))
    return found


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("quick", [False, True])
def test_what_is_as_recorded_is_ok(fetched: Paths, quick: bool) -> None:
    checks = look(fetched, quick)
    assert {check.status for check in checks} == {"ok"}
    assert len(checks) == 3 + 2 + 1 + 3 + 7, "shards, tables, words, vocabularies, archive"
    assert complaint(checks) is None
    assert all(check.mend == "" for check in checks)


def test_every_flipped_byte_is_found(fetched: Paths) -> None:
    random_ = random.Random(0)
    paths = [check.path for check in look(fetched)]
    for _ in range(200):
        path = random_.choice(paths)
        place = random_.randrange(path.stat().st_size)
        flip(path, place)
        assert [check.path for check in trouble(fetched)] == [path], place
        flip(path, place)
    assert trouble(fetched) == []


def test_quick_finds_what_has_another_size_and_reads_no_content(fetched: Paths) -> None:
    words, table = external(fetched, "english_words").path, external(fetched, "gsm8k", "test").path
    flip(words, 10)
    assert trouble(fetched, quick=True) == []
    with open(words, "ab") as handle:
        handle.write(b"more")
    os.truncate(table, 100)
    found = trouble(fetched, quick=True)
    assert [check.path for check in found] == [words, table]
    assert found[0].expected.startswith(f"{words.stat().st_size - 4:,} bytes, SHA-256 ")
    assert found[0].seen == f"{words.stat().st_size:,} bytes"


def test_quick_reads_the_footers_of_shards_and_tables(fetched: Paths) -> None:
    shard, table = (external(fetched, "climbmix-400b-shuffle", "06542"),
                    external(fetched, "gsm8k", "train"))  # fmt: skip
    record = json.loads(table.record.read_text())
    table.record.write_text(json.dumps({**record, "rows": 19}))
    flip(shard.path, -1)
    found = {check.path: check.seen for check in trouble(fetched, quick=True)}
    assert found.keys() == {shard.path, table.path}
    assert found[table.path] == "20 rows, not 19"
    assert "no readable parquet file" in found[shard.path]


def test_what_is_missing_is_fetched_by_the_command_that_is_named(fetched: Paths) -> None:
    shard = external(fetched, "climbmix-400b-shuffle", "00001")
    shard.path.unlink()
    (found,) = trouble(fetched)
    assert (found.status, found.seen) == ("missing", "not there")
    assert found.mend == "nanochat data fetch"
    error = complaint([found])
    assert isinstance(error, MissingArtefact)
    assert str(error) == (
        f"of 1 files, 1 missing (the first is {shard.path}): run the commands that "
        "`nanochat data verify` lists"
    )


def test_running_what_mends_and_fetching_again_makes_all_well(
    fetched: Paths, fake_download
) -> None:
    damaged = [external(fetched, "gsm8k", "train"), external(fetched, "core_bundle")]
    flip(damaged[0].path, 50)
    (damaged[1].path / "eval_data" / "task_3" / "items.jsonl").unlink()
    checks = look(fetched)
    assert isinstance(complaint(checks), DamagedArtefact)
    for check in checks:
        if check.mend:
            command, _, then = check.mend.partition(" && ")
            assert then == "nanochat data fetch"
            subprocess.run(command, shell=True, check=True)
    for each in damaged:
        assert not each.path.exists() and not each.record.exists()
        fake_download(each)
    assert trouble(fetched) == []


def test_what_has_no_record_is_unrecorded_and_no_complaint(fetched: Paths) -> None:
    shard = external(fetched, "climbmix-400b-shuffle", "00000")
    shard.record.unlink()
    checks = look(fetched)
    (found,) = (check for check in checks if check.status != "ok")
    assert (found.path, found.status) == (shard.path, "unrecorded")
    assert complaint(checks) is None
    os.truncate(shard.path, 100)
    assert [check.status for check in trouble(fetched)] == ["damaged"]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"sha256": 7, "bytes": "many"}', '{"files": 1}']
)
def test_a_record_that_nobody_can_read_is_damaged_itself(fetched: Paths, content: str) -> None:
    for each in (external(fetched, "core_bundle"), external(fetched, "english_words")):
        before = each.record.read_text()
        each.record.write_text(content)
        found = trouble(fetched)
        assert (each.record, "damaged") in {(check.path, check.status) for check in found}
        each.record.write_text(before)


def test_a_folder_in_the_place_of_a_file_is_damaged(fetched: Paths) -> None:
    path = external(fetched, "english_words").path
    path.unlink()
    path.mkdir()
    (found,) = trouble(fetched)
    assert (found.status, found.seen) == ("damaged", f"{path.stat().st_size:,} bytes")


def test_files_that_nobody_asked_for_are_foreign(fetched: Paths) -> None:
    shard = external(fetched, "climbmix-400b-shuffle", "00000").path
    bundle = external(fetched, "core_bundle").path
    part = shard.with_name(".part-shard_00005.parquet")
    part.mkdir()
    (part / "shard_00005.parquet").write_bytes(bytes(1234))
    foreign = {
        part: 1234,
        shard.with_name("copy of shard_00000.parquet"): 0,
        shard.with_name("shard_99999.parquet"): 0,
        bundle / "eval_data" / "more.jsonl": 0,
        fetched.downloads / "something.zip": 0,
        fetched.downloads / ".tmp-words-0123": 0,
    }
    of_other_configs = [
        shard.with_name("shard_00777.parquet"),
        shard.with_name("shard_00777.json"),
        shard.parent / ".fetched" / "shard_00777.parquet.json",
        fetched.table("mmlu", "test"),
        fetched.record_of(fetched.table("mmlu", "test")),
        bundle / "eval_data" / ".snakemake_timestamp",
    ]
    for path in [*foreign, *of_other_configs]:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
    checks = look(fetched)
    assert {check.path: check.bytes for check in checks if check.status != "ok"} == foreign
    assert {check.status for check in checks} == {"ok", "foreign"}
    assert complaint(checks) is None
    (left,) = (check for check in checks if check.path == part)
    assert left.seen == "left by a transfer that did not end"
    assert left.mend == f"rm -rf {part}"


@pytest.fixture
def made(disk_of) -> Paths:
    """A corpus and packed rows that were made here."""
    disk = disk_of(data={"source": "embedded", "train_shards": 1}, mid={"items": {"spelling": 9}})
    write_shards([(0, "one text"), (1, "another")], disk.corpus, 2, {})
    ids_NC, masks_NC = np.arange(99, dtype=np.uint16).reshape(9, 11), np.ones((9, 11), np.uint8)
    record = {"sequence_len": 10}
    write_rows(disk.tokens, "shard_00000", ids_NC, None, record)
    write_rows(disk.chat_rows("mid").parent, "mid", ids_NC, masks_NC, record)
    return disk


def in_the_making(disk: Paths, quick: bool = False) -> dict[str, str]:
    checks = verify(disk, [], corpus_layout(disk), quick)
    return {check.path.name: f"{check.status} {check.seen}".strip() for check in checks}


def test_shards_and_rows_that_were_made_here_are_verified_too(made: Paths) -> None:
    names = ["mid.mask.npy", "mid.npy", "shard_00000.npy", "shard_00000.parquet"]
    assert in_the_making(made) == dict.fromkeys([*names, "shard_00001.parquet"], "ok")
    flip(made.rows("00000"), -1)
    flip(made.chat_rows("mid").with_suffix(".mask.npy"), -1)
    flip(made.corpus / "shard_00001.parquet", 30)
    found = in_the_making(made)
    assert [name for name in found if found[name] != "ok"] == [
        *("shard_00001.parquet", "mid.mask.npy", "shard_00000.npy")
    ]


@pytest.mark.parametrize("content", ["", "[1]", '{"rows": 9}'])
def test_a_record_of_rows_that_nobody_can_read_is_damaged(made: Paths, content: str) -> None:
    made.rows_record("00000").write_text(content)
    found = in_the_making(made)
    assert found["shard_00000.json"] == "damaged no JSON that has it"
    assert "shard_00000.npy" not in found


def test_quick_looks_at_the_size_of_rows(made: Paths) -> None:
    assert set(in_the_making(made, quick=True).values()) == {"ok"}
    os.truncate(made.rows("00000"), 200)
    assert "a file that is cut" in in_the_making(made, quick=True)["shard_00000.npy"]


def test_what_is_not_made_yet_is_not_missing_but_what_was_made_is(made: Paths) -> None:
    made.rows("00000").unlink()
    made.chat_rows("mid").with_suffix(".json").unlink()
    shutil.rmtree(made.corpus)
    assert in_the_making(made) == {"shard_00000.npy": "missing not there"}


def test_a_users_own_shard_is_never_to_be_removed(disk_of, tmp_path: Path) -> None:
    write_shards([(0, "one text"), (1, "another")], tmp_path / "own", 2, {})
    disk = disk_of(data={"source": str(tmp_path / "own"), "train_shards": 1})
    layout = corpus_layout(disk)
    for shard, record in zip(layout.shards, layout.records, strict=True):
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"sha256": "0" * 64, "documents": 1, "file": shard.name}))
    checks = verify(disk, [], layout)
    assert {check.status for check in checks} == {"damaged"}
    assert {check.mend for check in checks} == {
        "put it back as it was, or run `snakemake` to use it as it is"
    }


def test_a_shared_copy_is_verified_where_it_lies_and_mended_by_who_keeps_it(
    fetched: Paths, disk_of, tmp_path: Path
) -> None:
    words = external(fetched, "english_words")
    flip(words.path, 7)
    before = sorted(tmp_path.rglob("*"))
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o055)
    words.path.parent.chmod(0o555)
    mine = disk_of("mine", paths={"base_dir": str(tmp_path / "mine"),
                                  "shared_dir": str(fetched.base_dir)})  # fmt: skip
    found = verify_as_nobody(mine)
    words.path.parent.chmod(0o755)
    assert [(check["path"], check["status"]) for check in found] == [(str(words.path), "damaged")]
    assert found[0]["mend"] == (
        f"tell whoever keeps {words.path.parent}, or set no `paths.shared_dir` until it is mended"
    )
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def verify_as_nobody(disk: Paths) -> list[dict[str, str]]:
    """What is not ok, found by a user who may read everything and write nothing there."""
    script = (
        "import json, os, sys\n"
        "from nanochat.config import Config\n"
        "from nanochat.fetch.externals import externals\n"
        "from nanochat.data.layout import corpus_layout\n"
        "from nanochat.fetch.verify import verify\n"
        "disk = Config.model_validate_json(sys.argv[1]).disk\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "checks = verify(disk, externals(disk), corpus_layout(disk))\n"
        "print(json.dumps([check.to_json() for check in checks if check.status != 'ok']))\n"
    )
    command = [sys.executable, "-c", script, disk.config.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
