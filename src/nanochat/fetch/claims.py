"""What the records on disk vouch for: one claim a file, before any of the files is read.

    findings = claims_of(disk, externals(disk), corpus_layout(disk))
    findings.claims      # files to be compared with their size and SHA-256
    findings.checks      # what is known already: missing, or without a record that can be read

Reads the records, and the footers of parquet files that have none; writes nothing.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanochat.config import STAGES
from nanochat.data.layout import CorpusLayout
from nanochat.data.rows import mask_path
from nanochat.errors import DamagedArtefact
from nanochat.fetch.externals import External
from nanochat.files import read_json
from nanochat.paths import Paths
from nanochat.registry import Archive, HubCorpus

Status = Literal["ok", "missing", "damaged", "unrecorded", "foreign"]
FETCH = "nanochat data fetch"
MAKE = "snakemake"
NOT_THERE = "not there"


@dataclass(frozen=True)
class Check:
    """A file, and how it was found."""

    path: Path
    status: Status
    expected: str = ""
    seen: str = ""
    bytes: int = 0
    remove: tuple[Path, ...] = ()
    """What has to go, so that `then` makes it anew."""
    then: str = ""
    """The command that makes it, or advice where none does."""

    @property
    def mend(self) -> str:
        """What would mend it, as commands or as advice; empty where nothing has to be."""
        removing = [shlex.join(["rm", "-rf", *map(str, self.remove)])] if self.remove else []
        return " && ".join([*removing, *([self.then] if self.then else [])])

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        shown = {"path": str(self.path), "status": self.status, "bytes": self.bytes}
        return {**shown, "expected": self.expected, "seen": self.seen, "mend": self.mend}


@dataclass(frozen=True)
class Claim:
    """What a record says of a file. `bytes` and `rows` may be unknown."""

    path: Path
    sha256: str
    bytes: int | None = None
    rows: int | None = None
    """Of a parquet file."""
    remove: tuple[Path, ...] = ()
    then: str = MAKE

    @property
    def expected(self) -> str:
        """The claim in words."""
        size = f"{self.bytes:,} bytes, " if self.bytes is not None else ""
        return f"{size}SHA-256 {self.sha256[:12]}"


@dataclass
class Findings:
    """What is to be compared, and what is known without reading it."""

    claims: list[Claim] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)


def claims_of(disk: Paths, wanted: Sequence[External], layout: CorpusLayout) -> Findings:
    """Everything from elsewhere that the config reads, the shards of its corpus, and its packed
    rows. What a later step has not made yet is not missing."""
    findings = Findings()
    for external in wanted:
        look_at_external(disk, external, findings)
    if layout.kind != "download":
        _look_at_shards(layout, findings)
    _look_at_rows(disk, layout, findings)
    return findings


def look_at_external(disk: Paths, external: External, findings: Findings) -> None:
    """A thing from elsewhere: where it belongs, or else in the shared folder."""
    path, record_path = external.path, external.record
    if not external.is_there and external.shared:
        path, record_path = external.shared, disk.record_of(external.shared)
    if not path.exists():
        findings.checks.append(Check(path, "missing", seen=NOT_THERE, then=FETCH))
        return
    record = _record(record_path, path, findings, FETCH)
    # A shard's record stays: with it, what was made from the shard is not made anew.
    is_shard = isinstance(external.source, HubCorpus)
    remove = (path,) if is_shard else (path, record_path)
    anew: dict[str, Any] = {"remove": remove, "then": FETCH}
    try:
        if record is not None and isinstance(external.source, Archive):
            for name, facts in record["files"].items():
                claim = Claim(path / name, str(facts["sha256"]), int(facts["bytes"]), **anew)
                findings.claims.append(claim)
        elif record is not None:
            size, rows = _file_bytes(record), record.get("rows")
            findings.claims.append(Claim(path, str(record["sha256"]), size, rows, **anew))
    except (KeyError, TypeError, ValueError, AttributeError):
        findings.checks.append(_bad_record(record_path, FETCH))


def _look_at_shards(layout: CorpusLayout, findings: Findings) -> None:
    """The shards made here, or a user's own used in place."""
    own = layout.kind == "shards"
    then = f"put it back as it was, or run `{MAKE}` to use it as it is" if own else MAKE
    for path, record_path in zip(layout.shards, layout.records, strict=True):
        if not record_path.exists() and not path.exists():
            continue  # not made yet
        if not path.exists():
            findings.checks.append(Check(path, "missing", seen=NOT_THERE, then=then))
        elif (record := _record(record_path, path, findings, MAKE)) is not None:
            remove = () if own else (path, record_path)
            _claim(findings, record_path, path, record, "sha256", remove, then)


def _look_at_rows(disk: Paths, layout: CorpusLayout, findings: Findings) -> None:
    """Packed rows of text and of conversations, as far as they are made."""
    files = [disk.rows(name) for name in layout.names]
    files += [disk.chat_rows(stage) for stage in STAGES[1:]]
    for path in files:
        record_path, mask = path.with_suffix(".json"), mask_path(path)
        record = _record(record_path, path, findings, MAKE) if record_path.exists() else None
        if record is not None:
            masked = "mask_sha256" in record
            remove = (path, *([mask] if masked else []), record_path)
            if masked:
                _claim(findings, record_path, mask, record, "mask_sha256", remove, MAKE)
            _claim(findings, record_path, path, record, "sha256", remove, MAKE)


def _claim(
    findings: Findings,
    record_path: Path,
    path: Path,
    record: dict[str, Any],
    key: str,
    remove: tuple[Path, ...],
    then: str,
) -> None:
    sha256, size = record.get(key), record.get("file_bytes")
    if isinstance(sha256, str):
        findings.claims.append(Claim(path, sha256, size, None, remove, then))
    else:
        findings.checks.append(_bad_record(record_path, then))


def _record(path: Path, about: Path, findings: Findings, then: str) -> dict[str, Any] | None:
    """A record's content. None, and a check that says why, where there is none or nobody can read
    it."""
    if not path.exists():
        findings.checks.append(_unrecorded(about, then))
        return None
    try:
        record = read_json(path, then)
    except DamagedArtefact:
        record = None
    if isinstance(record, dict):
        return record
    findings.checks.append(_bad_record(path, then))
    return None


def _unrecorded(path: Path, then: str) -> Check:
    seen, size = "it has no record to compare it with", size_of(path)
    try:
        if path.suffix == ".parquet":
            parquet_rows(path)
    except DamagedArtefact as exc:
        return Check(path, "damaged", seen=str(exc), bytes=size, remove=(path,), then=then)
    return Check(path, "unrecorded", seen=seen, bytes=size, then=then)


def _bad_record(path: Path, then: str) -> Check:
    seen, expected = "no JSON that has it", "a record with SHA-256"
    return Check(path, "damaged", expected, seen, remove=(path,), then=then)


def _file_bytes(record: dict[str, Any]) -> int | None:
    """The file's size. (`bytes` of a shard's record are those of its text.)"""
    size = record.get("file_bytes") if "documents" in record else record["bytes"]
    return None if size is None else int(size)


def parquet_rows(path: Path) -> int:
    """Number of rows, from the footer; raises DamagedArtefact where that cannot be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as exc:
        seen = str(exc).splitlines()[0][:120]
        raise DamagedArtefact(f"no readable parquet file ({seen})") from exc


def size_of(path: Path) -> int:
    """Size of a file; 0 for anything else, and for what a download has just moved away."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
