"""How long training stands still for a save, beside a save that it waits for.

    python benchmarks/save_stall.py [--folder FOLDER] [--repeats 7] [--output FILE]

A model of depth 12 with 32,768 tokens in its vocabulary, and all that a checkpoint keeps of it and
its optimizer; steps of one row of 256 tokens. In turns, to the same disk: a step that nothing
disturbs; a save beside the steps (train/saver.py), where the loop's standing still (`stall`) is
told apart from how much longer the steps take until the save has ended (`slower_steps`); and a save
that is begun and waited for, with nothing beside it. `copy` is the part of that until the weights
may change again: what the loop would stand still if forward and backward passes took no time.

Both save with the same class to the same format, hashed and fsynced. Needs about 12 GB of memory
and 10 GB of disk in FOLDER (a temporary folder).
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import publish
from real_jobs import make_job, make_store

from nanochat.model.gpt_config import GPTConfig
from nanochat.progress import track
from nanochat.train.job import LoopState
from nanochat.train.saver import SaveEnded, Saver
from nanochat.train.step import Stepper

CONFIG = GPTConfig.from_depth(12, vocab_size=32_768, sequence_len=256)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        publish("save_stall", bench(Path(folder), options.repeats))


def bench(folder: Path, repeats: int) -> dict[str, Any]:
    """All figures; seconds, but for those that say otherwise."""
    job = make_job(CONFIG, folder, rows_per_step=1, device_rows=1)
    with Saver(job, make_store(folder)) as saver:
        training = _Training(Stepper(job, saver), saver)
        training.step()
        first = training.beside()  # which makes the buffers
        training.waited_for()
        turns = [_turn(training) for _ in track(range(repeats), "saving", unit="turns")]
    seconds = {name: spread([turn[name] for turn in turns]) for name in turns[0]}
    return {
        "depth": CONFIG.n_layer,
        "vocabulary": CONFIG.vocab_size,
        "tokens_a_step": CONFIG.sequence_len,
        "checkpoint_bytes": training.bytes,
        "repeats": repeats,
        "seconds": seconds,
        "first_stall_seconds": first["stall"],
        "stall_ratio": spread([turn["stall"] / turn["waited_for"] for turn in turns]),
        "copy_ratio": spread([turn["copy"] / turn["waited_for"] for turn in turns]),
        "cost_ratio": spread(
            [(turn["stall"] + turn["slower_steps"]) / turn["waited_for"] for turn in turns]
        ),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _turn(training: "_Training") -> dict[str, float]:
    steps = [training.step()]
    beside = training.beside()
    os.sync()  # what one turn wrote is not to be paid for by the next
    steps.append(training.step())
    copy, waited_for = training.waited_for()
    os.sync()
    plain = statistics.mean(steps)
    return {
        "step": plain,
        "stall": beside["stall"],
        "save_beside": beside["save"],
        "steps_meanwhile": beside["made"],
        "slower_steps": beside["steps"] - beside["stall"] - beside["made"] * plain,
        "copy": copy,
        "waited_for": waited_for,
    }


class _Training:
    """Steps and saves, as the loop makes them."""

    def __init__(self, stepper: Stepper, saver: Saver) -> None:
        self.stepper, self.saver = stepper, saver
        self.state = LoopState()
        self.bytes = 0

    def step(self) -> float:
        """One step; returns its seconds, waiting for a save's copy in them."""
        start = time.monotonic()
        share = self.stepper.read(self.state)
        self.stepper.step(self.state, share, share.targets)
        self.state.step += 1
        return time.monotonic() - start

    def beside(self) -> dict[str, float]:
        """A save beside steps: `stall` is what the loop stood still, within `steps` or before."""
        begun = time.monotonic()
        ended = self.saver.begin(self.state)
        begin = time.monotonic() - begun
        steps = []
        while ended is None:
            steps.append(self.step())
            ended = self.saver.look()
        self._require(ended)
        return {
            "stall": ended.stall_seconds,
            "save": ended.seconds,
            "steps": begin + sum(steps),
            "made": len(steps),
        }

    def waited_for(self) -> tuple[float, float]:
        """Seconds of a save with nothing beside it: until it has been copied, until its end."""
        start = time.monotonic()
        refused = self.saver.begin(self.state)
        self.saver.before_update()
        copied = time.monotonic()
        ended = refused or self.saver.settle()
        seconds = time.monotonic() - start
        assert ended is not None
        self._require(ended)
        return copied - start, seconds

    def _require(self, ended: SaveEnded) -> None:
        assert ended.error is None, ended.error
        self.bytes = ended.bytes


if __name__ == "__main__":
    main()
