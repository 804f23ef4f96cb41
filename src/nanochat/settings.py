"""The config's groups of keys, typed: what docs/reference/config.md lists.

How a file becomes these is in config.py. Reads and writes nothing.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator

from nanochat.registry import EMBEDDED

SAID = r"\w"
"""What a model says of itself has at least a letter or a digit."""


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
    shared_dir: str | None = None
    """Base folder of somebody else, whose downloads are used in place where it has them, and never
    written. Default: $NANOCHAT_SHARED_DIR, else none."""


class DataSettings(Section):
    """The text that the base model is trained on."""

    source: str = EMBEDDED
    """`embedded` (documentation in this Python), `climbmix-400b-shuffle` or
    `fineweb-edu-100b-shuffle` (downloaded), a folder of shard_*.parquet, or your own .txt, .jsonl
    or .parquet (file or folder). Another bare name is a folder in `base_dir`/base_data."""
    train_shards: int | None = Field(default=None, ge=1, le=100_000)
    """Number of training shards; one more is the validation shard. Default: of a downloaded data
    set as many as pretraining reads once, else 4. A folder of shards has to hold more than this."""

    @field_validator("source")
    @classmethod
    def _is_named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is empty")
        return value


class TokenizerSettings(Section):
    """The byte-level BPE tokenizer."""

    vocab_size: int = Field(default=32_768, ge=265, le=1_000_000)
    """Number of tokens, the nine special ones included."""
    max_characters: int = Field(default=2_000_000_000, ge=1_000)
    """Characters of training text that the merges are learned from."""
    max_document_characters: int = Field(default=10_000, ge=100)
    """Characters taken from any one document."""
    compare_with_gpt: bool = False
    """Download the vocabularies of GPT-2 and GPT-4 and compare the tokenizer with them."""


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
    """Conversations of each task (name: number; fewer where it has no more). Generated: spelling,
    first_letter, counting, arithmetic, documentation, identity. Downloaded: smoltalk, mmlu, gsm8k,
    arc_easy, arc_challenge."""
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
    name: str = Field(default="nanochat", pattern=SAID)
    """What the model calls itself."""
    maker: str = Field(default="the person who ran this training", pattern=SAID)
    """Who it says made it."""
    training_text: str | None = Field(default=None, pattern=SAID)
    """What it says that it was trained on. Default: what `data.source` is."""
    limits: tuple[Annotated[str, Field(pattern=SAID)], ...] = (
        "browse the internet",
        "remember earlier conversations",
        "see pictures",
        "know what happened after I was trained",
    )
    """What it says that it can't do: endings of "I can't ..."."""
    identity: str | None = None
    """Your own .jsonl of conversations about who the model is, in place of the generated ones."""
    words: Literal["corpus", "english"] = "corpus"
    """Words of the tasks about words: frequent ones of the corpus, or a downloaded list."""
    test_items: int = Field(default=200, ge=1)
    """Held-out items of each generated task. Generates the tasks anew, so mid-training and SFT
    follow."""


class EvaluationSettings(Section):
    """How much is measured. Changing it reruns evaluations, never a training."""

    validation_tokens: int = Field(default=80 * 524_288, ge=16)
    """Held-out tokens that bits per byte is measured on (at most the validation shard)."""
    bundle: Literal["generated", "core"] = "generated"
    """CORE tasks: made from the validation shard, or the 22 published ones, downloaded."""
    core_items: int = Field(default=500, ge=1)
    """Items of each CORE task (at most)."""
    chat_tasks: tuple[str, ...] = ()
    """Chat tasks to score beside those of the mixtures, such as humaneval."""
    chat_items: int = Field(default=500, ge=1)
    """Held-out items of each chat task (at most)."""
    batch_rows: int = Field(default=32, ge=1)
    """Sequences evaluated at once."""


class OperationSettings(Section):
    """How training runs on this machine. Changing it reruns nothing."""

    device_rows: int = Field(default=32, ge=1)
    """Rows of one micro-batch on a device; gradient accumulation makes up the total batch.
    `nanochat memory` says how many fit; fewer are taken where these do not."""
    validate_every_steps: int = Field(default=250, ge=1)
    """Steps between measurements of validation bits per byte."""
    save_every_minutes: float = Field(default=15.0, ge=0)
    """Minutes between checkpoints. 0 saves after every step."""
    leave_before_limit_seconds: float = Field(default=120.0, ge=0)
    """Seconds before a SLURM job's time limit at which training saves and leaves to be continued,
    beside the time for a step and a save."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept while training; a finished stage keeps its last one."""
    keep_every_steps: int | None = Field(default=None, ge=1)
    """At each multiple of so many steps a checkpoint is saved that stays, also after the end."""
    keep_best: int = Field(default=0, ge=0)
    """So many checkpoints with the lowest validation bits per byte stay too; each step that is
    validated is saved then."""
    on_nonfinite: Literal["skip", "stop"] = "skip"
    """Where a loss or gradient is not finite, no rank makes the update: `skip` goes on with the
    next step, `stop` ends training there (exit code 77)."""
    roll_back_after_steps: int = Field(default=3, ge=1)
    """So many such steps in a row, and training goes back to the last checkpoint, and on from there
    with other rows."""
    rollbacks: int = Field(default=2, ge=0)
    """How often it goes back before it ends (exit code 77)."""
    hang_minutes: float = Field(default=10.0, ge=0)
    """Minutes in one part of a step after which a rank counts as hung, and all leave (exit code
    79), or five times as long as that part ever took. 0 never."""
    shard: Literal["optimizer", "weights"] = "optimizer"
    """What the ranks divide among them: `optimizer`, the moments, with all weights on each device;
    `weights`, these and gradients too, for a model that no device holds, with more to send."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: `auto` uses it where a compiler is there and the run is long enough."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Follow the journal into Weights & Biases. The journal is written in any case."""
