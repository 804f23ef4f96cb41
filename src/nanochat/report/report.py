"""report.md: what was trained, how good it is, and where every number comes from, on one page.

`write_report(run, records, journal, time_spent, output, figures_dir)` writes the page and its
pictures.

Reads the JSON records of all stages and the run's journal (records.py says which); writes `output`
and three PNG files in `figures_dir`. The same records give the same page: no clock is read.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nanochat.files import write_text
from nanochat.report import making, results, spent
from nanochat.report.curves import Journal, load_journal
from nanochat.report.figures import draw_chat_scores, draw_time, draw_training
from nanochat.report.records import Records, TimeSpent, load_records

TRAINING_FIGURE = "training.png"
CHAT_FIGURE = "chat_scores.png"
TIME_FIGURE = "time.png"

# What the journal says of a stage's training, of which the name is given too (track/time_spent.py):
# handed in by the caller.
TimeOf = Callable[[str, str], Mapping[str, Any] | None]


def write_report(
    run: str,
    records: dict[str, Path],
    journal: Path,
    time_spent: TimeOf,
    output: Path,
    figures_dir: Path,
) -> None:
    """Writes `output` (Markdown) and the figures it shows.

    `records` holds a path for each name in records.MADE_BY. Raises MissingArtefact or
    DamagedArtefact, before anything is written, when a record, a key of it or a part of the
    journal is not there.
    """
    loaded = load_records(records)
    trainings = {name: stage.fingerprint[:16] for name, stage in loaded.stages.items()}
    curves = load_journal(journal, trainings)
    draw_training(curves, loaded.base_eval, figures_dir / TRAINING_FIGURE)
    draw_chat_scores(loaded.mid_eval, loaded.sft_eval, figures_dir / CHAT_FIGURE)
    times = {
        stage: TimeSpent.model_validate(found)
        for stage, training in trainings.items()
        if (found := time_spent(stage, training)) is not None
    }
    draw_time(times, figures_dir / TIME_FIGURE)
    figures = Path(os.path.relpath(figures_dir, output.parent))
    write_text(output, "\n\n".join(_parts(run, loaded, curves, times, figures)) + "\n")


def _parts(
    run: str, records: Records, journal: Journal, times: dict[str, TimeSpent], figures: Path
) -> list[str]:
    return [
        making.summary(run, records),
        results.score_card(records),
        f"![Accuracy on each chat task]({(figures / CHAT_FIGURE).as_posix()})",
        results.conversation(records),
        results.chat_examples(records),
        making.training(records),
        making.curves((figures / TRAINING_FIGURE).as_posix(), journal),
        results.compression(records),
        results.core_tasks(records),
        results.samples(records),
        results.tokenizer(records),
        making.resources(records),
        spent.where_time_went(times, (figures / TIME_FIGURE).as_posix()),
        making.provenance(records),
    ]
