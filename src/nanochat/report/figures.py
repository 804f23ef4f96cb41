"""The report's pictures: the curves of training, the scores of the chat tasks, and the time.

`draw_training(journal, evaluation, path)`, `draw_chat_scores(mid, sft, path)`,
`draw_time(times, path)`.

Take records and write one PNG file each; no window is opened.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from nanochat.files import atomic_path
from nanochat.report.curves import Journal
from nanochat.report.records import BaseEvaluation, ChatEvaluation, TimeSpent
from nanochat.report.spent import PARTS

STAGES = {"base": "base", "mid": "mid-training", "sft": "fine-tuning (SFT)"}
WIDTHS = {"base": 2.2, "mid": 1.0, "sft": 1.0}
COLOURS = {"base": "#2b6cb0", "mid": "#c05621", "sft": "#2f855a"}
GREY = "#6b7280"
TIME_COLOURS = {
    "useful": "#2f855a",
    "data": "#d69e2e",
    "save": "#2b6cb0",
    "evaluation": "#63b3ed",
    "start": "#805ad5",
    "lost": "#c53030",
    "queue": "#a0aec0",
    "other": "#4a5568",
}
LABELLED_FROM = 6.0  # percent of the wall time
STYLES = ("--", ":", "-.")
WINDOW = 0.04  # of a stage's steps on each side that the drawn average covers


def draw_training(journal: Journal, evaluation: BaseEvaluation, path: Path) -> None:
    """Loss, validation and learning rate against the step, a column for each stage."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(
        3,
        len(STAGES),
        sharex="col",
        sharey="row",
        gridspec_kw={"width_ratios": list(WIDTHS.values()), "height_ratios": [3, 3, 1.4]},
    )
    for column, (stage, title) in enumerate(STAGES.items()):
        steps, colour = journal.steps[stage], COLOURS[stage]
        numbers = [step.step for step in steps]
        losses = [step.loss for step in steps]
        loss, bpb, rate = axes[:, column]
        loss.set_title(title, color=colour, fontweight="bold")
        loss.plot(numbers, losses, color=colour, alpha=0.3, linewidth=0.8)
        loss.plot(numbers, smooth(losses), color=colour, linewidth=1.8)
        bpb.plot(
            [point.step for point in journal.validations[stage]],
            [point.bpb for point in journal.validations[stage]],
            color=colour,
            marker="o",
            markersize=3.5,
        )
        _draw_compressors(bpb, evaluation.bpb.compressors, labelled=column == 0)
        rate.plot(numbers, [step.lr_multiplier for step in steps], color=colour)
        rate.set_ylim(0, 1.08)
        rate.set_xlabel("step")
    axes[0, 0].set_yscale("log")
    axes[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes[0, 0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0, 0].yaxis.set_minor_formatter(NullFormatter())
    axes[0, 0].set_ylabel("training loss\n(nats per token)")
    axes[1, 0].set_ylabel("validation\n(bits per byte)")
    axes[2, 0].set_ylabel("learning rate\n(share of its peak)")
    axes[1, 0].legend(frameon=False, fontsize=9)
    _save(figure, axes.flat, path)


def _draw_compressors(axis: Any, compressors: dict[str, float], labelled: bool) -> None:
    for (name, value), style in zip(sorted(compressors.items()), STYLES, strict=False):
        label = f"{name}: {value:.3f}" if labelled else None
        axis.axhline(value, color=GREY, linestyle=style, linewidth=1.2, label=label)


def smooth(values: Sequence[float]) -> list[float]:
    """The mean over as many values before as after, fewer towards both ends: it does not lag."""
    widest = round(WINDOW * len(values))
    last = len(values) - 1
    reach = [min(widest, n, last - n) for n in range(len(values))]
    return [mean(values[n - r : n + r + 1]) for n, r in enumerate(reach)]


def draw_chat_scores(mid: ChatEvaluation, sft: ChatEvaluation, path: Path) -> None:
    """Accuracy on each chat task after mid-training and after SFT, with the chance level."""
    tasks = sft.tasks
    figure = Figure(figsize=(10, 1.1 + 0.55 * len(tasks)), layout="constrained")
    axis = figure.subplots()
    before = {task.name: task.accuracy for task in mid.tasks}
    for row, task in enumerate(tasks):
        bars = [("mid", before.get(task.name), -0.2), ("sft", task.accuracy, 0.2)]
        for stage, accuracy, offset in bars:
            if accuracy is not None:
                axis.barh(row + offset, 100 * accuracy, height=0.38, color=COLOURS[stage])
                axis.text(100 * accuracy + 0.7, row + offset, f"{100 * accuracy:.0f}", va="center")
        axis.plot([100 * task.chance] * 2, [row - 0.45, row + 0.45], color="black", linewidth=2)
    axis.set_yticks(range(len(tasks)), [task.name for task in tasks])
    axis.invert_yaxis()
    axis.set_xlim(0, 105)
    axis.set_xlabel("accuracy (%)")
    for label, colour in (("after mid-training", "mid"), ("after SFT", "sft")):
        axis.barh(0, 0, color=COLOURS[colour], label=label)
    axis.plot([], [], color="black", linewidth=2, label="chance")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    _save(figure, [axis], path)


def draw_time(times: dict[str, TimeSpent], path: Path) -> None:
    """Of each stage's wall time, the share of every part: a bar a stage."""
    figure = Figure(figsize=(10, 1.4 + 0.55 * len(times)), layout="constrained")
    axis = figure.subplots()
    ends = [0.0] * len(times)
    for part, colour in TIME_COLOURS.items():
        shares = [100 * time.seconds[part] / max(time.wall, 1e-9) for time in times.values()]
        bars = axis.barh(range(len(times)), shares, left=ends, color=colour, label=PARTS[part])
        texts = [f"{share:.0f}" if share >= LABELLED_FROM else "" for share in shares]
        axis.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        ends = [end + share for end, share in zip(ends, shares, strict=True)]
    axis.set_yticks(range(len(times)), [STAGES[stage] for stage in times])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("wall time (%)")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    _save(figure, [axis], path)


def _save(figure: Figure, axes: Any, path: Path) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
