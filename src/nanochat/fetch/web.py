"""Asks a server for a file: one HTTP client, and the one place where its failures get sentences.

    with ask(Remote(url, hub=True), stall=30, first=1000) as answer:
        for chunk in answer.chunks(): ...

What may pass raises Trouble, which a caller tries again; the rest raises DownloadError at once.
Honours the proxy variables, REQUESTS_CA_BUNDLE and SSL_CERT_FILE, HF_HUB_OFFLINE and, for files of
the hub, HF_ENDPOINT and HF_TOKEN: the token goes to that endpoint and to no host it redirects to.
Of plain addresses, `https://host/path` becomes `$NANOCHAT_MIRROR/host/path` where that is set. The
client is requests: its sockets (urllib3) were measured to be read 1.4 to 1.7 times as fast as those
of the hub's own client.
Writes nothing.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from urllib.parse import quote, urlsplit

import requests
import urllib3.exceptions

from nanochat.errors import ConfigError, DownloadError
from nanochat.fetch.patience import (
    ANOTHER_SPEAKER,
    FEW,
    Trouble,
    Unreachable,
    broken,
    stalled,
)

CHUNK = 1 << 20
CONNECT_SECONDS = 10
MAX_WAIT = 300.0  # of what a server asks for with Retry-After
SHA256 = re.compile("[0-9a-f]{64}")
CHECK_NETWORK = (
    "run this on a host with internet, and check HF_ENDPOINT, NANOCHAT_MIRROR and the proxy "
    "variables"
)
ADVICE = {
    401: "set HF_TOKEN to a token of yours that may read this data set",
    403: "ask for access on the data set's page, and set HF_TOKEN to a token of yours",
    404: "there is no such file; are HF_ENDPOINT and NANOCHAT_MIRROR right?",
    407: "the proxy wants a user name and a password: put them into https_proxy",
    429: "too many requests; wait some minutes, or set HF_TOKEN, and run again",
}
RETRIED = {408, 425, 429}  # and everything from 500


@dataclass(frozen=True)
class Remote:
    """A file somewhere; `sha256` and `size` where they are known before it is asked for."""

    url: str
    sha256: str | None = None
    size: int | None = None
    hub: bool = False
    """Whether the hub has it: then the user's token is sent, and what it states is believed."""

    @property
    def shown(self) -> str:
        """The address without a user's name and password."""
        return re.sub("//[^/@]*@", "//", self.url)


@dataclass
class Answer:
    """The beginning of a body, and what the server says of the file."""

    response: requests.Response
    first: int
    """Place of the body's first byte in the file."""
    size: int | None
    """Of the whole file, as stated."""
    offered: int | None
    """Of the whole file, if this body is its end."""
    sha256: str | None
    etag: str | None
    commit: str | None

    def chunks(self, stall: float) -> Iterator[bytes]:
        """The body as it arrives; raises Trouble where that ends early or stalls."""
        try:
            while chunk := self.response.raw.read1(CHUNK):
                yield chunk
        except (urllib3.exceptions.TimeoutError, TimeoutError) as exc:
            raise stalled(stall) from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise broken(_first_line(exc)) from exc


@contextmanager
def ask(remote: Remote, stall: float, first: int = 0, etag: str | None = None) -> Iterator[Answer]:
    """GETs a file from byte `first` on; `etag` says of which content the earlier bytes are.

    The answer may start at 0 nevertheless. Raises Trouble or DownloadError.
    """
    headers = {"Accept-Encoding": "identity"}
    if first:
        headers |= {"Range": f"bytes={first}-"} | ({"If-Range": etag} if etag else {})
    with _errors(remote, stall):
        response = _get(remote, headers, stall)
    with response:
        _refuse_status(response, remote)
        _refuse_pages(response)
        answer = _read_headers(response, remote)
        if answer.first not in (0, first):
            raise Trouble("the server sent another part than asked for", patience=FEW)
        yield answer


