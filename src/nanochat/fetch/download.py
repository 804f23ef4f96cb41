"""Downloads what the registry names, each thing whole and checked before it gets its name.

    nanochat data download climbmix-400b-shuffle --part 00007
    nanochat data download gsm8k --part train
    nanochat data fetch                         # all that the config needs, in parallel

Writes the file (an archive's folder), what it holds beside it (External.record; of a shard another
rule writes that), and when and from where it came (External.fetched). Variables that are honoured:
web.py, transfer.py and patience.py.
"""

import multiprocessing
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nanochat.data.shards import count_documents, read_documents, record_shard
from nanochat.errors import BadInput, DamagedArtefact, DiskError, DownloadError, NanochatError
from nanochat.fetch.archive import facts_of_folder, unpack
from nanochat.fetch.display import Stopped, Transfers, Watch, shown
from nanochat.fetch.externals import External
from nanochat.fetch.hub_table import check_columns, files_of, join
from nanochat.fetch.patience import ANOTHER_SPEAKER, Unreachable
from nanochat.fetch.records import (
    circumstances,
    facts_of_file,
    record_of,
    record_what_is_there,
)
from nanochat.fetch.transfer import Arrived, fetch
from nanochat.fetch.web import Remote, hub_file, mirrored
from nanochat.fetch.workspace import alone, is_unfinished, publish
from nanochat.files import make_directory, read_json, write_json
from nanochat.progress import track
from nanochat.registry import Archive, HubCorpus, HubTable, PlainFile

MOST_PROCESSES = 4  # that record shards at once
NAMED = 3  # files of one kind of failure that are named
MADE_BY = "nanochat data fetch"
VARYING = re.compile(r"https?://\S+|/\S+|\d[\d,.]*")
"""What differs between two failures of one kind."""


@dataclass
class _Made:
    """What is ready in the workspace: a file or folder, and what is known of it."""

    path: Path
    arrived: list[Arrived]
    facts: dict[str, Any] = field(default_factory=dict)


def download(external: External, watch: Watch | None = None) -> None:
    """Downloads one thing; does nothing where it is there already.

    Without a `watch` its progress, and at the end a line, is printed to stderr. Raises
    DownloadError (network, server, or not what was asked for), DiskError, or DamagedArtefact for
    a file that was there and is not the one that the registry names.
    """
    if watch is None:
        started = time.monotonic()
        with shown(1, external.about_bytes) as transfers:
            watch = transfers.begin(label(external), external.about_bytes)
            there = external.is_there
            download(external, watch)
            seconds = time.monotonic() - started
            transfers.say(_last_line(external, None if there else watch.done, seconds))
        return
    if external.is_there and not is_unfinished(external.path):
        return record_what_is_there(external)
    with alone(external.path, watch.say) as workspace:
        if external.is_there:  # by another process meanwhile, or before one was killed
            record_what_is_there(external)
        else:
            _download(external, workspace, watch)


def download_all(externals: Sequence[External], connections: int = 8) -> None:
    """Downloads what is not there yet, `connections` at a time, and shows how far it is.

    One failure does not stop the others, but a host that nobody answers at is not asked again,
    and nothing more is begun on a disk that is full. At the end each kind of failure is said once,
    and DownloadError raised.
    """
    missing = [external for external in externals if _is_wanting(external)]
    with shown(len(missing), sum(each.about_bytes for each in missing)) as transfers:
        batch = _Batch(transfers)
        with ThreadPoolExecutor(connections) as pool:
            try:
                for _ in pool.map(batch.download, missing):
                    pass
            except BaseException:  # Ctrl-C: what runs ends at its next chunk, and keeps its part
                transfers.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    if batch.failures:
        *others, last = _sentences(batch.failures)
        for sentence in others:
            print(f"error: {sentence}", file=sys.stderr)
        raise DownloadError(last)


