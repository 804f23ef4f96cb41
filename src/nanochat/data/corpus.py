"""The corpus: where the text to train on comes from, when it is not downloaded.

    build_embedded(directory, train_shards=8)             # the documentation on this machine
    import_text(Path("my_texts"), directory, train_shards=8)      # .txt, .jsonl, .parquet

Both write `train_shards` parquet shards and, last, one validation shard, with a record each (see
data/shards.py). Whatever is held out is chosen by hash, one part in 48, so that more text never
moves a document from one side to the other.

The embedded corpus reads the standard library and the installed packages: docstrings (as
data/docstrings.py lays them out), pydoc's reference topics, package descriptions. A module is held
out whole, and what the held-out modules say is left out of training. One installation always gives
the same bytes.
"""

import hashlib
import importlib.metadata
import json
import multiprocessing
import sysconfig
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from nanochat.data.docstrings import Item, is_licence, join_items, module_items
from nanochat.data.shards import read_documents, write_shards
from nanochat.data.sources import source_files
from nanochat.errors import BadInput
from nanochat.progress import track

OWN_PACKAGE = "nanochat"
SKIPPED_FOLDERS = {
    *("site-packages", "dist-packages"),  # walked on their own, not as a part of the library
    *("test", "tests", "testing", "_testing", "idle_test"),
    *("_vendor", "vendor", "vendored", "third_party"),  # copies of other packages
}
HELD_OUT_ONE_IN = 48
SHORTEST_DOCUMENT = 200
LONG_LINE = 30
LONGEST_TXT = 64 * 1024
LONGEST_DESCRIPTION = 20_000  # what follows in a package description is its changelog


def build_embedded(directory: Path, train_shards: int, workers: int = 2) -> list[dict[str, Any]]:
    """Writes the embedded corpus on `workers` processes; returns the records of its shards."""
    by_module = {**_module_docstrings(workers), **_pydoc_topics(), **_package_descriptions()}
    names = sorted(by_module, key=lambda name: (not _is_held_out(_digest(name)), name))
    known: set[str] = set()
    train: list[str] = []
    validation: list[str] = []
    for name in names:  # the held-out ones first, so that training repeats nothing of them
        documents = join_items(_not_yet_said(by_module[name], known))
        side = validation if _is_held_out(_digest(name)) else train
        side += [document for document in documents if len(document) >= SHORTEST_DOCUMENT]
    train.sort(key=_digest)
    validation.sort(key=_digest)
    placed = [(number % train_shards, text) for number, text in enumerate(train)]
    placed += [(train_shards, text) for text in validation]
    records = write_shards(placed, directory, train_shards + 1, {"source": "embedded"})
    _print_totals("documentation in this Python installation", records)
    return records


def import_text(source: Path, directory: Path, train_shards: int) -> list[dict[str, Any]]:
    """Writes a user's own text as shards, without its exact duplicates; returns their records.

    One .txt file is one document, cut at an empty line after every 64 KiB; .jsonl files hold
    {"text": ...} a line; .parquet files a column `text`. The text is read twice, and never held in
    memory. Raises BadInput where a file cannot be read as what its name says.
    """
    _, files = source_files(source)
    digests = {_digest(text) for text in _all_documents(files, "counting")}
    if not digests:
        raise BadInput(f"data.source {source} holds no text: give files with some text in them")
    held_out = {digest for digest in digests if _is_held_out(digest)} or {min(digests)}
    placed = _placed(_all_documents(files, "importing"), held_out, train_shards)
    records = write_shards(placed, directory, train_shards + 1, {"source": "text"})
    _print_totals(str(source), records)
    return records


def _placed(
    documents: Iterable[str], held_out: set[bytes], train_shards: int
) -> Iterator[tuple[int, str]]:
    seen: set[bytes] = set()
    trained = 0
    for text in documents:
        digest = _digest(text)
        if digest in seen:
            continue
        seen.add(digest)
        if digest in held_out:
            yield train_shards, text
        else:
            yield trained % train_shards, text
            trained += 1


def _all_documents(files: list[Path], doing: str) -> Iterator[str]:
    for path in track(files, f"{doing} text", unit="files"):
        yield from (text for text in _documents_of(path) if text.strip())


def _documents_of(path: Path) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from read_documents(path)
        return
    try:
        with open(path, encoding="utf-8-sig") as handle:
            yield from _cut_text(handle) if suffix == ".txt" else _json_lines(handle, path)
    except UnicodeDecodeError as exc:
        raise BadInput(
            f"{path} is not UTF-8 (byte 0x{exc.object[exc.start]:02x}): convert it, for example "
            "with `iconv -t utf-8`"
        ) from exc


