"""Weights & Biases, at arm's length: a separate process that reads the journal.

Training never calls wandb. `start_follower` starts `python -m nanochat.track.wandb_follower`, which
follows the journal and logs its steps and validations until the stage's `end` event comes or the
training process is gone. If wandb is missing, fails or hangs, only that process suffers: it says
so once in its log, and training does not notice.

Reads the journal; writes offline runs below `<base_dir>/wandb` and a log beside the journal.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.files import make_directory
from nanochat.track.journal import parse_event

POLL_SECONDS = 1.0
LOGGED = {
    "step": ("loss", "grad_norm", "lr_multiplier", "tokens", "tokens_per_second", "memory_bytes"),
    "validation": ("bpb",),
}


def start_follower(
    journal: Path, stage: str, run: str, mode: str, directory: Path
) -> subprocess.Popen[bytes]:
    """Starts the follower of a stage from the journal's present end; nobody has to wait for it."""
    make_directory(directory)
    offset = journal.stat().st_size if journal.exists() else 0
    command = [
        *(sys.executable, "-m", "nanochat.track.wandb_follower", str(journal)),
        *("--stage", stage, "--run", run, "--mode", mode, "--directory", str(directory)),
        *("--offset", str(offset), "--trainer", str(os.getpid())),
    ]
    log = journal.with_name(f"wandb-{stage}.log")
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def follow(journal: Path, stage: str, offset: int, trainer: int) -> Iterator[dict[str, Any]]:
    """Yields the stage's events as they are written, until its `end` or the trainer is gone."""
    with open(journal, encoding="utf-8") as handle:
        handle.seek(offset)
        pending = ""
        while True:
            alive = _is_alive(trainer)  # looked at before reading, so that no last line is missed
            pending += handle.read()
            *lines, pending = pending.split("\n")
            for event in filter(None, map(parse_event, lines)):
                if event.get("stage") == stage:
                    yield event
                    if event["event"] == "end":
                        return
            if not alive:
                return
            time.sleep(POLL_SECONDS)


def main() -> None:
    """Follows a journal into wandb; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Follow a journal into Weights & Biases.")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--stage", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--mode", required=True, choices=["offline", "online"])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--offset", type=int, default=0, help="bytes of the journal to pass over")
    parser.add_argument("--trainer", type=int, required=True, help="process id to outlive by once")
    arguments = parser.parse_args()
    import wandb

    run = wandb.init(
        project="nanochat",
        name=f"{arguments.run}-{arguments.stage}",
        id=f"{arguments.run}-{arguments.stage}",
        resume="allow",
        dir=str(arguments.directory),
        mode=os.environ.get("WANDB_MODE", arguments.mode),  # jobs without a network set it
    )
    events = follow(arguments.journal, arguments.stage, arguments.offset, arguments.trainer)
    for event in events:
        names = LOGGED.get(event["event"], ())
        values = {f"{arguments.stage}/{name}": event[name] for name in names if name in event}
        if values:
            run.log({**values, "step": event["step"]})
    run.finish()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()
