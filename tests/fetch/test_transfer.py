"""One transfer, against a server on loopback that does what servers and networks do."""

import errno
import fcntl
import hashlib
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hub_server import COMMIT, LOGIN_PAGE, Faults, OnlyFirst
from nanochat.errors import DiskError, DownloadError
from nanochat.fetch import transfer as fetching
from nanochat.fetch.display import Stopped, Transfers, Watch
from nanochat.fetch.patience import FEW, MANY, Unreachable
from nanochat.fetch.transfer import Arrived, Check, fetch
from nanochat.fetch.web import Remote, hub_file, mirrored
from nanochat.fetch.workspace import alone, bytes_so_far, publish

CONTENT = random.Random(5).randbytes(50_000)
PLAIN = "https://example.org/some/words.txt"


class Patient(Watch):
    """Notes how long it is asked to wait, and does not."""

    def __init__(self) -> None:
        super().__init__(Transfers(1, 1), "a file", 1)
        self.waits: list[float] = []

    def wait(self, seconds: float, why: str) -> None:
        self.waits.append(seconds)


@pytest.fixture
def server(hub, monkeypatch: pytest.MonkeyPatch):
    for key in ("HF_ENDPOINT", "NANOCHAT_MIRROR", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(key, hub.environment()[key])
    hub.files["file.bin"] = CONTENT
    hub.files["words.txt"] = CONTENT
    return hub


def of_hub() -> Remote:
    return Remote(hub_file("somebody/texts", "main", "file.bin"), hub=True)


def of_plain(sha256: str | None = None) -> Remote:
    return Remote(mirrored(PLAIN), sha256)


def get(
    remote: Remote, folder: Path, watch: Watch | None = None, check: Check | None = None
) -> Arrived:
    target = folder / "got.bin"
    watch = watch or Patient()
    with alone(target, watch.say) as workspace:
        arrived = fetch(remote, workspace / target.name, watch, check)
        publish(workspace / target.name, target)
    assert arrived.size == target.stat().st_size
    assert arrived.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert [path.name for path in folder.iterdir()] == ["got.bin"]
    return arrived


def refused(remote: Remote, folder: Path, watch: Watch | None = None) -> str:
    with pytest.raises(DownloadError) as caught:
        get(remote, folder, watch)
    assert not (folder / "got.bin").exists()
    return str(caught.value)


def test_a_file_arrives_with_what_the_hub_says_of_it(server, tmp_path: Path) -> None:
    arrived = get(of_hub(), tmp_path)
    assert (tmp_path / "got.bin").read_bytes() == CONTENT
    assert (arrived.commit, arrived.attempts, arrived.resumed) == (COMMIT, 1, 0)


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name, remote in {"hub": of_hub(), "plain": of_plain()}.items():
        (tmp_path / name).mkdir()
        get(remote, tmp_path / name)
    sent = [headers.get("Authorization") for headers in server.headers]
    assert server.requests[1] == "GET /blobs/file.bin"
    assert sent == ["Bearer hf_secret", None, None]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path: Path) -> None:
    server.breaks_after = 20_000
    arrived = get(of_hub(), tmp_path)
    assert (arrived.attempts, arrived.resumed) == (2, 20_000)
    assert server.headers[-1]["Range"] == "bytes=20000-"


def test_a_server_that_breaks_every_connection_gives_the_file(server, tmp_path: Path) -> None:
    server.breaks_always = 0.03
    assert get(of_hub(), tmp_path).attempts == 34


def test_a_server_that_gives_next_to_nothing_is_given_up(server, tmp_path: Path) -> None:
    server.breaks_always = 0.001
    watch = Patient()
    assert f"; tried {MANY} times): run again to continue" in refused(of_hub(), tmp_path, watch)
    kept = bytes_so_far(tmp_path / "got.bin")
    assert 0 < kept < 1000
    server.breaks_always = None
    assert get(of_hub(), tmp_path).resumed == kept


