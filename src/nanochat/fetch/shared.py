"""Somebody else's downloads, used in place.

    use_shared(external)      # external.shared says where it lies there

A file becomes a link to theirs, so that the paths of a run are the same with and without them. The
folder of an archive is copied: Snakemake writes a time stamp into folders. Nothing of theirs is
ever written.
"""

import os
import shutil
from pathlib import Path

from nanochat.errors import DamagedArtefact
from nanochat.fetch.externals import External
from nanochat.files import (
    atomic_write,
    disk_errors,
    make_directory,
    read_json,
    sha256_of,
    temporary_name,
)
from nanochat.registry import Archive, HubCorpus


def use_shared(external: External) -> None:
    """Makes `external.path` stand for the shared thing, with its record beside it.

    Raises DamagedArtefact where a copied folder is not what its record says, DiskError.
    """
    shared, path = external.shared, external.path
    assert shared is not None
    make_directory(path.parent)
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            if isinstance(external.source, Archive):
                shutil.copytree(shared, temporary)
                _require_as_recorded(temporary, external)
                shutil.rmtree(path, ignore_errors=True)  # Snakemake makes it, empty
            else:
                os.symlink(shared.absolute(), temporary)
            if not isinstance(external.source, HubCorpus):
                with atomic_write(external.record) as handle:
                    handle.write(external.shared_record.read_bytes())
            os.replace(temporary, path)
        finally:
            if temporary.is_symlink():
                temporary.unlink()
            shutil.rmtree(temporary, ignore_errors=True)
    print(f"{path}: in place, from {shared}")


def _require_as_recorded(folder: Path, external: External) -> None:
    record = read_json(external.shared_record, "snakemake downloads")
    for name, facts in record["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != facts["sha256"]:
            raise DamagedArtefact(
                f"{external.shared}/{name} is not what its record says: ask whoever keeps the "
                "shared folder to run `nanochat data verify` there, or unset NANOCHAT_SHARED_DIR"
            )
