"""Files in the folders of downloads that nobody asked for.

    for check in foreign_files(disk): check.path, check.bytes, check.seen

A file belongs there if some config could have downloaded it, by the registry. What is left are
leftovers of transfers that did not end, and files that somebody put there. Reads only.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from nanochat.errors import DamagedArtefact
from nanochat.fetch.archive import SNAKEMAKES
from nanochat.fetch.claims import Check, size_of
from nanochat.fetch.externals import FETCHED
from nanochat.files import read_json
from nanochat.paths import Paths
from nanochat.registry import CORPORA, REGISTRY, TABLES, Archive, PlainFile

LEFTOVERS = (".part-", ".tmp-")


def foreign_files(disk: Paths) -> list[Check]:
    """One check for each, and one for a whole folder that is a leftover."""
    corpora = [disk.corpus_folder(name) for name in CORPORA]
    known = _known_files(disk)
    archives = {folder: _contents(disk, folder) for folder in _archives(disk)}
    found = []
    for path in _walk([*corpora, disk.downloads]):
        if path.name.startswith(LEFTOVERS):
            seen = "left by a transfer that did not end"
        elif path in known or _is_shard(path) or _is_of_archive(path, archives):
            continue
        else:
            seen = "nobody asked for it"
        size = whole_size(path)
        found.append(Check(path, "foreign", seen=seen, bytes=size, remove=(path,)))
    return found


def whole_size(path: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    if not path.is_dir():
        return size_of(path)
    found = os.walk(path, followlinks=True)
    return sum(size_of(Path(place) / name) for place, _, names in found for name in names)


def _walk(folders: list[Path]) -> Iterator[Path]:
    """Every file below `folders`, and leftover folders as a whole."""
    for folder in folders:
        for place, below, names in os.walk(folder):
            leftover = [name for name in below if name.startswith(LEFTOVERS)]
            below[:] = sorted(set(below) - set(leftover))
            yield from (Path(place) / name for name in sorted((*names, *leftover)))


def _known_files(disk: Paths) -> set[Path]:
    """Tables and plain files of the registry, with what is written beside them."""
    files = [disk.table(table.name, split) for table in TABLES.values() for split in table.splits]
    files += [
        disk.plain_file(file.name, file.file)
        for file in REGISTRY.values()
        if isinstance(file, PlainFile)
    ]
    things = [*files, *_archives(disk)]
    records = [disk.record_of(path) for path in things]
    return {*files, *records, *map(_fetched, things)}


def _archives(disk: Paths) -> list[Path]:
    return [disk.archive(name) for name, kind in REGISTRY.items() if isinstance(kind, Archive)]


def _contents(disk: Paths, folder: Path) -> set[str] | None:
    """The files of an archive, from its record; None where nobody knows them."""
    record = disk.record_of(folder)
    try:
        return set(read_json(record, "")["files"]) if record.exists() else None
    except (DamagedArtefact, KeyError, TypeError):
        return None


def _is_of_archive(path: Path, archives: dict[Path, set[str] | None]) -> bool:
    for folder, contents in archives.items():
        if path.is_relative_to(folder):
            name = path.relative_to(folder).as_posix()
            return contents is None or name in contents or path.name == SNAKEMAKES
    return False


def _is_shard(path: Path) -> bool:
    """A shard of the corpus that the folder is named after, its record, or its origin."""
    folder = path.parent.parent if path.parent.name == FETCHED else path.parent
    corpus = CORPORA.get(folder.name)
    if corpus is None:
        return False
    name = path.name.removesuffix(".json").removesuffix(".parquet")
    number = name.rpartition("_")[2]
    if not number.isdigit() or int(number) >= corpus.shards:
        return False
    shard = Path(corpus.pattern.format(int(number)))
    here = {shard.name, shard.with_suffix(".json").name}
    return path.name in ({f"{shard.name}.json"} if path.parent.name == FETCHED else here)


def _fetched(path: Path) -> Path:
    return path.parent / FETCHED / f"{path.name}.json"