def test_waits_double_and_differ(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_DOWNLOAD_BACKOFF", "8")
    server.status = 503
    watch = Patient()
    sentence = refused(of_hub(), tmp_path, watch)
    assert f"(HTTP status 503; tried {MANY} times): run again later" in sentence
    for wait, longest in zip(watch.waits, [8, 16, 32, 60, 60, 60], strict=True):
        assert longest / 2 <= wait <= longest
    assert len(set(watch.waits)) == 6


@pytest.mark.parametrize(
    ("after", "waits"),
    [("7", 7), ("99999", 300), ("Fri, 01 Jan 2100 00:00:00 GMT", 300), ("soon", 0),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0)],
)  # fmt: skip
def test_a_server_that_asks_to_wait_is_obeyed(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, waits: int
) -> None:
    monkeypatch.setenv("NANOCHAT_DOWNLOAD_BACKOFF", "0.001")
    server.status, server.extra = 429, {"Retry-After": after}
    watch = Patient()
    assert "too many requests; wait some minutes, or set HF_TOKEN" in refused(
        of_hub(), tmp_path, watch
    )
    assert len(watch.waits) == MANY - 1
    assert {round(wait) for wait in watch.waits} == {waits}


def test_a_server_without_ranges_gives_the_file_from_its_beginning(server, tmp_path: Path) -> None:
    server.without_ranges = True
    server.breaks_after = 20_000
    assert get(of_hub(), tmp_path).attempts == 2


@pytest.mark.parametrize("remote", [of_hub, of_plain], ids=["sha256", "etag"])
def test_a_part_of_a_file_that_has_changed_is_not_glued_to_the_new_one(
    server, tmp_path: Path, remote
) -> None:
    server.breaks_always = 0.4
    watch = Patient()
    with pytest.raises(Stopped):
        watch.wait = lambda *_: (_ for _ in ()).throw(Stopped)  # type: ignore[method-assign]
        get(remote(), tmp_path, watch)
    assert bytes_so_far(tmp_path / "got.bin") == 20_001
    server.breaks_always = None
    new = random.Random(6).randbytes(50_000)
    server.files["file.bin"] = server.files["words.txt"] = new
    arrived = get(remote(), tmp_path)
    assert (arrived.resumed, arrived.attempts) == (0, 2 if remote is of_hub else 1)
    assert (tmp_path / "got.bin").read_bytes() == new


def test_bytes_of_which_nobody_says_what_they_are_are_fetched_again(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "etag", False)
    server.breaks_after = 20_000
    assert get(of_plain(), tmp_path).resumed == 0
    assert not any("Range" in headers for headers in server.headers)


def test_a_killed_process_leaves_a_part_from_which_the_next_one_goes_on(
    server, tmp_path: Path
) -> None:
    server.faults = OnlyFirst(3, 1.0, ["stall"])
    server.stall_seconds = 60
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_transfer import get, of_hub; get(of_hub(), Path(sys.argv[1]))"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": paths},
    )
    while bytes_so_far(tmp_path / "got.bin") == 0:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = bytes_so_far(tmp_path / "got.bin")
    assert (tmp_path / ".part-got.bin" / "got.bin").read_bytes() == CONTENT[:kept]
    assert not (tmp_path / "got.bin").exists()
    arrived = get(of_hub(), tmp_path)
    assert (arrived.resumed, arrived.attempts) == (kept, 1)


@pytest.mark.parametrize("fault", ["flip", "short", "cut", "500", "429", "page"])
def test_what_goes_wrong_once_does_no_harm(server, tmp_path: Path, fault: str) -> None:
    server.faults = OnlyFirst(1, 1.0, [fault])
    assert get(of_hub(), tmp_path).attempts == 2
    assert (tmp_path / "got.bin").read_bytes() == CONTENT
    assert dict(server.faults.injected) == {fault: 1}


@pytest.mark.parametrize("sha256", [None, hashlib.sha256(CONTENT).hexdigest()])
def test_a_wrong_file_is_fetched_anew_and_then_refused(
    server, tmp_path: Path, sha256: str | None
) -> None:
    wrong = CONTENT[:-1] + b"?"
    server.bodies = {"file.bin": wrong, "words.txt": wrong}
    sentence = refused(of_plain(sha256) if sha256 else of_hub(), tmp_path)
    assert f"it came damaged: SHA-256 {hashlib.sha256(wrong).hexdigest()[:12]}..." in sentence
    assert f"tried {FEW} times): nothing was kept" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", [CONTENT[:-100], CONTENT + b"more"])
