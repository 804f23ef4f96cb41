"""A hub on loopback, and a mirror of plain addresses, that can serve all that a config needs.

    hub = Hub()
    fill_for(hub, externals(config.disk))
    hub.faults = Faults(seed=1, rate=0.5)

`files` are keyed by `<repository>/<path>` or `<host>/<path>`, or by the file's bare name.
"""

import hashlib
import json
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from hub_contents import TEXTS, core_bundle, plain, shard, table
from nanochat.fetch.externals import External
from nanochat.registry import Archive, HubCorpus, HubTable, PlainFile

COMMIT = "0123456789" * 4
LOGIN_PAGE = b"<!DOCTYPE html><html>Please log in</html>"
RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
TREE = re.compile(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)/(.+)")
LISTING = re.compile(r"/api/datasets/([^/]+/[^/]+)/parquet/([^/]+)/([^/]+)")


class Faults:
    """Which requests go wrong, and how: drawn from the seed, the path, and how often it was asked,
    so that threads in any order meet the same ones."""

    KINDS = ("cut", "short", "flip", "500", "429", "stall", "page")
    STATUS_ONLY = ("500", "429", "page")

    def __init__(self, seed: int, rate: float, kinds: Sequence[str] = KINDS) -> None:
        self.seed, self.rate, self.kinds = seed, rate, kinds
        self.injected: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def draw(self, path: str, has_body: bool) -> tuple[str | None, random.Random]:
        """A fault or None, and what it is to be drawn from further."""
        with self._lock:
            self._asked[path] += 1
            rng = random.Random(f"{self.seed} {path} {self._asked[path]}")
            kinds = [kind for kind in self.kinds if has_body or kind in self.STATUS_ONLY]
            if not kinds or rng.random() >= self.rate:
                return None, rng
            kind = rng.choice(kinds)
            self.injected[kind] += 1
            return kind, rng


class OnlyFirst(Faults):
    """Each path's first body has a fault, and the others none."""

    def draw(self, path: str, has_body: bool) -> tuple[str | None, random.Random]:
        if not has_body or self._asked[path]:
            return None, random.Random(1)
        return super().draw(path, has_body)


