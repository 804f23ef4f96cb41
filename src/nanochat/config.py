"""The typed config, every path on disk, and what each stage's result depends on.

`load_config(path)` reads a YAML file in which `preset` names the sizes to start from
(config/presets/NAME.yaml beside it); keys of the file replace the preset's. `Config.resolve` does
the same for a mapping that Snakemake has read. Both raise ConfigError for unknown keys (naming the
nearest known one) and for values that can't be used.

Reads YAML; writes nothing. Only this module builds paths (class `Paths`), and only
`Config.settings_of(rule)` says which keys determine the result of which rule: Snakemake compares
exactly these, so that a changed key reruns what depends on it and nothing else.
"""

import difflib
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    field_validator,
)

from nanochat.errors import ConfigError
from nanochat.files import fingerprint

PRESETS = Path(__file__).parents[2] / "config" / "presets"
EMBEDDED = "embedded"
STAGES = ("base", "mid", "sft")
TRAINING_RULES = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft"}
"""Stage -> the rule that trains it."""
ALL: Any = ...
"""Of a section: all of its keys."""

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A group of keys: frozen, unknown keys refused, the docstring under a field is its help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
    )


class PathSettings(Section):
    """Where everything big is written."""

    base_dir: str | None = None
    """Folder of everything big. Default: $NANOCHAT_BASE_DIR, else `.nanochat` in this folder."""


class DataSettings(Section):
    """The text that the base model is trained on."""

    source: str = EMBEDDED
    """`embedded` (documentation in this Python), `climbmix-400b-shuffle` or
    `fineweb-edu-100b-shuffle` (downloaded), a folder of shard_*.parquet, or your own .txt, .jsonl
    or .parquet (file or folder). Another bare name is a folder in `base_dir`/base_data."""
    train_shards: int = Field(default=4, ge=1, le=100_000)
    """Number of training shards; one more is the validation shard. A folder of shards has to
    hold at least this many, and its last one is the validation shard."""


class TokenizerSettings(Section):
    """The byte-level BPE tokenizer."""

    vocab_size: int = Field(default=32_768, ge=265, le=1_000_000)
    """Number of tokens, the nine special ones included."""
    max_characters: int = Field(default=2_000_000_000, ge=1_000)
    """Characters of training text that the merges are learned from."""
    max_document_characters: int = Field(default=10_000, ge=100)
    """Characters taken from any one document."""


class ModelSettings(Section):
    """The transformer. `depth` is the one dial: width, heads, batch, learning rates, weight decay
    and horizon follow from it."""

    depth: int = Field(default=20, ge=1, le=128)
    """Number of layers."""
    aspect_ratio: int = Field(default=64, ge=1)
    """Width per layer: channels = depth * aspect_ratio, rounded up to a multiple of head_dim."""
    head_dim: int = Field(default=128, ge=8, multiple_of=8)
    """Channels of one attention head."""
    sequence_len: int = Field(default=2_048, ge=16)
    """Context length in tokens."""
    window_pattern: str = Field(default="SSSL", pattern="^[SL]+$")
    """Attention windows, tiled over the layers: S = a quarter of the context, L = all of it."""
    architecture: Literal["current", "october-2025"] = "current"
    """`october-2025` is the same code with all later refinements switched off."""
    without: tuple[Literal["value_embeddings", "smear", "backout", "residual_lambdas"], ...] = ()
    """Refinements of the current architecture to switch off, for ablations."""


class BaseSettings(Section):
    """Pretraining."""

    tokens_per_parameter: float = Field(default=12.0, gt=0)
    """Training tokens per scaling parameter (matrices and lm_head): sets the horizon."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; replaces the horizon that follows from tokens_per_parameter."""
    total_batch_tokens: int | None = Field(default=None, ge=16)
    """Tokens per optimizer step; replaces the size that follows from the depth."""
    lr_scale: float = Field(default=1.0, gt=0)
    """Multiplies all learning rates."""
    warmdown_fraction: float = Field(default=0.65, ge=0, le=1)
    """Last fraction of the steps, over which the learning rates fall linearly, to 5 %."""


class ChatStageSettings(Section):
    """One stage of training on conversations."""

    items: dict[str, NonNegativeInt] = Field(min_length=1)
    """Conversations of each generated task (name: number)."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the mixture."""
    total_batch_tokens: int = Field(default=524_288, ge=16)
    """Tokens per optimizer step."""
    lr_fraction: float = Field(default=1.0, gt=0)
    """Learning rates at the start, as a fraction of pretraining's."""
    warmdown_fraction: float = Field(default=0.5, ge=0, le=1)
    """Last fraction of the steps, over which the learning rates fall linearly to zero."""
    all_tokens: bool = False
    """Learn every token of a conversation, not only what the assistant says."""


