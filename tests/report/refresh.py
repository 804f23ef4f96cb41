"""Writes the report of the synthetic records in `records/` to `golden/report.md`.

Run `python tests/report/refresh.py` after a wanted change of the report, and read the diff.
"""

import sys
import tempfile
from pathlib import Path

from nanochat.report.records import MADE_BY
from nanochat.report.report import write_report
from nanochat.track.journal import read_events
from nanochat.track.time_spent import time_spent

FOLDER = Path(__file__).parent


def main() -> None:
    records = {name: FOLDER / "records" / f"{name}.json" for name in MADE_BY}
    journal = FOLDER / "records" / "journal.jsonl"
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "report.md"
        write_report(
            "synthetic",
            records,
            journal,
            lambda stage, training: time_spent(read_events(journal), stage, 15, training),
            output,
            Path(scratch) / "figures",
        )
        (FOLDER / "golden").mkdir(exist_ok=True)
        (FOLDER / "golden" / "report.md").write_bytes(output.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
