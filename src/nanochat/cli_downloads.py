"""`nanochat data list|plan|verify|pack|unpack`: looking after what comes from elsewhere.

    nanochat data plan                                          # how much, how long, is there room
    nanochat data verify --quick
    nanochat data pack - | ssh login2 'cd nanochat && nanochat data unpack -'

A command's module is imported when the command runs.
"""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from nanochat.cli_options import DEFAULT_CONFIG, ConfigFile, read_config
from nanochat.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

downloads = typer.Typer(help="Look after what comes from elsewhere.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@downloads.command("list")
def data_list(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List everything that can be downloaded: licence, size, who uses it, what is on disk."""
    from dataclasses import asdict

    from nanochat.fetch.catalogue import catalogue
    from nanochat.fetch.externals import externals
    from nanochat.fetch.tables import print_catalogue

    disk = read_config(config).disk
    entries = catalogue(disk, externals(disk))
    if as_json:
        _print_json([asdict(entry) for entry in entries])
    else:
        print_catalogue(entries, _console())


@downloads.command("plan")
def data_plan(
    config: ConfigFile = DEFAULT_CONFIG,
    megabytes_per_second: Annotated[
        float | None,
        typer.Option(help="Rate to plan with. Default: that of earlier downloads.", min=0.001),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this config will download, how long that takes, and whether there is room."""
    from nanochat.config import load_config
    from nanochat.fetch.catalogue import plan_downloads
    from nanochat.fetch.externals import externals
    from nanochat.fetch.tables import print_plan
    from nanochat.horizon import shard_plan

    disk = read_config(config).disk
    rate = None if megabytes_per_second is None else 1e6 * megabytes_per_second
    plan = plan_downloads(disk, externals(disk), rate)
    shards = shard_plan(load_config(config))
    if as_json:
        _print_json({**plan.to_json(), "shards": shards and vars(shards)})
    else:
        why = f"training shards: {shards.train_shards}, for {shards.why}" if shards else ""
        print_plan(plan, why, _console())
    plan.room.require(plan.bytes_needed, plan.files_needed)


@downloads.command("verify")
def data_verify(
    config: ConfigFile = DEFAULT_CONFIG,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at sizes and footers only, at no content.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Files at once.", min=1, max=64)] = 4,
    as_json: AsJson = False,
) -> None:
    """Compare what this config reads from disk with its records; say what mends what is damaged.

    Exit code 2 where something is damaged or missing. Writes nothing.
    """
    from nanochat.data.layout import corpus_layout
    from nanochat.fetch.externals import externals
    from nanochat.fetch.tables import print_checks
    from nanochat.fetch.verify import complaint, verify

    disk = read_config(config).disk
    checks = verify(disk, externals(disk), corpus_layout(disk), quick, threads)
    if as_json:
        _print_json([check.to_json() for check in checks])
    else:
        print_checks(checks, disk.base_dir, _console())
    if trouble := complaint(checks):
        raise trouble


@downloads.command("pack")
def data_pack(
    output: Annotated[Path, typer.Argument(help="The tar to write; - is standard output.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write everything that this config has downloaded into one tar, checked on the way."""
    from nanochat.fetch.externals import externals
    from nanochat.fetch.pack import pack

    disk = read_config(config).disk
    if str(output) == "-":
        with _standard_output() as stream:
            pack(disk, externals(disk), stream)
    elif output.is_dir():
        raise BadInput(f"{output} is a folder: give the tar a name, as {output / 'downloads.tar'}")
    else:
        pack(disk, externals(disk), output)
        print(f"{output}: unpack it with `nanochat data unpack` in its place")


@downloads.command("unpack")
def data_unpack(
    source: Annotated[Path, typer.Argument(help="The tar to read; - is standard input.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Read a tar that `data pack` wrote into the base folder; each file is checked."""
    from nanochat.fetch.unpack import unpack

    base_dir = read_config(config).disk.base_dir
    if str(source) == "-":
        print(unpack(base_dir, sys.stdin.buffer))
        return
    try:
        with open(source, "rb") as handle:
            print(unpack(base_dir, handle))
    except (FileNotFoundError, IsADirectoryError) as exc:
        raise BadInput(f"there is no file {source}: name a tar, or - for standard input") from exc


@contextmanager
def _standard_output() -> "Iterator[BinaryIO]":
    """Standard output for bytes. Raises BadInput for a terminal."""
    if sys.stdout.isatty():
        raise BadInput("standard output is a terminal: name a file, or pipe it into a program")
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) as stream:
            yield stream
    except BrokenPipeError as exc:
        raise BadInput("whoever read the tar has gone: run both commands again") from exc


def _console() -> "Console":
    """In a pipe nothing is wrapped: a path can be copied."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 400)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, default=str))
