"""Every file that comes from elsewhere: the one list that both the downloads and the loaders read.

    CORPORA["climbmix-400b-shuffle"].numbers(train_shards=101)     # [0, ..., 100, 6542]
    TABLES["gsm8k"].splits["train"]                                # ("main", "train")
    REGISTRY["core_bundle"].licence

A further data set is one more entry here. Sizes are rough: they plan disk space, and the hub or the
server states the exact ones. Reads and writes nothing, and imports nothing heavy: Snakemake asks
each time it parses the workflow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nanochat.errors import ConfigError

EMBEDDED = "embedded"
"""`data.source` of the documentation in this Python, which needs no download."""
GENERATED = ("spelling", "first_letter", "counting", "arithmetic", "documentation")
"""Tasks that data/skills.py makes."""
WORD_TASKS = ("spelling", "first_letter", "counting")
"""Those of them that ask about words."""
TASK_SHARDS = 8
"""Training shards that words and documentation are taken from, at most: two billion characters hold
every common word often enough, and a hundred shards would be read for hours."""
IDENTITY = "identity"
"""The task that data/identity.py makes: who the model is."""

HUB_PARQUET = "refs/convert/parquet"
"""Where the hub keeps every data set as parquet: <config>/<split>/0000.parquet and so on."""


@dataclass(frozen=True)
class HubCorpus:
    """A data set of text on the Hugging Face hub, cut into numbered parquet files with a column
    `text`."""

    name: str
    repo: str
    """Its repository there."""
    shards: int
    """Number of its files, which are numbered from 0."""
    text: str
    """What it is, as the model says it: "I was trained on ..."."""
    licence: str
    used_by: str
    validation: int | None = None
    """Number of the file that is held out; None: the last one."""
    revision: str = "main"
    """Branch, tag or commit."""
    pattern: str = "shard_{:05d}.parquet"
    """A file's name, from its number."""
    shard_megabytes: float = 100
    shard_characters: float = 250e6

    def numbers(self, train_shards: int) -> list[int]:
        """The files of a training: the first `train_shards` ones, and last the held-out one.

        Raises ConfigError where there are not as many.
        """
        if train_shards >= self.shards:
            raise ConfigError(
                f"data.train_shards is {train_shards}, but {self.repo} has {self.shards} shards "
                f"and one of them is held out: give at most {self.shards - 1}"
            )
        held_out = self.shards - 1 if self.validation is None else self.validation
        train = (number for number in range(self.shards) if number != held_out)
        return [*(next(train) for _ in range(train_shards)), held_out]


@dataclass(frozen=True)
class HubTable:
    """A data set of tasks on the Hugging Face hub, stored here as one parquet file a split."""

    name: str
    repo: str
    splits: Mapping[str, tuple[str, str]]
    """Our split -> the config and the split there."""
    columns: tuple[str, ...]
    """What a loader reads of it, so what has to be there."""
    rows: Mapping[str, int]
    """Rows of each split, as published."""
    megabytes: Mapping[str, float]
    """Size of each split."""
    tokens_per_row: int
    """Rough, of a conversation made from it: for planning."""
    kind: Literal["conversations", "categorical", "generative", "code"]
    """`conversations` are trained on and not scored; the others are scored as chat tasks."""
    licence: str
    used_by: str
    revision: str = HUB_PARQUET


@dataclass(frozen=True)
class PlainFile:
    """One file at an address."""

    name: str
    url: str
    file: str
    """What it is called here."""
    megabytes: float
    licence: str
    used_by: str
    sha256: str | None = None
    """None where it is not published: then the first download's is recorded."""


@dataclass(frozen=True)
class Archive:
    """A zip file at an address, stored here as a folder."""

    name: str
    url: str
    root: str
    """The folder in it that is kept; what lies beside that is not."""
    files: tuple[str, ...]
    """What has to be in that folder."""
    megabytes: float
    licence: str
    used_by: str
    sha256: str | None = None


Source = HubCorpus | HubTable | PlainFile | Archive

CORPORA = {
    corpus.name: corpus
    for corpus in (
        # NVIDIA's ClimbMix, shuffled; the best text for the CORE tasks at these sizes.
        HubCorpus(
            "climbmix-400b-shuffle",
            "karpathy/climbmix-400b-shuffle",
            6543,
            text="web pages of the ClimbMix data set",
            licence="CC BY-NC 4.0 (NVIDIA ClimbMix)",
            used_by="tokenizer, pretraining, validation",
            validation=6542,
        ),
        # FineWeb-EDU, 100 billion tokens, shuffled; what nanochat of October 2025 was trained on.
        HubCorpus(
            "fineweb-edu-100b-shuffle",
            "karpathy/fineweb-edu-100b-shuffle",
            1823,
            text="educational web pages of the FineWeb-EDU data set",
            licence="ODC-By 1.0",
            used_by="tokenizer, pretraining, validation",
        ),
    )
}
"""`data.source` -> data set."""