class ChatSettings(Section):
    """What the chat model is taught beside the generated tasks, and who it says it is."""

    conversations: tuple[str, ...] = ()
    """Your own .jsonl files of conversations, added to mid-training and SFT. A line:
    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}"""
    name: str = "nanochat"
    """What the model calls itself."""
    maker: str = "the person who ran this training"
    """Who it says made it."""
    test_items: int = Field(default=200, ge=1)
    """Held-out items of each generated task."""


class EvaluationSettings(Section):
    """How much is measured. Changing it reruns evaluations, never a training."""

    validation_tokens: int = Field(default=80 * 524_288, ge=16)
    """Held-out tokens that bits per byte is measured on (at most the validation shard)."""
    core_items: int = Field(default=500, ge=1)
    """Items of each CORE task (at most)."""
    chat_items: int = Field(default=500, ge=1)
    """Held-out items of each chat task (at most)."""
    batch_rows: int = Field(default=32, ge=1)
    """Sequences evaluated at once."""


class OperationSettings(Section):
    """How training runs on this machine. Changing it reruns nothing."""

    device_rows: int = Field(default=32, ge=1)
    """Rows of one micro-batch on a device; gradient accumulation makes up the total batch."""
    validate_every_steps: int = Field(default=250, ge=1)
    """Steps between measurements of validation bits per byte."""
    save_every_minutes: float = Field(default=15.0, ge=0)
    """Minutes between checkpoints. 0 saves after every step."""
    leave_before_limit_seconds: float = Field(default=120.0, ge=0)
    """Seconds before a SLURM job's time limit at which training saves and leaves to be continued,
    beside the time for a step and a save."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept while training; a finished stage keeps its last one."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: `auto` uses it where a compiler is there and the run is long enough."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Follow the journal into Weights & Biases. The journal is written in any case."""


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

    @field_validator("data", mode="after")
    @classmethod
    def _source_is_named(cls, value: DataSettings) -> DataSettings:
        if not value.source.strip():
            raise ValueError("source is empty")
        return value

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

    @cached_property
    def disk(self) -> "Paths":
        """Where this config's artefacts lie."""
        return Paths(self)

    def chat_stage(self, stage: str) -> ChatStageSettings:
        """The settings of `mid` or `sft`."""
        return {"mid": self.mid, "sft": self.sft}[stage]

    def settings_of(self, rule: str) -> dict[str, Any]:
        """The keys that determine the result of `rule` beyond its input files, as JSON values."""
        mixture = {"items", "all_tokens"}
        schedule = set(ChatStageSettings.model_fields) - mixture
        rates = {"base": {"lr_scale"}}
        depends_on: dict[str, dict[str, Any]] = {
            "corpus": {"data": ALL},
            "train_tokenizer": {"tokenizer": ALL},
            "base_train": {"model": ALL, "base": ALL, "seed": ALL},
            "base_eval": {"evaluation": {"validation_tokens", "core_items"}},
            "generate_tasks": {"seed": ALL, "mid": {"items"}, "sft": {"items"}, "chat": ALL},
            "mid_rows": {"seed": ALL, "mid": mixture, "chat": {"conversations"}},
            "sft_rows": {"seed": ALL, "sft": mixture, "chat": {"conversations"}},
            "mid_train": {"seed": ALL, "mid": schedule, **rates},
            "chat_sft": {"seed": ALL, "sft": schedule, **rates},
            "chat_eval": {"evaluation": {"chat_items"}, "mid": {"items"}, "sft": {"items"}},
            "eval_bundle": {"seed": ALL},
        }
        return self.model_dump(mode="json", include=depends_on[rule])

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