def record_all(externals: Sequence[External]) -> None:
    """Records the shards that have no record, on several processes. Raises what `record_shard`
    raises, of the first that is no shard."""
    shards = [each for each in externals if isinstance(each.source, HubCorpus)]
    new = [each for each in shards if not each.record.exists()]
    if not new:
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    with ProcessPoolExecutor(min(MOST_PROCESSES, len(new)), mp_context=context) as pool:
        made = pool.map(record_shard, [each.path for each in new], [each.record for each in new])
        for _ in track(made, "recording", len(new), "shards"):
            pass


def _is_wanting(external: External) -> bool:
    """Whether it is not here, or only in part; a shard's record is made by `record_all`."""
    unrecorded = not isinstance(external.source, HubCorpus) and not external.record.exists()
    return not external.is_there or unrecorded or is_unfinished(external.path)


class _Batch:
    """Downloads in several threads that learn from each other's failures."""

    def __init__(self, transfers: Transfers) -> None:
        self.transfers = transfers
        self.failures: list[tuple[External, NanochatError]] = []
        self.hopeless: dict[str | None, NanochatError] = {}
        """By host, or None for all: why nothing more is begun there."""

    def download(self, external: External) -> None:
        host = endpoint_of(external)
        known = self.hopeless.get(None) or self.hopeless.get(host)
        if known or self.transfers.stop.is_set():
            if known:
                self.failures.append((external, known))
            return
        watch = self.transfers.begin(label(external), external.about_bytes)
        arrived = False
        try:
            download(external, watch)
            arrived = True
        except NanochatError as exc:
            if isinstance(exc, (Unreachable, DiskError)):
                self.hopeless[host if isinstance(exc, Unreachable) else None] = exc
            self.failures.append((external, exc))
        except Stopped:
            pass
        finally:
            watch.ended(arrived)


def write_manifest(externals: Sequence[External], path: Path) -> None:
    """Lists everything that a run has from elsewhere, with its SHA-256, licence and origin.

    `path` is <base_dir>/runs/<run>/downloads.json. Raises MissingArtefact where a record is not
    there.
    """
    base_dir = path.parents[2]
    write_json(path, {"files": [_entry(external, base_dir) for external in externals]})


def label(external: External) -> str:
    """`shard_00007.parquet`, `gsm8k/train`, `words_alpha.txt`, `core_bundle`."""
    if isinstance(external.source, HubTable):
        return f"{external.source.name}/{external.part}"
    return external.path.name


def endpoint_of(external: External) -> str:
    """The host that is asked for it first."""
    match external.source:
        case HubCorpus() | HubTable():
            return urlsplit(hub_file("", "", "")).netloc
        case PlainFile() | Archive():
            return urlsplit(mirrored(external.source.url)).netloc


def _download(external: External, workspace: Path, watch: Watch) -> None:
    """What it holds and how it came get their names before it does, so that a process that is
    killed in between leaves nothing that looks finished and is not."""
    match external.source:
        case HubCorpus():
            made = _shard(external.source, external, workspace, watch)
        case HubTable():
            made = _table(external.source, external.part, workspace, watch)
        case PlainFile():
            made = _plain_file(external.source, workspace, watch)
        case Archive():
            made = _archive(external.source, workspace, watch)
    origin = workspace / external.fetched.name
    write_json(origin, circumstances(external.source, made.arrived))
    publish(origin, make_directory(external.fetched.parent) / origin.name)
    if made.facts:
        record = workspace / external.record.name
        write_json(record, record_of(external, made.facts))
        publish(record, external.record)
    publish(made.path, external.path)
    if isinstance(external.source, HubCorpus):
        _record_anew(external, made.arrived[0].sha256)


def _record_anew(external: External, sha256: str) -> None:
    """A record of earlier content, if there is one, gives way to that of what came."""
    if not external.record.exists():
        return
    with suppress(DamagedArtefact):
        if read_json(external.record, MADE_BY).get("sha256") == sha256:
            return
    record_shard(external.path, external.record)


def _shard(source: HubCorpus, external: External, workspace: Path, watch: Watch) -> _Made:
    name = source.pattern.format(int(external.part))
    remote = Remote(hub_file(source.repo, source.revision, name), hub=True)
    part = workspace / external.path.name
    return _Made(part, [fetch(remote, part, watch, _check_shard)])


