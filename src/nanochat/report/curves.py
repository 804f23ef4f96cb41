"""The curves of a run, read from its journal.

`load_journal(path, last_steps)` gives the steps and validations of each stage.

Reads JSONL; writes nothing.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.report.records import Record, advice


class Step(Record):
    """One optimizer step in the journal; loss in nats per supervised token."""

    stage: str
    training: str
    step: int
    loss: float
    lr_multiplier: float


class Validation(Record):
    """One validation in the journal."""

    stage: str
    training: str
    step: int
    bpb: float


class Journal(Record):
    """The curves of a run by stage, and how many lines could not be read."""

    steps: dict[str, list[Step]]
    validations: dict[str, list[Validation]]
    unreadable: int


def load_journal(path: Path, trainings: dict[str, str]) -> Journal:
    """Reads the curves of each stage: of the training whose name in the journal is given.

    Of a repeated (stage, step), as after a resume, the last line counts; a step whose update was
    skipped has no loss and is no point. A line that a killed
    writer left torn is counted as unreadable, and the report says so. Raises MissingArtefact
    without a journal, DamagedArtefact when a stage has no step or no validation in it.
    """
    if not path.is_file():
        raise MissingArtefact(f"no journal at {path}: {advice('base')}")
    events, unreadable = _events(path)
    steps = _latest(Step, "step", events, path, trainings)
    validations = _latest(Validation, "validation", events, path, trainings)
    for curves, what in ((steps, "step"), (validations, "validation")):
        for stage in trainings:
            if not curves[stage]:
                raise DamagedArtefact(f"{path} has no {what} of stage {stage}: {advice(stage)}")
    return Journal(steps=steps, validations=validations, unreadable=unreadable)


def _events(path: Path) -> tuple[list[dict[str, Any]], int]:
    events, unreadable = [], 0
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict) and "event" in event:
            events.append(event)
        else:
            unreadable += 1
    return events, unreadable


Point = TypeVar("Point", Step, Validation)


def _latest(
    kind: type[Point],
    name: str,
    events: list[dict[str, Any]],
    path: Path,
    trainings: dict[str, str],
) -> dict[str, list[Point]]:
    latest: dict[str, dict[int, Point]] = {stage: {} for stage in trainings}
    try:
        for event in events:
            if event["event"] == name and not event.get("skipped"):
                point = kind.model_validate(event)
                if trainings.get(point.stage) == point.training:
                    latest[point.stage][point.step] = point
    except ValidationError as exc:
        trouble = exc.errors()[0]
        message = f"{path} has a {name} without a usable {trouble['loc'][0]!r} ({trouble['msg']})"
        raise DamagedArtefact(f"{message}: move it away and train again") from exc
    return {stage: [points[step] for step in sorted(points)] for stage, points in latest.items()}
