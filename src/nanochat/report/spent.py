"""The report's part about where the time of each training went.

    where_time_went(spent, figure)

`spent` is what the caller made of the journal, by stage; one part of the page as Markdown is
returned. Pure functions: nothing is read or written.
"""

from nanochat.report.making import TITLES, moment
from nanochat.report.records import TimeSpent
from nanochat.report.tables import ABSENT, duration, percent, table, whole

PARTS = {
    "useful": "Steps that count",
    "data": "Waiting for data",
    "save": "Standing still for saves",
    "evaluation": "Validation",
    "start": "Starting and compiling",
    "lost": "Steps lost",
    "queue": "Between attempts",
    "other": "Other",
}
KINDS = {
    "save_failed": "a save failed",
    "spike": "loss spike",
    "rollback": "went back to a checkpoint",
    "out_of_memory": "out of memory",
    "hang": "stood still",
}
LEGEND = (
    "Goodput is the time of the steps that count, without waiting for data or saves, over the wall "
    "time, which runs from the first process to the last line in the journal. Steps are lost that "
    "were skipped or had to be made again after a failure or a return to a checkpoint. Between "
    "attempts lie the queue and what a process that was killed did last. A failure is an attempt "
    "that ended without a word, hung or diverged."
)


def where_time_went(spent: dict[str, TimeSpent], figure: str) -> str:
    """Seconds and shares of each part, what went wrong, and how often to save."""
    stages = [spent.get(stage) for stage in TITLES]
    rows = [
        [name, *[_with_share(s, s.seconds.get(part, 0.0)) if s else ABSENT for s in stages]]
        for part, name in PARTS.items()
    ]
    rows.append(["Wall time", *[duration(s.wall) if s else ABSENT for s in stages]])
    counted = [
        ["**Goodput**", *[percent(s.goodput) if s else ABSENT for s in stages]],
        ["Attempts", *[whole(s.attempts) if s else ABSENT for s in stages]],
        ["Failures", *[whole(s.failures) if s else ABSENT for s in stages]],
        ["Steps lost", *[whole(s.lost_steps) if s else ABSENT for s in stages]],
    ]
    parts = [
        "## Where the time went",
        f"![Share of each stage's wall time by what it was spent on]({figure})",
        table(["", *TITLES.values()], rows),
        table(["", *TITLES.values()], counted),
        LEGEND,
        _alerts(spent),
        *_advice(spent),
    ]
    return "\n\n".join(parts)


def _with_share(spent: TimeSpent, seconds: float) -> str:
    return f"{duration(seconds)} ({percent(seconds / spent.wall if spent.wall else 0.0)})"


def _alerts(spent: dict[str, TimeSpent]) -> str:
    rows = [
        [TITLES[stage], KINDS[alert.kind], whole(alert.count), moment(alert.time), alert.last]
        for stage, time in spent.items()
        for alert in time.alerts
    ]
    if not rows:
        return "Nothing out of the ordinary was noted."
    return table(["Stage", "What", "Times", "Last (UTC)", "What it said"], rows)


def _advice(spent: dict[str, TimeSpent]) -> list[str]:
    return [f"{TITLES[s]}: {time.advice.sentence}." for s, time in spent.items() if time.advice]
