"""A model on disk: `model.safetensors` (the weights) and `config.json` (its shape and origin).

`save_model(directory, model, extra)` writes both, the config last; `load_model(directory, device)`
reads them back. Nothing is unpickled: opening a model never runs its author's code.
"""

import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.files import atomic_path, read_json, sha256_of, write_json
from nanochat.model.device import compute_dtype
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MADE_BY = "make run"


def save_model(directory: Path, model: GPT, extra: dict[str, Any]) -> str:
    """Writes the model and `extra` (JSON-like) into `directory`; returns the weights' SHA-256."""
    return save_weights(directory, model.config, model.state_dict(), extra)


def save_weights(
    directory: Path, config: GPTConfig, weights: dict[str, Tensor], extra: dict[str, Any]
) -> str:
    """The same of a model that is not in memory as a whole."""
    weights_path = directory / WEIGHTS_FILE
    with atomic_path(weights_path) as temporary:
        write_tensors(weights, temporary)
    digest = sha256_of(weights_path)
    content = {"model": config.to_dict(), "weights_sha256": digest, "extra": extra}
    write_json(directory / CONFIG_FILE, content)
    return digest


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file; a disk's refusal is an OSError, not the library's own error."""
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(on_host, path)
    except SafetensorError as exc:  # it hides the disk's own error inside its text
        code = re.search(r"os error (\d+)", str(exc))
        if code is None:
            raise
        raise OSError(int(code[1]), str(exc)) from exc


def load_model(directory: Path, device: torch.device, dtype: torch.dtype | None = None) -> GPT:
    """The model that `save_model` wrote, on `device`, in `dtype` or that device's compute dtype.

    Raises MissingArtefact if a file is not there, DamagedArtefact if the weights are not those
    that the config describes or another version of the program wrote them.
    """
    config, digest = _read_config(directory)
    weights = _read_weights(directory / WEIGHTS_FILE, digest)
    with torch.device("meta"):
        model = GPT(config, dtype or compute_dtype(device))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if {name: tuple(tensor.shape) for name, tensor in weights.items()} != expected:
        raise DamagedArtefact(
            f"{directory / WEIGHTS_FILE} holds {len(weights)} tensors that do not match "
            f"{CONFIG_FILE} beside it: train again"
        )
    model.to_empty(device=device)
    model.load_state_dict(weights)
    return model


def read_extra(directory: Path) -> dict[str, Any]:
    """What `save_model` was given as `extra`."""
    content = read_json(directory / CONFIG_FILE, MADE_BY)
    extra: dict[str, Any] = content.get("extra", {})
    return extra


def _read_config(directory: Path) -> tuple[GPTConfig, str]:
    path = directory / CONFIG_FILE
    content = read_json(path, MADE_BY)
    if not isinstance(content, dict) or not {"model", "weights_sha256"} <= set(content):
        raise DamagedArtefact(f"{path} does not describe a model: run `{MADE_BY}` again")
    return GPTConfig.from_dict(content["model"]), content["weights_sha256"]


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingArtefact(f"no weights at {path}: run `{MADE_BY}` first")
    if sha256_of(path) != digest:
        raise DamagedArtefact(
            f"{path} is not the file that {CONFIG_FILE} beside it describes (its SHA-256 differs): "
            "copy it again or train again"
        )
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as exc:
        raise DamagedArtefact(f"{path} is no safetensors file ({exc}): train again") from exc
