"""Checkpoints are whole, verified, and never the last good one is lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.errors import DiskError
from nanochat.train.checkpoints import CheckpointStore

TENSORS = {
    "model": {"w": torch.arange(6, dtype=torch.float32), "e": torch.ones(3, dtype=torch.bfloat16)},
    "optimizer": {"m": torch.arange(4, dtype=torch.float32)},
}


def store_with(folder: Path, *steps: int, keep: int = 3) -> CheckpointStore:
    store = CheckpointStore(folder, "f" * 64, keep)
    for step in steps:
        store.save(step, TENSORS, {"step": step})
    return store


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store_with(tmp_path, 5)
    loaded = store_with(tmp_path).newest()
    assert loaded is not None
    assert (loaded.step, loaded.loop_state) == (5, {"step": 5})
    for part, named in TENSORS.items():
        for name, tensor in named.items():
            assert loaded.tensors[part][name].dtype == tensor.dtype
            assert torch.equal(loaded.tensors[part][name], tensor)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    assert store_with(tmp_path, 1, 2, 3, 4, keep=2).steps() == [3, 4]


def test_another_training_has_its_own_checkpoints(tmp_path: Path) -> None:
    store_with(tmp_path, 5)
    assert CheckpointStore(tmp_path, "0" * 64, 2).newest() is None
    assert store_with(tmp_path).newest() is not None


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "halve", "empty", "delete"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    tmp_path: Path, file: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_with(tmp_path, 5, 6)
    path = store.path(6) / file
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    elif harm == "delete":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2 if harm == "halve" else 0])
    loaded = store.newest()
    assert loaded is not None and loaded.step == 5
    assert store.steps() == [5]
    assert len(list(store.folder.glob("damaged-step-000006-*"))) == 1
    assert "set aside" in capsys.readouterr().err


def test_a_manifest_of_another_step_is_not_believed(tmp_path: Path) -> None:
    store = store_with(tmp_path, 5, 6)
    manifest = json.loads((store.path(6) / "manifest.json").read_text())
    (store.path(6) / "manifest.json").write_text(json.dumps({**manifest, "step": 7}))
    loaded = store.newest()
    assert loaded is not None and loaded.step == 5


def test_a_full_disk_leaves_the_earlier_checkpoint(small_disk: Path) -> None:
    store = store_with(small_disk, 5)
    large = {"model": {"w": torch.zeros(2_000_000)}}
    with pytest.raises(DiskError, match="the disk is full"):
        store.save(6, large, {})
    assert store.steps() == [5]
    assert store.newest() is not None
    store.save(7, TENSORS, {"step": 7})
    assert store.steps() == [5, 7]


def test_a_process_killed_while_saving_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    store_with(tmp_path, 5)
    script = (
        "import os, signal, sys, torch; from pathlib import Path\n"
        "from nanochat.train import checkpoints\n"
        "store = checkpoints.CheckpointStore(Path(sys.argv[1]), 'f' * 64, 3)\n"
        "checkpoints.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.save(6, {'model': {'w': torch.zeros(9)}}, {})\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert any(name.startswith(".tmp-") for name in os.listdir(tmp_path / ("f" * 16)))
    store = store_with(tmp_path)
    assert store.steps() == [5]
    assert os.listdir(store.folder) == ["step-000005"]
