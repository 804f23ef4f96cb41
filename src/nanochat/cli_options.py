"""What the commands share: the option --config, and how the config is read.

Imports nothing heavy; writes nothing.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nanochat.config import Config, load_config
from nanochat.horizon import with_train_shards


class AnyStage(StrEnum):
    """Every stage that ends with a model."""

    base = "base"
    mid = "mid"
    sft = "sft"


class StageName(StrEnum):
    """The stages that train on conversations."""

    mid = "mid"
    sft = "sft"


ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config",
        envvar="NANOCHAT_CONFIG",
        help="Config file (YAML): what to train, and where it lies.",
    ),
]
ChatStage = Annotated[StageName, typer.Argument(help="Stage that trains on conversations.")]
DEFAULT_CONFIG = Path("config/config.yaml")


def read_config(path: Path) -> Config:
    """The resolved config of a file, its number of shards included. Raises ConfigError."""
    return with_train_shards(load_config(path))
