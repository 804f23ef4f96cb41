"""The `nanochat` command: every stage, and the chat, as commands that Snakemake or a person calls.

    nanochat --help
    nanochat train base --config config/config.yaml
    nanochat chat -p "How do you spell cat?"

A command's module is imported when the command runs, so that `--help` needs no torch. Errors that a
user can cause are printed as one sentence, `error: ...`, and end the process with their exit code.
"""

import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat.config import STAGES, Config, load_config
from nanochat.errors import ConfigError, DiskError, NanochatError
from nanochat.hpc.environment import load_env_local
from nanochat.hpc.outcomes import write_outcome
from nanochat.hpc.slurm_variables import job_id

if TYPE_CHECKING:
    from nanochat.data.layout import CorpusLayout


class AnyStage(StrEnum):
    """Every stage that ends with a model."""

    base = "base"
    mid = "mid"
    sft = "sft"


class StageName(StrEnum):
    """The stages that train on conversations."""

    mid = "mid"
    sft = "sft"


app = typer.Typer(
    help="Train your own chat model, from raw text to a report card.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="From text to packed rows of token ids.", no_args_is_help=True)
tokenizer = typer.Typer(help="Train and measure the tokenizer.", no_args_is_help=True)
train = typer.Typer(help="Train a stage; resumes from its checkpoints.", no_args_is_help=True)
evaluate = typer.Typer(help="Measure a stage's model.", no_args_is_help=True)
config_commands = typer.Typer(help="Look at the config.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(tokenizer, name="tokenizer")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="eval")
app.add_typer(config_commands, name="config")

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config",
        envvar="NANOCHAT_CONFIG",
        help="Config file (YAML): what to train, and where it lies.",
    ),
]
ChatStage = Annotated[StageName, typer.Argument(help="Stage that trains on conversations.")]
ShardNumber = Annotated[int, typer.Option("--shard", help="Number of the shard.", min=0)]
DEFAULT_CONFIG = Path("config/config.yaml")
COMPRESSED_DOCUMENTS = 1000  # documents of a shard that the tokenizer's compression is measured on


def main() -> None:
    """Runs the command line; the console script's entry point."""
    # Threads that wait by spinning starve each other when anything else runs: measured with a busy
    # second process, a training step takes a third of the time with this, and 4 % more without one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        load_env_local(Path.cwd(), os.environ)
        app()
    except NanochatError as error:
        print(f"error: {error}", file=sys.stderr)
        _leave_outcome(error)
        sys.exit(error.exit_code)


def _leave_outcome(error: NanochatError) -> None:
    """In a SLURM job of the workflow: files how the command ended, for status and executor."""
    folder, job = os.environ.get("NANOCHAT_OUTCOMES"), job_id(os.environ)
    if folder and job:
        command = " ".join(sys.argv[1:3])
        try:
            write_outcome(Path(folder), job, command, error.exit_code, str(error))
        except DiskError as exc:  # must not hide why the command ended
            print(f"the outcome was not filed: {exc}", file=sys.stderr)


# --- data ---------------------------------------------------------------------------------------


