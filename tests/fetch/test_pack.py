"""Downloads as one tar: packed here, unpacked there, and nothing wrong on any way between."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from nanochat.data.layout import corpus_layout
from nanochat.errors import BadInput, DamagedArtefact, DiskError, MissingArtefact, NanochatError
from nanochat.fetch.externals import External, externals
from nanochat.fetch.pack import MANIFEST, pack
from nanochat.fetch.unpack import unpack
from nanochat.fetch.verify import verify
from nanochat.paths import Paths


def external(disk: Paths, name: str, part: str = "") -> External:
    (found,) = (each for each in externals(disk) if (each.source.name, each.part) == (name, part))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def with_final_names(folder: Path) -> dict[str, bytes]:
    """The same without what a killed process leaves behind, such as a lock."""
    return {
        name: content
        for name, content in contents(folder).items()
        if ".part-" not in name and ".tmp-" not in name
    }


def tar_of(disk: Paths) -> bytes:
    stream = io.BytesIO()
    pack(disk, externals(disk), stream)
    return stream.getvalue()


def all_well(disk: Paths) -> bool:
    checks = verify(disk, externals(disk), corpus_layout(disk))
    return {check.status for check in checks} == {"ok"}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_what_was_packed_comes_out_the_same(fetched: Paths, disk_of, tmp_path: Path) -> None:
    target = tmp_path / "data.tar"
    pack(fetched, externals(fetched), target)
    there = disk_of("there")
    with open(target, "rb") as handle:
        said = unpack(there.base_dir, handle)
    assert said == f"10 downloads in {there.base_dir}: 10 unpacked"
    assert contents(there.base_dir) == contents(fetched.base_dir)
    assert all_well(there)


def test_the_manifest_comes_first_and_vouches_for_every_member(fetched: Paths) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar_of(fetched)), mode="r") as tar:
        names = tar.getnames()
        assert names[0] == MANIFEST
        manifest = json.load(tar.extractfile(MANIFEST))
        listed = [
            member
            for thing in manifest["things"]
            for member in (*thing["files"], thing["record"], thing["fetched"])
        ]
        assert [member["path"] for member in listed] == names[1:]
        for member in listed:
            content = tar.extractfile(member["path"]).read()
            assert len(content) == member["bytes"]
            assert hashlib.sha256(content).hexdigest() == member["sha256"]


def test_any_tar_program_unpacks_it(fetched: Paths, tmp_path: Path) -> None:
    subprocess.run(["tar", "-x", "-C", tmp_path], input=tar_of(fetched), check=True)
    (tmp_path / MANIFEST).unlink()
    shutil.move(fetched.base_dir, tmp_path / "packed")
    assert contents(tmp_path / "packed") == {
        name: content
        for name, content in contents(tmp_path).items()
        if name.startswith(("base_data", "downloads"))
    }


def test_the_shared_copy_is_packed_as_if_it_were_here(fetched: Paths, disk_of, tmp_path) -> None:
    paths = {"base_dir": str(tmp_path / "mine"), "shared_dir": str(fetched.base_dir)}
    assert tar_of(disk_of(paths=paths)) == tar_of(fetched)


def test_nothing_to_pack_is_refused(disk_of) -> None:
    disk = disk_of(
        data={"source": "embedded", "train_shards": 1},
        mid={"items": {"spelling": 9}},
        chat={},
        evaluation={},
        tokenizer={},
    )
    with pytest.raises(BadInput, match="reads nothing from elsewhere"):
        pack(disk, externals(disk), io.BytesIO())


def test_what_is_missing_or_unrecorded_is_not_packed(fetched: Paths, tmp_path: Path) -> None:
    missing = external(fetched, "climbmix-400b-shuffle", "00000").path
    missing.unlink()
    external(fetched, "gsm8k", "train").record.unlink()
    with pytest.raises(MissingArtefact) as refused:
        pack(fetched, externals(fetched), tmp_path / "data.tar")
    assert str(refused.value) == (
        f"cannot pack: 2 of 10 downloads are missing, unrecorded (the first is {missing}): run "
        "`nanochat data fetch`, or `nanochat data verify` to see all"
    )
    assert not list(tmp_path.glob("*tar*"))


@pytest.mark.parametrize("place", [0, -1])
def test_what_is_damaged_is_not_packed(fetched: Paths, tmp_path: Path, place: int) -> None:
    path = external(fetched, "core_bundle").path / "eval_data" / "task_4" / "items.jsonl"
    flip(path, place)
    with pytest.raises(DamagedArtefact, match=rf"cannot pack: {path} is not what its record says"):
        pack(fetched, externals(fetched), tmp_path / "data.tar")
    assert not list(tmp_path.glob("*tar*"))
    os.truncate(path, 5)
    stream = io.BytesIO()
    with pytest.raises(DamagedArtefact, match=rf"cannot pack: {path} is not what its record says"):
        pack(fetched, externals(fetched), stream)
    assert stream.getvalue() == b"", "a wrong size is seen before anything is written"


def test_a_disk_without_room_is_said_before_anything_is_written(
    fetched: Paths, small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 20_000))
    with pytest.raises(DiskError, match=r"has to take .* in 1 files .* its file system has room"):
        pack(fetched, externals(fetched), small_disk / "data.tar")
    with pytest.raises(DiskError, match=r"has to take .* its file system has room"):
        unpack(small_disk / "base", io.BytesIO(tar_of(fetched)))
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_cut_tar_leaves_what_was_complete_and_is_taken_up(fetched: Paths, disk_of) -> None:
    """Cut at 40 places, one after the other into the same folder."""
    whole, there = tar_of(fetched), disk_of("there")
    right = contents(fetched.base_dir)
    random_ = random.Random(0)
    last_member = whole.rindex(b"ustar") - 257
    cuts = sorted(random_.randrange(last_member) for _ in range(40))
    complete = 0
    for cut in cuts:
        with pytest.raises(NanochatError) as refused:
            unpack(there.base_dir, io.BytesIO(whole[:cut]))
        assert isinstance(refused.value, (DamagedArtefact, BadInput))
        here = contents(there.base_dir)
        assert all(right[name] == content for name, content in here.items()), "nothing wrong"
        assert len(here) >= complete, "what was complete stays"
        complete = len(here)
    assert complete > 20
    before = {path: path.stat().st_mtime_ns for path in there.base_dir.rglob("*.parquet")}
    assert before
    assert "there already" in unpack(there.base_dir, io.BytesIO(whole))
    assert contents(there.base_dir) == right
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written, "what was there is kept as it is"


def test_a_flipped_byte_anywhere_leaves_nothing_wrong(fetched: Paths, disk_of) -> None:
    """Whatever a damaged tar is taken for: each file is the right one, or not there."""
    whole, right = tar_of(fetched), contents(fetched.base_dir)
    random_ = random.Random(1)
    refused = 0
    for number in range(40):
        damaged = bytearray(whole)
        damaged[random_.randrange(len(whole) - 10_240)] ^= 1 << random_.randrange(8)
        there = disk_of(f"there {number}")
        try:
            unpack(there.base_dir, io.BytesIO(damaged))
        except NanochatError:
            refused += 1
        here = contents(there.base_dir) if there.base_dir.exists() else {}
        wrong = [name for name, content in here.items() if right.get(name) != content]
        assert wrong == []
    assert refused > 15, "the others hit what has no meaning, such as padding"
    print(f"{refused} of 40 flipped bytes were refused, the others were of no consequence")


def test_a_killed_unpacking_leaves_nothing_wrong_and_is_taken_up(
    fetched: Paths, disk_of, tmp_path: Path
) -> None:
    whole, right, there = tar_of(fetched), contents(fetched.base_dir), disk_of("there")
    script = (
        "import sys; from pathlib import Path; from nanochat.fetch.unpack import unpack\n"
        "unpack(Path(sys.argv[1]), sys.stdin.buffer)\n"
    )
    for share in (0.3, 0.6, 0.9):
        process = subprocess.Popen(
            [sys.executable, "-c", script, there.base_dir], stdin=subprocess.PIPE
        )
        assert process.stdin
        process.stdin.write(whole[: int(share * len(whole))])
        process.stdin.flush()
        first = external(there, "climbmix-400b-shuffle", "00000").path
        while process.poll() is None and not first.exists():
            time.sleep(0.01)
        process.kill()
        process.communicate()
        here = with_final_names(there.base_dir)
        assert all(right[name] == content for name, content in here.items())
    unpack(there.base_dir, io.BytesIO(whole))
    assert with_final_names(there.base_dir) == right


def test_a_full_disk_while_unpacking_keeps_what_was_complete(
    fetched: Paths, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody else fills the disk meanwhile: after the room has been checked."""
    whole = tar_of(fetched)
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 30_000))
    monkeypatch.setattr("nanochat.fetch.unpack.require_room", lambda *_: None)
    with pytest.raises(DiskError, match="the disk is full"):
        unpack(small_disk / "base", io.BytesIO(whole))
    right, here = contents(fetched.base_dir), contents(small_disk / "base")
    assert here
    assert all(right[name] == content for name, content in here.items())
    (small_disk / "filler").unlink()
    unpack(small_disk / "base", io.BytesIO(whole))
    assert contents(small_disk / "base") == right


