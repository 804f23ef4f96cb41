"""`nanochat goodput`: where the time of each training went, and how often it should save.

A command's module is imported when the command runs.
"""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from nanochat.cli_options import DEFAULT_CONFIG, AnyStage, ConfigFile, read_config
from nanochat.config import STAGES
from nanochat.progress import format_seconds


def goodput_command(
    stage: Annotated[
        AnyStage | None, typer.Option(help="Of this stage only; all that have begun if not given.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; times in seconds.")] = False,
) -> None:
    """Show where the time of each training went, from the journal, and how often it should save."""
    import json

    from nanochat.errors import MissingArtefact
    from nanochat.track.journal import read_events
    from nanochat.track.time_spent import time_spent

    resolved = read_config(config)
    events = list(read_events(resolved.disk.journal))
    minutes = resolved.operation.save_every_minutes
    wanted = [stage.value] if stage else STAGES
    found = {name: spent for name in wanted if (spent := time_spent(events, name, minutes))}
    if not found:
        named = f"stage {stage}" if stage else "any stage"
        message = f"{resolved.disk.journal} has no training of {named} yet: run `make run` first"
        raise MissingArtefact(message)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)


def _print(found: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    # In a pipe nothing is wrapped: a line is a line.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for label, cells in _rows(list(found.values())):
        table.add_row(label, *cells)
    console.print(table)
    for name, spent in found.items():
        for line in _sentences(spent):
            console.print(f"{name}: {line}", soft_wrap=True, markup=False)


def _rows(stages: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """A label and a cell for each stage."""
    for part in stages[0]["seconds"]:
        yield part, [_with_share(spent["seconds"][part], spent["wall"]) for spent in stages]
    yield "wall time", [_with_share(spent["wall"], spent["wall"]) for spent in stages]
    for count in ("attempts", "failures", "hangs", "rollbacks", "steps", "lost_steps"):
        yield count.replace("_", " "), [f"{spent[count]:,}" for spent in stages]


def _with_share(seconds: float, wall: float) -> str:
    return f"{format_seconds(seconds)}  {100 * seconds / wall if wall else 0:5.1f} %"


def _sentences(spent: dict[str, Any]) -> list[str]:
    said = [f"goodput {100 * spent['goodput']:.1f} %"]
    for alert in spent["alerts"]:
        times = "once" if alert["count"] == 1 else f"{alert['count']:,} times, last"
        said.append(f"{alert['kind'].replace('_', ' ')} {times}: {alert['last']}")
    advice = spent["advice"]
    return [*said, advice["sentence"] if advice else "checkpoint interval: nothing saved yet"]