@data.command("embedded")
def data_embedded(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Write the embedded corpus: documentation found in this Python installation, as shards."""
    from nanochat.data.corpus import build_embedded

    resolved = load_config(config)
    build_embedded(resolved.disk.corpus, resolved.data.train_shards)


@data.command("import")
def data_import(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Write data.source (.txt, .jsonl, .parquet of your own) as shards."""
    from nanochat.data.corpus import import_text

    resolved = load_config(config)
    if resolved.disk.source is None:
        raise ConfigError("data.source is embedded: set it to your own text, or use data embedded")
    import_text(resolved.disk.source, resolved.disk.corpus, resolved.data.train_shards)


@data.command("record")
def data_record(shard: ShardNumber, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Count and hash a shard of data.source that is used in place."""
    from nanochat.data.shards import record_shard

    resolved = load_config(config)
    layout = _layout(resolved)
    record_shard(layout.parquet(shard), layout.record(shard))


@data.command("download")
def data_download(
    shard: Annotated[int, typer.Option("--shard", help="Its number in the data set.", min=0)],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Download a shard of the data set that data.source names; needs internet."""
    from nanochat.data.download import download_shard
    from nanochat.data.layout import hub_corpus

    disk = load_config(config).disk
    corpus = hub_corpus(disk)
    if corpus is None or shard >= corpus.shards:
        source = disk.config.data.source
        raise ConfigError(f"data.source {source} has no shard {shard} to download: change either")
    download_shard(corpus, shard, disk.downloaded_shard(shard))


@data.command("downloads")
def data_downloads(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """List what has been downloaded for this run, with SHA-256: its downloads.json."""
    from nanochat.data.download import write_downloads
    from nanochat.data.layout import hub_corpus

    resolved = load_config(config)
    disk = resolved.disk
    write_downloads(hub_corpus(disk), _layout(resolved), disk.downloads)


@data.command("tokenize")
def data_tokenize(
    shard: ShardNumber,
    config: ConfigFile = DEFAULT_CONFIG,
    threads: Annotated[int, typer.Option(help="Threads of the encoder.", min=1)] = 1,
) -> None:
    """Tokenize a shard and pack it into rows of sequence_len + 1 ids; no token is dropped."""
    from nanochat.data.tokenize_shard import tokenize_shard
    from nanochat.data.tokenizer import Tokenizer

    resolved = load_config(config)
    tokenize_shard(
        _layout(resolved).parquet(shard),
        Tokenizer.load(resolved.disk.tokenizer),
        resolved.disk.rows(shard),
        resolved.model.sequence_len,
        threads,
    )


@data.command("tasks")
def data_tasks(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Generate the tasks of mid-training, SFT and chat evaluation, with held-out items."""
    from nanochat.data.persona import Persona
    from nanochat.data.task_files import generate_tasks

    resolved = load_config(config)
    layout = _layout(resolved)
    counts = {
        name: max(stage.items.get(name, 0) for stage in (resolved.mid, resolved.sft))
        for name in {**resolved.mid.items, **resolved.sft.items}
    }
    generate_tasks(
        layout.shards[:-1],
        layout.shards[-1],
        resolved.disk.task_data,
        counts,
        resolved.chat.test_items,
        resolved.seed,
        Persona(resolved.chat.name, resolved.chat.maker, _training_text(resolved)),
    )


@data.command("chat-rows")
def data_chat_rows(stage: ChatStage, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Render a stage's conversations and pack them into rows with their loss mask."""
    from nanochat.data.conversations import build_chat_rows
    from nanochat.data.tokenizer import Tokenizer

    resolved = load_config(config)
    disk, settings = resolved.disk, resolved.chat_stage(stage)
    generated = [(disk.task(name, "train"), number) for name, number in settings.items.items()]
    build_chat_rows(
        [*generated, *((path, None) for path in disk.conversations)],
        Tokenizer.load(disk.tokenizer),
        resolved.model.sequence_len,
        disk.chat_rows(stage).parent,
        stage,
        resolved.seed,
        settings.all_tokens,
    )


@data.command("bundle")
def data_bundle(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Make the CORE-format evaluation bundle from the validation shard."""
    from nanochat.eval.bundle import build_bundle

    resolved = load_config(config)
    build_bundle(_layout(resolved).shards[-1], resolved.disk.eval_bundle, resolved.seed)


# --- tokenizer ----------------------------------------------------------------------------------


@tokenizer.command("train")
def tokenizer_train(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Train the byte-level BPE tokenizer on the training shards."""
    from nanochat.data.shards import read_documents
    from nanochat.data.tokenizer import train_tokenizer

    resolved = load_config(config)
    shards = _layout(resolved).shards[:-1]
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
    from nanochat.data.shards import read_documents
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.files import write_json

    resolved = load_config(config)
    trained, shards = Tokenizer.load(resolved.disk.tokenizer), _layout(resolved).shards
    texts = {
        name: "\n".join(islice(read_documents(shard), COMPRESSED_DOCUMENTS))
        for name, shard in {"training shard": shards[0], "validation shard": shards[-1]}.items()
    }
    table = compression_table(trained, texts)
    record = {
        "vocab_size": trained.vocab_size,
        "fingerprint": trained.fingerprint,
        "compression": table,
    }
    write_json(resolved.disk.compression, record)
    for row in table:
        print(f"{row['text']:>20} {row['bytes_per_token']:.2f} bytes per token")


# --- training -----------------------------------------------------------------------------------


@train.command("base")
def train_base_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Pretrain on the packed rows of text.

    Reads the tokenizer and tokens/; writes checkpoints/<run>/base, models/<run>/base and the
    journal. Exit codes: 0 done, 75 stopped with a checkpoint by a signal or near the time limit,
    77 diverged.
    """
    from nanochat.eval.bpb import bits_per_byte
    from nanochat.train.stages import train_base

    train_base(load_config(config), bits_per_byte)


@train.command("mid")
def train_mid_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Mid-train the base model on conversations. Exit codes as of `train base`."""
    from nanochat.eval.bpb import bits_per_byte
    from nanochat.train.stages import train_chat

    train_chat(load_config(config), "mid", bits_per_byte)


@train.command("sft")
def train_sft_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Fine-tune the mid model on what the assistant says. Exit codes as of `train base`."""
    from nanochat.eval.bpb import bits_per_byte
    from nanochat.train.stages import train_chat

    train_chat(load_config(config), "sft", bits_per_byte)


# --- evaluation and report ----------------------------------------------------------------------


@evaluate.command("base")
def eval_base(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Measure the base model: bits per byte, CORE tasks, samples. Writes its eval.json."""
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.eval.base import evaluate_base
    from nanochat.model.device import default_device
    from nanochat.model.weights import load_model

    started, resolved = time.time(), load_config(config)
    disk, settings = resolved.disk, resolved.evaluation
    model = load_model(disk.stage("base"), default_device()).for_inference()
    record = evaluate_base(
        model,
        Tokenizer.load(disk.tokenizer),
        disk.rows(disk.validation_number),
        _layout(resolved).shards[-1],
        disk.eval_bundle,
        -(-settings.validation_tokens // model.config.sequence_len),
        settings.core_items,
        settings.batch_rows,
    )
    _write_evaluation(resolved, "base", record, started)


@evaluate.command("chat")
def eval_chat(stage: ChatStage, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Measure a chat model on the held-out items of every generated task. Writes its eval.json."""
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.eval.chat import evaluate_chat
    from nanochat.model.device import default_device
    from nanochat.model.weights import load_model

    started, resolved = time.time(), load_config(config)
    disk, settings = resolved.disk, resolved.evaluation
    names = {**resolved.mid.items, **resolved.sft.items}
    record = evaluate_chat(
        load_model(disk.stage(stage), default_device()).for_inference(),
        Tokenizer.load(disk.tokenizer),
        {name: disk.task(name, "test") for name in names},
        settings.chat_items,
        settings.batch_rows,
        stage,
    )
    _write_evaluation(resolved, stage, record, started)


@app.command("report")
def report(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Write report.md and its figures from the records of every stage."""
    from nanochat.files import read_json, write_json
    from nanochat.report.report import write_report

    resolved = load_config(config)
    disk = resolved.disk
    *shards, validation = (read_json(path, "make run") for path in _layout(resolved).records)
    corpus = {"dataset": disk.dataset, "shards": shards, "validation": validation}
    write_json(disk.corpus_record, corpus)
    records = {"corpus": disk.corpus_record, "tokenizer": disk.compression}
    for stage in STAGES:
        records[stage] = disk.stage(stage) / "record.json"
        records[f"{stage}_eval"] = disk.evaluation(stage)
    write_report(resolved.run, records, disk.journal, disk.report, disk.report.parent)


# --- chat ---------------------------------------------------------------------------------------


@app.command("chat")
def chat_command(
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this once, print the answer, leave.")
    ] = None,
    stage: Annotated[AnyStage, typer.Option(help="Whose model.")] = AnyStage.sft,
    temperature: Annotated[
        float,
        typer.Option(help="0 takes the likeliest token; higher is more varied.", min=0, max=2),
    ] = 0.6,
    top_k: Annotated[
        int, typer.Option(help="Draw among this many likeliest tokens; 0: among all.", min=0)
    ] = 50,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the draw.", min=0, max=2**31 - 1)] = 42,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Talk to a trained model in the terminal."""
    from nanochat.serve.terminal import chat

    disk = load_config(config).disk
    model = disk.stage(stage)
    chat(model, disk.tokenizer, prompt, temperature, top_k or None, max_new_tokens, seed)


# --- a cluster ----------------------------------------------------------------------------------


@app.command("env")
def env_command(
    profile: Annotated[Path, typer.Option(help="Folder of the cluster's profile.")],
) -> None:
    """Print a profile's environment variables, for the shell: eval "$(nanochat env ...)"."""
    import shlex

    import yaml

    from nanochat.hpc.environment import variables
    from nanochat.hpc.site import Site

    file = profile / "site.yaml"
    if not file.is_file():
        raise ConfigError(f"no file {file}: name a profile's folder, as profiles/ptolemy")
    site = Site.resolve(yaml.safe_load(file.read_text(encoding="utf-8"))["site"], os.environ)
    for name, value in variables(site, os.environ).items():
        print(f"export {name}={shlex.quote(value)}")


@app.command("status")
def status_command(
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        float | None,
        typer.Option(help="Print it again every so many seconds, until Ctrl-C.", min=5),
    ] = None,
) -> None:
    """Show where the run stands: what is done, running, queued or failed, and why."""
    import json
    from contextlib import suppress

    from rich.console import Console

    from nanochat.hpc.status_table import print_status
    from nanochat.hpc.survey import survey
    from nanochat.track.journal import last_events

    resolved = load_config(config)
    layout, disk = _layout(resolved), resolved.disk
    # In a pipe nothing is wrapped: a log's path can be copied.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    with suppress(KeyboardInterrupt):
        while True:
            events = last_events(disk.journal)
            status = survey(disk, layout.records, layout.kind == "download", events)
            if as_json:
                print(json.dumps(status.to_json(), indent=2))
            else:
                print_status(status, console)
            if watch is None:
                return
            time.sleep(watch)
            console.clear()


# --- config -------------------------------------------------------------------------------------


@config_commands.command("show")
def config_show(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Print the resolved config: preset and file together, every key written out."""
    print(load_config(config).yaml(), end="")


@config_commands.command("schema")
def config_schema() -> None:
    """Print the config's JSON schema."""
    import json

    from nanochat.config_reference import json_schema

    print(json.dumps(json_schema(), indent=2))


@config_commands.command("reference")
def config_reference(
    site: Annotated[bool, typer.Option("--site", help="Of a profile's site.yaml instead.")] = False,
) -> None:
    """Print the reference page of all keys, as Markdown."""
    from nanochat.config_reference import config_page, site_page

    print(site_page() if site else config_page(), end="")


# --- shared -------------------------------------------------------------------------------------


def _layout(config: Config) -> "CorpusLayout":
    from nanochat.data.layout import corpus_layout

    return corpus_layout(config.disk)


def _training_text(config: Config) -> str:
    """What the model says that it was trained on."""
    if config.disk.source is None:
        return "the documentation of Python and its packages"
    return f"the texts of {config.disk.source.stem}"


def _write_evaluation(config: Config, stage: str, record: dict[str, Any], started: float) -> None:
    from nanochat.files import read_json, write_json
    from nanochat.model.device import default_device
    from nanochat.model.hardware import device_name
    from nanochat.track.provenance import provenance

    trained = read_json(config.disk.stage(stage) / "record.json", "make run")
    about = {
        "weights_sha256": trained["weights_sha256"],
        "settings": config.settings_of("base_eval" if stage == "base" else "chat_eval"),
        "provenance": provenance(started, device_name(default_device()), job_id(os.environ)),
    }
    write_json(config.disk.evaluation(stage), {**record, **about})
