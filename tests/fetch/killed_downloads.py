"""Downloads in processes of their own that are killed at random moments and started again.

    python killed_downloads.py SEED < pickled list of (External, SHA-256)

Forks, since a start costs more than a download; prints what happened as JSON.
"""

import hashlib
import json
import os
import pickle
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet  # noqa: F401  (imported once, before the forks)
import requests  # noqa: F401
from huggingface_hub import constants, get_token  # noqa: F401

from nanochat.errors import DownloadError
from nanochat.fetch.download import download
from nanochat.fetch.externals import External

MOST_KILLS = 6
LATEST = 0.05  # seconds after a start: about as long as a download takes


def start(external: External) -> int:
    """The process id of a child that downloads and leaves with 0, or 2 if it reports an error."""
    child = os.fork()
    if child:
        return child
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        download(external)
    except DownloadError:
        os._exit(2)
    except BaseException:
        os._exit(1)
    os._exit(0)


def is_right(external: External, sha256: str) -> bool:
    return hashlib.sha256(external.path.read_bytes()).hexdigest() == sha256


def main() -> None:
    rng = random.Random(int(sys.argv[1]))
    counts = {"started": 0, "killed": 0, "parts": 0, "wrong": 0, "crashed": 0, "reported": []}
    for external, sha256 in pickle.load(sys.stdin.buffer):
        for kills in range(MOST_KILLS + 1):
            child = start(external)
            counts["started"] += 1
            if kills < MOST_KILLS:
                time.sleep(rng.uniform(0, LATEST))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            counts["killed"] += os.WIFSIGNALED(status)
            counts["crashed"] += os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1
            part = Path(external.path.parent, f".part-{external.path.name}", external.path.name)
            counts["parts"] += part.exists() and part.stat().st_size > 0
            if external.path.exists():
                counts["wrong"] += not is_right(external, sha256)
                if not os.WIFSIGNALED(status):
                    break
        if not external.path.exists():
            counts["reported"].append(str(external.path))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
