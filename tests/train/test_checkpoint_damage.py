"""Whatever is wrong with a checkpoint is found when it is read; the one before it is used, and
nothing in it is run."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import (
    FILES_OF_TWO,
    PARTS_OF_TWO,
    assert_holds,
    flipped,
    harm,
    newest,
    save,
    store_at,
)

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.train.checkpoint_manifest import read_manifest, write_manifest


def changed_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest that somebody has forged: its own SHA-256 is right."""
    manifest = read_manifest(folder)
    change(manifest)
    del manifest["sha256"]
    write_manifest(folder, manifest)


@pytest.mark.parametrize("file", FILES_OF_TWO)
@pytest.mark.parametrize("how", ["flip", "halve", "empty", "delete"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, file: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(tmp_path, world_size=2)
    for step in (5, 6):
        save(store, step)
    harm(store.path(6) / file, how)
    assert_holds(newest(store), 5)
    assert store.steps() == [5]
    assert len(list(store.folder.glob("damaged-step-000006-*"))) == 1
    assert json.loads((store.folder / "LATEST.json").read_text())["step"] == 5
    said = capsys.readouterr().err
    assert "step-000006" in said and "set aside as damaged-step-000006-" in said


@pytest.mark.parametrize("file", FILES_OF_TWO)
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, file: str) -> None:
    store = store_at(tmp_path, world_size=2)
    save(store, 5)
    path = store.path(5) / file
    content = path.read_bytes()
    for place in range(0, len(content), 7 if file == "manifest.json" else 1):
        path.write_bytes(flipped(content, place, place % 8))
        with pytest.raises((DamagedArtefact, MissingArtefact)):
            store.verify(5)
    path.write_bytes(content)
    store.verify(5)


def test_the_same_number_written_otherwise_is_a_damaged_manifest(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    path = store.path(5) / "manifest.json"
    assert b"1e-05" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"1e-05", b"1E-05"))  # one bit
    with pytest.raises(DamagedArtefact, match="its SHA-256 differs"):
        store.verify(5)


def test_ranks_that_verify_together_read_every_file(tmp_path: Path) -> None:
    store = store_at(tmp_path, world_size=2)
    save(store, 5)
    for file in PARTS_OF_TWO:
        content = (store.path(5) / file).read_bytes()
        harm(store.path(5) / file, "flip")
        complaints = 0
        for rank in range(4):
            try:
                store_at(tmp_path).verify(5, rank, 4)
            except DamagedArtefact:
                complaints += 1
        assert complaints == 1
        (store.path(5) / file).write_bytes(content)


def test_a_manifest_of_another_step_is_not_believed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    store.path(5).rename(store.path(6))
    with pytest.raises(DamagedArtefact, match="another one's manifest"):
        store.verify(6)


def test_a_checkpoint_of_the_previous_format_is_set_aside_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    store.path(6).mkdir()
    content = {"format": 1, "step": 6, "fingerprint": "f" * 64, "loop_state": {}, "files": {}}
    (store.path(6) / "manifest.json").write_text(json.dumps(content))
    assert_holds(newest(store), 5)
    assert "has format 1, of another version of this program" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "model.safetensors", "a/b", ".."])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    changed_manifest(store.path(5), lambda it: it["files"].update({name: {"bytes": 0}}))
    with pytest.raises(DamagedArtefact, match="no file of its own"):
        store.verify(5)


def test_a_manifest_that_lacks_something_is_refused(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    changed_manifest(store.path(5), lambda it: it.pop("loop_state"))
    with pytest.raises(DamagedArtefact, match="has no loop_state"):
        store.verify(5)


def test_a_folder_with_a_name_of_another_making_is_no_checkpoint(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    for name in ("step-0000006", "step-7", "step-000008.bak", "xstep-000009"):
        (store.folder / name).mkdir()
    assert store.steps() == [5]


@pytest.mark.parametrize("content", ["[]", "{}", "null", "7", "[" * 100_000, '{"format": 2}'])
def test_a_manifest_that_is_other_json_is_refused(tmp_path: Path, content: str) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    (store.path(5) / "manifest.json").write_text(content)
    with pytest.raises(DamagedArtefact):
        store.verify(5)


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (os.mkdir, (str(self.victim),))


@pytest.mark.parametrize("file", FILES_OF_TWO)
@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_pickle_in_place_of_any_file_is_refused_and_not_run(
    tmp_path: Path, file: str, how: str
) -> None:
    store = store_at(tmp_path, world_size=2)
    save(store, 5)
    path, victim = store.path(5) / file, tmp_path / "victim"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(victim)))
    else:
        torch.save({"long": torch.ones(7), "bomb": Bomb(victim)}, path)
    with pytest.raises(DamagedArtefact):
        store.verify(5)
    if path.suffix == ".safetensors":  # and where the manifest vouches for it
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        facts = {"bytes": path.stat().st_size, "sha256": digest}
        changed_manifest(store.path(5), lambda it: it["files"].update({file: facts}))
        store.verify(5)
        with pytest.raises(DamagedArtefact, match="cannot be read"):
            assert_holds(store.open(5), 5)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "float16"}, "holds another long than was saved"),
        ({"dtype": "nn"}, "names a dtype 'nn'"),
        ({"shape": [8], "pieces": [["model-000-of-001.safetensors", 0, 8]]}, "holds another long"),
    ],
)
def test_an_index_that_does_not_fit_its_file_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    changed_manifest(store.path(5), lambda it: it["tensors"]["model"]["long"].update(change))
    with pytest.raises(DamagedArtefact, match=said):
        store.open(5).rows("model", "long")


def test_a_tensor_that_was_never_saved_is_named(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    save(store, 5)
    with pytest.raises(DamagedArtefact, match="has no tensor short of the model"):
        store.open(5).rows("model", "short")
