"""Everything that a config has from elsewhere as one tar file, for a place without internet.

    pack(disk, externals(disk), Path("data.tar"))      # or an open stream: `| ssh ... unpack -`

The first member, manifest.json, lists all others in their order with size and SHA-256; their paths
are those below the base folder. Each file is read once, and compared with its record on the way.
unpack.py reads what this writes.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.fetch.claims import FETCH, Check, Findings, look_at_external
from nanochat.fetch.externals import FETCHED, External
from nanochat.fetch.meter import Count, with_meter
from nanochat.fetch.room import format_bytes, require_room
from nanochat.files import atomic_write, sha256_of
from nanochat.paths import Paths

MANIFEST = "manifest.json"
FORMAT = "nanochat downloads 1"
FOLDERS = ("base_data", "downloads")
"""Where everything from elsewhere lies, below the base folder."""
MOST_SMALL = 64 << 20  # bytes of a manifest or of a record
NOT_OURS = "that is no tar that `nanochat data pack` made: use one that it did"
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Packed:
    """A member of the tar; `path` is relative to the base folder."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Thing:
    """Something from elsewhere: one file, or a folder with several, its record and its origin."""

    path: str
    files: tuple[Packed, ...]
    record: Packed
    fetched: Packed | None

    @property
    def members(self) -> tuple[Packed, ...]:
        """In the order of the tar: what vouches for the files comes after them."""
        return (*self.files, self.record, *([self.fetched] if self.fetched else []))


def pack(disk: Paths, wanted: Sequence[External], target: Path | BinaryIO) -> None:
    """Writes the tar: to a file, which appears whole or not at all, or to a stream.

    Raises BadInput where there is nothing to pack, MissingArtefact where something is not there or
    has no record, DamagedArtefact where a file is not what its record says, DiskError.
    """
    if not wanted:
        raise BadInput("this config reads nothing from elsewhere: there is nothing to pack")
    things, places = _things(disk, wanted)
    size = sum(BLOCK * 2 + member.bytes for thing in things for member in thing.members)
    if not isinstance(target, Path):
        return _write(things, places, target)
    require_room(target.parent, size, 1)
    with atomic_write(target) as handle:
        _write(things, places, handle)


def parse_manifest(tar: tarfile.TarFile) -> list[Thing]:
    """Reads the first member; raises BadInput where it is no manifest, or leads elsewhere."""
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MOST_SMALL:
        raise BadInput(NOT_OURS)
    opened = tar.extractfile(first)
    assert opened is not None
    try:
        manifest = json.loads(opened.read())
        if manifest["format"] != FORMAT:
            raise BadInput(f"the tar is of the format {manifest['format']!r}: this reads {FORMAT}")
        things = [_parse_thing(thing) for thing in manifest["things"]]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadInput(NOT_OURS) from exc
    names = [member.path for thing in things for member in thing.members]
    if len(set(names)) < len(names):
        raise BadInput(NOT_OURS)
    return things


def _parse_thing(given: dict[str, Any]) -> Thing:
    fetched = given["fetched"] and Packed(**given["fetched"])
    files = tuple(Packed(**file) for file in given["files"])
    thing = Thing(str(given["path"]), files, Packed(**given["record"]), fetched)
    here = _safe(thing.path)
    small = thing.members[len(files) :]
    beside = [_safe(member.path).parent for member in small]
    if not all(_safe(file.path).is_relative_to(here) for file in files) or not files:
        raise ValueError
    if any(folder not in (here.parent, here.parent / FETCHED) for folder in beside):
        raise ValueError
    if (
        min(file.bytes for file in thing.members) < 0
        or max(file.bytes for file in small) > MOST_SMALL
    ):
        raise ValueError
    return thing


def _safe(name: str) -> PurePosixPath:
    """A path below the folders of downloads; raises BadInput for any other."""
    path = PurePosixPath(name)
    inside = len(path.parts) > 1 and path.parts[0] in FOLDERS and ".." not in path.parts
    if not inside or str(path) != name or not name.isprintable():
        raise BadInput(f"the tar holds {name!r}, which leads elsewhere: it is refused")
    return path


