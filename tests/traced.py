"""What a rule's command opens, as the kernel saw it, beside what the rule declares.

    for job in jobs_of(checkout):            # every job of the workflow, from a dry run
        opened = files_opened(job, checkout)

Needs strace.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OPENED = re.compile(r'openat?\((?:[^,"]*, )?"((?:[^"\\]|\\.)*)", ([A-Z_|0-9]+).*\) = \d+')
FIELD = re.compile(r"^    (input|output|log): (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """A job of a dry run: its rule, the files that the rule declares, and its command."""

    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    command: str

    @property
    def name(self) -> str:
        """The rule, and what tells its jobs apart."""
        return f"{self.rule} {Path(self.outputs[0]).parent.name}"


def jobs_of(checkout) -> list[Job]:
    """All jobs, in an order in which they could run."""
    text = checkout.run("-n", "--forceall", "--printshellcmds")
    jobs = []
    for block in re.split(r"^(?:local)?rule (?=\w+:$)", text, flags=re.MULTILINE)[1:]:
        files = {key: tuple(value.split(", ")) for key, value in FIELD.findall(block)}
        command = re.search(r"^Shell command: (.*)$", block, re.MULTILINE)
        if command and "output" in files:
            rule = block.partition(":")[0]
            jobs.append(Job(rule, files.get("input", ()), files["output"], command[1]))
    return jobs


def files_opened(job: Job, checkout, trace: Path) -> set[str]:
    """The files below the checkout that the job's command read and had not made itself; relative
    to the checkout. Directories and the log are left out."""
    command = f"set -o pipefail; {job.command}"
    strace = ["strace", "-f", "--seccomp-bpf", "-e", "trace=open,openat", "-o", str(trace)]
    done = subprocess.run(
        [*strace, "bash", "-c", command],
        cwd=checkout.folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NANOCHAT_CONFIG": ".nanochat/runs/local/config.yaml",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read, made = set(), set()
    for path, flags in OPENED.findall(trace.read_text(errors="replace")):
        if "O_DIRECTORY" in flags:
            continue
        relative = os.path.relpath(os.path.join(checkout.folder, path), checkout.folder)
        if relative.startswith("..") or not (checkout.folder / relative).is_file():
            continue
        if "O_CREAT" in flags or "O_WRONLY" in flags:
            made.add(relative)
        elif relative not in made:
            read.add(relative)
    return read
