"""The line that training prints for people: format and parse side by side, nowhere else.

    base step 00120/00400 (30.0%) | loss 3.4121 | lr 1.00 | 4,812 tok/s | 1.21 s | ETA 5m40s

Machines read the journal; `parse` serves those who have nothing but a log.
"""

import re
from dataclasses import dataclass

from nanochat.progress import format_seconds


@dataclass(frozen=True)
class StepLine:
    """What a step line says.

    `loss` is nats per supervised token, smoothed; `lr` the multiplier of all learning rates;
    `step_seconds` and `eta_seconds` are seconds.
    """

    stage: str
    step: int
    steps: int
    loss: float
    lr: float
    tokens_per_second: int
    step_seconds: float
    eta_seconds: float
    mfu: float | None = None


PATTERN = re.compile(
    r"(?P<stage>\w+) step (?P<step>\d+)/(?P<steps>\d+) \([\d.]+%\) \| loss (?P<loss>[\d.]+) "
    r"\| lr (?P<lr>[\d.]+) \| (?P<rate>[\d,]+) tok/s(?: \| MFU (?P<mfu>[\d.]+)%)? "
    r"\| (?P<seconds>[\d.]+) s \| ETA (?P<eta>\w+)"
)
ETA = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$")


def format_step(line: StepLine) -> str:
    """The line as text."""
    mfu = "" if line.mfu is None else f" | MFU {100 * line.mfu:.1f}%"
    return (
        f"{line.stage} step {line.step:05d}/{line.steps:05d} "
        f"({100 * line.step / line.steps:.1f}%) | loss {line.loss:.4f} | lr {line.lr:.3f} "
        f"| {line.tokens_per_second:,} tok/s{mfu} | {line.step_seconds:.2f} s "
        f"| ETA {format_seconds(line.eta_seconds)}"
    )


def parse_step(text: str) -> StepLine | None:
    """The line's values, to the digits printed; None where `text` is another line."""
    match = PATTERN.search(text)
    if match is None:
        return None
    eta = ETA.match(match["eta"])
    hours, minutes, seconds = (int(part or 0) for part in eta.groups()) if eta else (0, 0, 0)
    return StepLine(
        stage=match["stage"],
        step=int(match["step"]),
        steps=int(match["steps"]),
        loss=float(match["loss"]),
        lr=float(match["lr"]),
        tokens_per_second=int(match["rate"].replace(",", "")),
        step_seconds=float(match["seconds"]),
        eta_seconds=float(hours * 3600 + minutes * 60 + seconds),
        mfu=float(match["mfu"]) / 100 if match["mfu"] else None,
    )