def test_what_is_there_already_is_kept_whatever_record_it_has(fetched: Paths, disk_of) -> None:
    there = disk_of("there")
    unpack(there.base_dir, io.BytesIO(tar_of(fetched)))
    table = external(there, "gsm8k", "test")
    table.fetched.write_text('{"fetched": "another day"}')
    record = json.loads(table.record.read_text())
    table.record.write_text(json.dumps({**record, "more": "of a later version"}))
    before = contents(there.base_dir)
    said = unpack(there.base_dir, io.BytesIO(tar_of(fetched)))
    assert said.endswith(": 10 there already")
    assert contents(there.base_dir) == before
    table.record.write_text('{"sha256": "of something else"}')
    external(there, "english_words").record.unlink()
    unpack(there.base_dir, io.BytesIO(tar_of(fetched)))
    assert all_well(there)


def test_what_is_damaged_there_is_replaced(fetched: Paths, disk_of) -> None:
    there = disk_of("there")
    unpack(there.base_dir, io.BytesIO(tar_of(fetched)))
    flip(external(there, "climbmix-400b-shuffle", "00001").path, 100)
    (external(there, "core_bundle").path / "eval_data" / "task_0" / "items.jsonl").unlink()
    said = unpack(there.base_dir, io.BytesIO(tar_of(fetched)))
    assert said.endswith(": 8 there already, 2 damaged before, and replaced")
    assert contents(there.base_dir) == contents(fetched.base_dir)