@contextmanager
def tar_errors(standing: str) -> Iterator[None]:
    """What tarfile finds wrong with a tar that is read; `standing` is how far that was."""
    try:
        yield
    except (tarfile.TarError, EOFError) as exc:
        raise DamagedArtefact(
            f"the tar is cut or damaged ({exc}; {standing}): get it again, and run this again to "
            "go on"
        ) from exc


def _things(disk: Paths, wanted: Sequence[External]) -> tuple[list[Thing], dict[str, Path]]:
    """What to pack, and where each member lies."""
    things: list[Thing] = []
    places: dict[str, Path] = {}
    unfit: list[Check] = []
    for external in wanted:
        findings = Findings()
        look_at_external(disk, external, findings)
        unfit += findings.checks
        if findings.checks:
            continue
        thing, of_thing = _thing(disk, external, findings)
        things.append(thing)
        places |= of_thing
    if unfit:
        states = ", ".join(dict.fromkeys(check.status for check in unfit))
        raise MissingArtefact(
            f"cannot pack: {len(unfit)} of {len(wanted)} downloads are {states} (the first is "
            f"{unfit[0].path}): run `{FETCH}`, or `nanochat data verify` to see all"
        )
    return things, places


def _thing(disk: Paths, external: External, findings: Findings) -> tuple[Thing, dict[str, Path]]:
    """One external with members relative to the base folder, wherever they lie: it may be in the
    shared folder."""

    def inside(path: Path) -> str:
        return path.relative_to(disk.base_dir).as_posix()

    if external.is_there or external.shared is None:
        root, record, fetched = external.path, external.record, external.fetched
    else:
        root, record = external.shared, disk.record_of(external.shared)
        fetched = root.parent / external.fetched.relative_to(external.path.parent)
    files, places = [], {}
    for claim in findings.claims:
        name = inside(external.path / claim.path.relative_to(root))
        size = claim.path.stat().st_size if claim.path.is_file() else -1
        if size < 0 or claim.bytes not in (None, size):
            raise _damaged(claim.path, claim.expected)
        files.append(Packed(name, size, claim.sha256))
        places[name] = claim.path
    beside = []
    for ours, path in ((external.record, record), (external.fetched, fetched)):
        if path.is_file():
            beside.append(Packed(inside(ours), path.stat().st_size, sha256_of(path)))
            places[inside(ours)] = path
    origin = beside[1] if len(beside) > 1 else None
    return Thing(inside(external.path), tuple(files), beside[0], origin), places


def _write(things: Sequence[Thing], places: dict[str, Path], handle: BinaryIO) -> None:
    content = json.dumps({"format": FORMAT, "things": [asdict(thing) for thing in things]})
    members = [member for thing in things for member in thing.members]
    total = sum(member.bytes for member in members)

    def work(count: Count) -> None:
        with tarfile.open(fileobj=handle, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            about = tarfile.TarInfo(MANIFEST)
            about.size = len(content.encode())
            tar.addfile(about, io.BytesIO(content.encode()))
            for member in members:
                _add(tar, member, places[member.path], count)

    with_meter(work, f"packing {format_bytes(total)}", total)


def _add(tar: tarfile.TarFile, member: Packed, place: Path, count: Count) -> None:
    info = tarfile.TarInfo(member.path)
    info.size, info.mtime = member.bytes, int(place.stat().st_mtime)
    with open(place, "rb", buffering=0) as opened:
        reader = _Hashing(opened, count)
        try:
            tar.addfile(info, reader)  # type: ignore[arg-type]  # it only reads
        except OSError as exc:
            if exc.errno is not None:
                raise
            raise _damaged(place, "longer") from exc  # it shrank meanwhile
    if reader.digest.hexdigest() != member.sha256:
        raise _damaged(place, f"SHA-256 {member.sha256[:12]}")


class _Hashing:
    """A file whose bytes are hashed and counted as they are read."""

    def __init__(self, opened: io.FileIO, count: Count) -> None:
        self._opened, self._count = opened, count
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self._opened.read(size) or b""
        self.digest.update(chunk)
        self._count(len(chunk))
        return chunk


def _damaged(path: Path, expected: str) -> DamagedArtefact:
    return DamagedArtefact(
        f"cannot pack: {path} is not what its record says ({expected}): run `nanochat data verify` "
        "and the commands it lists"
    )
