"""Models of other settings that Snakemake would take for this config's.

    refuse_strangers(config, Path(".snakemake"))

Snakemake knows from its own records with which settings a file was made. These are missing where
somebody deleted them, and where a job ended after the workflow that had submitted it was killed. A
trained model carries its settings with it (record.json): they are compared here. Writes nothing.
"""

from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

from nanochat.config import TRAINING_RULES, Config
from nanochat.errors import ConfigError
from nanochat.files import read_json

NAME_MAX = 255


def refuse_strangers(config: Config, snakemake_folder: Path) -> None:
    """Raises ConfigError where a finished stage was trained with other settings than `config`'s,
    and Snakemake has no record of it by which to see that."""
    for stage, rule in TRAINING_RULES.items():
        record = config.disk.stage(stage) / "record.json"
        if not record.is_file() or _metadata(record, snakemake_folder).exists():
            continue
        made_with = read_json(record, "snakemake")["settings"]
        different = _differences(made_with, config.settings_of(rule))
        if different:
            raise ConfigError(
                f"{record.parent} was trained with other settings ({', '.join(different)}), and "
                "Snakemake's records of it are gone: delete that folder to train it again (its "
                "checkpoints stay), or give this run a name of its own, --config run=NAME"
            )


def _metadata(path: Path, snakemake_folder: Path) -> Path:
    """Where Snakemake keeps its record of a file: base64 of its name, cut into folders."""
    key = urlsafe_b64encode(str(path).encode()).decode()
    width = NAME_MAX - 1
    parts = [key[start : start + width] for start in range(0, len(key), width)]
    return Path(snakemake_folder, "metadata", *(f"@{part}" for part in parts[:-1]), parts[-1])


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`base.steps 12, now 13` for each key that differs."""
    old, new = _flat(before), _flat(now)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return [f"{key} {old.get(key)}, now {new.get(key)}" for key in keys]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
