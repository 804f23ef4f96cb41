"""`nanochat checkpoint list|verify|prune|diff`: looking after what trainings have saved.

    nanochat checkpoint list
    nanochat checkpoint verify --stage base
    nanochat checkpoint prune --keep 1 --dry-run
    nanochat checkpoint diff base:500 base:1000

All but `prune` only read, and may run while a training writes. A command's module is imported when
the command runs, and only `diff` needs torch.
"""

import re
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat.cli_options import DEFAULT_CONFIG, AnyStage, ConfigFile, read_config
from nanochat.config import STAGES
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanochat.train.checkpoint_diff import Difference
    from nanochat.train.checkpoint_review import Found

checkpoint = typer.Typer(help="Look after what trainings have saved.", no_args_is_help=True)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfStage = Annotated[AnyStage | None, typer.Option("--stage", help="Of this stage only.")]
STAGE_AND_STEP = re.compile(r"([a-z]+):(\d+)")
SHOWN = 40
"""Differences that are named one by one; --json has all."""


@checkpoint.command("list")
def checkpoint_list(
    stage: OfStage = None, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """List the checkpoints of this run, and what is left of others. Reads no tensor."""
    found = _find(config, stage)
    if as_json:
        _print_json([each.to_json() for each in found])
    elif found:
        _print_table(found)
    else:
        print("there are no checkpoints")


@checkpoint.command("verify")
def checkpoint_verify(
    stage: OfStage = None, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Read every byte of every checkpoint, and compare it with what was written.

    Exit code 2 where something is damaged or missing. Writes nothing.
    """
    from nanochat.progress import track
    from nanochat.train.checkpoint_review import Review

    review = Review(_find(config, stage))
    for _ in track(review.read(), "verifying", total=review.chunks, unit="MB"):
        pass
    damage = [sentence for each in review.damage.values() for sentence in each]
    if as_json:
        _print_json([{"path": str(path), "damage": said} for path, said in review.damage.items()])
    else:
        whole = sum(not said for said in review.damage.values())
        print("\n".join([*damage, f"{whole} of {len(review.damage)} checkpoints are whole"]))
    if damage:
        raise DamagedArtefact(
            f"of {len(review.damage)} checkpoints, {len(damage)} files are damaged or missing: "
            "a training sets such a one aside and continues from the one before"
        )


@checkpoint.command("prune")
def checkpoint_prune(
    keep: Annotated[int, typer.Option(help="How many of the newest stay.", min=1)],
    stage: OfStage = None,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Delete those that were set aside, too.")
    ] = False,
    all_trainings: Annotated[
        bool,
        typer.Option("--all-trainings", help="Delete all of trainings with another config, too."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Delete old checkpoints of each stage's newest training, and what killed saves have left.

    The newest that verifies stays in any case. Refuses while a training holds the folder.
    """
    from nanochat.fetch.room import format_bytes
    from nanochat.train.checkpoint_prune import Request, prune

    disk, request = read_config(config).disk, Request(keep, damaged, all_trainings, dry_run)
    gone: list[Found] = []
    for name in _stages(stage):
        folder = disk.checkpoints(name)
        if folder.is_dir():
            with _nobody_trains(folder, dry_run):
                gone += prune(name, folder, request)
    if as_json:
        _print_json([each.to_json() for each in gone])
        return
    freed = f"{len(gone)} folders, {format_bytes(sum(each.bytes for each in gone))}"
    said = f"would delete {freed}" if dry_run else f"deleted {freed}"
    print("\n".join([*(str(each.path) for each in gone), said]))


@checkpoint.command("diff")
def checkpoint_diff(
    one: Annotated[str, typer.Argument(help="A checkpoint's folder, or STAGE:STEP.")],
    other: Annotated[str, typer.Argument(help="Another one.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two checkpoints. Exit code 0: nothing, bit for bit; 1: something."""
    from nanochat.train.checkpoint_diff import differences
    from nanochat.train.checkpoints import read_checkpoint

    both = [read_checkpoint(_folder_of(text, config)) for text in (one, other)]
    found = differences(*both)
    if as_json:
        _print_json([each.to_json() for each in found])
    else:
        _print_differences(found)
    raise typer.Exit(1 if found else 0)


# --- what is there ------------------------------------------------------------------------------


def _stages(stage: AnyStage | None) -> Sequence[str]:
    return [stage.value] if stage else STAGES


def _find(config: Path, stage: AnyStage | None) -> "list[Found]":
    from nanochat.train.checkpoint_review import find

    disk = read_config(config).disk
    return [each for name in _stages(stage) for each in find(name, disk.checkpoints(name))]


def _folder_of(text: str, config: Path) -> Path:
    """The folder that a person means. Raises BadInput, MissingArtefact."""
    if Path(text).is_dir():
        return Path(text)
    match = STAGE_AND_STEP.fullmatch(text)
    if not match or match[1] not in STAGES:
        raise BadInput(f"there is no folder {text}: give one, or STAGE:STEP, as base:100")
    found = [
        each.path
        for each in _find(config, AnyStage(match[1]))
        if each.state == "whole" and each.step == int(match[2])
    ]
    if not found:
        raise MissingArtefact(f"no checkpoint {text}: `nanochat checkpoint list` shows all")
    if len(found) > 1:
        paths = " and ".join(map(str, found))
        raise BadInput(f"{text} is a step of {len(found)} trainings: give a folder, of {paths}")
    return found[0]


@contextmanager
def _nobody_trains(folder: Path, dry_run: bool) -> "Iterator[None]":
    """Raises BadInput where a training holds the folder; none can begin in it during the block,
    unless that writes nothing."""
    from nanochat.train.lease import holder, one_writer

    if held := holder(folder):
        raise BadInput(f"{held} is training into {folder}: wait for it or cancel it, then prune")
    if dry_run:
        yield
    else:
        with one_writer(folder):
            yield


# --- for people ---------------------------------------------------------------------------------


def _print_table(found: "Sequence[Found]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from nanochat.fetch.room import format_bytes
    from nanochat.progress import format_seconds

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("stage", "training", "step", "when", "age", "size", "ranks", "score", "state"):
        table.add_column(name, overflow="fold")
    for each in found:
        when = time.localtime(each.written) if each.written is not None else None
        state = f"{each.state}, LATEST" if each.latest else each.state
        table.add_row(
            each.stage,
            each.training,
            f"{each.step}",
            time.strftime("%Y-%m-%d %H:%M:%S", when) if when else "-",
            format_seconds(max(0.0, time.time() - each.written)) if each.written else "-",
            format_bytes(each.bytes),
            f"{each.world_size or '-'}",
            "-" if each.score is None else f"{each.score:.4f}",
            Text(f"{state}: {each.remark}" if each.remark else state),
        )
    width = None if sys.stdout.isatty() else 400  # in a pipe nothing is wrapped
    Console(highlight=False, width=width).print(table)


def _print_differences(found: "Sequence[Difference]") -> None:
    for each in found[:SHOWN]:
        name = f"{each.kind} {each.name}".rstrip()
        if each.elements is None:
            print(f"{name}: {each.one} here, {each.other} there")
        else:
            most = "no number" if each.max_difference is None else f"{each.max_difference:.6g}"
            print(f"{name}: {each.elements:,} elements of {each.one} differ, at most by {most}")
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN} more: `nanochat checkpoint diff --json` has all")
    print(f"{len(found)} differences" if found else "the same, bit for bit")


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))
