"""A model comes back from disk as it was, and nothing else comes back in its place."""

import json
from pathlib import Path

import pytest
import torch

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.files import sha256_of
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.weights import load_model, read_extra, save_model

CONFIG = GPTConfig(vocab_size=100, sequence_len=32, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)
CPU = torch.device("cpu")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path, GPT.fresh(CONFIG, CPU, seed=1), {"step": 7})
    return tmp_path


def test_a_saved_model_computes_the_same_logits(tmp_path: Path) -> None:
    model = GPT.fresh(CONFIG, CPU, seed=1)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.project.weight.normal_(generator=torch.Generator().manual_seed(1))
    digest = save_model(tmp_path, model, {})
    ids = torch.arange(20)[None]
    loaded = load_model(tmp_path, CPU)
    assert loaded.config == CONFIG
    assert torch.equal(loaded.logits(ids), model.logits(ids))
    assert digest == sha256_of(tmp_path / "model.safetensors")


def test_what_was_saved_beside_the_weights_comes_back(saved: Path) -> None:
    assert read_extra(saved) == {"step": 7}


def test_the_same_model_is_saved_as_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = save_model(tmp_path / "again", GPT.fresh(CONFIG, CPU, seed=1), {})
    assert again == sha256_of(saved / "model.safetensors")


def test_missing_weights_say_what_to_run(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(MissingArtefact, match="run `make run"):
        load_model(saved, CPU)


def test_a_missing_config_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="run `make run"):
        load_model(tmp_path, CPU)


@pytest.mark.parametrize("damage", ["truncate", "flip a bit", "empty"])
def test_damaged_weights_are_refused(saved: Path, damage: str) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"truncate": content[:-100], "flip a bit": content, "empty": b""}[damage])
    with pytest.raises(DamagedArtefact, match="SHA-256"):
        load_model(saved, CPU)


def test_a_file_that_is_no_safetensors_is_never_unpickled(saved: Path) -> None:
    path = saved / "model.safetensors"
    torch.save({"weight": torch.zeros(1)}, path)
    change_config(saved, weights_sha256=sha256_of(path))
    with pytest.raises(DamagedArtefact, match="no safetensors file"):
        load_model(saved, CPU)


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    model = json.loads((saved / "config.json").read_text())["model"]
    change_config(saved, model=model | {"n_layer": 3})
    with pytest.raises(DamagedArtefact, match="do not match"):
        load_model(saved, CPU)


def test_another_version_is_refused(saved: Path) -> None:
    model = json.loads((saved / "config.json").read_text())["model"]
    change_config(saved, model=model | {"version": 0})
    with pytest.raises(DamagedArtefact, match="version 0"):
        load_model(saved, CPU)


@pytest.mark.parametrize("content", ["{}", "[1]", "not json"])
def test_a_config_that_describes_no_model_is_refused(saved: Path, content: str) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(DamagedArtefact):
        load_model(saved, CPU)


def change_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