TABLES = {
    table.name: table
    for table in (
        HubTable(
            "smoltalk",
            "HuggingFaceTB/smol-smoltalk",
            {"train": ("default", "train")},
            ("messages",),
            {"train": 460_341},
            {"train": 480},
            800,
            "conversations",
            licence="Apache-2.0",
            used_by="mid-training, SFT",
        ),
        HubTable(
            "mmlu",
            "cais/mmlu",
            {"train": ("all", "auxiliary_train"), "test": ("all", "test")},
            ("question", "choices", "answer"),
            {"train": 99_842, "test": 14_042},
            {"train": 48, "test": 4},
            250,
            "categorical",
            licence="MIT",
            used_by="mid-training, chat evaluation",
        ),
        HubTable(
            "gsm8k",
            "openai/gsm8k",
            {"train": ("main", "train"), "test": ("main", "test")},
            ("question", "answer"),
            {"train": 7_473, "test": 1_319},
            {"train": 2.4, "test": 0.5},
            250,
            "generative",
            licence="MIT",
            used_by="mid-training, SFT, chat evaluation",
        ),
        HubTable(
            "arc_easy",
            "allenai/ai2_arc",
            {"train": ("ARC-Easy", "train"), "test": ("ARC-Easy", "test")},
            ("question", "choices", "answerKey"),
            {"train": 2_251, "test": 2_376},
            {"train": 0.4, "test": 0.4},
            120,
            "categorical",
            licence="CC BY-SA 4.0",
            used_by="SFT, chat evaluation",
        ),
        HubTable(
            "arc_challenge",
            "allenai/ai2_arc",
            {"train": ("ARC-Challenge", "train"), "test": ("ARC-Challenge", "test")},
            ("question", "choices", "answerKey"),
            {"train": 1_119, "test": 1_172},
            {"train": 0.2, "test": 0.3},
            120,
            "categorical",
            licence="CC BY-SA 4.0",
            used_by="SFT, chat evaluation",
        ),
        HubTable(
            "humaneval",
            "openai/openai_humaneval",
            {"test": ("openai_humaneval", "test")},
            ("prompt", "canonical_solution", "test", "entry_point"),
            {"test": 164},
            {"test": 0.1},
            400,
            "code",
            licence="MIT",
            used_by="chat evaluation",
        ),
    )
}
"""Name in a mixture or in `evaluation.chat_tasks` -> data set."""

CORE_BUNDLE = Archive(
    "core_bundle",
    "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip",
    root="eval_bundle",
    files=("core.yaml", "eval_meta_data.csv", "eval_data"),
    megabytes=162,
    licence="each of the 22 tasks its own; the collection is DCLM's, MIT",
    used_by="base evaluation",
)
ENGLISH_WORDS = PlainFile(
    "english_words",
    "https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt",
    "words_alpha.txt",
    megabytes=4.2,
    licence="Unlicense (the list's own origin is unclear)",
    used_by="generated spelling and counting tasks",
)
# What tiktoken itself would fetch, with the SHA-256 that it expects.
_OPENAI = "https://openaipublic.blob.core.windows.net"
VOCABULARIES = {
    file.name: file
    for file in (
        PlainFile(
            "gpt2_merges",
            f"{_OPENAI}/gpt-2/encodings/main/vocab.bpe",
            "vocab.bpe",
            megabytes=0.5,
            licence="MIT (GPT-2)",
            used_by="tokenizer evaluation",
            sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
        PlainFile(
            "gpt2_encoder",
            f"{_OPENAI}/gpt-2/encodings/main/encoder.json",
            "encoder.json",
            megabytes=1.0,
            licence="MIT (GPT-2)",
            used_by="tokenizer evaluation",
            sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
        PlainFile(
            "gpt4_ranks",
            f"{_OPENAI}/encodings/cl100k_base.tiktoken",
            "cl100k_base.tiktoken",
            megabytes=1.7,
            licence="MIT (tiktoken)",
            used_by="tokenizer evaluation",
            sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        ),
    )
}

PLAIN_FILES = {ENGLISH_WORDS.name: ENGLISH_WORDS, **VOCABULARIES}

REGISTRY: dict[str, Source] = {
    **CORPORA,
    **TABLES,
    CORE_BUNDLE.name: CORE_BUNDLE,
    **PLAIN_FILES,
}
"""All of them, by name."""
