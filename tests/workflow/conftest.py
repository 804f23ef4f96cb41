"""The whole road at toy sizes, run once by a real Snakemake in a copy of the workflow."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from hub_contents import shard
from hub_server import Hub, fill_for
from nanochat.config import load_config
from nanochat.fetch.externals import externals
from nanochat.horizon import with_train_shards
from nanochat.registry import VOCABULARIES, HubCorpus
from small_vocabularies import vocabularies

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

# The same, of what is downloaded: every kind of thing that a real preset fetches.
FETCHED_TOY = {
    **TOY,
    "data": {"source": "climbmix-400b-shuffle", "train_shards": 2},
    "tokenizer": {**TOY["tokenizer"], "compare_with_gpt": True},
    "mid": {
        "items": {"smoltalk": 30, "mmlu": 20, "gsm8k": 20, "spelling": 40, "identity": 20},
        "total_batch_tokens": 1024,
    },
    "sft": {
        "items": {"arc_easy": 10, "arc_challenge": 10, "gsm8k": 10, "identity": 20},
        "total_batch_tokens": 1024,
    },
    "chat": {"test_items": 10, "words": "english"},
    "evaluation": {**TOY["evaluation"], "bundle": "core", "chat_tasks": ["humaneval"]},
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


@pytest.fixture(scope="session")
def fetched_road(
    tmp_path_factory: pytest.TempPathFactory, english: list[str]
) -> Iterator[Checkout]:
    """A checkout whose first phase ran beside a hub, and all else with no network but loopback."""
    checkout = copy_of_workflow(tmp_path_factory.mktemp("fetched"), FETCHED_TOY)
    with pytest.MonkeyPatch.context() as patch, served(checkout, english, patch) as hub:
        checkout.run("--until", "downloads")
        (checkout.folder / "requests").write_text("\n".join(hub.requests))
    without_network = ["unshare", "--net", "bash", "-c", 'ip link set lo up && exec "$0" "$@"']
    if subprocess.run([*without_network, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace, and ip")
    done = subprocess.run(
        [*without_network, *checkout.command()],
        cwd=checkout.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    yield checkout


@contextmanager
def served(checkout: Checkout, english: list[str], patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and the environment to find it, with everything that the checkout's config needs."""
    hub = Hub()
    config = with_train_shards(load_config(checkout.config))
    wanted = fill_for(hub, externals(config.disk))
    shards = [each for each in wanted if isinstance(each.source, HubCorpus)]
    for place, each in enumerate(shards):
        name = each.source.pattern.format(int(each.part))
        hub.files[f"{each.source.repo}/{name}"] = shard(
            english[place :: len(shards)] or english[:1]
        )
    for name, value in hub.environment().items():
        patch.setenv(name, value)
    replace_vocabularies(hub, checkout.folder / "stand_ins", patch)
    try:
        yield hub
    finally:
        hub.stop()


@pytest.fixture
def serving(english: list[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """`with serving(checkout) as hub`: see `served`."""
    return lambda checkout: served(checkout, english, monkeypatch)


def replace_vocabularies(hub: Hub, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Serves small vocabularies in the published formats, and has the programs that are started
    from here expect their SHA-256."""
    folder.mkdir(exist_ok=True)
    lines = ["import nanochat.registry as registry", "from dataclasses import replace"]
    for name, content in vocabularies().items():
        address = urlsplit(VOCABULARIES[name].url)
        hub.files[f"{address.netloc}{address.path}"] = content
        digest = hashlib.sha256(content).hexdigest()
        lines += [f"file = replace(registry.VOCABULARIES[{name!r}], sha256={digest!r})"]
        lines += ["for named in (registry.VOCABULARIES, registry.PLAIN_FILES, registry.REGISTRY):"]
        lines += ["    named[file.name] = file"]
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    patch.setenv("PYTHONPATH", str(folder))


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
