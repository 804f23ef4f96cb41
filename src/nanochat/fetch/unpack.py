"""Reads the tar of pack.py into a base folder, from a file or as it arrives.

    with open("data.tar", "rb") as handle:
        print(unpack(base_dir, handle))

Only what the manifest lists is accepted, in its order, and only below base_data/ and downloads/.
Each thing gets its name when all of it is there and has its SHA-256. What lies there already and is
the same stays as it is, so that an unpacking that broke is taken up by running it again.
"""

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from shutil import rmtree
from typing import BinaryIO, Literal

from nanochat.errors import BadInput, DamagedArtefact
from nanochat.fetch.meter import Count, with_meter
from nanochat.fetch.pack import Packed, Thing, parse_manifest, tar_errors
from nanochat.fetch.room import format_bytes, require_room
from nanochat.fetch.verify import sha256_while
from nanochat.fetch.workspace import alone, publish
from nanochat.files import atomic_write, read_json

CHUNK = 1 << 20
State = Literal["absent", "there", "damaged", "other"]
"""Of a thing on disk beside the one in the tar: not there, the same, not what its own record says,
or something else, which nobody but its owner may remove."""


def unpack(base_dir: Path, source: BinaryIO) -> str:
    """Unpacks everything, and says in a sentence what was done.

    Raises BadInput for a tar that is none of ours, or where something else has the name of what is
    in it (that stays, and the rest is unpacked); DamagedArtefact for a tar that is cut or damaged;
    DiskError.
    """
    with tar_errors("nothing was unpacked"), tarfile.open(fileobj=source, mode="r|") as tar:
        things = parse_manifest(tar)
        states = _states(base_dir, things)
        arriving = [thing for thing in things if states[thing.path] in ("absent", "damaged")]
        members = [member for thing in arriving for member in thing.members]
        require_room(base_dir, sum(member.bytes for member in members), len(members))
        total = sum(member.bytes for thing in things for member in thing.members)

        def work(count: Count) -> None:
            for number, thing in enumerate(things):
                with tar_errors(f"{number} of {len(things)} downloads are complete and stay"):
                    _Unpacking(base_dir, tar, count).take(thing, states[thing.path])

        with_meter(work, f"unpacking {format_bytes(total)}", total)
    return _summary(base_dir, states)


class _Unpacking:
    """Takes the members of the tar as they come."""

    def __init__(self, base_dir: Path, tar: tarfile.TarFile, count: Count) -> None:
        self._base_dir, self._tar, self._count = base_dir, tar, count

    def take(self, thing: Thing, state: State) -> None:
        """The next thing: its files, its record and its origin."""
        writes = state in ("absent", "damaged")
        if writes:
            path = self._base_dir / thing.path
            with alone(path, print) as workspace, _removed(workspace / "unpacked") as arrived:
                for file in thing.files:
                    relative = PurePosixPath(file.path).relative_to(thing.path)
                    self._write(file, arrived / relative)
                publish(arrived, path)
        else:
            for file in thing.files:
                self._skip(file)
        record = self._base_dir / thing.record.path
        good = state == "there" and _vouched(self._base_dir, thing) == _sums(thing)
        self._small(thing.record, None if state == "other" or good else record)
        if thing.fetched:
            origin = self._base_dir / thing.fetched.path
            known = state == "there" and origin.exists()
            self._small(thing.fetched, None if state == "other" or known else origin)

    def _write(self, member: Packed, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as handle:
            for chunk in self._chunks(member):
                handle.write(chunk)

    def _small(self, member: Packed, target: Path | None) -> None:
        content = b"".join(self._chunks(member))
        if target:
            with atomic_write(target) as handle:
                handle.write(content)

    def _skip(self, member: Packed) -> None:
        self._next(member)
        self._count(member.bytes)

    def _chunks(self, member: Packed) -> Iterator[bytes]:
        """The content of the next member; raises after its last chunk where that was damaged."""
        content, digest = self._tar.extractfile(self._next(member)), hashlib.sha256()
        assert content is not None
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            self._count(len(chunk))
            yield chunk
        if digest.hexdigest() != member.sha256:
            raise tarfile.ReadError(f"{member.path} has another SHA-256 than its manifest says")

    def _next(self, member: Packed) -> tarfile.TarInfo:
        """The header of the next member, which has to be that of `member`."""
        found = self._tar.next()
        if found is None:
            raise tarfile.ReadError(f"it ends before {member.path}")
        if (found.name, found.size) != (member.path, member.bytes) or not found.isreg():
            raise BadInput(
                f"the tar holds {found.name!r} where its manifest has {member.path}, of "
                f"{member.bytes:,} bytes: use one that `nanochat data pack` made"
            )
        return found


@contextmanager
def _removed(path: Path) -> Iterator[Path]:
    """A name for a file or a folder that is gone afterwards, unless it was renamed."""
    _remove(path)
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        rmtree(path)
    path.unlink(missing_ok=True)


# --- what is there already ----------------------------------------------------------------------


def _states(base_dir: Path, things: Sequence[Thing]) -> dict[str, State]:
    """How each thing lies there now. Reads what has the name of something in the tar."""
    paths = [base_dir / file.path for thing in things for file in thing.files]
    total = sum(path.stat().st_size for path in paths if path.is_file())

    def work(count: Count) -> dict[str, State]:
        return {thing.path: _state(base_dir, thing, count) for thing in things}

    return with_meter(work, "comparing with what is there", total)


def _state(base_dir: Path, thing: Thing, count: Count) -> State:
    path, wanted = base_dir / thing.path, _sums(thing)
    if not path.is_file() and not any(file.is_file() for file in path.rglob("*")):
        return "absent"  # or an empty folder, as Snakemake makes it before a download
    own = _vouched(base_dir, thing) or {}
    found = {
        name: sha256_while(base_dir / name, count) if (base_dir / name).is_file() else None
        for name in {**wanted, **own}
    }
    if all(found[name] == sha256 for name, sha256 in wanted.items()):
        return "there"
    damaged = any(found[name] != sha256 for name, sha256 in own.items())
    return "damaged" if damaged else "other"


def _sums(thing: Thing) -> dict[str, str]:
    return {file.path: file.sha256 for file in thing.files}


def _vouched(base_dir: Path, thing: Thing) -> dict[str, str] | None:
    """What the record that lies on disk says of the thing's files; None where none can be read."""
    path = base_dir / thing.record.path
    try:
        record = read_json(path, "") if path.exists() else {}
        if "files" in record:
            files = record["files"].items()
            return {f"{thing.path}/{name}": str(facts["sha256"]) for name, facts in files}
        return {thing.path: str(record["sha256"])}
    except (DamagedArtefact, KeyError, TypeError, AttributeError):
        return None


def _summary(base_dir: Path, states: Mapping[str, State]) -> str:
    """What was done, in a sentence. Raises BadInput where something else was in the way."""
    other = [path for path, state in states.items() if state == "other"]
    if other:
        listed = ", ".join(other[:4]) + (", ..." if len(other) > 4 else "")
        raise BadInput(
            f"{len(other)} of {len(states)} downloads are there already with other content, which "
            f"was kept ({listed}; the others are complete): move these out of {base_dir} and "
            "run this again, or go on with them"
        )
    counts = {
        "unpacked": sum(state == "absent" for state in states.values()),
        "there already": sum(state == "there" for state in states.values()),
        "damaged before, and replaced": sum(state == "damaged" for state in states.values()),
    }
    done = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{len(states)} downloads in {base_dir}: {done}"
