"""The profiles: how each rule is submitted (golden files), and what a person may replace."""

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
REFRESH = "REFRESH=1 python -m pytest tests/profiles"

CASES = {
    "ptolemy-d20": ("ptolemy", {}),
    "ptolemy-local": ("ptolemy", {}),
    "ptolemy-two-nodes-with-mail": (
        "ptolemy",
        {"NANOCHAT_NODES": "2", "NANOCHAT_EMAIL": "you@example.edu", "NANOCHAT_ACCOUNT": "lab"},
    ),
    "slurm-d20": ("slurm", {}),
}


def sbatch_lines(profile: str, preset: str, scratch: Path, variables: dict[str, str]) -> str:
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", "tests/profiles/sbatch_lines.smk"),
        *("--profile", f"profiles/{profile}", "--config", f"preset={preset}"),
    ]
    environment = {**os.environ, "NANOCHAT_SCRATCH": str(scratch), **variables}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_rule_is_submitted_as_the_golden_file_says(case: str, tmp_path: Path) -> None:
    profile, variables = CASES[case]
    preset = "d20" if case.endswith("d20") else "local"
    lines = sbatch_lines(profile, preset, tmp_path, variables)
    golden = GOLDEN / f"{case}.txt"
    if os.environ.get("REFRESH"):
        golden.write_text(lines)
    difference = "\n".join(
        difflib.unified_diff(golden.read_text().splitlines(), lines.splitlines(), lineterm="")
    )
    assert not difference, f"{difference}\nif this is what you want: {REFRESH}"


def test_a_d20_base_training_plans_its_walltime_from_its_operations(tmp_path: Path) -> None:
    """1.51e19 operations on 8 GPUs of 312e12 at 35 %, doubled, and half an hour to start."""
    line = next(
        line
        for line in sbatch_lines("ptolemy", "d20", tmp_path, {}).splitlines()
        if line.startswith("base_train")
    )
    minutes = int(line.split(" -t ")[1].split()[0])
    assert minutes == 606
