"""`nanochat data ...` and `nanochat tokenizer ...`: from what is downloaded to packed rows.

A command's module is imported when the command runs. What looks after downloads (list, plan,
verify, pack, unpack) is in cli_downloads.py.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat.cli_downloads import downloads
from nanochat.cli_options import DEFAULT_CONFIG, ChatStage, ConfigFile, read_config
from nanochat.config import Config
from nanochat.errors import ConfigError
from nanochat.registry import ENGLISH_WORDS, GENERATED, IDENTITY, TABLES, VOCABULARIES

if TYPE_CHECKING:
    from nanochat.data.conversations import Part

data = typer.Typer(help="From text to packed rows of token ids.", no_args_is_help=True)
data.add_typer(downloads)
tokenizer = typer.Typer(help="Train and measure the tokenizer.", no_args_is_help=True)

ShardName = Annotated[str, typer.Option("--shard", help="Name of the shard: its number, 00007.")]
Threads = Annotated[int, typer.Option(help="Threads of the encoder.", min=1)]
COMPRESSED_DOCUMENTS = 1000  # documents of a shard that the tokenizer's compression is measured on


# --- from elsewhere -----------------------------------------------------------------------------


@data.command("download")
def data_download(
    name: Annotated[str, typer.Argument(help="Its name in `nanochat data list`.")],
    part: Annotated[str, typer.Option(help="Number of a shard (00007), or split (train).")] = "",
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Download one thing that the config reads; needs internet, or the shared folder."""
    from nanochat.fetch.download import download
    from nanochat.fetch.externals import externals
    from nanochat.fetch.shared import use_shared

    found = externals(read_config(config).disk)
    wanted = [each for each in found if (each.source.name, each.part) == (name, part)]
    if not wanted:
        parts = [each.part for each in found if each.source.name == name]
        if parts:
            listed = ", ".join(parts if len(parts) < 5 else [parts[0], "...", parts[-1]])
            raise ConfigError(f"of {name} this config downloads {listed}: give one with --part")
        known = ", ".join(dict.fromkeys(each.source.name for each in found)) or "nothing"
        raise ConfigError(f"this config downloads no {name}, but {known}: give one of these")
    if wanted[0].shared and not wanted[0].is_there:
        use_shared(wanted[0])
    else:
        download(wanted[0])


@data.command("fetch")
def data_fetch(
    config: ConfigFile = DEFAULT_CONFIG,
    connections: Annotated[int, typer.Option(help="Files at once.", min=1, max=64)] = 8,
) -> None:
    """Download everything that the config reads and that is not there yet; needs internet."""
    from nanochat.fetch.catalogue import still_to_come
    from nanochat.fetch.download import download_all, record_all, write_manifest
    from nanochat.fetch.externals import externals
    from nanochat.fetch.room import require_room
    from nanochat.fetch.shared import use_shared

    disk = read_config(config).disk
    wanted = externals(disk)
    missing = [each for each in wanted if not each.is_there]
    for note in require_room(disk.base_dir, *still_to_come(missing)).notes:
        print(f"note: {note}", file=sys.stderr)
    for external in missing:
        if external.shared:
            use_shared(external)
    download_all(externals(disk), connections)
    record_all(wanted)
    write_manifest(wanted, disk.manifest)
    print(f"all {len(wanted)} files are here; {disk.manifest} lists them")


