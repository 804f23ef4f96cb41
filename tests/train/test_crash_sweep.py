"""The sweep of crashes in short: benchmarks/crash_sweep.py makes all of it."""

import json
import subprocess
import sys
from pathlib import Path

SWEEP = Path(__file__).parents[2] / "benchmarks" / "crash_sweep.py"


def test_killed_and_damaged_trainings_continue_to_the_same_bits(tmp_path: Path) -> None:
    output = tmp_path / "sweep.json"
    command = [sys.executable, str(SWEEP), "--trials=6", "--points=4", "--damages=2"]
    done = subprocess.run(
        [*command, f"--folder={tmp_path}", f"--output={output}"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(output.read_text())["results"]["kinds"]
    assert sum(row["trials"] for row in rows.values()) == 12
    assert sum(row["killed"] for row in rows.values()) >= 10
    assert [row["problems"] for row in rows.values()] == [[]] * len(rows)
