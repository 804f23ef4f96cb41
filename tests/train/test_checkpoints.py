"""What was saved comes back bit for bit, on any number of ranks; a save is whole or is none."""

import hashlib
import itertools
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import (
    FILES_OF_TWO,
    IDENTITY,
    KEEP_ALL,
    PARTS_OF_TWO,
    assert_holds,
    assert_same_bits,
    harm,
    newest,
    save,
    store_at,
    tensors_of,
    write_parts,
)

from nanochat.errors import DamagedArtefact, DiskError, StoppedEarly
from nanochat.files import fingerprint
from nanochat.train.checkpoint_file import write_tensors_hashed
from nanochat.train.checkpoints import CheckpointStore, Identity, Retention
from nanochat.train.parts import Piece


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, world_size: int) -> None:
    store = store_at(tmp_path, world_size=world_size)
    size = save(store, 5)
    assert_holds(newest(store_at(tmp_path)), 5)
    assert size == sum(file.stat().st_size for file in store.path(5).iterdir())
    assert store.open(5).world_size == world_size


@pytest.mark.parametrize("written_by", [1, 2, 3, 4])
@pytest.mark.parametrize("read_by", [1, 2, 3, 4])
def test_any_number_of_ranks_reads_the_rows_it_needs(
    tmp_path: Path, written_by: int, read_by: int
) -> None:
    save(store_at(tmp_path, world_size=written_by), 5)
    checkpoint = store_at(tmp_path, world_size=read_by).open(5)
    for part, named in tensors_of(5).items():
        for name, tensor in named.items():
            if tensor.dim() == 0:
                continue
            edges = [len(tensor) * rank // read_by for rank in range(read_by + 1)]
            for start, stop in itertools.pairwise(edges):
                rows = checkpoint.rows(part, name, start, stop)
                assert_same_bits(rows, tensor[start:stop], name)


def test_a_rank_without_rows_writes_no_file_of_them(tmp_path: Path) -> None:
    assert store_at(tmp_path, rank=1, world_size=2).write_part(5, {"model": {}}) == 0
    piece = Piece(torch.ones(3))
    store = store_at(tmp_path, world_size=2)
    store.write_part(5, {"model": {"w": piece}})
    store.commit(5, {})
    assert sorted(os.listdir(store.path(5))) == ["manifest.json", "model-000-of-002.safetensors"]


def test_the_files_are_what_the_library_reads(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    for part, named in tensors_of(5).items():
        loaded = load_file(store.path(5) / f"{part}-000-of-001.safetensors")
        assert set(loaded) == {name for name in named if name != "no_rows"}
        for name, tensor in loaded.items():
            assert_same_bits(tensor, named[name], name)


def test_each_tensor_begins_at_a_multiple_of_its_width(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(1), "c": torch.ones(5).half()}
    write_tensors_hashed(tmp_path / "file", tensors)
    content = (tmp_path / "file").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    offsets = {name: entry["data_offsets"][0] for name, entry in header.items()}
    assert (length % 8, offsets) == (0, {"b": 0, "c": 4, "a": 14})


def test_rows_outlive_the_checkpoint_they_were_read_from(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    rows = store.open(5).rows("model", "long")
    file = store.path(5) / "model-000-of-001.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert_same_bits(rows, tensors_of(5)["model"]["long"], "long")


def test_another_training_has_its_own_checkpoints(tmp_path: Path) -> None:
    save(store_at(tmp_path), 5)
    assert newest(store_at(tmp_path, identity=Identity("0" * 64, {}))) is None
    assert newest(store_at(tmp_path)) is not None


def test_a_training_whose_fingerprint_begins_alike_is_not_taken_for_this_one(
    tmp_path: Path,
) -> None:
    save(store_at(tmp_path), 5)
    other = store_at(tmp_path, identity=Identity("f" * 16 + "0" * 48, {}))
    with pytest.raises(DamagedArtefact, match="another one's manifest"):
        other.verify(5)


def test_the_manifest_says_what_determined_the_training(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    manifest = json.loads((store.path(5) / "manifest.json").read_text())
    assert manifest["identity"] == IDENTITY.parts


def test_scores_are_noted_and_garbage_in_their_file_is_passed_over(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5, score=1.25)
    assert store_at(tmp_path).scores() == {5: 1.25}
    for garbage in ("", "[1]", '{"5": null}', "\x00"):
        (store.folder / "scores.json").write_text(garbage)
        assert store.scores() == {}
    save(store, 6, score=1.0)
    assert store.scores() == {6: 1.0}


def test_latest_names_the_newest_and_its_manifest(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for step in (5, 6):
        save(store, step)
    latest = json.loads((store.folder / "LATEST.json").read_text())
    digest = hashlib.sha256((store.path(6) / "manifest.json").read_bytes()).hexdigest()
    assert latest == {"step": 6, "folder": "step-000006", "manifest_sha256": digest}


# --- a save -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "said"), [(1, "row 1 is there twice"), (3, "row 2 is there in no file")]
)
def test_rows_that_are_written_twice_or_by_nobody_make_no_checkpoint(
    tmp_path: Path, start: int, said: str
) -> None:
    store = store_at(tmp_path, world_size=2)
    store.write_part(5, {"model": {"w": Piece(torch.zeros(2), 0, start + 3)}})
    second = store_at(tmp_path, rank=1, world_size=2)
    second.write_part(5, {"model": {"w": Piece(torch.zeros(3), start, start + 3)}})
    with pytest.raises(DamagedArtefact, match=said):
        store.commit(5, {})
    assert store.steps() == []


def test_ranks_that_do_not_agree_on_a_tensor_make_no_checkpoint(tmp_path: Path) -> None:
    store = store_at(tmp_path, world_size=2)
    store.write_part(5, {"model": {"w": Piece(torch.zeros(2), 0, 4)}})
    second = store_at(tmp_path, rank=1, world_size=2)
    second.write_part(5, {"model": {"w": Piece(torch.zeros(2).bfloat16(), 2, 4)}})
    with pytest.raises(DamagedArtefact, match=r"float32 \[4\] on one rank and bfloat16 \[4\]"):
        store.commit(5, {})


def test_a_part_that_never_came_makes_no_checkpoint(tmp_path: Path) -> None:
    write_parts(tmp_path, 5, world_size=3, ranks=range(2))
    store = store_at(tmp_path, world_size=3)
    with pytest.raises(DiskError, match=r"rank-002-of-003\.json has vanished"):
        store.commit(5, {})
    assert store.steps() == []


def test_a_part_that_rank_0_sees_shorter_makes_no_checkpoint(tmp_path: Path) -> None:
    store = store_at(tmp_path, world_size=2)
    write_parts(tmp_path, 5, world_size=2)
    (file,) = store.folder.glob(".tmp-*/model-001-of-002.safetensors")
    harm(file, "halve")
    with pytest.raises(DiskError, match="of the 298 bytes that were written to it"):
        store.commit(5, {})


def test_a_second_attempt_at_a_step_replaces_the_first(tmp_path: Path) -> None:
    write_parts(tmp_path, 5, world_size=3, attempt=1)  # never committed
    stale = store_at(tmp_path, world_size=2, attempt=2)
    stale.write_part(
        5, {"model": {"long": Piece(torch.zeros(7))}, "old": {"x": Piece(torch.ones(1))}}
    )
    store = store_at(tmp_path, world_size=2, attempt=2)
    save(store, 5)
    save(store, 5)
    assert sorted(os.listdir(store.path(5))) == sorted(FILES_OF_TWO)
    assert_holds(newest(store), 5)
    assert len(store.leftovers()) == 1  # of attempt 1
    store.clean()
    assert sorted(os.listdir(store.folder)) == ["LATEST.json", "step-000005"]


def test_ranks_write_at_the_same_time(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=write_parts, args=(tmp_path, 5, 8, range(rank, rank + 1)))
        for rank in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = store_at(tmp_path, world_size=8)
    store.commit(5, {"step": 5})
    assert_holds(newest(store), 5)


def test_nothing_gets_its_name_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (done.append(("fsync", os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd)),
    )
    monkeypatch.setattr(os, "rename", lambda *a: (done.append(("rename", str(a[1]))), rename(*a)))
    store = store_at(tmp_path, world_size=2)
    save(store, 5)
    named = done.index(("rename", str(store.path(5))))
    synced = [Path(path).name for event, path in done[:named] if event == "fsync"]
    assert set(PARTS_OF_TWO) <= set(synced)
    assert any(name.startswith(".tmp-manifest.json") for name in synced)
    assert synced[-1] == ".tmp-step-000005-0"
    assert done[named + 1] == ("fsync", str(store.folder))


def test_who_has_lost_the_folder_commits_and_deletes_nothing(tmp_path: Path) -> None:
    for step in (4, 5):
        save(store_at(tmp_path), step)
    store = store_at(tmp_path, Retention(last=1), may_write=lambda: False)
    with pytest.raises(StoppedEarly, match=r"another process has taken over .* was not saved"):
        save(store, 6)
    assert store.prune() == []
    assert store.steps() == [4, 5]


def test_who_loses_the_folder_during_a_commit_commits_nothing(tmp_path: Path) -> None:
    answers = iter([True, False])
    store = store_at(tmp_path, may_write=lambda: next(answers))
    with pytest.raises(StoppedEarly):
        save(store, 6)
    assert store.steps() == []


def test_who_comes_later_cleans_away_what_the_one_before_was_writing(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    write_parts(tmp_path, 5)
    store_at(tmp_path).clean()
    with pytest.raises(DiskError, match="vanished"):
        store.commit(5, {"step": 5})
    assert_holds(newest(store), 5)


def test_what_is_not_pickled_json_or_a_known_dtype_does_not_get_in(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, IDENTITY, KEEP_ALL)
    with pytest.raises(KeyError):
        store.write_part(5, {"model": {"w": Piece(torch.zeros(2, dtype=torch.complex64))}})
    store.abandon(5)
    assert os.listdir(store.folder) == []


def test_the_manifests_digest_is_that_of_its_canonical_json(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    manifest = json.loads((store.path(5) / "manifest.json").read_text())
    digest = manifest.pop("sha256")
    assert digest == fingerprint(manifest)
