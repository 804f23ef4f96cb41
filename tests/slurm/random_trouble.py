"""Rounds of random trouble during one training, which ends in the weights of an undisturbed one.

    make cluster-up
    python tests/slurm/random_trouble.py --rounds 10 --seed 7

Each round waits for some steps and then does one of: preemption, requeue, scancel and a new start,
SIGKILL of a rank, loss of a node, death of a slurmd, SIGKILL of the head process and a new start,
a time limit of one minute. Prints the seed, what happened at which step, and the two hashes; exit
code 1 where they differ. Works in a temporary folder, on the test cluster only.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

from cluster_run import (
    ClusterRun,
    assert_one_writer,
    copy_of_workflow,
    kill_rank,
    lose_node,
    lose_slurmd,
    on_cluster,
    one_minute,
    preempt,
    requeue,
    stray_signal,
    wait_until,
)

BASE = ("--until", "base_train")
STEPS_A_ROUND = 600  # enough for what SLURM takes a minute to notice, at some 30 steps a second


class Head:
    """The head process of a run, which some troubles end and start anew."""

    def __init__(self, run: ClusterRun) -> None:
        self.run = run
        self.process = run.start(*BASE)

    def scancel(self, run: ClusterRun) -> None:
        """Somebody cancels the job; the workflow ends, and is started again."""
        on_cluster("scancel", run.running()[0])
        assert run.finish(self.process) != 0
        self.process = run.start(*BASE)

    def kill_head(self, run: ClusterRun) -> None:
        """SIGKILL to Snakemake; the next one waits for the job that goes on."""
        run.kill_head(self.process)
        self.process = run.start(*BASE)


def disturb_at_random(run: ClusterRun, rounds: int, seed: int) -> list[dict[str, object]]:
    """Trains `run` with trouble; returns a row for each round."""
    rng = random.Random(seed)
    head = Head(run)
    kinds: list[Callable[[ClusterRun], None]] = [
        *(preempt, requeue, head.scancel, kill_rank, stray_signal),
        *(lose_node, lose_slurmd, head.kill_head, one_minute),
    ]
    order = (rng.sample(kinds, len(kinds)) * (rounds // len(kinds) + 1))[:rounds]
    rows: list[dict[str, object]] = []
    for number, disturb in enumerate(order, start=1):
        run.wait_for_progress(rng.randint(5, 60), seconds=200)
        started, step = time.monotonic(), run.newest_step()
        if step == run.steps:
            raise AssertionError(
                f"the training ended after {number - 1} rounds: give it more steps"
            )
        disturb(run)
        row = {"round": number, "trouble": disturb.__name__, "step": step}
        rows.append({**row, "seconds": round(time.monotonic() - started, 1)})
        print(*(f"{key} {value}" for key, value in rows[-1].items()), sep="  ", flush=True)
    code = run.finish(head.process, seconds=900)
    assert code == 0, run.output()[-3000:]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        copy_of_workflow(Path(folder), [topics[name] for name in sorted(topics)])
        steps = max(1000, STEPS_A_ROUND * arguments.rounds)
        undisturbed = ClusterRun(Path(folder), "undisturbed", steps=steps)
        undisturbed.run(*BASE, seconds=1800)
        disturbed = ClusterRun(Path(folder), "disturbed", steps=steps)
        disturb_at_random(disturbed, arguments.rounds, arguments.seed)
        wait_until(lambda: not disturbed.jobs(), "an empty queue")
        assert_one_writer(disturbed)
        hashes = [run.record()["weights_sha256"] for run in (undisturbed, disturbed)]
        starts = len(disturbed.events("start"))
        print(f"{steps} steps, {starts} starts of the trainer, never two at once")
        print(f"undisturbed {hashes[0]}\ndisturbed   {hashes[1]}")
    sys.exit(hashes[0] != hashes[1])


if __name__ == "__main__":
    main()
