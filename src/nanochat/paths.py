"""Every path on disk. Only this module builds paths.

    disk = config.disk
    disk.tokenizer_file, disk.stage("base"), disk.record_of(disk.table("gsm8k", "train"))

Names carry what an artefact is determined by, so that two runs share shards and tokenizer where
these are identical and nothing else. Reads the environment and writes nothing.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.files import fingerprint
from nanochat.registry import CORE_BUNDLE, CORPORA, EMBEDDED, IDENTITY, TABLES, HubCorpus

if TYPE_CHECKING:
    from nanochat.config import Config


@dataclass(frozen=True)
class Paths:
    """Every path of a config."""

    config: "Config"

    @property
    def base_dir(self) -> Path:
        """`paths.base_dir`, else $NANOCHAT_BASE_DIR, else `.nanochat`; `$VAR` and `~` expanded."""
        chosen = self.config.paths.base_dir or os.environ.get("NANOCHAT_BASE_DIR")
        return _expanded(chosen or ".nanochat")

    @property
    def shared_dir(self) -> Path | None:
        """`paths.shared_dir`, else $NANOCHAT_SHARED_DIR: a base folder that is only read."""
        chosen = self.config.paths.shared_dir or os.environ.get("NANOCHAT_SHARED_DIR")
        return _expanded(chosen) if chosen else None

    def record_of(self, path: Path) -> Path:
        """The JSON beside a downloaded thing that says what it holds."""
        if path.suffix == ".parquet":
            return path.with_suffix(".json")
        return path.with_name(f"{path.name}.record.json")

    # --- what comes from elsewhere --------------------------------------------------------------

    def corpus_folder(self, name: str) -> Path:
        """Folder of a corpus, by its name in the registry or in `data.source`."""
        return self.base_dir / "base_data" / name

    def downloaded_shard(self, number: int | str) -> Path:
        """A file of the data set that `data.source` names; all configs share it."""
        return self.corpus_folder(str(self.bare_source)) / f"shard_{_five_digits(number)}.parquet"

    @property
    def downloads(self) -> Path:
        """Folder of everything else that is downloaded."""
        return self.base_dir / "downloads"

    def table(self, name: str, split: str) -> Path:
        """A split of a downloaded table of tasks."""
        return self.downloads / "tasks" / name / f"{split}.parquet"

    def plain_file(self, name: str, file: str) -> Path:
        """A downloaded file."""
        return self.downloads / name / file

    def archive(self, name: str) -> Path:
        """Folder of a downloaded and unpacked archive."""
        return self.downloads / name

    @property
    def manifest(self) -> Path:
        """The list of everything that a run has from elsewhere."""
        return self.run / "downloads.json"

    # --- text -----------------------------------------------------------------------------------

    @property
    def source(self) -> Path | None:
        """The user's file or folder of text; None for the embedded corpus."""
        source = self.config.data.source
        if source == EMBEDDED:
            return None
        if self.bare_source is not None:
            return self.corpus_folder(self.bare_source)
        return _expanded(source)

    @property
    def bare_source(self) -> str | None:
        """`data.source` where it is a bare name: a data set, or a folder, of base_data."""
        source = self.config.data.source
        bare = source != EMBEDDED and "/" not in source and not Path(source).exists()
        return source if bare else None

    @property
    def hub_corpus(self) -> HubCorpus | None:
        """The data set of the registry that `data.source` names; None where it names none."""
        return CORPORA.get(self.bare_source or "")

    @property
    def dataset(self) -> str:
        """Name of the corpus: what it is made from and how it is divided. A downloaded one is
        divided already: all numbers of shards share it."""
        if self.hub_corpus:
            return self.hub_corpus.name
        if self.source is None:
            return f"{EMBEDDED}-{self.config.train_shards}"
        identity = fingerprint([str(self.source), self.config.train_shards])
        return f"{self.source.stem}-{identity[:8]}"

    @property
    def corpus(self) -> Path:
        """Folder of the shards and their records."""
        return self.corpus_folder(self.dataset)

    def shard_record(self, shard: str) -> Path:
        """What a shard holds: documents, bytes, SHA-256, and the name of its parquet file."""
        return self.corpus / f"shard_{shard}.json"

    @property
    def shard_order(self) -> Path:
        """In which order the files of a user's own folder of shards are used: those that were there
        when it was first used come first, whatever is added."""
        return self.base_dir / "base_data" / f"order-{fingerprint(str(self.source))[:8]}.json"

    # --- tokens ---------------------------------------------------------------------------------

    @property
    def tokenizer_shards(self) -> int:
        """Number of training shards that the tokenizer is trained on: of a downloaded data set, as
        many as hold `tokenizer.max_characters`."""
        if not self.hub_corpus:
            return self.config.train_shards
        enough = math.ceil(self.config.tokenizer.max_characters / self.hub_corpus.shard_characters)
        return min(enough, self.config.train_shards)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        identity = self.config.settings_of("train_tokenizer")
        if self.hub_corpus:  # whose name does not say how many shards there are
            identity = {**identity, "shards": self.tokenizer_shards}
        vocab_size = self.config.tokenizer.vocab_size
        name = f"{self.dataset}-v{vocab_size}-{fingerprint(identity)[:8]}"
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

    def rows(self, shard: str) -> Path:
        """Packed rows of a shard."""
        return self.tokens / f"shard_{shard}.npy"

    def rows_record(self, shard: str) -> Path:
        """What a file of packed rows holds."""
        return self.rows(shard).with_suffix(".json")

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
    def identity(self) -> Path:
        """Folder of the generated conversations about who the model is: train.jsonl, and
        test.parquet with held-out questions."""
        return self.task_data / IDENTITY

    @property
    def identity_record(self) -> Path:
        """What they hold; written last."""
        return self.identity / "record.json"

    @property
    def says_who_it_is(self) -> bool:
        """Whether these are generated: a mixture asks for them, and no file of the user's does."""
        return bool(self.config.items_of([IDENTITY])) and not self.config.chat.identity

    @property
    def own_identity(self) -> Path | None:
        """The user's own file in place of these."""
        own = self.config.chat.identity
        return _expanded(own) if own else None

    def held_out(self, task: str) -> Path:
        """The items that chat models are scored on, of a generated or a downloaded task."""
        if task in TABLES:
            return self.table(task, "test")
        return self.task(task, "test")

    @property
    def conversations(self) -> list[Path]:
        """The user's own files of conversations."""
        return [_expanded(name) for name in self.config.chat.conversations]

    def chat_rows(self, stage: str) -> Path:
        """Packed conversations of a stage."""
        return self.task_data / "rows" / f"{stage}.npy"

    @property
    def eval_bundle(self) -> Path:
        """The CORE bundle: downloaded, or made from the validation shard."""
        if self.config.evaluation.bundle == "core":
            return self.archive(CORE_BUNDLE.name)
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
    def heartbeats(self) -> Path:
        """What each rank of a training is doing, one file a rank."""
        return self.run / "heartbeats"

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


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _five_digits(number: int | str) -> str:
    return number if isinstance(number, str) else f"{number:05d}"