def test_a_file_of_another_size_than_stated_is_refused(server, tmp_path: Path, body: bytes) -> None:
    server.bodies["file.bin"] = body
    sentence = refused(of_hub(), tmp_path)
    assert f"{len(body):,} bytes are offered where 50,000 were stated" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_a_file_is_refused(server, tmp_path: Path) -> None:
    for number, how in enumerate(("redirect", "type", "beginning")):
        server.faults = Faults(1, float(how == "redirect"), ["page"])
        server.pages = {"file.bin": b"<p>Please log in</p>"} if how == "type" else {}
        server.files["file.bin"] = LOGIN_PAGE if how == "beginning" else CONTENT
        (tmp_path / how).mkdir()
        sentence = refused(of_hub(), tmp_path / how)
        assert ("an HTML page" in sentence) and "a login page or a wrong HF_ENDPOINT" in sentence
        assert list((tmp_path / how).iterdir()) == [], number


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "set HF_TOKEN to a token"), (403, "ask for access"), (404, "there is no such file"),
     (410, "a proxy, a login page")],
)  # fmt: skip
def test_a_server_that_refuses_is_not_asked_again(
    server, tmp_path: Path, status: int, advice: str
) -> None:
    server.status = status
    sentence = refused(of_hub(), tmp_path)
    assert sentence.startswith(f"cannot download {of_hub().url} (HTTP status {status}): {advice}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", ["stall", "trickle"])
