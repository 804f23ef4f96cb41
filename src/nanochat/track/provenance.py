"""Where a number comes from: commit, host, processor, versions, job, times.

`provenance(started, gpu, job_id)` goes into every record, so that each number of the report can be
traced.
Reads git (where there is one) and /proc/cpuinfo; writes nothing.
"""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[3]


def provenance(started: float, gpu: str | None, job_id: str | None) -> dict[str, Any]:
    """A JSON-like dict; `started` and the current time are seconds since 1970.

    `gpu` is a device's name, `job_id` SLURM's; each None where there is none.
    """
    return {
        **code_version(),
        "host": platform.node(),
        "cpu": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "python": platform.python_version(),
        "job_id": job_id,
        "started": round(started, 1),
        "finished": round(time.time(), 1),
    }


def code_version() -> dict[str, Any]:
    """What code runs: versions of this package and of torch, commit, and whether it was changed."""
    commit, dirty = _git()
    return {
        "nanochat": version("nanochat-slurm"),
        "torch": version("torch"),
        "commit": commit,
        "dirty": dirty,
    }


def _git() -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ from it; (None, None) outside a checkout."""
    try:
        commit = _run_git("rev-parse", "HEAD")
        return commit, bool(_run_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _run_git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