def test_what_is_something_else_there_is_kept_and_named(
    fetched: Paths, disk_of, fake_download
) -> None:
    there = disk_of("there")
    others = [external(there, "gsm8k", "train"), external(there, "core_bundle")]
    for each in others:
        fake_download(each, seed=7)
    more = others[1].path / "eval_data" / "of another version.jsonl"
    more.write_text("more")
    record = json.loads(others[1].record.read_text())
    sha256 = hashlib.sha256(b"more").hexdigest()
    record["files"][f"eval_data/{more.name}"] = {"bytes": 4, "sha256": sha256}
    others[1].record.write_text(json.dumps(record))
    own = external(there, "english_words")
    own.path.parent.mkdir(parents=True)
    own.path.write_text("words without a record")
    before = contents(there.base_dir)
    with pytest.raises(BadInput) as refused:
        unpack(there.base_dir, io.BytesIO(tar_of(fetched)))
    assert str(refused.value) == (
        "3 of 10 downloads are there already with other content, which was kept "
        "(downloads/tasks/gsm8k/train.parquet, downloads/core_bundle, "
        "downloads/english_words/words_alpha.txt; the others are complete): move these out of "
        f"{there.base_dir} and run this again, or go on with them"
    )
    after = contents(there.base_dir)
    assert {name: after[name] for name in before} == before
    missing = 2  # of the words, record and origin
    assert len(after) == len(contents(fetched.base_dir)) - missing + 1