def test_a_server_that_falls_silent_is_left(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    server.trickles = trouble == "trickle"
    if trouble == "stall":
        server.faults = Faults(1, 1.0, ["stall"])
        server.files["file.bin"] = CONTENT[:2]  # so that the attempts make no progress
    sentence = refused(of_hub(), tmp_path)
    assert "no data for 1 s" in sentence
    assert "or give HF_HUB_DOWNLOAD_TIMEOUT more seconds" in sentence


def test_nobody_answers(server, tmp_path: Path) -> None:
    server.stop()
    watch = Patient()
    with pytest.raises(Unreachable, match=r"connection refused; tried 3 times\): run this on"):
        get(of_hub(), tmp_path, watch)
    with pytest.raises(Unreachable, match="no such host name"):
        get(Remote("http://nowhere.invalid/file.bin"), tmp_path)
    assert len(watch.waits) == FEW - 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_goes_away_for_a_while_is_waited_for_longer(server, tmp_path: Path) -> None:
    class Gone(Patient):
        def wait(self, seconds: float, why: str) -> None:
            super().wait(seconds, why)
            server.stop()

    server.breaks_after = 20_000
    watch = Gone()
    assert "connection refused" in refused(of_hub(), tmp_path, watch)
    assert len(watch.waits) == MANY - 1
    assert bytes_so_far(tmp_path / "got.bin") == 20_000


def test_a_proxy_is_used_and_one_that_is_not_there_is_named(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", server.url)
    get(Remote("http://elsewhere.invalid/some/words.txt"), tmp_path)
    assert server.requests == ["GET http://elsewhere.invalid/some/words.txt"]
    (tmp_path / "got.bin").unlink()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    sentence = refused(Remote("http://elsewhere.invalid/some/words.txt"), tmp_path)
    assert "the proxy gives no way to elsewhere.invalid" in sentence
    assert "check http_proxy, https_proxy and no_proxy" in sentence


@pytest.fixture
def secure(tmp_path: Path):
    """A server whose certificate nobody knows, and the file that would make it known."""
    folder = tmp_path / "secure"
    folder.mkdir()
    (folder / "words.txt").write_bytes(CONTENT)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out",
         str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type, misc]

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
    yield f"https://localhost:{httpd.server_port}/words.txt", certificate
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_knows_is_refused_until_it_is_named(
    secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = secure
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "localhost")
    target = tmp_path / "target"
    target.mkdir()
    watch = Patient()
    sentence = refused(Remote(url), target, watch)
    assert "the certificate of localhost" in sentence
    assert "set REQUESTS_CA_BUNDLE to its file of certificates" in sentence
    assert watch.waits == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    get(Remote(url), target)


@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "NANOCHAT_DOWNLOAD_BACKOFF"])
def test_a_variable_that_is_no_number_is_named(server, tmp_path: Path, name: str) -> None:
    code = (
        "import sys; from pathlib import Path; from nanochat.fetch.transfer import *;"
        "from nanochat.fetch.web import hub_file; from nanochat.fetch.display import Transfers;"
        "from nanochat.errors import ConfigError\n"
        "try: fetch(Remote(hub_file('a/b', 'main', 'file.bin'), hub=True), Path(sys.argv[1]),"
        " Transfers(1, 1).begin('a', 1))\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "part")],
        env={**os.environ, name: "soon"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "soon" in done.stdout and name in done.stdout, done.stderr


def test_offline_asks_nobody(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "(HF_HUB_OFFLINE is set): unset it" in refused(of_hub(), tmp_path)
    assert server.requests == []


def test_a_password_in_an_address_is_not_shown(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_MIRROR", server.url.replace("//", "//me:hidden@"))
    server.status = 404
    sentence = refused(of_plain(), tmp_path)
    assert f"cannot download {server.url}/example.org/some/words.txt (HTTP" in sentence
    assert "hidden" not in sentence


def test_what_fails_its_check_gets_no_name(server, tmp_path: Path) -> None:
    def check(path: Path, stated: bool) -> None:
        assert (path.read_bytes(), stated) == (CONTENT, True)
        raise DownloadError("it holds nonsense")

    with pytest.raises(DownloadError, match=r"file.bin came, but it holds nonsense: a proxy, a"):
        get(of_hub(), tmp_path, check=check)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 2


def test_without_a_stated_sha256_what_fails_its_check_may_have_been_damaged_on_its_way(
    server, tmp_path: Path
) -> None:
    server.unstated.add("file.bin")
    server.faults = OnlyFirst(1, 1.0, ["flip"])

    def check(path: Path, stated: bool) -> None:
        assert not stated
        if path.read_bytes() != CONTENT:
            raise DownloadError("it holds nonsense")

    assert get(of_hub(), tmp_path, check=check).attempts == 2


def test_a_full_disk_is_an_error_that_gives_the_space_back(server, small_disk: Path) -> None:
    server.files["file.bin"] = CONTENT * 20
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 200_000))
    folder = small_disk / "folder"
    with pytest.raises(DiskError, match="the disk is full"):
        get(of_hub(), folder)
    assert list(folder.iterdir()) == []


def test_two_at_once_download_once(server, tmp_path: Path) -> None:
    server.faults = OnlyFirst(1, 1.0, ["stall"])
    server.stall_seconds = 0.5
    order = []

    def one(name: str) -> None:
        with alone(tmp_path / "got.bin", lambda _: order.append(f"{name} waits")) as workspace:
            if not (tmp_path / "got.bin").exists():
                fetch(of_hub(), workspace / "got.bin", Patient())
                publish(workspace / "got.bin", tmp_path / "got.bin")
                order.append("fetched")

    threads = [Thread(target=one, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order in (["first waits", "fetched"], ["second waits", "fetched"])
    assert [path.name for path in tmp_path.iterdir()] == ["got.bin"]


def test_a_file_system_without_locks_is_no_obstacle(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    get(of_hub(), tmp_path)
    (tmp_path / "got.bin").unlink()
    server.breaks_always = 0.001
    refused(of_hub(), tmp_path)
    assert list(tmp_path.iterdir()) == [], "what nobody could lock nobody goes on from"


def test_a_part_whose_note_is_damaged_is_fetched_again(server, tmp_path: Path) -> None:
    workspace = tmp_path / ".part-got.bin"
    workspace.mkdir()
    (workspace / "got.bin").write_bytes(b"?" * 1000)
    (workspace / "got.bin.from").write_text('{"content": ')
    assert get(of_hub(), tmp_path).resumed == 0


def test_a_whole_part_is_not_asked_for_again(server, tmp_path: Path) -> None:
    workspace = tmp_path / ".part-got.bin"
    workspace.mkdir()
    (workspace / "got.bin").write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    (workspace / "got.bin.from").write_text(f'{{"content": "{digest}", "size": 50000}}')
    get(of_hub(), tmp_path)
    assert server.requests == []
    assert fetching.stall_seconds() == 30


def test_bytes_without_a_name_leave_no_note_of_earlier_ones(tmp_path: Path) -> None:
    part = fetching._Part(tmp_path / "file")
    part.start("etag:first", 100)
    assert part.note_path.exists()
    part.start()
    part.add(b"of another content")
    os.close(part.descriptor)
    again = fetching._Part(tmp_path / "file")
    again.read_again()
    os.close(again.descriptor)
    assert again.size == 0
