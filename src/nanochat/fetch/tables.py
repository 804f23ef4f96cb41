"""What there is to download, what will be, and how what is there was found: for people.

    print_catalogue(catalogue(...), Console())
    print_plan(plan_downloads(...), "101 training shards: ...", Console())
    print_checks(verify(...), base_dir, Console())

Prints, and does nothing else.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nanochat.fetch.catalogue import Entry, Plan
from nanochat.fetch.claims import Check
from nanochat.fetch.room import Room, format_bytes
from nanochat.progress import format_seconds

COLOURS = {"missing": "yellow", "damaged": "bold red", "unrecorded": "yellow", "foreign": "dim"}
SHOWN = 40
"""Files that are named one by one; --json has all."""


def print_catalogue(entries: Sequence[Entry], console: Console) -> None:
    """A line for each entry of the registry."""
    table = _table("name", "kind", "from", "licence", "size", "used by", "on disk", "this config")
    for entry in entries:
        here = f"{_files(entry.files_here)}, {format_bytes(entry.bytes_here)}"
        table.add_row(
            entry.name,
            entry.kind,
            entry.origin,
            entry.licence,
            f"~{format_bytes(entry.about_bytes)}",
            entry.used_by,
            here if entry.files_here else "-",
            _files(entry.files_wanted) if entry.files_wanted else "-",
        )
    console.print(table)


def print_plan(plan: Plan, shards: str, console: Console) -> None:
    """A line for each thing that the config reads, and what it comes to. `shards` says how many
    training shards there are, and why."""
    table = _table("name", "kind", "files", "there", "missing")
    for need in plan.needs:
        missing = need.files - need.files_there
        table.add_row(
            need.name,
            need.kind,
            f"{need.files}",
            f"{need.files_there}, {format_bytes(need.bytes_there)}" if need.files_there else "-",
            f"{missing}, ~{format_bytes(need.bytes_missing)}" if missing else "-",
        )
    if plan.needs:
        console.print(table)
    say = [
        f"to download: {plan.files_missing} of {plan.files} files, ~"
        f"{format_bytes(plan.bytes_missing)}; there already: {format_bytes(plan.bytes_there)}",
        shards,
        *_room(plan.room),
        f"time: {format_seconds(plan.seconds)} at {format_bytes(plan.bytes_per_second)}/s "
        f"({plan.rate_from})",
    ]
    for line in filter(None, say if plan.needs else ["this config downloads nothing"]):
        console.print(Text(line), soft_wrap=True)


def print_checks(checks: Sequence[Check], base_dir: Path, console: Console) -> None:
    """What is not ok, line by line; the rest in a sum; and last what mends it, to be copied."""
    well = [check for check in checks if check.status == "ok"]
    trouble = [check for check in checks if check.status != "ok"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in trouble[:SHOWN]:
        expected = f", not {check.expected}" if check.expected and check.bytes else ""
        size = f", {format_bytes(check.bytes)}" if check.status == "foreign" else ""
        inside = check.path.is_relative_to(base_dir)
        table.add_row(
            Text(check.status, style=COLOURS[check.status]),
            Text(str(check.path.relative_to(base_dir) if inside else check.path)),
            Text(f"{check.seen}{expected}{size}"),
        )
    if trouble:
        console.print(table)
    if len(trouble) > SHOWN:
        console.print(f"and {len(trouble) - SHOWN} more: `nanochat data verify --json` has all")
    size = format_bytes(sum(check.bytes for check in well))
    asked_for = sum(check.status != "foreign" for check in checks)
    said = f"{len(well)} of {asked_for} files below {base_dir} are ok, {size}"
    console.print(said if asked_for else "there is nothing to verify", soft_wrap=True)
    for line in commands(trouble):
        console.print(Text(line), soft_wrap=True)


def commands(trouble: Sequence[Check]) -> list[str]:
    """What mends it, a command or a piece of advice a line."""
    foreign = [check for check in trouble if check.status == "foreign"]
    asked_for = [check for check in trouble if check.status != "foreign"]
    lines = []
    if removed := dict.fromkeys(path for check in asked_for for path in check.remove):
        lines.append(shlex.join(["rm", "-rf", *map(str, removed)]))
    lines += dict.fromkeys(check.then for check in asked_for if check.then)
    if lines:
        lines.insert(0, "to mend it:")
    if foreign:
        size = format_bytes(sum(check.bytes for check in foreign))
        lines.append(f"{size} would be free again, where no download is running, after:")
        lines.append(shlex.join(["rm", "-rf", *(str(check.path) for check in foreign)]))
    return lines


def _room(room: Room) -> list[str]:
    lines = []
    for who, size, files in room.limits():
        parts = [format_bytes(size)] if size is not None else []
        parts += [f"{files:,} files"] if files is not None else []
        if parts:
            lines.append(f"room below {room.folder}: {' and '.join(parts)} by {who}")
    return [*lines, *room.notes]


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