def _cut_text(lines: Iterable[str]) -> Iterator[str]:
    """Cuts after LONGEST_TXT characters at an empty line, or at any line after twice as many."""
    part: list[str] = []
    size = 0
    for line in lines:
        part.append(line)
        size += len(line)
        if size >= LONGEST_TXT and (not line.strip() or size >= 2 * LONGEST_TXT):
            yield "".join(part)
            part, size = [], 0
    yield "".join(part)


def _json_lines(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as exc:
            text = None
            cause: Exception | None = exc
        else:
            cause = None
        if not isinstance(text, str):
            raise BadInput(
                f'{path}, line {number} is not an object with a string "text": correct that line'
            ) from cause
        yield text.encode("utf-8", "replace").decode()  # JSON can hold half a surrogate pair


def _module_docstrings(workers: int) -> dict[str, list[Item]]:
    """Items of every module found, read on several processes; the order is that of the files."""
    modules = _module_files()
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        read = pool.map(_read_module, modules.items(), chunksize=32)
        found = track(read, "reading documentation", len(modules), "modules")
        return dict(zip(modules, found, strict=True))


def _read_module(named_file: tuple[str, Path]) -> list[Item]:
    module, path = named_file
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return []
    return module_items(source, module)


def _module_files() -> dict[str, Path]:
    """Every module's name and file: standard library, then installed packages."""
    files: dict[str, Path] = {}
    for root in _library_folders():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if SKIPPED_FOLDERS.intersection(parts) or parts[0] == OWN_PACKAGE:
                continue
            if parts[-1].startswith("test_") or parts[-1] == "conftest":
                continue
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            files.setdefault(".".join(parts), path)
    return files


def _library_folders() -> list[Path]:
    folders = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")]
    return [Path(folder) for folder in dict.fromkeys(folders)]


def _pydoc_topics() -> dict[str, list[Item]]:
    """The language reference that `help("assert")` shows."""
    from pydoc_data.topics import topics

    return {
        f"pydoc topic {name}": [Item(f"Python topic: {name}", text.strip())]
        for name, text in topics.items()
    }


def _package_descriptions() -> dict[str, list[Item]]:
    """What packages say of themselves on the package index, without badges and HTML lines."""
    found = {}
    folders = [str(folder) for folder in _library_folders()[1:]]
    for distribution in importlib.metadata.distributions(path=folders):
        about = distribution.metadata
        name = about["Name"]
        body = about.get("Description") or about.get_payload()  # type: ignore[attr-defined]
        if name.lower().startswith(OWN_PACKAGE) or not isinstance(body, str):
            continue
        lines = [line.rstrip() for line in body.splitlines() if not _is_decoration(line)]
        text = "\n".join(lines).encode("utf-8", "replace").decode()[:LONGEST_DESCRIPTION].strip()
        if text and not is_licence(text):
            found[f"package {name}"] = [Item(f"Package {name}: {about['Summary']}", text)]
    return found


def _is_decoration(line: str) -> bool:
    bare = line.strip()
    return bare.startswith(("<", "[![", "![", ".. image::", ".. |", ":target:", ":alt:"))


def _not_yet_said(items: Iterable[Item], known: set[str]) -> Iterator[Item]:
    """Items that are news: at least half of their text is in lines not in `known`, which grows.

    Overloads, wrappers and copies of a class in another backend repeat most of a docstring and
    change a line or two, so comparing whole docstrings would keep nearly all of them.
    """
    for item in items:
        lines = [" ".join(line.split()) for line in item.docstring.splitlines()]
        telling = [line for line in lines if len(line) >= LONG_LINE] or [" ".join(lines)]
        new = sum(len(line) for line in telling if line not in known)
        known.update(telling)
        if 2 * new >= sum(map(len, telling)) and new:
            yield item


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def _is_held_out(digest: bytes) -> bool:
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def _print_totals(what: str, records: list[dict[str, Any]]) -> None:
    documents = sum(record["documents"] for record in records)
    size = sum(record["bytes"] for record in records)
    held_out = records[-1]
    print(
        f"{what}: {documents:,} documents, {size / 1e6:.1f} MB; of these held out for validation: "
        f"{held_out['documents']:,}, {held_out['bytes'] / 1e6:.2f} MB"
    )
