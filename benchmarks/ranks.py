"""How much faster two ranks are than one, on a processor, beside what the machine allows.

    python benchmarks/ranks.py [--depth 4] [--rounds 5] [--output FILE]

Each rank is a process with one thread on a core of its own; they meet over loopback with gloo. T is
512, the vocabulary 8,192, and a step has 16 rows, two at a time: eight micro-batches of one rank,
four of each of two. In turns, some steps of each way, eager and (where a compiler is found)
compiled:

one: a rank alone, on the first core. two: two ranks (train/exchange.py), gradients on their way
while backward goes on. two_afterwards: the same, but gradients leave when backward has ended.
unrelated: two trainings of one rank each at the same time, which tell each other nothing: what two
cores reach that share caches, memory and clock. No number of ranks can do better than `ceiling`,
unless by sharing the optimizer's work, which one rank does whole: ZeRO divides it.

Tokens a second; ratios of the medians to `one`. Writes to a temporary folder.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from common import publish
from real_jobs import make_job, make_store

from nanochat.hpc.ranks import Ranks
from nanochat.model.device import CompileMode, can_compile
from nanochat.model.gpt_config import GPTConfig
from nanochat.progress import track
from nanochat.train.distributed import RankGroup
from nanochat.train.job import LoopState
from nanochat.train.saver import Saver
from nanochat.train.step import Stepper

SEQUENCE_LEN = 512
VOCABULARY = 8192
ROWS = 16
DEVICE_ROWS = 2
STEPS = 2
"""Of each way in each round."""
WAYS = ("one", "two", "two_afterwards", "unrelated")


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("error: two ranks need two cores, and this process has one")
    modes: list[CompileMode] = ["off", "on"] if can_compile(torch.device("cpu")) else ["off"]
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, Any] = {
            "depth": options.depth,
            "sequence_len": SEQUENCE_LEN,
            "vocabulary": VOCABULARY,
            "tokens_a_step": ROWS * SEQUENCE_LEN,
            "rounds": options.rounds,
            "steps_a_round": STEPS,
        }
        for mode in modes:
            name = "compiled" if mode == "on" else "eager"
            results[name] = bench(Path(folder), options.depth, mode, cores, options.rounds)
    publish("ranks", results)


def bench(
    folder: Path, depth: int, mode: CompileMode, cores: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Tokens a second of each way, and their ratios."""
    made = folder / f"{mode}"
    made.mkdir()
    first = Team(made, depth, mode, cores[:1])
    second = Team(made, depth, mode, cores[1:])
    both = Team(made, depth, mode, cores)
    teams = {"one": [first], "two": [both], "two_afterwards": [both], "unrelated": [first, second]}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in track(range(rounds + 1), f"compile {mode}", unit="rounds"):
        for way in WAYS:
            rate = _tokens_per_second(teams[way], overlap=way != "two_afterwards")
            if turn:  # the first time compiles, and fills caches
                rates[way].append(rate)
    for team in (first, second, both):
        team.leave()
    medians = {way: statistics.median(of_way) for way, of_way in rates.items()}
    return {
        "tokens_per_second": {
            way: {"median": medians[way], "slowest": min(of_way), "fastest": max(of_way)}
            for way, of_way in rates.items()
        },
        "ratio": medians["two"] / medians["one"],
        "ratio_without_overlap": medians["two_afterwards"] / medians["one"],
        "ceiling": medians["unrelated"] / medians["one"],
        "share_of_the_ceiling": medians["two"] / medians["unrelated"],
    }


def _tokens_per_second(teams: "list[Team]", overlap: bool) -> float:
    """Of all teams together: each its tokens over its own seconds."""
    for team in teams:
        team.go(overlap)
    return sum(STEPS * ROWS * SEQUENCE_LEN / team.seconds() for team in teams)


class Team:
    """The ranks of a training, one on each of some cores, waiting to be told to go."""

    def __init__(self, folder: Path, depth: int, mode: str, cores: Sequence[int]) -> None:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        own = folder / "-".join(map(str, cores))
        own.mkdir()
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.ranks = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", str(own), str(depth), mode, str(core),
                 str(rank), str(len(cores)), str(port)],
                env=alone, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for rank, core in enumerate(cores)
        ]  # fmt: skip
        self.seconds()

    def go(self, overlap: bool) -> None:
        """Begins some steps."""
        for rank in self.ranks:
            assert rank.stdin
            print("overlap" if overlap else "afterwards", file=rank.stdin, flush=True)

    def seconds(self) -> float:
        """Waits for the end of them; the seconds of the slowest."""
        return max(float(rank.stdout.readline()) for rank in self.ranks if rank.stdout)

    def leave(self) -> None:
        for rank in self.ranks:
            rank.communicate()


def work(folder: str, depth: str, mode: CompileMode, core: str, *place: str) -> None:
    """A rank: makes steps for each line it reads, and prints their seconds."""
    os.sched_setaffinity(0, {int(core)})
    torch.set_num_threads(1)
    rank, world_size, port = map(int, place)
    config = GPTConfig.from_depth(int(depth), VOCABULARY, SEQUENCE_LEN)
    own = Path(folder) / str(rank)
    own.mkdir()
    with RankGroup.join(Ranks(rank, rank, world_size, "localhost", port)) as group:
        job = make_job(config, own, ROWS, DEVICE_ROWS, group, mode)
        with Saver(job, make_store(own)) as saver:
            stepper = Stepper(job, saver)
            overlapping = stepper.exchange.overlapping
            print(0.0, flush=True)
            for line in sys.stdin:
                stepper.exchange.overlapping = (  # type: ignore[method-assign]
                    overlapping if line.strip() == "overlap" else nullcontext
                )
                group.wait()
                start = time.monotonic()
                for _ in range(STEPS):
                    _step(stepper, group)
                print(time.monotonic() - start, flush=True)


def _step(stepper: Stepper, group: RankGroup) -> None:
    """As the loop makes it: also what all ranks agree on before it."""
    state = LoopState()
    share = stepper.read(state)
    (targets,) = group.sum([share.targets])
    stepper.step(state, share, int(targets))


if __name__ == "__main__":
    main()
