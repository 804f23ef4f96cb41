"""What there is to download, what a config will, how long it takes: as data and as commands."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanochat.fetch.catalogue import (
    FILES_OF_ARCHIVE,
    FILES_OF_ONE,
    USUAL_RATE,
    catalogue,
    observed_rate,
    plan_downloads,
    still_to_come,
)
from nanochat.fetch.externals import External, externals
from nanochat.paths import Paths
from nanochat.registry import REGISTRY, HubCorpus


def external(disk: Paths, name: str, part: str = "") -> External:
    (found,) = (each for each in externals(disk) if (each.source.name, each.part) == (name, part))
    return found


def test_the_catalogue_has_the_whole_registry_and_what_of_it_is_here(fetched: Paths) -> None:
    entries = {entry.name: entry for entry in catalogue(fetched, externals(fetched))}
    assert list(entries) == list(REGISTRY)
    climbmix, gsm8k, bundle = (
        entries[name] for name in ("climbmix-400b-shuffle", "gsm8k", "core_bundle")
    )
    assert (climbmix.kind, climbmix.origin) == ("corpus", "karpathy/climbmix-400b-shuffle")
    assert (climbmix.files_here, climbmix.files_wanted) == (3, 3)
    shards = fetched.base_dir.glob("base_data/*/*.parquet")
    assert climbmix.bytes_here == sum(path.stat().st_size for path in shards)
    assert (gsm8k.kind, gsm8k.files_here) == ("table", 2)
    assert (bundle.kind, bundle.files_here) == ("archive", 1)
    assert bundle.origin == "karpathy-public.s3.us-west-2.amazonaws.com"
    assert bundle.bytes_here == sum(
        path.stat().st_size for path in fetched.downloads.glob("core_bundle/**/*") if path.is_file()
    )
    assert (entries["mmlu"].files_here, entries["mmlu"].files_wanted) == (0, 0)
    assert all(entry.licence and entry.used_by for entry in entries.values())


def test_the_plan_of_an_empty_disk_is_everything(disk_of) -> None:
    disk = disk_of()
    wanted = externals(disk)
    plan = plan_downloads(disk, wanted)
    assert (plan.files, plan.files_missing) == (len(wanted), len(wanted))
    assert plan.bytes_missing == pytest.approx(sum(each.about_bytes for each in wanted))
    assert (plan.bytes_per_second, plan.seconds) == (USUAL_RATE, plan.bytes_missing / USUAL_RATE)
    assert plan.rate_from == "assumed, since nothing has been downloaded here yet"
    assert not disk.base_dir.exists()


def test_the_plan_counts_what_is_there_and_the_parts_of_what_is_not(fetched: Paths) -> None:
    whole = plan_downloads(fetched, externals(fetched))
    assert (whole.files_missing, whole.bytes_missing) == (0, 0)
    assert whole.seconds == 0
    shard = external(fetched, "climbmix-400b-shuffle", "00001")
    shard.path.unlink()
    part = shard.path.with_name(f".part-{shard.path.name}") / shard.path.name
    part.parent.mkdir()
    part.write_bytes(bytes(1_000_000))
    plan = plan_downloads(fetched, externals(fetched))
    (need,) = (need for need in plan.needs if need.files != need.files_there)
    assert (need.name, need.files, need.files_there) == ("climbmix-400b-shuffle", 3, 2)
    assert plan.bytes_missing == need.bytes_missing == shard.about_bytes - 1_000_000


def test_what_the_shared_folder_has_is_not_to_be_downloaded(fetched: Paths, disk_of) -> None:
    paths = {
        "base_dir": str(fetched.base_dir.with_name("mine")),
        "shared_dir": str(fetched.base_dir),
    }
    disk = disk_of(paths=paths)
    plan = plan_downloads(disk, externals(disk))
    assert plan.files_missing == 0
    assert plan.bytes_there == plan_downloads(fetched, externals(fetched)).bytes_there
    assert still_to_come(externals(disk)) == (0, 0)


def test_room_is_asked_for_with_records_and_for_the_largest_table_twice(disk_of) -> None:
    wanted = externals(disk_of())
    tables = [each for each in wanted if not isinstance(each.source, HubCorpus)]
    size, files = still_to_come(wanted)
    largest = max(each.about_bytes for each in tables)
    assert size == pytest.approx(sum(each.about_bytes for each in wanted) + largest)
    assert files == FILES_OF_ONE * (len(wanted) - 1) + FILES_OF_ARCHIVE
    shards = [each for each in wanted if isinstance(each.source, HubCorpus)]
    assert still_to_come(shards)[0] == sum(each.about_bytes for each in shards)


def note(folder: Path, name: str, fetched: str, seconds: float, size: int) -> Path:
    path = folder / name
    path.write_text(json.dumps({"fetched": fetched, "seconds": seconds, "from": [{"bytes": size}]}))
    return path


def test_the_rate_is_of_all_downloads_over_the_time_in_which_any_ran(tmp_path: Path) -> None:
    """Two side by side, ten seconds long, and an hour later a third."""
    notes = [
        note(tmp_path, "a", "2026-01-01T10:00:10+00:00", 10, 300_000_000),
        note(tmp_path, "b", "2026-01-01T10:00:15+00:00", 10, 300_000_000),
        note(tmp_path, "c", "2026-01-01T12:00:00+01:00", 5, 400_000_000),
    ]
    assert observed_rate(notes) == (1e9 / 20, 3)
    (tmp_path / "bad").write_text('{"fetched": "yesterday", "seconds": 1, "from": [{"bytes": 1}]}')
    (tmp_path / "worse").write_text("{")
    assert observed_rate([*notes, tmp_path / "bad", tmp_path / "worse"]) == (1e9 / 20, 3)
    assert observed_rate([]) is None


def test_a_plan_uses_the_rate_of_earlier_downloads_unless_one_is_given(fetched: Paths) -> None:
    plan = plan_downloads(fetched, externals(fetched))
    assert plan.bytes_per_second == 10 * 50e6 / 2, "ten of them, all in the same two seconds"
    assert plan.rate_from == "as 10 earlier downloads here had together"
    given = plan_downloads(fetched, externals(fetched), 1e6)
    assert (given.bytes_per_second, given.rate_from) == (1e6, "as given")


# --- the commands -------------------------------------------------------------------------------


def nanochat(disk: Paths, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[bytes]":
    config = disk.base_dir.with_name("config.yaml")
    config.write_text(yaml.safe_dump(disk.config.model_dump(mode="json")))
    return subprocess.run(
        [sys.executable, "-m", "nanochat", "data", *arguments, "--config", str(config)],
        capture_output=True,
        timeout=60,
        **more,
    )


def shown(disk: Paths, *arguments: str, expect: int = 0, **more: Any) -> str:
    done = nanochat(disk, *arguments, **more)
    assert done.returncode == expect, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done.stdout.decode()


def test_list_prints_a_table_and_json(fetched: Paths) -> None:
    lines = shown(fetched, "list").splitlines()
    assert len(lines) == 1 + len(REGISTRY)
    (line,) = (line for line in lines if line.startswith("gsm8k"))
    assert {"table", "openai/gsm8k", "MIT"} <= set(line.split())
    assert line.rstrip().endswith("2 files")
    listed = json.loads(shown(fetched, "list", "--json"))
    assert [entry["name"] for entry in listed] == list(REGISTRY)


def test_plan_says_what_it_takes_and_whether_there_is_room(fetched: Paths) -> None:
    external(fetched, "climbmix-400b-shuffle", "00001").path.unlink()
    text = shown(fetched, "plan", "--megabytes-per-second", "10")
    assert "to download: 1 of 10 files, ~100.0 MB; there already: " in text
    assert "training shards: 2, for " in text
    assert "time: 10s at 10.0 MB/s (as given)" in text
    assert f"room below {fetched.base_dir}: " in text
    plan = json.loads(shown(fetched, "plan", "--json"))
    assert (plan["files_missing"], plan["shards"]["train_shards"]) == (1, 2)
    assert plan["room"]["bytes_left"] > 0


def test_a_plan_that_does_not_fit_is_shown_and_is_a_disk_error(disk_of, small_disk: Path) -> None:
    disk = disk_of(paths={"base_dir": str(small_disk / "base")})
    done = nanochat(disk, "plan", cwd=small_disk.parent)
    assert done.returncode == 80
    assert b"to download: 10 of 10 files" in done.stdout
    error = done.stderr.decode().splitlines()[-1]
    assert error.startswith(f"error: {small_disk}/base has to take ")
    assert "but its file system has room for " in error


def test_verify_ends_with_two_where_something_is_damaged_and_says_what_to_do(
    fetched: Paths,
) -> None:
    assert f"16 of 16 files below {fetched.base_dir} are ok" in shown(fetched, "verify")
    words = external(fetched, "english_words")
    words.path.write_bytes(words.path.read_bytes()[:-1])
    left = fetched.downloads / ".tmp-words"
    left.write_bytes(bytes(2000))
    for option in ([], ["--quick"]):
        lines = shown(fetched, "verify", *option, expect=2).splitlines()
        inside = words.path.relative_to(fetched.base_dir)
        assert any(
            line.startswith("damaged") and str(inside) in line and "bytes, not " in line
            for line in lines
        )
        mend = lines.index("to mend it:")
        assert lines[mend + 1 :] == [
            f"rm -rf {words.path} {words.record}",
            "nanochat data fetch",
            "2 kB would be free again, where no download is running, after:",
            f"rm -rf {left}",
        ]
    done = nanochat(fetched, "verify", "--json")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1] == (
        f"error: of 16 files, 1 damaged (the first is {words.path}): run the commands that "
        "`nanochat data verify` lists"
    )
    found = {check["path"]: check for check in json.loads(done.stdout)}
    assert len(found) == 17
    assert found[str(words.path)]["status"] == "damaged"
    assert found[str(left)]["status"] == "foreign"
    assert set(found[str(left)]) == {"path", "status", "bytes", "expected", "seen", "mend"}


def test_pack_and_unpack_through_a_pipe(fetched: Paths, disk_of, tmp_path: Path) -> None:
    packed = nanochat(fetched, "pack", "-")
    assert packed.returncode == 0, packed.stderr
    there = disk_of("there")
    said = shown(there, "unpack", "-", input=packed.stdout)
    assert said == f"10 downloads in {there.base_dir}: 10 unpacked\n"
    shown(there, "verify")
    target = tmp_path / "data.tar"
    shown(fetched, "pack", str(target))
    assert target.read_bytes() == packed.stdout
    assert "10 there already" in shown(there, "unpack", str(target))
    done = nanochat(there, "unpack", "-", input=packed.stdout[:10_000])
    assert done.returncode == 2
    assert b"error: the tar is cut or damaged" in done.stderr
    done = nanochat(there, "unpack", str(tmp_path / "nothing"))
    assert b"error: there is no file " in done.stderr


def test_a_reader_that_goes_away_is_one_sentence(fetched: Paths) -> None:
    big = external(fetched, "climbmix-400b-shuffle", "00000")
    big.path.write_bytes(os.urandom(3_000_000))
    record = json.loads(big.record.read_text())
    facts = {"sha256": hashlib.sha256(big.path.read_bytes()).hexdigest(), "file_bytes": 3_000_000}
    big.record.write_text(json.dumps({**record, **facts}))
    reading, writing = os.pipe()
    config = fetched.base_dir.with_name("config.yaml")
    config.write_text(yaml.safe_dump(fetched.config.model_dump(mode="json")))
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "data", "pack", "-", "--config", str(config)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    os.read(reading, 10_000)
    os.close(reading)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "error: whoever read the tar has gone: run both commands again" in errors
    assert "Traceback" not in errors