class Hub:
    """Answers as the hub does: a redirect that states size and SHA-256, to another host's bytes.

    `bodies` is what it sends instead of a file's own content, `pages` what it answers instead,
    without the hub's headers, `unstated` names files whose SHA-256 it does not state, and `status`
    is its answer to everything. `breaks_after` breaks the next transfer after so many bytes,
    `breaks_always` every one after a share of the file, `trickles` sends so slowly that it never
    ends; `headers` has every request's.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.bodies: dict[str, bytes] = {}
        self.pages: dict[str, bytes] = {}
        self.unstated: set[str] = set()
        self.status = 200
        self.extra: dict[str, str] = {}
        self.without_ranges = False
        self.etag = True
        self.breaks_after: int | None = None
        self.breaks_always: float | None = None
        self.trickles = False
        self.faults = Faults(0, 0.0)
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.stall_seconds = 2.0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self)

            do_GET = do_HEAD

            def log_message(self, *_: object) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.server.hang_up()

    def environment(self) -> dict[str, str]:
        """The environment of a program that takes this for the hub and for a mirror."""
        here = "127.0.0.1,localhost"
        without_proxy = {"no_proxy": here, "NO_PROXY": here}
        ours = {"HF_ENDPOINT": self.url, "NANOCHAT_MIRROR": self.url}
        return {**os.environ, **without_proxy, **ours}

    def key(self, path: str) -> str | None:
        """The file that a path names, by its whole or its bare name."""
        bare = path.rpartition("/")[2]
        return path if path in self.files else bare if bare in self.files else None

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        self.headers.append(dict(request.headers))
        path = urlsplit(request.path).path
        bare = path.rpartition("/")[2]
        if self.status != 200:
            return _send(request, self.status, b"no", {"Content-Type": "text/html", **self.extra})
        if path == "/login":
            return _send(request, 200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"})
        if bare in self.pages:
            return _send(request, 200, self.pages[bare], {"Content-Type": "text/html"})
        if match := TREE.fullmatch(path):
            return self._send_tree(request, match[1], unquote(match[3]))
        if match := LISTING.fullmatch(path):
            return self._send_listing(request, *match.groups())
        if match := RESOLVE.fullmatch(path):
            return self._redirect(request, f"{match[1]}/{unquote(match[3])}")
        return self._send_blob(request, unquote(path.removeprefix("/blobs").lstrip("/")))

    def _redirect(self, request: BaseHTTPRequestHandler, path: str) -> None:
        key = self.key(path)
        if key is None:
            return _send(request, 404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
        fault, rng = self.faults.draw(request.path, has_body=False)
        if fault:
            return self._fail(request, fault, rng)
        content = self.files[key]
        headers = {
            "Location": f"{self.url}/blobs/{key}".replace("127.0.0.1", "localhost"),
            "ETag": '"of the redirect"',
            "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "X-Repo-Commit": COMMIT,
        }
        if key in self.unstated:
            headers["X-Linked-ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        return _send(request, 302, b"", headers)

    def _send_blob(self, request: BaseHTTPRequestHandler, path: str) -> None:
        key = self.key(path)
        if key is None:
            return _send(request, 404, b"no", {"Content-Type": "text/plain"})
        fault, rng = self.faults.draw(request.path, has_body=True)
        body = self.bodies.get(key, self.files[key])
        if fault in Faults.STATUS_ONLY:
            return self._fail(request, fault, rng)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if self.without_ranges or request.headers.get("If-Range", etag) != etag:
            asked = None
        first = int(asked[1]) if asked else 0
        headers = {"ETag": etag} if self.etag else {}
        if first >= len(body) > 0:
            return _send(request, 416, b"", {"Content-Range": f"bytes */{len(body)}"})
        if asked:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        rest = body[first:]
        if fault == "flip":
            place = rng.randrange(len(rest))
            rest = rest[:place] + bytes([rest[place] ^ 1]) + rest[place + 1 :]
        cut = rng.randrange(len(rest)) if fault in ("cut", "short", "stall") and rest else None
        if self.breaks_after is not None and request.command == "GET":
            cut, self.breaks_after = self.breaks_after, None  # this once
        if self.breaks_always is not None:
            cut = min(int(self.breaks_always * len(body)) + 1, len(rest))
            cut = None if cut == len(rest) else cut
        sent = rest if cut is None else rest[:cut]
        headers["Content-Length"] = str(len(rest))
        return self._send_some(request, 206 if asked else 200, headers, sent, cut, fault)

    def _send_some(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        sent: bytes,
        cut: int | None,
        fault: str | None,
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        try:
            if self.trickles:
                for place in range(len(sent)):
                    request.wfile.write(sent[place : place + 1])
                    time.sleep(0.05)
            request.wfile.write(sent)
            if fault == "stall":
                time.sleep(self.stall_seconds)
        except OSError:  # who asked has gone away
            cut = 0
        if cut is not None:
            request.close_connection = True
            if fault == "cut":  # a reset rather than an end
                linger = struct.pack("ii", 1, 0)
                request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _fail(self, request: BaseHTTPRequestHandler, fault: str | None, rng: random.Random) -> None:
        if fault == "page":
            return _send(request, 302, b"", {"Location": f"{self.url}/login"})
        if fault == "429":
            wait = rng.choice(["0", formatdate(time.time(), usegmt=True)])
            return _send(request, 429, b"slower", {"Retry-After": wait})
        return _send(request, rng.choice([500, 502, 503]), b"oh", {})

    def _send_tree(self, request: BaseHTTPRequestHandler, repo: str, folder: str) -> None:
        prefix = f"{repo}/{folder}/"
        found = sorted(key for key in self.files if key.startswith(prefix))
        if not found:
            return _send(request, 404, b'{"error": "no"}', {"Content-Type": "application/json"})
        fault, rng = self.faults.draw(request.path, has_body=False)
        if fault:
            return self._fail(request, fault, rng)
        entries = [self._entry(key.removeprefix(f"{repo}/"), self.files[key]) for key in found]
        entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": f"{folder}/old"})
        return _send_json(request, entries)

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
        size = len(content)
        return {"type": "file", "oid": "0" * 40, "size": size, "lfs": lfs, "path": path}

    def _send_listing(
        self, request: BaseHTTPRequestHandler, repo: str, config: str, split: str
    ) -> None:
        prefix = f"{repo}/{config}/{split}/"
        names = sorted(key.rpartition("/")[2] for key in self.files if key.startswith(prefix))
        where = f"{self.url}/api/datasets/{repo}/parquet/{config}/{split}"
        return _send_json(request, [f"{where}/{name}" for name in names])


class _Server(ThreadingHTTPServer):
    """Can end the connections that a client keeps open, as a server that goes away does."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that are killed are part of these tests

    def hang_up(self) -> None:
        for request in list(self.open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


def _send(
    request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
) -> None:
    request.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


def _send_json(request: BaseHTTPRequestHandler, value: object) -> None:
    _send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def fill_for(hub: Hub, externals: Iterable[External]) -> list[External]:
    """Lets the hub serve everything of a list, and returns what to ask for.

    That is the list itself, but that stand-ins for files whose SHA-256 the registry states have
    none there: nothing else has those.
    """
    served = []
    for external in externals:
        source = external.source
        match source:
            case HubCorpus():
                name = source.pattern.format(int(external.part))
                texts = [f"{external.part}: {text}" for text in TEXTS]
                hub.files[f"{source.repo}/{name}"] = shard(texts)
            case HubTable():
                folder = "/".join(source.splits[external.part])
                hub.files[f"{source.repo}/{folder}/0000.parquet"] = table(source.name)
            case PlainFile() | Archive():
                parts = urlsplit(source.url)
                content = core_bundle() if isinstance(source, Archive) else plain(source.name)
                hub.files[f"{parts.netloc}{parts.path}"] = content
                external = replace(external, source=replace(source, sha256=None))
        served.append(external)
    return served
