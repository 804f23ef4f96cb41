"""What a config needs from elsewhere, and where each thing lies.

    for external in externals(config.disk):
        external.source.name, external.part, external.path, external.path.exists()

Reads a few directory entries, and writes nothing; light enough for every parse of the DAG.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.errors import ConfigError
from nanochat.paths import Paths
from nanochat.registry import (
    CORE_BUNDLE,
    ENGLISH_WORDS,
    TABLES,
    VOCABULARIES,
    Archive,
    HubCorpus,
    HubTable,
    PlainFile,
    Source,
)

FETCHED = ".fetched"
"""The folder, beside what was downloaded, of how it came."""


@dataclass(frozen=True)
class External:
    """A shard of a corpus, a split of a table, a plain file, or the folder of an archive."""

    source: Source
    part: str
    """A shard's number (`00007`), a table's split (`train`), else empty."""
    path: Path
    """Its file; of an archive, its folder."""
    record: Path
    """JSON that says what it holds, and nothing of when or how it came."""
    shared: Path | None = None
    """Where `paths.shared_dir` has it, if it does: then it is not downloaded."""
    shared_record: Path = Path()
    """What that holds; a shard needs none."""

    @property
    def fetched(self) -> Path:
        """JSON that says when and from where it was downloaded; absent where it was not."""
        return self.path.parent / FETCHED / f"{self.path.name}.json"

    @property
    def output(self) -> Path:
        """The file by which Snakemake knows that it is there."""
        return self.path / self.source.files[0] if isinstance(self.source, Archive) else self.path

    @property
    def is_there(self) -> bool:
        """Whether it lies where it belongs."""
        return self.output.exists()

    @property
    def about_bytes(self) -> float:
        """Its rough size, from the registry."""
        match self.source:
            case HubCorpus():
                return 1e6 * self.source.shard_megabytes
            case HubTable():
                return 1e6 * self.source.megabytes[self.part]
            case PlainFile() | Archive():
                return 1e6 * self.source.megabytes


def externals(disk: Paths) -> list[External]:
    """Everything from elsewhere that the config reads: the corpus' shards, the tables of its
    mixtures and of its chat tasks, and what its options ask for.

    Raises ConfigError where `paths.shared_dir` is not there.
    """
    if disk.shared_dir and not disk.shared_dir.is_dir():
        raise ConfigError(
            f"the shared folder {disk.shared_dir} is not there: correct paths.shared_dir, or "
            "NANOCHAT_SHARED_DIR in the environment or .env.local"
        )
    return [*_shards(disk), *_tables(disk), *_others(disk)]


def _shards(disk: Paths) -> Iterator[External]:
    corpus = disk.hub_corpus
    for number in corpus.numbers(disk.config.train_shards) if corpus else ():
        assert corpus
        yield _external(disk, corpus, f"{number:05d}", disk.downloaded_shard(number))


def _tables(disk: Paths) -> Iterator[External]:
    trained, scored = disk.config.items_of(list(TABLES)), disk.config.scored_tasks
    for name, table in TABLES.items():
        for split, wanted in {"train": name in trained, "test": name in scored}.items():
            if wanted:
                yield _external(disk, table, split, disk.table(name, split))


def _others(disk: Paths) -> Iterator[External]:
    config = disk.config
    if config.evaluation.bundle == "core":
        yield _external(disk, CORE_BUNDLE, "", disk.archive(CORE_BUNDLE.name))
    files = [ENGLISH_WORDS] if config.chat.words == "english" else []
    files += VOCABULARIES.values() if config.tokenizer.compare_with_gpt else ()
    for file in files:
        yield _external(disk, file, "", disk.plain_file(file.name, file.file))


def _external(disk: Paths, source: Source, part: str, path: Path) -> External:
    record = disk.record_of(path)
    if disk.shared_dir is None:
        return External(source, part, path, record)
    shared = disk.shared_dir / path.relative_to(disk.base_dir)
    shared_record = disk.shared_dir / record.relative_to(disk.base_dir)
    usable = shared.exists() and (isinstance(source, HubCorpus) or shared_record.exists())
    return External(source, part, path, record, shared if usable else None, shared_record)
