"""Unpacks a zip file from elsewhere, which may hold anything.

    unpack(Path("eval_bundle.zip"), "eval_bundle", Path("core_bundle"), required=("core.yaml",))

Only plain files below one folder of it are written, none outside the folder asked for, and no more
than MOST_BYTES; every file's checksum in the zip is compared.
"""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from nanochat.errors import DownloadError
from nanochat.files import fingerprint, sha256_of

MOST_BYTES = 5e9
MOST_FILES = 10_000


def unpack(archive: Path, root: str, folder: Path, required: Sequence[str]) -> None:
    """Writes what lies below `root` in the zip file to `folder`, which is emptied before.

    Raises DownloadError where it is no whole zip file, is not safe to unpack, or lacks what is
    required.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            for info, name in _wanted(opened, root):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(info) as source, open(target, "xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as exc:
        seen = str(exc) or type(exc).__name__
        raise DownloadError(f"it is not a zip file that can be unpacked ({seen})") from exc
    except (FileExistsError, NotADirectoryError) as exc:
        raise DownloadError(f"it holds {exc.filename} twice") from exc
    for needed in required:
        if not (folder / needed).exists():
            raise DownloadError(f"it has no {root}/{needed}")


SNAKEMAKES = ".snakemake_timestamp"
"""What Snakemake puts into folders that are outputs."""


def facts_of_folder(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file in it, and of all of them together."""
    found = (path for path in folder.rglob("*") if path.is_file())
    paths = sorted(path for path in found if path.name != SNAKEMAKES)
    files: dict[str, dict[str, Any]] = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in paths
    }
    size = sum(file["bytes"] for file in files.values())
    return {"bytes": size, "sha256": fingerprint(files), "files": files}


def _wanted(opened: zipfile.ZipFile, root: str) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files below `root`, with their names there; raises DownloadError for a strange one."""
    files = []
    for info in opened.infolist():
        path = PurePosixPath(info.filename)
        kind = info.external_attr >> 16
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise DownloadError(f"it holds {info.filename!r}, which leads out of its folder")
        if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or not stat.S_IFMT(kind)):
            raise DownloadError(f"it holds {info.filename!r}, which is no plain file")
        if not info.is_dir() and path.parts[0] == root and len(path.parts) > 1:
            files.append((info, path.relative_to(root)))
    size = sum(info.file_size for info, _ in files)
    if size > MOST_BYTES or len(files) > MOST_FILES:
        raise DownloadError(f"it would unpack to {len(files)} files of {size / 1e9:.1f} GB in all")
    return files