@dataclass(frozen=True)
class Paths:
    """Every path of a config. Names carry what an artefact is determined by, so that two runs
    share shards and tokenizer where these are identical and nothing else."""

    config: Config

    @property
    def base_dir(self) -> Path:
        """`paths.base_dir`, else $NANOCHAT_BASE_DIR, else `.nanochat`; `$VAR` and `~` expanded."""
        chosen = self.config.paths.base_dir or os.environ.get("NANOCHAT_BASE_DIR") or ".nanochat"
        return Path(os.path.expandvars(chosen)).expanduser()

    # --- text -----------------------------------------------------------------------------------

    @property
    def source(self) -> Path | None:
        """The user's file or folder of text; None for the embedded corpus."""
        source = self.config.data.source
        if source == EMBEDDED:
            return None
        if self.bare_source is not None:
            return self.base_dir / "base_data" / self.bare_source
        return Path(os.path.expandvars(source)).expanduser()

    @property
    def bare_source(self) -> str | None:
        """`data.source` where it is a bare name: a data set, or a folder, of base_data."""
        source = self.config.data.source
        bare = source != EMBEDDED and "/" not in source and not Path(source).exists()
        return source if bare else None

    @property
    def dataset(self) -> str:
        """Name of the corpus: what it is made from and how it is divided."""
        settings = self.config.data
        if self.source is None:
            return f"{EMBEDDED}-{settings.train_shards}"
        identity = fingerprint([str(self.source), settings.train_shards])[:8]
        return f"{self.source.stem}-{identity}"

    @property
    def corpus(self) -> Path:
        """Folder of the shards and their records."""
        return self.base_dir / "base_data" / self.dataset

    @property
    def shard_numbers(self) -> range:
        """Numbers of the training shards; the validation shard has the next one."""
        return range(self.config.data.train_shards)

    @property
    def validation_number(self) -> int:
        """Number of the validation shard."""
        return self.config.data.train_shards

    def shard_record(self, number: int | str) -> Path:
        """What a shard holds: documents, bytes, SHA-256, and the path of its parquet file."""
        return self.corpus / f"shard_{_five_digits(number)}.json"

    def downloaded_shard(self, number: int | str) -> Path:
        """A file of the data set that `data.source` names; its record is beside it. Its folder is
        not `corpus`, so that configs with other numbers of shards share it."""
        folder = self.base_dir / "base_data" / str(self.bare_source)
        return folder / f"shard_{_five_digits(number)}.parquet"

    @property
    def downloads(self) -> Path:
        """The list of what a run has downloaded."""
        return self.run / "downloads.json"

    # --- tokens ---------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        settings = self.config.settings_of("train_tokenizer")
        vocab_size = self.config.tokenizer.vocab_size
        name = f"{self.dataset}-v{vocab_size}-{fingerprint(settings)[:8]}"
        return self.base_dir / "tokenizer" / name

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer's JSON; written last."""
        return self.tokenizer / "tokenizer.json"

    @property
    def compression(self) -> Path:
        """The record of the tokenizer's compression."""
        return self.tokenizer / "compression.json"

    @property
    def tokens(self) -> Path:
        """Folder of the packed rows."""
        length = self.config.model.sequence_len
        return self.base_dir / "tokens" / f"{self.tokenizer.name}-{length}"

    def rows(self, number: int | str) -> Path:
        """Packed rows of a shard."""
        return self.tokens / f"shard_{_five_digits(number)}.npy"

    def rows_record(self, number: int | str) -> Path:
        """What a file of packed rows holds."""
        return self.rows(number).with_suffix(".json")

    # --- conversations and evaluation data ------------------------------------------------------

    @property
    def task_data(self) -> Path:
        """Folder of this run's generated tasks: one folder a task."""
        return self.base_dir / "task_data" / self.config.run

    def task(self, name: str, split: str) -> Path:
        """A generated task's items; `split` is train or test."""
        return self.task_data / name / f"{split}.parquet"

    @property
    def task_manifest(self) -> Path:
        """The record of the generated tasks; written last."""
        return self.task_data / "manifest.json"

    @property
    def conversations(self) -> list[Path]:
        """The user's own files of conversations."""
        names = self.config.chat.conversations
        return [Path(os.path.expandvars(name)).expanduser() for name in names]

    def chat_rows(self, stage: str) -> Path:
        """Packed conversations of a stage."""
        return self.task_data / "rows" / f"{stage}.npy"

    @property
    def eval_bundle(self) -> Path:
        """The CORE-format bundle made from the validation shard."""
        return self.base_dir / "eval_bundle" / f"{self.dataset}-{self.config.seed}"

    # --- a run ----------------------------------------------------------------------------------

    def stage(self, stage: str) -> Path:
        """A stage's result: model.safetensors, config.json, record.json, eval.json."""
        return self.base_dir / "models" / self.config.run / stage

    def evaluation(self, stage: str) -> Path:
        """What was measured of a stage's model."""
        return self.stage(stage) / "eval.json"

    def checkpoints(self, stage: str) -> Path:
        """A stage's checkpoints: outside every declared output."""
        return self.base_dir / "checkpoints" / self.config.run / stage

    @property
    def run(self) -> Path:
        """Folder of the run's journal and resolved config."""
        return self.base_dir / "runs" / self.config.run

    @property
    def journal(self) -> Path:
        """The run's journal."""
        return self.run / "journal.jsonl"

    @property
    def corpus_record(self) -> Path:
        """What the run's corpus holds, for the report."""
        return self.run / "corpus.json"

    @property
    def resolved_config(self) -> Path:
        """The resolved config that the run's commands read."""
        return self.run / "config.yaml"

    @property
    def logs(self) -> Path:
        """Folder of the run's logs, one a rule."""
        return self.run / "logs"

    @property
    def outcomes(self) -> Path:
        """How the run's SLURM jobs ended that ended with an error, one file a job."""
        return self.run / "outcomes"

    @property
    def ended(self) -> Path:
        """Folder of markers: an empty file for each SLURM job whose command has ended."""
        return self.run / "ended"

    @property
    def report(self) -> Path:
        """The report card."""
        return self.base_dir / "report" / self.config.run / "report.md"

    @property
    def wandb(self) -> Path:
        """Folder of offline Weights & Biases runs."""
        return self.base_dir / "wandb"


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


def _five_digits(number: int | str) -> str:
    return number if isinstance(number, str) else f"{number:05d}"


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
