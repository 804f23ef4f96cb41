"""What every test shares: a clean environment, one thread, and a tokenizer trained in a second."""

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

SCRUBBED = ("NANOCHAT_", "SLURM_", "WANDB_", "SNAKEMAKE_", "HF_")


CLUSTER_IS_PROMISED = "TEST_CLUSTER_IS_PROMISED" in os.environ
"""Set by .ci/run, which starts the cluster: there no test of it may skip."""

# On models this small, threads wait for each other longer than they work.
torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, object]:
    report = yield
    if CLUSTER_IS_PROMISED and report.skipped and item.get_closest_marker("slurm"):
        report.outcome = "failed"
        report.longrepr = f"skipped, though a cluster was promised: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the person who runs the tests may change what they show."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def english() -> list[str]:
    """Documents of real English that every Python installation carries: the pydoc topics."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


@pytest.fixture(scope="session")
def tiny_tokenizer(english: list[str]):  # type: ignore[no-untyped-def]
    """A real tokenizer of 512 tokens, trained on the pydoc topics."""
    from nanochat.data.tokenizer import train_tokenizer

    return train_tokenizer(
        english, vocab_size=512, max_characters=300_000, max_document_characters=10_000
    )


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the checkout; the test skips where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data at {folder}")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes; skips where this user may not mount one."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def hub():  # type: ignore[no-untyped-def]
    """A hub on loopback, empty as yet; see hub_server.py."""
    from hub_server import Hub

    hub = Hub()
    yield hub
    hub.stop()