def ask_json(remote: Remote, stall: float) -> object:
    """GETs a small JSON document; raises Trouble or DownloadError."""
    with _errors(remote, stall), _get(remote, {}, stall) as response:
        _refuse_status(response, remote)
        try:
            return response.json()
        except requests.exceptions.JSONDecodeError as exc:
            raise Trouble("the answer is no JSON", ANOTHER_SPEAKER, FEW) from exc


def hub_file(repo: str, revision: str, name: str) -> str:
    """Address of a file of a data set on the hub."""
    where = f"{quote(revision, safe='')}/{quote(name)}"
    return f"{_endpoint()}/datasets/{repo}/resolve/{where}"


def hub_tree(repo: str, revision: str, folder: str) -> str:
    """Address of the list of files in a folder of a data set on the hub."""
    where = f"{quote(revision, safe='')}/{quote(folder)}"
    return f"{_endpoint()}/api/datasets/{repo}/tree/{where}"


def mirrored(url: str) -> str:
    """A plain address, or where NANOCHAT_MIRROR has it."""
    mirror = os.environ.get("NANOCHAT_MIRROR")
    if not mirror:
        return url
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"


def refuse_offline(what: str) -> None:
    """Raises DownloadError in the hub's offline mode, before anything is asked for."""
    if _hub_constants().is_offline_mode():
        raise DownloadError(
            f"cannot download {what} (HF_HUB_OFFLINE is set): unset it, on a host with internet"
        )


def is_html(beginning: bytes) -> bool:
    """Whether a file that begins like this is a page for people."""
    return beginning[:256].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or str(_hub_constants().ENDPOINT)).rstrip("/")


def _hub_constants() -> ModuleType:
    """The hub's own settings, which it reads from the environment when it is imported."""
    try:
        from huggingface_hub import constants
    except ValueError as exc:
        raise ConfigError(
            f"a variable that begins with HF_ is of no use to huggingface_hub ({exc}): give "
            "HF_HUB_DOWNLOAD_TIMEOUT and the like whole numbers"
        ) from exc
    return constants


class _Login(requests.auth.AuthBase):
    """The hub's token, else the name and password in the address (of a mirror, say), else nothing,
    rather than what ~/.netrc has for that host."""

    def __init__(self, token: str | None, url: str) -> None:
        self.token = token
        self.name, self.password = requests.utils.get_auth_from_url(url)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        elif self.name:
            requests.auth.HTTPBasicAuth(self.name, self.password)(request)
        return request


class _Session(requests.Session):
    """Drops the token where a redirect leads to another host, and finds no other in ~/.netrc."""

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        before, after = str(response.request.url), str(prepared_request.url)
        if self.should_strip_auth(before, after):
            prepared_request.headers.pop("Authorization", None)


_of_thread = threading.local()


def _get(remote: Remote, headers: dict[str, str], stall: float) -> requests.Response:
    if not hasattr(_of_thread, "session"):
        session = _Session()
        session.max_redirects = 10
        session.headers["User-Agent"] = "nanochat-slurm"
        session.verify = os.environ.get("SSL_CERT_FILE") or True
        _of_thread.session = session
    found: requests.Session = _of_thread.session
    auth = _Login(_token() if remote.hub else None, remote.url)
    timeouts = (CONNECT_SECONDS, stall)
    return found.get(remote.url, headers=headers, auth=auth, stream=True, timeout=timeouts)


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _refuse_status(response: requests.Response, remote: Remote) -> None:
    status = response.status_code
    seen = f"HTTP status {status}"
    if status == 416:
        raise Trouble(seen, patience=FEW, start_anew=True)
    if status in RETRIED or status >= 500:
        wait = _seconds(response.headers.get("Retry-After"))
        raise Trouble(seen, ADVICE.get(status, "run again later"), wait=wait)
    if status not in (200, 206):
        advice = ADVICE.get(status, ANOTHER_SPEAKER)
        raise DownloadError(f"cannot download {remote.shown} ({seen}): {advice}")


