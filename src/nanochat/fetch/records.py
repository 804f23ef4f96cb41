"""What is known of a download: what it holds, and apart from that when and from where it came.

    record_of(external, {"bytes": 1319, "sha256": "..."})
    record_what_is_there(external)

A record says facts of the content only, so that the same content gives the same bytes whenever and
from wherever it came. Writes External.record.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet

from nanochat.errors import DamagedArtefact, DownloadError
from nanochat.fetch.archive import facts_of_folder
from nanochat.fetch.externals import External
from nanochat.fetch.hub_table import check_columns
from nanochat.fetch.transfer import Arrived
from nanochat.files import sha256_of, write_json
from nanochat.registry import Archive, HubCorpus, HubTable, PlainFile, Source


def record_what_is_there(external: External) -> None:
    """Of what was copied by hand, or is whole since just before a process was killed."""
    source, path = external.source, external.path
    if isinstance(source, HubCorpus) or external.record.exists():
        return
    facts = facts_of_folder(path) if isinstance(source, Archive) else facts_of_file(path)
    if isinstance(source, HubTable):
        try:
            check_columns(path, source.columns, whole=True)
        except DownloadError as exc:
            raise DamagedArtefact(f"{path} is there, but {exc}: delete it and run again") from exc
        facts["rows"] = pyarrow.parquet.read_metadata(path).num_rows
    elif isinstance(source, PlainFile) and source.sha256 not in (None, facts["sha256"]):
        raise DamagedArtefact(
            f"{path} is there, but its SHA-256 is {facts['sha256'][:12]}... and not "
            f"{str(source.sha256)[:12]}...: delete it and run again"
        )
    write_json(external.record, record_of(external, facts))


def facts_of_file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def record_of(external: External, facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of the content only, so that the same content gives the same record."""
    source = external.source
    named = {"source": source.name, "file": external.path.name}
    return {**named, **facts, "licence": source.licence}


def circumstances(source: Source, arrived: Sequence[Arrived]) -> dict[str, Any]:
    return {
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(sum(each.seconds for each in arrived), 3),
        "attempts": sum(each.attempts for each in arrived),
        "from": [
            {
                "url": each.remote.shown,
                "bytes": each.size,
                "sha256": each.sha256,
                "commit": each.commit,
                "revision": getattr(source, "revision", None),
            }
            for each in arrived
        ],
    }
