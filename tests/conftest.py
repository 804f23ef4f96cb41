"""What every test shares: a clean environment, one thread, and a tokenizer trained in a second."""

import hashlib
import os
import re
import subprocess
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

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


class Hub:
    """A server on loopback that answers as the hub does for the large files of a data set.

    `files` are its files by name; `bodies` what it sends instead of a file's own content, `pages`
    what it answers instead, without the hub's headers, and `status` its answer to everything.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.bodies: dict[str, bytes] = {}
        self.pages: dict[str, bytes] = {}
        self.status = 200
        self.breaks_after: int | None = None
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            do_GET = do_HEAD

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self) -> dict[str, str]:
        """The environment of a program that takes this for the hub."""
        here = "127.0.0.1,localhost"
        without_proxy = {"no_proxy": here, "NO_PROXY": here}
        return {**os.environ, **without_proxy, "HF_ENDPOINT": self.url}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        name = request.path.rpartition("/")[2]
        page = self.pages.get(name)
        if name == "agent-harnesses":  # what the client asks once a day, and keeps
            return self._send(request, 200, b"{}", {"Content-Type": "application/json"})
        if self.status != 200 or page is not None or name not in self.files:
            status = self.status if self.status != 200 or page is not None else 404
            self._send(request, status, page or b"no", {"Content-Type": "text/html"})
        elif request.path.startswith("/blobs/"):
            self._send_blob(request, self.bodies.get(name, self.files[name]))
        else:
            content = self.files[name]
            headers = {
                "Location": f"{self.url}/blobs/{name}".replace("127.0.0.1", "localhost"),
                "ETag": '"of the redirect"',
                "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "X-Repo-Commit": "0123456789" * 4,
            }
            self._send(request, 302, b"", headers)

    def _send_blob(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        if self.breaks_after is not None and request.command == "GET":
            cut, self.breaks_after = self.breaks_after, None  # this once
            request.send_response(200)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body[:cut])
            return
        headers = {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"} if asked else {}
        self._send(request, 206 if asked else 200, body[first:], headers)

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A data set's hub on loopback, empty as yet."""
    hub = Hub()
    yield hub
    hub.stop()
