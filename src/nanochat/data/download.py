"""Downloads shards from the Hugging Face hub, each checked before it gets its name.

    nanochat data download --shard 7        # shard_00007.parquet of data.source, and its record

HF_ENDPOINT, HF_TOKEN and the proxy variables are honoured. A file arrives in a temporary folder
beside its target, has to be as long as the hub said, to have the SHA-256 that the hub states for
large files, and to be readable to its end as parquet with a column `text`; then it is renamed.
Writes <base_dir>/base_data/<data set>/shard_NNNNN.parquet and .json, and nothing in ~/.cache: the
hub's client keeps a small file in <base_dir>/base_data/.huggingface.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.data.layout import CorpusLayout
from nanochat.data.registry import HubCorpus
from nanochat.data.shards import record_shard
from nanochat.errors import BadInput, DamagedArtefact, DownloadError
from nanochat.files import (
    DISK_TROUBLE,
    atomic_path,
    disk_errors,
    make_directory,
    read_json,
    temporary_name,
    write_json,
)

SHA256 = re.compile("[0-9a-f]{64}")
ADVICE = {
    401: "set HF_TOKEN to a token of yours that may read this data set",
    403: "ask for access on the data set's page, and set HF_TOKEN to a token of yours",
    404: "the hub has no such file; is HF_ENDPOINT right?",
    429: "too many requests; wait some minutes, or set HF_TOKEN, and run again",
}


def download_shard(corpus: HubCorpus, number: int, target: Path) -> None:
    """Fetches file `number` of `corpus` to `target`, and records what it holds beside it.

    A file that is there already is only recorded: it may have been copied by hand. Raises
    DownloadError (network, hub, or not what was asked for), DiskError, or for a file that was
    there what `record_shard` raises.
    """
    if target.exists():
        record_shard(target, target.with_suffix(".json"))
        print(f"{target} is there already: recorded")
        return
    started = time.monotonic()
    with _temporary_folder(target) as folder:
        file = _fetch(corpus, number, folder / target.name)
        size = file.stat().st_size
        for made, published in ((file, target), (_record_of(file), _record_of(target))):
            with atomic_path(published) as temporary:
                os.replace(made, temporary)
    print(f"{target}: {size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")


def write_downloads(corpus: HubCorpus | None, layout: CorpusLayout, path: Path) -> None:
    """Lists the downloaded files of a run with their SHA-256, as JSON."""
    records = layout.records if corpus else ()
    files = [read_json(record, "snakemake downloads") for record in records]
    listed = [{"file": record["file"], "sha256": record["sha256"]} for record in files]
    write_json(path, {"repository": corpus.repo if corpus else None, "files": listed})


def _fetch(corpus: HubCorpus, number: int, file: Path) -> Path:
    """The hub's file, checked, with its record beside it."""
    _configure_client(file.parents[2] / ".huggingface")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    name = corpus.pattern.format(number)
    where: dict[str, Any] = {"repo_type": "dataset", "revision": corpus.revision}
    url = hf_hub_url(corpus.repo, name, **where)
    with _hub_errors(url):
        stated = get_hf_file_metadata(url)  # first, since it fails at once where nobody answers
        if stated.etag is None or stated.commit_hash is None or stated.size is None:
            raise DownloadError(f"{url} was not answered by a hub: {_who_else()}")
        got = Path(hf_hub_download(corpus.repo, name, **where, local_dir=file.parent))
    os.replace(got, file)
    record = _recorded(file, url, corpus)
    if SHA256.fullmatch(stated.etag) and stated.etag != record["sha256"]:
        raise DownloadError(
            f"{url} came damaged (SHA-256 {record['sha256'][:12]}..., but the hub states "
            f"{stated.etag[:12]}...): run again; nothing was kept"
        )
    return file


def _configure_client(home: Path) -> None:
    """Sets what huggingface_hub reads when it is imported."""
    # Its own small files go to `home`, and not below ~/.cache, from where only a token is read.
    token = Path.home() / ".cache" / "huggingface" / "token"
    if token.is_file():
        os.environ.setdefault("HF_TOKEN_PATH", str(token))
    os.environ.setdefault("HF_HOME", str(home))
    # The hub's other protocol, Xet, talks to more hosts than a proxy or a mirror may let through.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _recorded(file: Path, url: str, corpus: HubCorpus) -> dict[str, Any]:
    """Reads a file to its end and records it; raises DownloadError where it is no shard."""
    with open(file, "rb") as handle:
        if handle.read(256).lstrip().startswith(b"<"):
            raise DownloadError(f"{url} came as an HTML page, not as parquet: {_who_else()}")
    try:
        return record_shard(file, _record_of(file), {"source": corpus.repo})
    except (BadInput, DamagedArtefact) as exc:
        seen = str(exc).rpartition(": ")[0].replace(f"{file.parent}/", "")
        raise DownloadError(f"{url} came, but {seen}: {_who_else()}") from exc


@contextmanager
def _hub_errors(url: str) -> Iterator[None]:
    """The one place where what huggingface_hub and its HTTP client raise becomes a sentence."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as exc:
        status = exc.response.status_code
        advice = ADVICE.get(status, "run again later")
        raise DownloadError(f"cannot download {url} (HTTP status {status}): {advice}") from exc
    except (httpx2.HTTPError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno in DISK_TROUBLE:
            raise
        seen = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise DownloadError(
            f"cannot download {url} ({seen}): run this on a host with internet, and check "
            "HF_ENDPOINT, HF_HUB_OFFLINE and the proxy variables"
        ) from exc


def _who_else() -> str:
    return "a proxy, a login page or a wrong HF_ENDPOINT may have answered; check these"


def _record_of(parquet: Path) -> Path:
    return parquet.with_suffix(".json")


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, on its file system, that is gone afterwards."""
    make_directory(target.parent)
    folder = temporary_name(target)
    with disk_errors(target):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
