"""What the documents say can be followed: links, files and commands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_COMMANDS = [ROOT / "README.md", ROOT / "docs" / "how-to" / "cluster.md"]
COMMANDS = list(
    dict.fromkeys(
        line.split("#")[0].strip()
        for page in WITH_COMMANDS
        for line in page.read_text().splitlines()
        if re.match(r"    (make |\.venv/bin/|snakemake |nanochat )", line)
    )
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_file_tree_of_the_readme_exists() -> None:
    section = (ROOT / "README.md").read_text().split("## The files of this project")[1]
    names = re.findall(r"^    ([\w/.]+)  ", section.split("## Working")[0], re.MULTILINE)
    assert len(names) >= 23
    for name in names:
        assert (ROOT / name).exists(), name


def test_every_package_is_in_the_file_tree_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for package in (ROOT / "src" / "nanochat").glob("*/__init__.py"):
        assert f"src/nanochat/{package.parent.name}/" in readme


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_readme_are_understood(command: str, tmp_path: Path) -> None:
    """make would know the target, Snakemake plans the jobs, nanochat knows the options.

    A scratch of its own stands in for the cluster's.
    """
    program, *arguments = shlex.split(command)
    if program == "make":
        words = ["make", "--dry-run", *arguments]
    elif program.endswith("snakemake"):
        (tmp_path / "text.txt").write_text("Some text of one's own.")
        arguments = [word.replace("my_texts", str(tmp_path)) for word in arguments]
        words = [sys.executable, "-m", "snakemake", "--dry-run", *arguments]
    else:
        words = [sys.executable, "-m", "nanochat", *arguments, "--help"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "NANOCHAT_SCRATCH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_commands_to_try() -> None:
    assert len(COMMANDS) >= 20
    assert {command.split()[0] for command in COMMANDS} >= {"make", "snakemake", "nanochat"}
