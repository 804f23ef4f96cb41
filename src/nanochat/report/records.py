"""The records that a report is made from, as types: a missing key names itself.

`load_records(paths)` reads the JSON records of a run's stages.

Reads JSON; writes nothing. MADE_BY lists the records with the rule that makes each.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.files import read_json

MADE_BY = {
    "corpus": "report",
    "tokenizer": "eval_tokenizer",
    "base": "base_train",
    "mid": "mid_train",
    "sft": "chat_sft",
    "base_eval": "base_eval",
    "mid_eval": "chat_eval",
    "sft_eval": "chat_eval",
}


class Record(BaseModel):
    """A part of a JSON record; keys that the report does not show are let through."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Shard(Record):
    """Documents of one parquet file and their size in bytes of UTF-8."""

    documents: int
    bytes: int


class Corpus(Record):
    """What there is to train on, and what is held out."""

    dataset: str
    shards: list[Shard]
    validation: Shard


class Compression(Record):
    """How a tokenizer compresses one kind of text; gpt2 and gpt4 in bytes per token, if known."""

    text: str
    bytes: int
    tokens: int
    bytes_per_token: float
    gpt2: float | None
    gpt4: float | None


class Tokenizer(Record):
    """The tokenizer and what its evaluation found."""

    vocab_size: int
    fingerprint: str
    compression: list[Compression]


class Plan(Record):
    """What training was meant to do, computed before it began."""

    parameters: int
    scaling_parameters: int
    flops_per_token: float
    tokens: int
    total_batch_tokens: int
    steps: int


class Result(Record):
    """What training did; bits per byte on the held-out text at its end."""

    steps: int
    tokens: int
    train_loss: float
    validation_bpb: float
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int


class Provenance(Record):
    """Where a record's numbers come from; times in seconds since 1970."""

    commit: str | None
    dirty: bool | None
    host: str
    cpu: str
    cpus: int
    gpu: str | None
    torch: str
    python: str
    nanochat: str
    job_id: str | None
    started: float
    finished: float


class Training(Record):
    """The record of one training stage."""

    stage: str
    settings: dict[str, Any]
    plan: Plan
    inputs: dict[str, Any]
    result: Result
    fingerprint: str
    weights_sha256: str
    provenance: Provenance


class BitsPerByte(Record):
    """The model against general-purpose compressors, on one text."""

    value: float
    tokens: int
    bytes: int
    compressors: dict[str, float]


class CoreTask(Record):
    """One CORE task's score."""

    label: str
    type: str
    shots: int
    accuracy: float
    chance: float
    centered: float
    items: int


class Core(Record):
    """CORE, the tasks it is the mean of, and those without data."""

    value: float
    tasks: list[CoreTask]
    missing: list[str]


class Sample(Record):
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str


class BaseEvaluation(Record):
    """The record of the base model's evaluation."""

    bpb: BitsPerByte
    core: Core
    samples: list[Sample]


class ChatCore(Record):
    """The mean centred accuracy over the named chat tasks."""

    value: float
    tasks: list[str]


class Example(Record):
    """One question of a chat task and how it went."""

    question: str
    expected: str
    answer: str
    correct: bool


class ChatTask(Record):
    """One chat task's score."""

    name: str
    kind: str
    accuracy: float
    chance: float
    centered: float
    items: int
    examples: list[Example]


class Part(Record):
    """A part of an answer: text, a question to the calculator, or what that said."""

    type: Literal["text", "python", "python_output"]
    text: str


class Message(Record):
    """One turn of a conversation."""

    role: str
    content: str | list[Part]


class ChatEvaluation(Record):
    """The record of a chat model's evaluation."""

    chatcore: ChatCore
    tasks: list[ChatTask]
    transcript: list[Message]


class Alert(Record):
    """Events of one kind that a person should know of; time in seconds since 1970."""

    kind: Literal["save_failed", "spike", "rollback", "out_of_memory", "hang"]
    count: int
    last: str
    time: float


class SaveAdvice(Record):
    """How often a training should save."""

    sentence: str


class TimeSpent(Record):
    """Where a training's wall-clock time went, in seconds by part; made from the journal."""

    seconds: dict[str, float]
    wall: float
    goodput: float
    attempts: int
    failures: int
    lost_steps: int
    alerts: list[Alert]
    advice: SaveAdvice | None


class Records(Record):
    """Everything a report shows, but for the journal."""

    corpus: Corpus
    tokenizer: Tokenizer
    base: Training
    mid: Training
    sft: Training
    base_eval: BaseEvaluation
    mid_eval: ChatEvaluation
    sft_eval: ChatEvaluation

    @property
    def stages(self) -> dict[str, Training]:
        """The training records by stage, in the order of training."""
        return {"base": self.base, "mid": self.mid, "sft": self.sft}


def load_records(paths: dict[str, Path]) -> Records:
    """Reads and checks every record of MADE_BY.

    Raises MissingArtefact for a record that is not there, DamagedArtefact for one that lacks a key
    or holds another type; both name the rule that makes it.
    """
    absent = [name for name in MADE_BY if name not in paths]
    if absent:
        raise MissingArtefact(f"no {absent[0]} record for the report: {advice(absent[0])}")
    values = {name: read_json(paths[name], _command(name)) for name in MADE_BY}
    try:
        return Records.model_validate(values)
    except ValidationError as exc:
        trouble = exc.errors()[0]
        name, *keys = [str(part) for part in trouble["loc"]]
        message = f"{paths[name]} has no usable key {'.'.join(keys)!r} ({trouble['msg']})"
        raise DamagedArtefact(f"{message}: delete it, then {advice(name)}") from exc


def _command(name: str) -> str:
    return f"snakemake --profile profiles/local --until {MADE_BY[name]}"


def advice(name: str) -> str:
    """What to do where the record `name` is not there."""
    return f"run `{_command(name)}` first"