def _refuse_pages(response: requests.Response) -> None:
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise Trouble("an HTML page came instead of the file", ANOTHER_SPEAKER, FEW)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Trouble("it came compressed, though it was asked for as it is", ANOTHER_SPEAKER, FEW)


def _read_headers(response: requests.Response, remote: Remote) -> Answer:
    """What the hub says of a file stands in its redirect to where the file lies."""
    first, size = 0, _number(response.headers.get("Content-Length"))
    if response.status_code == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None:
            raise Trouble("a part of the file came that does not say which", patience=FEW)
        first, size = int(span[1]), _number(span[2])
    offered = size
    stated: dict[str, str] = {}
    for answer in [response, *reversed(response.history)] if remote.hub else []:
        names = ("X-Linked-Etag", "X-Linked-Size", "X-Repo-Commit")
        stated |= {name: answer.headers[name] for name in names if name in answer.headers}
    sha256 = stated.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
    etag = response.headers.get("ETag")
    return Answer(
        response=response,
        first=first,
        size=_number(stated.get("X-Linked-Size")) or remote.size or size,
        offered=offered,
        sha256=remote.sha256 or (sha256 if SHA256.fullmatch(sha256) else None),
        etag=None if etag and etag.startswith("W/") else etag,  # weak: not for single bytes
        commit=stated.get("X-Repo-Commit"),
    )


@contextmanager
def _errors(remote: Remote, stall: float) -> Iterator[None]:
    """What requests raises, as Trouble or DownloadError."""
    url, host = remote.shown, urlsplit(remote.shown).netloc
    try:
        yield
    except requests.exceptions.ProxyError as exc:
        advice = "check http_proxy, https_proxy and no_proxy"
        raise Trouble(f"the proxy gives no way to {host}", advice, FEW, error=Unreachable) from exc
    except requests.exceptions.SSLError as exc:
        if "CERTIFICATE_VERIFY_FAILED" not in str(exc):
            raise broken(_first_line(exc)) from exc
        raise DownloadError(
            f"cannot download {url} (the certificate of {host} cannot be verified): where a proxy "
            "of your site signs for others, set REQUESTS_CA_BUNDLE to its file of certificates"
        ) from exc
    except requests.exceptions.ReadTimeout as exc:
        raise stalled(stall) from exc
    except requests.exceptions.ConnectionError as exc:
        seen = _unreachable(exc)
        if seen is None:
            raise broken(_first_line(exc)) from exc
        raise Trouble(f"{host}: {seen}", CHECK_NETWORK, FEW, error=Unreachable) from exc
    except requests.exceptions.ChunkedEncodingError as exc:
        raise broken(_first_line(exc)) from exc
    except (requests.exceptions.RequestException, OSError) as exc:  # too many redirects, no URL
        seen = _first_line(exc)
        raise DownloadError(f"cannot download {url} ({seen}): {CHECK_NETWORK}") from exc


def _unreachable(exc: Exception) -> str | None:
    """How nobody answers; None where somebody did."""
    if isinstance(exc, requests.exceptions.ConnectTimeout):
        return f"no answer in {CONNECT_SECONDS} s"
    text = str(exc)
    if "NameResolutionError" in text:
        return "no such host name"
    if "NewConnectionError" in text:
        errno = re.search(r"\[Errno \d+\] ([\w ]+)", text)
        return errno[1].lower() if errno else "no connection"
    return None


def _seconds(value: str | None) -> float | None:
    """Retry-After: seconds, or a date; at most MAX_WAIT."""
    if value is None:
        return None
    if value.strip().isdigit():
        return min(float(value), MAX_WAIT)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    left = (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return min(max(left, 0.0), MAX_WAIT)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _first_line(exc: Exception) -> str:
    return str(exc).splitlines()[0][:120] if str(exc) else type(exc).__name__
