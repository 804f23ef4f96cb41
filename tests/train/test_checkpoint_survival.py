"""Whatever happens to a save or to a deletion, the newest whole checkpoint is still there."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import (
    FILES_OF_TWO,
    KEEP_ALL,
    assert_holds,
    harm,
    newest,
    save,
    store_at,
    write_parts,
)

from nanochat.errors import DiskError
from nanochat.train import checkpoint_folder
from nanochat.train.checkpoints import CheckpointStore, Retention
from nanochat.train.parts import Piece


def test_a_save_killed_at_any_system_call_costs_at_most_that_save(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_saves.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert all(said["kills"].values()) and sum(said["kills"].values()) > 60, said
    assert set(said["continued_from"]) == {"3", "4"}, said


@pytest.mark.parametrize("free", [0, 5_000, 40_000, 300_000])
def test_a_full_disk_leaves_the_earlier_checkpoint(small_disk: Path, free: int) -> None:
    store = store_at(small_disk)
    save(store, 5)
    filler = small_disk / "filler"
    room = os.statvfs(small_disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - free))
    with pytest.raises(DiskError, match="the disk is full"):
        store.write_part(6, {"model": {"w": Piece(torch.zeros(2_000_000))}})
        store.commit(6, {})
    store.abandon(6)
    assert_holds(newest(store), 5)
    filler.unlink()
    save(store, 6)
    assert_holds(newest(store), 6)


def test_a_disk_that_fills_up_between_the_parts_and_the_commit(small_disk: Path) -> None:
    store = store_at(small_disk)
    save(store, 5)
    write_parts(small_disk, 6)
    room = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize))
    with pytest.raises(DiskError, match="the disk is full"):
        store.commit(6, {"step": 6, "long": "x" * 10_000})
    store.abandon(6)
    assert store.leftovers() == []
    assert_holds(newest(store), 5)


def test_a_disk_without_room_is_told_before_a_save(small_disk: Path) -> None:
    store = store_at(small_disk)
    store.require_room(1_000_000, 4)
    with pytest.raises(DiskError, match=r"a checkpoint needs 0\.0048 GB at .* GB are free"):
        store.require_room(4_000_000, 4)
    inodes = os.statvfs(small_disk).f_favail
    with pytest.raises(DiskError, match="the file system has room for"):
        store.require_room(1_000, inodes + 1)


def test_a_rename_that_fails_gives_the_replaced_checkpoint_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    write_parts(tmp_path, 5)
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if Path(source).name.startswith(".tmp-step"):
            raise OSError(116, "Stale file handle")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(DiskError, match="Stale file handle"):
        store.commit(5, {"step": 5})
    assert_holds(newest(store), 5)


def test_a_latest_that_cannot_be_written_costs_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(tmp_path)
    (store.folder / "LATEST.json").mkdir(parents=True)
    save(store, 5)
    assert "LATEST.json was not updated" in capsys.readouterr().err
    assert_holds(newest(store), 5)


# --- what stays ---------------------------------------------------------------------------------


def saved(folder: Path, retention: Retention, scores: dict[int, float | None]) -> list[int]:
    store = store_at(folder, retention)
    for step, score in scores.items():
        save(store, step, score)
    return store.steps()


def test_the_newest_stay(tmp_path: Path) -> None:
    assert saved(tmp_path, Retention(last=2), dict.fromkeys((1, 2, 3, 4))) == [3, 4]


def test_every_so_many_steps_one_stays(tmp_path: Path) -> None:
    retention = Retention(last=1, every_steps=20)
    assert saved(tmp_path, retention, dict.fromkeys((10, 20, 30, 40, 50))) == [20, 40, 50]


def test_the_lowest_scores_stay(tmp_path: Path) -> None:
    scores = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: 4.0, 6: None}
    assert saved(tmp_path, Retention(last=1, best=2), scores) == [2, 4, 6]
    again = store_at(tmp_path, Retention(last=1, best=1))  # which reads the scores
    save(again, 7, 0.5)
    save(again, 8)
    assert again.steps() == [7, 8]


def test_what_was_committed_last_stays_though_it_is_not_the_newest(tmp_path: Path) -> None:
    store = store_at(tmp_path, Retention(last=1))
    save(store_at(tmp_path), 9)
    save(store, 5)
    assert store.steps() == [5, 9]


def test_pruning_reads_until_it_has_found_a_whole_one_to_keep(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(store_at(tmp_path), step)
    store = store_at(tmp_path)
    for step in (3, 4):
        harm(store.path(step) / "model-000-of-001.safetensors", "flip")
    assert store_at(tmp_path).prune(Retention(last=1)) == [1, 3]
    assert_holds(newest(store_at(tmp_path)), 2)


def test_pruning_deletes_nothing_where_nothing_is_whole(tmp_path: Path) -> None:
    for step in (1, 2):
        save(store_at(tmp_path), step)
        harm(store_at(tmp_path).path(step) / "manifest.json", "empty")
    assert store_at(tmp_path).prune(Retention(last=1)) == []
    assert store_at(tmp_path).steps() == [1, 2]


def test_a_step_that_was_about_to_be_replaced_gets_its_name_back(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    store.path(5).rename(store.folder / ".old-step-000005")
    write_parts(tmp_path, 5)
    store.clean()
    assert_holds(newest(store), 5)
    assert sorted(os.listdir(store.folder)) == ["LATEST.json", "step-000005"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Trouble:
    """A training's folder and what may happen to it; knows which checkpoints are whole."""

    def __init__(self, folder: Path, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch, self.rng = folder, patch, random.Random(seed)
        self.whole: set[int] = set()
        self.step = 0
        self.store = self.started()

    def started(self) -> CheckpointStore:
        """A new process; it resumes."""
        retention = Retention(
            last=self.rng.randint(1, 3),
            every_steps=self.rng.choice([None, 3]),
            best=self.rng.randint(0, 2),
        )
        self.store = store_at(
            self.folder, retention, world_size=2, attempt=self.rng.getrandbits(32)
        )
        self.store.clean()
        self.resumes()
        return self.store

    def resumes(self) -> None:
        expected = max(self.whole, default=None)
        found = newest(self.store)
        assert (found.step if found else None) == expected
        if found:
            assert_holds(found, found.step)
        self.step = expected or 0
        self.whole &= set(self.store.steps())

    def saves(self) -> None:
        self.step += self.rng.randint(1, 2)
        save(self.store, self.step, self.rng.choice([None, self.rng.random()]))
        self.whole = self.whole & set(self.store.steps()) | {self.step}

    def is_killed_while_saving(self) -> None:
        """At one of the renames and deletions; a rename is made before, or not."""
        left, late = self.rng.randint(0, 14), self.rng.random() < 0.5

        def dying(act):  # type: ignore[no-untyped-def]
            def step(*args, **options):  # type: ignore[no-untyped-def]
                nonlocal left
                left -= 1
                if left == 0 and late:
                    act(*args, **options)
                if left == 0:
                    raise Killed
                return act(*args, **options)

            return step

        step = self.step + 1
        with self.patch.context() as patch, pytest.raises(Killed):
            for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, dying(getattr(os, name)))
            save(self.store, step)
            raise Killed
        if self.store.path(step).exists():
            self.whole.add(step)
        self.whole &= set(self.store.steps())
        self.started()

    def is_damaged(self) -> None:
        """One of the checkpoints, while no process runs."""
        if self.whole:
            step = self.rng.choice(sorted(self.whole))
            how = self.rng.choice(["flip", "halve", "empty", "delete"])
            harm(self.store.path(step) / self.rng.choice(FILES_OF_TWO), how)
            self.whole.discard(step)
        if self.rng.random() < 0.5:
            self.is_pruned_by_hand()
        self.started()

    def is_pruned_by_hand(self) -> None:
        """By another process, which has seen nothing of what happened."""
        store_at(self.folder).prune(Retention(last=1, best=self.rng.randint(0, 1)))
        newest_whole = max(self.whole, default=None)
        self.whole &= set(self.store.steps())
        assert newest_whole is None or newest_whole in self.whole


@pytest.mark.parametrize("seed", range(12))
def test_no_sequence_of_troubles_loses_the_newest_whole_checkpoint(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble = Trouble(tmp_path, seed, monkeypatch)
    things = [trouble.saves, trouble.is_killed_while_saving, trouble.is_damaged]
    for _ in range(14):
        trouble.rng.choices([*things, trouble.is_pruned_by_hand], [4, 2, 1, 1])[0]()
        before = max(trouble.whole, default=None)
        assert before is None or before in trouble.store.steps()
    trouble.started()


def test_retention_asks_for_at_least_one(tmp_path: Path) -> None:
    assert Retention(last=0).kept([1, 2], {}) == {2}
    assert KEEP_ALL.kept([], {}) == set()
    assert checkpoint_folder.HEADROOM > 1