@data.command("downloads")
def data_downloads(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """List what this run has from elsewhere, with SHA-256 and origin: its downloads.json."""
    from nanochat.fetch.download import write_manifest
    from nanochat.fetch.externals import externals

    disk = read_config(config).disk
    write_manifest(externals(disk), disk.manifest)


# --- text ---------------------------------------------------------------------------------------


@data.command("embedded")
def data_embedded(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Write the embedded corpus: documentation found in this Python installation, as shards."""
    from nanochat.data.corpus import build_embedded

    resolved = read_config(config)
    build_embedded(resolved.disk.corpus, resolved.train_shards)


@data.command("import")
def data_import(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Write data.source (.txt, .jsonl, .parquet of your own) as shards."""
    from nanochat.data.corpus import import_text

    resolved = read_config(config)
    if resolved.disk.source is None:
        raise ConfigError("data.source is embedded: set it to your own text, or use data embedded")
    import_text(resolved.disk.source, resolved.disk.corpus, resolved.train_shards)


@data.command("record")
def data_record(shard: ShardName, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Count and hash a shard that was downloaded, or that is used in place."""
    from nanochat.data.layout import corpus_layout
    from nanochat.data.shards import record_shard

    layout = corpus_layout(read_config(config).disk)
    record_shard(layout.parquet(shard), layout.record(shard))


@data.command("tokenize")
def data_tokenize(
    shard: ShardName, config: ConfigFile = DEFAULT_CONFIG, threads: Threads = 1
) -> None:
    """Tokenize a shard and pack it into rows of sequence_len + 1 ids; no token is dropped."""
    from nanochat.data.layout import corpus_layout
    from nanochat.data.tokenize_shard import tokenize_shard
    from nanochat.data.tokenizer import Tokenizer

    resolved = read_config(config)
    tokenize_shard(
        corpus_layout(resolved.disk).parquet(shard),
        Tokenizer.load(resolved.disk.tokenizer),
        resolved.disk.rows(shard),
        resolved.model.sequence_len,
        threads,
    )


# --- conversations and evaluation data ----------------------------------------------------------


@data.command("tasks")
def data_tasks(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Generate the tasks of mid-training, SFT and chat evaluation, with held-out items."""
    from nanochat.data.layout import corpus_layout
    from nanochat.data.task_files import generate_tasks

    resolved = read_config(config)
    disk, layout = resolved.disk, corpus_layout(resolved.disk)
    listed = disk.plain_file(ENGLISH_WORDS.name, ENGLISH_WORDS.file)
    generate_tasks(
        layout.shards[:-1],
        layout.shards[-1],
        disk.task_data,
        resolved.items_of(GENERATED),
        resolved.chat.test_items,
        resolved.seed,
        listed if resolved.chat.words == "english" else None,
    )


@data.command("identity")
def data_identity(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Generate the conversations in which the model says who it is, with held-out questions."""
    from nanochat.data.identity import write_identity
    from nanochat.data.persona import Persona
    from nanochat.files import write_json

    resolved = read_config(config)
    chat, disk = resolved.chat, resolved.disk
    facts = write_identity(
        Persona(chat.name, chat.maker, resolved.training_text, chat.limits),
        disk.identity,
        resolved.items_of([IDENTITY]).get(IDENTITY, 0),
        chat.test_items,
        resolved.seed,
    )
    write_json(disk.identity_record, facts)


@data.command("chat-rows")
def data_chat_rows(
    stage: ChatStage, config: ConfigFile = DEFAULT_CONFIG, threads: Threads = 1
) -> None:
    """Render a stage's conversations and pack them into rows with their loss mask."""
    from nanochat.data.conversations import build_chat_rows
    from nanochat.data.tokenizer import Tokenizer

    resolved = read_config(config)
    disk, settings = resolved.disk, resolved.chat_stage(stage)
    build_chat_rows(
        _mixture(resolved, stage),
        Tokenizer.load(disk.tokenizer),
        resolved.model.sequence_len,
        disk.chat_rows(stage).parent,
        stage,
        resolved.seed,
        settings.all_tokens,
        threads,
    )


@data.command("bundle")
def data_bundle(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Make the CORE-format evaluation bundle from the validation shard."""
    from nanochat.data.layout import corpus_layout
    from nanochat.eval.bundle import build_bundle

    resolved = read_config(config)
    layout = corpus_layout(resolved.disk)
    build_bundle(layout.parquet(layout.validation), resolved.disk.eval_bundle, resolved.seed)


# --- tokenizer ----------------------------------------------------------------------------------


@tokenizer.command("train")
def tokenizer_train(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Train the byte-level BPE tokenizer on the training shards."""
    from nanochat.data.layout import corpus_layout
    from nanochat.data.shards import read_documents
    from nanochat.data.tokenizer import train_tokenizer

    resolved = read_config(config)
    shards = corpus_layout(resolved.disk).shards[: resolved.disk.tokenizer_shards]
    texts = (text for shard in shards for text in read_documents(shard))
    settings = resolved.tokenizer
    trained = train_tokenizer(
        texts, settings.vocab_size, settings.max_characters, settings.max_document_characters
    )
    trained.save(resolved.disk.tokenizer)


@tokenizer.command("eval")
def tokenizer_eval(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Measure bytes per token on several kinds of text, beside GPT-2 and GPT-4."""
    from itertools import islice

    from nanochat.data.compression import compression_table
    from nanochat.data.layout import corpus_layout
    from nanochat.data.shards import read_documents
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.files import write_json

    resolved = read_config(config)
    disk, shards = resolved.disk, corpus_layout(resolved.disk).shards
    trained = Tokenizer.load(disk.tokenizer)
    texts = {
        name: "\n".join(islice(read_documents(shard), COMPRESSED_DOCUMENTS))
        for name, shard in {"training shard": shards[0], "validation shard": shards[-1]}.items()
    }
    compared = VOCABULARIES.values() if resolved.tokenizer.compare_with_gpt else ()
    files = {file.name: disk.plain_file(file.name, file.file) for file in compared}
    table = compression_table(trained, texts, files)
    record = {
        "vocab_size": trained.vocab_size,
        "fingerprint": trained.fingerprint,
        "compression": table,
    }
    write_json(disk.compression, record)
    for row in table:
        print(f"{row['text']:>20} {row['bytes_per_token']:.2f} bytes per token")


# --- shared -------------------------------------------------------------------------------------


def _mixture(config: Config, stage: str) -> "list[Part]":
    """Every conversation that a stage is trained on: of its tasks, then the user's own."""
    from nanochat.data.conversations import Part

    disk = config.disk
    parts = []
    for name, items in config.chat_stage(stage).items.items():
        if not items:
            continue
        if name in TABLES:
            parts.append(Part(name, disk.table(name, "train"), items, "table"))
        elif name == IDENTITY:
            own = disk.own_identity or disk.identity / "train.jsonl"
            parts.append(Part(name, own, items, "conversations"))
        else:
            parts.append(Part(name, disk.task(name, "train"), items, "items"))
    own_files = (Part(path.stem, path, None, "conversations") for path in disk.conversations)
    return [*parts, *own_files]
