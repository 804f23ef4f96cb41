"""What the workflow adds to a job on an idle cluster, and how long a dry run takes.

    make cluster-up
    python benchmarks/overhead.py --output benchmarks/results/overhead.json

A chain of jobs, each a rule in the real workflow whose command sleeps for 5 s, goes through the
profile of Ptolemy. Of the time from a job's start (SLURM's) to the submission of the next one,
what is not sleep is overhead: Python and Snakemake starting in the job, and noticing its end. The
dry run is of 240 shards to download and all that follows from them, with `snakemake --version`
beside it. Works in a temporary folder; needs the test cluster, and an idle machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from common import publish

ROOT = Path(__file__).parents[1]
CLUSTER = [sys.executable, str(ROOT / "tests" / "cluster" / "cluster.py"), "exec", "--"]
SLEEP = 5.0
DRY_RUNS = 5


def overhead_of_jobs(scratch: Path) -> list[float]:
    """Seconds beyond the command, of each job of the chain but the last."""
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", "benchmarks/overhead.smk"),
        *("--profile", "profiles/ptolemy", "--config", "run=overhead"),
        *("--directory", str(scratch), "--configfile"),
        *(str(ROOT / "config/config.yaml"), str(ROOT / "profiles/ptolemy/site.yaml")),
        *("--", "end_of_chain"),
    ]
    environment = {**os.environ, "NANOCHAT_SCRATCH": str(scratch)}
    subprocess.run([*CLUSTER, *command], cwd=ROOT, env=environment, check=True, capture_output=True)
    fields = ["sacct", "-X", "-n", "-P", "-o", "JobName,Comment,Submit,Start"]
    printed = subprocess.run([*CLUSTER, *fields], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in printed.stdout.splitlines()]
    mine = sorted(row[2:] for row in rows if row[0].startswith("nanochat-overhead-"))[-8:]
    times = [tuple(datetime.fromisoformat(text) for text in row) for row in mine]
    return [(following[0] - job[1]).total_seconds() - SLEEP for job, following in pairwise(times)]


def seconds_of(*arguments: str, scratch: Path) -> list[float]:
    """Wall time of Snakemake with these arguments, several times."""
    seconds = []
    environment = {**os.environ, "NANOCHAT_SCRATCH": str(scratch)}
    for _ in range(DRY_RUNS):
        start = time.monotonic()
        command = [*CLUSTER, sys.executable, "-m", "snakemake", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        seconds.append(round(time.monotonic() - start, 2))
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        config = ["preset=d20", "data={source: fineweb-edu-100b-shuffle, train_shards: 239}"]
        dry_run = ("-n", "-q", "--profile", "profiles/ptolemy", "--config", *config)
        measured = {
            "dry_run_of_240_shards_s": seconds_of(*dry_run, scratch=scratch),
            "snakemake_version_s": seconds_of("--version", scratch=scratch),
            "overhead_of_a_job_s": overhead_of_jobs(scratch),
        }
    publish(
        "overhead",
        {
            name: {"median": statistics.median(values), "all": values}
            for name, values in measured.items()
        },
    )


if __name__ == "__main__":
    main()
