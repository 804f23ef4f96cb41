#!${python} -ISE
"""EpilogSlurmctld: append one JSON line for the job that ended. A template; never fails."""

import contextlib
import json
import os

FIELDS = (
    "id",
    "name",
    "comment",
    "exit_code",
    "exit_code2",
    "restart_count",
    "partition",
    "nodelist",
)

with contextlib.suppress(Exception):
    job = {field: os.environ.get("SLURM_JOB_" + field.upper()) for field in FIELDS}
    with open("${state}/epilog.jsonl", "a") as lines:
        lines.write(json.dumps(job) + "\n")
