"""The typed config, and what each stage's result depends on.

`load_config(path)` reads a YAML file in which `preset` names the sizes to start from
(config/presets/NAME.yaml beside it); keys of the file replace the preset's. `Config.resolve` does
the same for a mapping that Snakemake has read. Both raise ConfigError for unknown keys (naming the
nearest known one) and for values that can't be used.

Reads YAML; writes nothing. The groups of keys are in settings.py, the paths in paths.py. Only
`Config.settings_of(rule)` says which keys determine the result of which rule: Snakemake compares
exactly these, so that a changed key reruns what depends on it and nothing else.
"""

import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from nanochat.errors import ConfigError
from nanochat.paths import Paths
from nanochat.registry import GENERATED, IDENTITY, TABLES
from nanochat.settings import (
    BaseSettings,
    ChatSettings,
    ChatStageSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    OperationSettings,
    PathSettings,
    Section,
    TokenizerSettings,
)

PRESETS = Path(__file__).parents[2] / "config" / "presets"
STAGES = ("base", "mid", "sft")
TRAINING_RULES = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft"}
"""Stage -> the rule that trains it."""
TRAIN_SHARDS = 4
"""`data.train_shards` of a corpus that is not downloaded."""
ALL: Any = ...
"""Of a section: all of its keys."""

S = TypeVar("S", bound=Section)


class Config(Section):
    """Everything a run is determined by."""

    preset: str = "local"
    """Sizes to start from: a file in config/presets (local, d12, d20, d24). Keys given beside it
    replace the preset's."""
    run: str = Field(default="local", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=50)
    """Name of the run: its models, checkpoints, journal and report are filed under it."""
    seed: int = Field(default=42, ge=0, lt=2**31)
    """Seed of weights, data order and generated tasks."""
    paths: PathSettings = PathSettings()
    data: DataSettings = DataSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    model: ModelSettings = ModelSettings()
    base: BaseSettings = BaseSettings()
    mid: ChatStageSettings
    sft: ChatStageSettings
    chat: ChatSettings = ChatSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    operation: OperationSettings = OperationSettings()

    @classmethod
    def resolve(cls, given: Mapping[str, Any], presets: Path = PRESETS) -> "Config":
        """Builds the config from the preset named in `given` and the keys beside it.

        Raises ConfigError for an unknown preset or key, and for a value that can't be used.
        """
        given = _without_nones(given)
        preset = str(given.get("preset", cls.model_fields["preset"].default))
        file = presets / f"{preset}.yaml"
        if not file.is_file():
            known = sorted(path.stem for path in presets.glob("*.yaml"))
            raise ConfigError(f"unknown preset {preset!r}: {_nearest(preset, known)}")
        merged = _merge(_read_yaml(file), given)
        config = validated(cls, merged)
        config._require_whole_rows()
        config._require_known_tasks()
        return config

    def _require_whole_rows(self) -> None:
        """A step trains on whole rows, so a batch that is given is a multiple of their length."""
        length = self.model.sequence_len
        batches = {name: getattr(self, name).total_batch_tokens for name in STAGES}
        for name, tokens in batches.items():
            if tokens is not None and tokens % length:
                raise ConfigError(
                    f"config key {name}.total_batch_tokens holds {tokens}: give a multiple of "
                    f"model.sequence_len, which is {length}"
                )

    def _require_known_tasks(self) -> None:
        trainable = [
            *GENERATED,
            IDENTITY,
            *(name for name in TABLES if "train" in TABLES[name].splits),
        ]
        scored = [name for name in TABLES if "test" in TABLES[name].splits]
        asked = [
            (f"{stage}.items", name, trainable)
            for stage in ("mid", "sft")
            for name in self.chat_stage(stage).items
        ]
        asked += [("evaluation.chat_tasks", name, scored) for name in self.evaluation.chat_tasks]
        for key, name, known in asked:
            if name not in known:
                raise ConfigError(f"config key {key} names {name!r}: {_nearest(name, known)}")

    @property
    def disk(self) -> Paths:
        """Where this config's artefacts lie."""
        return Paths(self)

    @property
    def train_shards(self) -> int:
        """Number of training shards; of a downloaded corpus, what horizon.py computed."""
        if self.data.train_shards is not None:
            return self.data.train_shards
        assert self.disk.hub_corpus is None, "horizon.with_train_shards(config) comes first"
        return TRAIN_SHARDS

    def chat_stage(self, stage: str) -> ChatStageSettings:
        """The settings of `mid` or `sft`."""
        return {"mid": self.mid, "sft": self.sft}[stage]

    def items_of(self, names: Sequence[str]) -> dict[str, int]:
        """Of the tasks in `names`, those of the mixtures, with the larger number of items."""
        mixtures = (self.mid.items, self.sft.items)
        used = [
            name for each in mixtures for name, items in each.items() if items and name in names
        ]
        return {name: max(items.get(name, 0) for items in mixtures) for name in used}

    @property
    def training_text(self) -> str:
        """What the model says that it was trained on."""
        if self.chat.training_text:
            return self.chat.training_text
        if self.disk.hub_corpus:
            return self.disk.hub_corpus.text
        if self.disk.source is None:
            return "the documentation of Python and its packages"
        return f"the texts of {self.disk.source.stem}"

    @property
    def scored_tasks(self) -> list[str]:
        """Names of the tasks that chat models are scored on."""
        replaced = {IDENTITY} if self.chat.identity else set()
        trained = self.items_of([*GENERATED, IDENTITY, *TABLES])
        names = [*trained, *self.evaluation.chat_tasks]
        unscored = {name for name in TABLES if "test" not in TABLES[name].splits}
        return [name for name in dict.fromkeys(names) if name not in replaced | unscored]

    def settings_of(self, rule: str) -> dict[str, Any]:
        """The keys that determine the result of `rule` beyond its input files, as JSON values."""
        mixture = {"items", "all_tokens"}
        schedule = set(ChatStageSettings.model_fields) - mixture
        rates = {"base": {"lr_scale"}}
        own = {"chat": {"conversations", "identity"}}
        row = {"model": {"sequence_len"}}
        persona = {"name", "maker", "limits", "test_items"}
        merges = {"vocab_size", "max_characters", "max_document_characters"}
        depends_on: dict[str, dict[str, Any]] = {
            "corpus": {"data": {"source"}},
            "train_tokenizer": {"tokenizer": merges},
            "eval_tokenizer": {"tokenizer": {"compare_with_gpt"}},
            "base_train": {"model": ALL, "base": ALL, "seed": ALL},
            "base_eval": {"evaluation": {"validation_tokens", "core_items"}},
            "generate_tasks": {"seed": ALL, "chat": {"words", "test_items"}},
            "identity_conversations": {"seed": ALL, "chat": persona},
            "mid_rows": {"seed": ALL, "mid": mixture, **own, **row},
            "sft_rows": {"seed": ALL, "sft": mixture, **own, **row},
            "mid_train": {"seed": ALL, "mid": schedule, **rates},
            "chat_sft": {"seed": ALL, "sft": schedule, **rates},
            "chat_eval": {"evaluation": {"chat_items"}},
            "eval_bundle": {"seed": ALL},
        }
        derived: dict[str, dict[str, Any]] = {
            "corpus": {"train_shards": self.data.train_shards or TRAIN_SHARDS},
            "generate_tasks": {"items": self.items_of(GENERATED)},
            "identity_conversations": {
                "items": self.items_of([IDENTITY]),
                "training_text": self.training_text,
            },
            "chat_eval": {"tasks": self.scored_tasks},
        }
        settings = self.model_dump(mode="json", include=depends_on[rule])
        return settings | derived.get(rule, {})

    def yaml(self) -> str:
        """The resolved config, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(path: Path, presets: Path | None = None) -> Config:
    """Reads and resolves a config file.

    Presets are looked up beside the file first, then among the project's own.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no config file {path}: give one with --config, see config/config.yaml")
    beside = path.parent / "presets"
    return Config.resolve(_read_yaml(path), presets or (beside if beside.is_dir() else PRESETS))


