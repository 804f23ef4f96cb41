"""The whole road at toy sizes, run once by a real Snakemake in a copy of the workflow."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

# Small enough for a test, and real: two shards of English, two layers, every stage.
TOY = {
    "data": {"train_shards": 2},
    "tokenizer": {"vocab_size": 512, "max_characters": 400_000},
    "model": {"depth": 2, "aspect_ratio": 16, "head_dim": 16, "sequence_len": 128},
    "base": {"steps": 12, "total_batch_tokens": 1024},
    "mid": {"items": {"spelling": 40, "identity": 20}, "total_batch_tokens": 1024},
    "sft": {"items": {"spelling": 20, "identity": 20}, "total_batch_tokens": 1024},
    "chat": {"test_items": 10},
    "evaluation": {"validation_tokens": 4096, "core_items": 8, "chat_items": 8, "batch_rows": 8},
    "operation": {"device_rows": 8, "save_every_minutes": 0, "compile": "off"},
}


@dataclass(frozen=True)
class Checkout:
    """A copy of the workflow's files, in which a test may edit what a user would edit."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config" / "config.yaml"

    @property
    def base_dir(self) -> Path:
        return self.folder / ".nanochat"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *arguments]

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Starts Snakemake as the leader of a process group."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Runs Snakemake; returns what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == expect, done.stdout
        return done.stdout

    def planned(self, *arguments: str) -> dict[str, int]:
        """The jobs of a dry run, by rule."""
        output = self.run("-n", *arguments)
        if "Nothing to be done" in output:
            return {}
        table = output.split("Job stats:")[1].split("total")[0].splitlines()[3:]
        return {row.split()[0]: int(row.split()[1]) for row in table if row.split()}

    def kill(self, process: "subprocess.Popen[str]") -> None:
        """SIGKILL to Snakemake and everything that it started."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def record(self, run: str, stage: str) -> dict[str, Any]:
        """The record of a trained stage."""
        path = self.base_dir / "models" / run / stage / "record.json"
        value: dict[str, Any] = json.loads(path.read_text())
        return value

    def edit(self, **sections: object) -> None:
        """Writes keys into config.yaml, as a user does."""
        given = yaml.safe_load(self.config.read_text())
        for name, value in sections.items():
            given[name] = {**given.get(name, {}), **value} if isinstance(value, dict) else value
        self.config.write_text(yaml.safe_dump(given))


def copy_of_workflow(folder: Path, config: dict[str, object]) -> Checkout:
    for name in ("workflow", "profiles", "config"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    checkout = Checkout(folder)
    checkout.config.write_text(yaml.safe_dump(config))
    return checkout


def passages(text: str, characters: int = 1000) -> list[str]:
    """A long text, cut at empty lines into documents of some 1000 characters."""
    cut = [""]
    for paragraph in text.split("\n\n"):
        if len(cut[-1]) > characters:
            cut.append("")
        cut[-1] += paragraph + "\n\n"
    return cut


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory, english: list[str]) -> Checkout:
    """A checkout in which the road has been run to its end."""
    folder = tmp_path_factory.mktemp("road")
    texts = folder / "texts"
    texts.mkdir()
    for number, text in enumerate(english):
        lines = [json.dumps({"text": passage}) for passage in passages(text)]
        (texts / f"{number:04d}.jsonl").write_text("\n".join(lines))
    checkout = copy_of_workflow(folder, {**TOY, "data": {"source": "texts", "train_shards": 2}})
    os.environ["OMP_NUM_THREADS"] = "1"
    checkout.run()
    return checkout


@pytest.fixture
def checkout(road: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished road, for a test that changes something."""
    folder = tmp_path / "checkout"
    shutil.copytree(road.folder, folder, symlinks=True)
    return Checkout(folder)


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    """A checkout in which nothing has been run yet."""
    return copy_of_workflow(tmp_path, dict(TOY))
