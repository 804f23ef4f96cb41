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
from pathlib import Path
from typing import Annotated, Any

import typer

from nanochat.cli_checkpoint import checkpoint
from nanochat.cli_data import data, tokenizer
from nanochat.cli_goodput import goodput_command
from nanochat.cli_memory import memory_command
from nanochat.cli_options import DEFAULT_CONFIG, AnyStage, ChatStage, ConfigFile, read_config
from nanochat.config import STAGES, Config
from nanochat.errors import ConfigError, NanochatError
from nanochat.hpc.environment import load_env_local
from nanochat.hpc.outcomes import leave_outcome
from nanochat.hpc.slurm_variables import job_id

app = typer.Typer(
    help="Train your own chat model, from raw text to a report card.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
train = typer.Typer(help="Train a stage; resumes from its checkpoints.", no_args_is_help=True)
evaluate = typer.Typer(help="Measure a stage's model.", no_args_is_help=True)
config_commands = typer.Typer(help="Look at the config.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(tokenizer, name="tokenizer")
app.add_typer(train, name="train")
app.add_typer(checkpoint, name="checkpoint")
app.command("memory")(memory_command)
app.command("goodput")(goodput_command)
app.add_typer(evaluate, name="eval")
app.add_typer(config_commands, name="config")


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
        leave_outcome(os.environ, " ".join(sys.argv[1:3]), error.exit_code, str(error))
        sys.exit(error.exit_code)


# --- training -----------------------------------------------------------------------------------


@train.command("base")
def train_base_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Pretrain on the packed rows of text.

    Reads the tokenizer and tokens/; writes checkpoints/<run>/base, models/<run>/base and the
    journal. A file STOP or SAVE in runs/<run> stops it, or has it save. Exit codes: 0 done, 75
    stopped with a checkpoint by a signal or near the time limit, 76 the same by SLURM's SIGTERM, 77
    diverged, 79 stood still, 80 the disk is full, 93 stopped by STOP.
    """
    from nanochat.eval.bpb import bits_per_byte
    from nanochat.train.stages import train_base

    train_base(read_config(config), bits_per_byte)


@train.command("mid")
def train_mid_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Mid-train the base model on conversations. Exit codes as of `train base`."""
    from nanochat.eval.bpb import bits_per_byte
    from nanochat.train.stages import train_chat

    train_chat(read_config(config), "mid", bits_per_byte)


@train.command("sft")
def train_sft_command(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Fine-tune the mid model on what the assistant says. Exit codes as of `train base`."""
    from nanochat.eval.bpb import bits_per_byte
    from nanochat.train.stages import train_chat

    train_chat(read_config(config), "sft", bits_per_byte)


# --- evaluation and report ----------------------------------------------------------------------


@evaluate.command("base")
def eval_base(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Measure the base model: bits per byte, CORE tasks, samples. Writes its eval.json."""
    from nanochat.data.layout import corpus_layout
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.eval.base import evaluate_base
    from nanochat.model.device import default_device
    from nanochat.model.weights import load_model

    started, resolved = time.time(), read_config(config)
    disk, settings, layout = resolved.disk, resolved.evaluation, corpus_layout(resolved.disk)
    model = load_model(disk.stage("base"), default_device()).for_inference()
    record = evaluate_base(
        model,
        Tokenizer.load(disk.tokenizer),
        disk.rows(layout.validation),
        layout.parquet(layout.validation),
        disk.eval_bundle,
        -(-settings.validation_tokens // model.config.sequence_len),
        settings.core_items,
        settings.batch_rows,
    )
    _write_evaluation(resolved, "base", record, started)


@evaluate.command("chat")
def eval_chat(stage: ChatStage, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Measure a chat model on the held-out items of every task. Writes its eval.json."""
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.eval.chat import evaluate_chat
    from nanochat.model.device import default_device
    from nanochat.model.weights import load_model

    started, resolved = time.time(), read_config(config)
    disk, settings = resolved.disk, resolved.evaluation
    record = evaluate_chat(
        load_model(disk.stage(stage), default_device()).for_inference(),
        Tokenizer.load(disk.tokenizer),
        {name: disk.held_out(name) for name in resolved.scored_tasks},
        settings.chat_items,
        settings.batch_rows,
        stage,
    )
    _write_evaluation(resolved, stage, record, started)


@app.command("report")
def report(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Write report.md and its figures from the records of every stage."""
    from nanochat.data.layout import corpus_layout
    from nanochat.files import read_json, write_json
    from nanochat.report.report import write_report
    from nanochat.track.journal import read_events
    from nanochat.track.time_spent import time_spent

    resolved = read_config(config)
    disk = resolved.disk
    records = corpus_layout(disk).records
    *shards, validation = (read_json(path, "make run") for path in records)
    corpus = {"dataset": disk.dataset, "shards": shards, "validation": validation}
    write_json(disk.corpus_record, corpus)
    parts = {"corpus": disk.corpus_record, "tokenizer": disk.compression}
    for stage in STAGES:
        parts[stage] = disk.stage(stage) / "record.json"
        parts[f"{stage}_eval"] = disk.evaluation(stage)
    minutes = resolved.operation.save_every_minutes

    def spent(stage: str, training: str) -> dict[str, Any] | None:
        return time_spent(read_events(disk.journal), stage, minutes, training)

    write_report(resolved.run, parts, disk.journal, spent, disk.report, disk.report.parent)


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

    disk = read_config(config).disk
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

    from nanochat.data.layout import corpus_layout
    from nanochat.fetch.externals import externals
    from nanochat.hpc.status_table import print_status
    from nanochat.hpc.survey import survey
    from nanochat.track.journal import last_events

    resolved = read_config(config)
    layout, disk = corpus_layout(resolved.disk), resolved.disk
    downloads = [external.output for external in externals(disk)]
    # In a pipe nothing is wrapped: a log's path can be copied.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    with suppress(KeyboardInterrupt):
        while True:
            events = last_events(disk.journal)
            status = survey(disk, layout.names, layout.records, downloads, events)
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
    print(read_config(config).yaml(), end="")


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
