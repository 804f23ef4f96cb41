"""Reads again what is on disk, and compares it with what the records vouch for.

    checks = verify(disk, externals(disk), corpus_layout(disk))
    for check in checks: check.path, check.status, check.mend
    if trouble := complaint(checks): raise trouble

What is compared stands in claims.py; several files are hashed at once. Reads only, so that a
copy that belongs to somebody else can be verified in place.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from nanochat.data.layout import CorpusLayout
from nanochat.data.rows import open_rows
from nanochat.errors import DamagedArtefact, MissingArtefact, NanochatError
from nanochat.fetch.claims import NOT_THERE, Check, Claim, claims_of, parquet_rows, size_of
from nanochat.fetch.externals import External
from nanochat.fetch.foreign import foreign_files
from nanochat.fetch.meter import Count, with_meter
from nanochat.paths import Paths

CHUNK = 1 << 20
THREADS = 4


def verify(
    disk: Paths,
    wanted: Sequence[External],
    layout: CorpusLayout,
    quick: bool = False,
    threads: int = THREADS,
) -> list[Check]:
    """One check a file, sorted by path; and one for each file that nobody asked for.

    `quick` looks at sizes, and at the footers of parquet files and the headers of arrays, only.
    """
    findings = claims_of(disk, wanted, layout)
    if quick:
        compared = [_compared(claim, None) for claim in findings.claims]
    else:
        compared = _hashed(findings.claims, threads)
    checks = [_yours_to_mend(check) for check in (*findings.checks, *compared)]
    return sorted([*checks, *foreign_files(disk)], key=lambda check: check.path)


def complaint(checks: Sequence[Check]) -> NanochatError | None:
    """The error to end with: something is damaged or missing. None where nothing is."""
    asked_for = [check for check in checks if check.status != "foreign"]
    damaged, missing = (
        [check for check in asked_for if check.status == status]
        for status in ("damaged", "missing")
    )
    if not damaged and not missing:
        return None
    counts = {"damaged": len(damaged), "missing": len(missing)}
    found = " and ".join(f"{count} {status}" for status, count in counts.items() if count)
    return (DamagedArtefact if damaged else MissingArtefact)(
        f"of {len(asked_for)} files, {found} (the first is {(damaged or missing)[0].path}): run "
        "the commands that `nanochat data verify` lists"
    )


def sha256_while(path: Path, count: Count) -> str:
    """SHA-256 (hex) of a file's content; `count` is told of every chunk that was read."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as handle:
        while size := handle.readinto(chunk):
            digest.update(chunk[:size])
            count(size)
    return digest.hexdigest()


def _hashed(claims: Sequence[Claim], threads: int) -> list[Check]:
    """Reads every file to its end, several at once."""

    def work(count: Count) -> list[Check]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda claim: _compared(claim, count), claims))

    return with_meter(work, "verifying", sum(size_of(claim.path) for claim in claims))


def _compared(claim: Claim, count: Count | None) -> Check:
    """A file beside its claim; read to its end where there is a `count` to be told of it."""
    check = Check(claim.path, "damaged", claim.expected, "", 0, claim.remove, claim.then)
    try:
        size = claim.path.stat().st_size
        if claim.bytes is not None and size != claim.bytes:
            return replace(check, bytes=size, seen=f"{size:,} bytes")
        if count is None:
            seen = _glance(claim)
        else:
            sha256 = sha256_while(claim.path, count)
            seen = "" if sha256 == claim.sha256 else f"{size:,} bytes, SHA-256 {sha256[:12]}"
    except FileNotFoundError:
        return replace(check, status="missing", seen=NOT_THERE)
    except OSError as exc:
        return replace(check, seen=f"cannot be read ({exc.strerror or exc})")
    if seen:
        return replace(check, bytes=size, seen=seen)
    return Check(claim.path, "ok", claim.expected, bytes=size)


def _glance(claim: Claim) -> str:
    """What is wrong with a footer, or with an array's header; empty where nothing is."""
    try:
        if claim.path.suffix == ".parquet":
            rows = parquet_rows(claim.path)
            return f"{rows:,} rows, not {claim.rows:,}" if claim.rows not in (None, rows) else ""
        if claim.path.suffix == ".npy" and claim.path.with_suffix(".json") in claim.remove:
            open_rows(claim.path)
    except (DamagedArtefact, MissingArtefact) as exc:
        return str(exc)
    return ""


def _yours_to_mend(check: Check) -> Check:
    """Where a file lies in a folder that this user may not write to, somebody else mends it."""
    folder = check.path.resolve().parent
    mine = os.access(folder, os.W_OK) and not check.path.is_symlink()
    if check.status != "damaged" or mine or not check.remove:
        return check
    advice = f"tell whoever keeps {folder}, or set no `paths.shared_dir` until it is mended"
    return replace(check, remove=(), then=advice)