def _check_shard(path: Path, stated: bool) -> None:
    """A file without a known checksum is read to its end."""
    try:
        count_documents(path)
        for _ in () if stated else read_documents(path):
            pass
    except (BadInput, DamagedArtefact) as exc:
        seen = str(exc).rpartition(": ")[0].replace(f"{path.parent}/", "")
        raise DownloadError(seen) from exc


def _table(source: HubTable, part: str, workspace: Path, watch: Watch) -> _Made:
    def check(path: Path, stated: bool) -> None:
        check_columns(path, source.columns, whole=not stated)

    arrived, raw = [], []
    remotes = files_of(source, part, watch)
    for number, remote in enumerate(remotes):
        watch.next_of(sum(each.size or 0 for each in remotes))
        raw.append(workspace / f"{number:04d}.parquet")
        arrived.append(fetch(remote, raw[-1], watch, check))
    whole = workspace / f"{part}.parquet"
    try:
        rows = join(raw, whole, source.columns)
    except DownloadError as exc:  # they came whole: coming again changes nothing
        for path in (*raw, whole):
            path.unlink(missing_ok=True)
        seen = f"{arrived[0].remote.shown} came, but {exc}"
        raise DownloadError(f"{seen}: {ANOTHER_SPEAKER}") from exc
    return _Made(whole, arrived, {**facts_of_file(whole), "rows": rows})


def _plain_file(source: PlainFile, workspace: Path, watch: Watch) -> _Made:
    part = workspace / source.file
    arrived = fetch(Remote(mirrored(source.url), source.sha256), part, watch)
    return _Made(part, [arrived], {"bytes": arrived.size, "sha256": arrived.sha256})


def _archive(source: Archive, workspace: Path, watch: Watch) -> _Made:
    folder = workspace / source.root

    def check(path: Path, stated: bool) -> None:
        unpack(path, source.root, folder, source.files)

    part = workspace / f"{source.name}.zip"
    arrived = fetch(Remote(mirrored(source.url), source.sha256), part, watch, check)
    return _Made(folder, [arrived], facts_of_folder(folder))


def _sentences(failures: Sequence[tuple[External, NanochatError]]) -> list[str]:
    """One sentence for each kind of failure, the first of its kind for all."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for external, error in failures:
        name = label(external)
        kind = VARYING.sub("", str(error).replace(name, ""))
        kinds.setdefault(kind, []).append((name, str(error)))
    return [_one_for_all(alike) for alike in kinds.values()]


def _one_for_all(alike: Sequence[tuple[str, str]]) -> str:
    names = [name for name, _ in alike]
    if len(names) == 1:
        return alike[0][1]
    listed = ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
    return f"{len(names)} files did not arrive ({listed}), for instance: {alike[0][1]}"


def _last_line(external: External, size: int | None, seconds: float) -> str:
    if size is None:
        return f"{external.path} is there already"
    rate = size / 1e6 / max(seconds, 1e-9)
    return f"{external.path}: {size / 1e6:.1f} MB in {seconds:.1f} s ({rate:.1f} MB/s)"


def _entry(external: External, base_dir: Path) -> dict[str, Any]:
    record = read_json(external.record, MADE_BY)
    inside = external.path.is_relative_to(base_dir)
    entry = {
        "name": external.source.name,
        "part": external.part,
        "file": external.path.name,
        "path": str(external.path.relative_to(base_dir) if inside else external.path),
        "bytes": record.get("file_bytes", record["bytes"]),  # of a shard, "bytes" are its text's
        "sha256": record["sha256"],
        "licence": external.source.licence,
    }
    entry |= {key: record[key] for key in ("rows", "documents") if key in record}
    if external.fetched.exists():
        fetched = read_json(external.fetched, MADE_BY)
        origin = fetched["from"][0]
        replaced = isinstance(external.source, HubCorpus) and origin["sha256"] != record["sha256"]
        if not replaced:  # by another file, whose origin nobody knows
            entry["fetched"] = fetched["fetched"]
            entry |= {key: origin[key] for key in ("url", "commit", "revision")}
    return entry
