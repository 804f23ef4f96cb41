"""A run's status for people: a few lines a step, on a terminal in colour.

print_status(survey(...), Console())
"""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nanochat.hpc.progress_of import Progress
from nanochat.hpc.status import StatusRow
from nanochat.hpc.survey import Status
from nanochat.progress import format_seconds

COLOURS = {
    "done": "green",
    "running": "bold cyan",
    "queued": "yellow",
    "interrupted": "yellow",
    "failed": "bold red",
    "waiting": "dim",
}
BAR = 16
ALERT = "! "
ALERT_LINE = rf"(?m)^{ALERT}.*$"
SHOWN_IDS = 3


def print_status(status: Status, console: Console) -> None:
    """Prints the run, what could not be asked, and its steps."""
    console.print(
        Text(f"run {status.run} in {status.base_dir} at {status.at:%Y-%m-%d %H:%M:%S}"),
        soft_wrap=True,
    )
    for notice in status.notices:
        console.print(Text(notice, style="yellow"), soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in status.rows:
        details = Text("\n".join(_details(row, status.at)))
        details.highlight_regex(ALERT_LINE, "yellow")
        table.add_row(Text(row.step), Text(row.state, style=COLOURS[row.state]), details)
    console.print(table)


def _details(row: StatusRow, now: datetime) -> Iterator[str]:
    if row.state == "done":
        files = f", {row.files} files" if row.files > 1 else ""
        yield f"{_day(row.at)}{files}"
        return
    if row.files > 1:
        yield f"{_bar(row.files_done / row.files)} {row.files_done} of {row.files} files"
    if row.progress:
        yield _progress(row.progress)
        yield from (f"{ALERT}{alert}" for alert in row.progress.alerts)
    if row.why:
        code = row.exit_code.removesuffix(":0")
        yield row.why + (f" (exit code {code})" if code not in ("", "0") else "")
    job = ", ".join(_job(row, now))
    if job:
        yield job
    if row.log and row.state != "running":
        yield f"log: {row.log}"


def _job(row: StatusRow, now: datetime) -> Iterator[str]:
    if row.jobs:
        more = f" and {len(row.jobs) - SHOWN_IDS} more" if len(row.jobs) > SHOWN_IDS else ""
        noun = "job" if len(row.jobs) == 1 else "jobs"
        on = f" on {row.nodes}" if row.nodes else ""
        yield f"{noun} {' '.join(row.jobs[:SHOWN_IDS])}{more}{on}"
    if row.at and row.state == "running":
        yield f"for {format_seconds(max(0.0, (now - row.at).total_seconds()))}"
    elif row.at:
        yield f"{'since' if row.state == 'queued' else 'ended'} {_day(row.at)}"
    if row.requeued:
        yield f"requeued {'once' if row.requeued == 1 else f'{row.requeued} times'}"
    if row.expected_start:
        yield f"expected to start {_day(row.expected_start)}"


def _progress(progress: Progress) -> str:
    if progress.steps is None:
        return f"step {progress.step:,}"
    parts = [f"{_bar(progress.step / progress.steps)} step {progress.step:,} of {progress.steps:,}"]
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tok/s")
    if progress.eta_seconds is not None:
        parts.append(f"{format_seconds(progress.eta_seconds)} left")
    return ", ".join(parts)


def _bar(fraction: float) -> str:
    full = round(BAR * min(1.0, fraction))
    return f"[{'#' * full}{'-' * (BAR - full)}] {100 * fraction:.0f} %"


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "at an unknown time"