def rewritten(whole: bytes, change: Any) -> io.BytesIO:
    """The tar with its manifest and members as `change` makes them."""
    with tarfile.open(fileobj=io.BytesIO(whole), mode="r") as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]
    manifest = json.loads(members[0][1])
    members = change(manifest, members[1:])
    first = tarfile.TarInfo(MANIFEST)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info, content in [(first, json.dumps(manifest).encode()), *members]:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    stream.seek(0)
    return stream


def extra(name: str, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info, b"evil"


@pytest.mark.parametrize(
    "member",
    [
        extra("base_data/more.parquet"),
        extra("/tmp/evil"),
        extra("../evil"),
        extra("downloads/link", tarfile.SYMTYPE),
        extra("downloads/hard", tarfile.LNKTYPE),
        extra("downloads/device", tarfile.CHRTYPE),
        extra("downloads/folder", tarfile.DIRTYPE),
    ],
    ids=lambda member: member[0].name,
)
def test_members_that_the_manifest_does_not_list_are_refused(
    fetched: Paths, tmp_path: Path, member: Any
) -> None:
    tar = rewritten(tar_of(fetched), lambda _, members: [member, *members])
    with pytest.raises(BadInput, match="where its manifest has base_data/climbmix"):
        unpack(tmp_path / "there", tar)
    assert contents(tmp_path / "there") == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_under_a_listed_name_is_refused(fetched: Paths, tmp_path: Path, kind) -> None:
    def change(manifest: Any, members: Any) -> Any:
        members[0][0].type, members[0][0].linkname = kind, "/etc/passwd"
        manifest["things"][0]["files"][0]["bytes"] = 0
        return members

    with pytest.raises(BadInput, match="use one that `nanochat data pack` made"):
        unpack(tmp_path / "there", rewritten(tar_of(fetched), change))
    assert contents(tmp_path / "there") == {}


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/evil",
        "../evil",
        "downloads/../../evil",
        "models/run/model.safetensors",
        "",
        ".",
        "downloads//evil",
        "downloads/a\nb",
    ],
)
def test_paths_in_the_manifest_that_lead_elsewhere_are_refused(
    fetched: Paths, tmp_path: Path, name: str
) -> None:
    for place in ("path", "files", "record", "fetched"):

        def change(manifest: Any, members: Any, place: str = place) -> Any:
            thing = manifest["things"][0]
            if place == "path":
                thing["path"] = name
            else:
                (thing["files"][0] if place == "files" else thing[place])["path"] = name
            return members

        with pytest.raises(BadInput, match="which leads elsewhere: it is refused"):
            unpack(tmp_path / "there", rewritten(tar_of(fetched), change))
        assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100, bytes(20_000)])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises((BadInput, DamagedArtefact)):
        unpack(tmp_path / "there", io.BytesIO(content))
    assert not (tmp_path / "there").exists()


def test_another_tar_is_refused(fetched: Paths, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(fetched.base_dir, "base_data")
    stream.seek(0)
    with pytest.raises(BadInput, match="no tar that `nanochat data pack` made"):
        unpack(tmp_path / "there", stream)
    changed = rewritten(
        tar_of(fetched), lambda manifest, members: manifest.update(format="2") or members
    )
    with pytest.raises(BadInput, match="the tar is of the format '2'"):
        unpack(tmp_path / "there", changed)


def planned(disk: Paths, folder: Path) -> dict[str, int]:
    """The jobs of a dry run of `snakemake downloads`, by rule."""
    root = Path(__file__).parents[2]
    for name in ("workflow", "profiles", "config"):
        shutil.copytree(root / name, folder / name, dirs_exist_ok=True)
    shutil.copy(root / "Snakefile", folder)
    config = disk.config.model_dump(mode="json")
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "-n", "downloads"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    rows = done.stdout.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {row.split()[0]: int(row.split()[1]) for row in rows if row.split()}


def test_after_unpacking_the_workflow_downloads_nothing(
    fetched: Paths, disk_of, tmp_path: Path
) -> None:
    there = disk_of("there")
    empty = planned(there, tmp_path / "checkout")
    assert sum(count for rule, count in empty.items() if rule.startswith("download_")) == 10
    unpack(there.base_dir, io.BytesIO(tar_of(fetched)))
    assert planned(there, tmp_path / "checkout") == {"downloads": 1}