def keys(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """Every key as a dotted path, in the order of the types."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            found += keys(typing.cast(type[Section], field.annotation), f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        detail = " ".join(str(exc).split())
        raise ConfigError(f"{path} is not valid YAML: {detail}: correct it there") from exc
    if not isinstance(value, dict | None):
        raise ConfigError(f"{path} holds {type(value).__name__}, not keys: see config/config.yaml")
    return value or {}


def _without_nones(given: Mapping[str, Any]) -> dict[str, Any]:
    """Drops empty sections: in YAML, a heading whose keys are all commented out is null."""
    return {key: value for key, value in given.items() if value is not None}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key != "items":
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def validated(
    section: type[S],
    given: Mapping[str, Any],
    prefix: str = "",
    reference: str = "docs/reference/config.md",
) -> S:
    """`given` as a `section`; raises ConfigError, which names the key as `prefix` and its path, and
    the page that explains it."""
    _refuse_unknown_keys(section, given, prefix, keys(section, prefix))
    try:
        return section.model_validate(given)
    except ValidationError as exc:
        raise ConfigError(_sentence(exc, prefix, reference)) from exc


def _refuse_unknown_keys(
    section: type[Section], given: Mapping[str, Any], prefix: str, known: list[str]
) -> None:
    sections = list(dict.fromkeys(key.rpartition(".")[0] for key in known if "." in key))
    for key, value in given.items():
        field = section.model_fields.get(str(key))
        if field is None:
            near = _nearest(f"{prefix}{key}", known + sections)
            raise ConfigError(f"unknown config key {prefix}{key}: {near}")
        if not is_section(field.annotation):
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"config key {prefix}{key} holds {value!r}: it takes keys below it")
        inner = typing.cast(type[Section], field.annotation)
        _refuse_unknown_keys(inner, value, f"{prefix}{key}.", known)


def _nearest(word: str, known: list[str]) -> str:
    """`did you mean X?` where something is near, else all that is known."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not near:  # the right name below the wrong section
        last = word.rpartition(".")[2]
        leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
        near = [leaves[leaf] for leaf in difflib.get_close_matches(last, list(leaves), n=1)]
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _sentence(exc: ValidationError, prefix: str, reference: str) -> str:
    first = exc.errors()[0]
    key = prefix + ".".join(str(part) for part in first["loc"])
    seen = "nothing" if first["type"] == "missing" else repr(first["input"])
    more = f" ({exc.error_count() - 1} more)" if exc.error_count() > 1 else ""
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"config key {key} holds {seen}: {reason}; see {reference}{more}"
