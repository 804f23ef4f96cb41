"""A stage, ready to be trained, and what it leaves behind.

    stage = Stage(name, model, rows, plan, ...)      # train/stages.py makes them
    publish(config, stage, weights, result, fingerprint, provenance)

Writes the stage's result: models/<run>/<stage>/model.safetensors, config.json and record.json.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nanochat.config import Config
from nanochat.files import write_json
from nanochat.model.gpt import GPT
from nanochat.model.scaling import TrainingPlan, count_parameters, flops_per_token
from nanochat.model.weights import save_weights
from nanochat.train.job import TrainingResult


@dataclass(frozen=True)
class Stage:
    """A stage, ready to be trained: what the loop gets, and what the result depends on."""

    name: str
    model: GPT
    rows: Sequence[Path]
    plan: TrainingPlan
    warmdown: float
    """Last fraction of the steps, over which the learning rates fall ..."""
    final_lr: float
    """... to this fraction."""
    settings: dict[str, Any]
    inputs: dict[str, Any]
    """Fingerprints of everything that was read."""


def publish(
    config: Config,
    stage: Stage,
    weights: dict[str, Tensor],
    result: TrainingResult,
    identity: str,
    about: dict[str, Any],
) -> None:
    """The stage's result; the record comes last, since it says that all is there."""
    folder = config.disk.stage(stage.name)
    extra = {"stage": stage.name, "run": config.run}
    digest = save_weights(folder, stage.model.config, weights, extra)
    counts = count_parameters(stage.model.config)
    record = {
        "stage": stage.name,
        "run": config.run,
        "settings": stage.settings,
        "plan": {
            "parameters": counts.total,
            "scaling_parameters": counts.scaling,
            "flops_per_token": flops_per_token(stage.model.config),
            **asdict(stage.plan),
        },
        "inputs": stage.inputs,
        "fingerprint": identity,
        "result": asdict(result),
        "weights_sha256": digest,
        "provenance": about,
    }
    write_json(folder / "record.json", record)
