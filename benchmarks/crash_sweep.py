"""Whether work can be lost: trainings killed everywhere, their checkpoints damaged, and continued.

    python benchmarks/crash_sweep.py [--trials 200] [--seed 0] [--points N] [--damages N]
                                     [--folder FOLDER] [--output FILE]

Real trainings of a tiny model (mortal.py) on one and on two ranks, in three parts:

calls: SIGKILL before and after every write, fsync, rename, mkdir and unlink of a save (the files of
each rank, the commit, LATEST.json, the pruning, the journal), and in the middle of every write.
instants: SIGKILL at random instants, of one rank or of all, in trainings that wait for their saves
and in trainings that save beside their steps; half of them a second time while they recover.
damage: each file of the newest checkpoint with a bit flipped, halved, emptied and deleted.

After every kill all folders named step-NNNNNN verify to the last byte, and LATEST.json names one of
them. The next attempt continues from a checkpoint that is no older than the newest the journal told
of, leaves nothing of the killed one behind, and ends with the bits of an undisturbed training:
weights, moments, random states, and the loss of every step.

Work lost is counted in steps, from the last in the journal to the one continued from. Saves are due
after every step. A training that waits for them may lose one. One that does not is checked for two
things that together bound the loss by the interval and the steps made while a save is written:
what is in the journal as saved is never lost, and the next save begins no later than one interval
after the one before, or when that one has ended.

Prints a table and JSON; ends with 1 where anything is not so.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import publish
from crash_points import Kill
from crash_trial import Row, Trial
from mortal import Ended, Training, damage, load_what_ranks_load, whole_or_why
from tiny_training import write_row_file

from nanochat.progress import track
from nanochat.train.checkpoint_folder import LATEST

RANKS = (1, 2)
GRACE = 0.3
"""Seconds until the other ranks are killed too, at most."""


class Sweep:
    """All trials, in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.row_file = write_row_file(folder)
        self.rows: dict[str, Row] = {}
        self.count = 0
        load_what_ranks_load(self.row_file)
        plain = {ranks: self._undisturbed(ranks, beside=False) for ranks in RANKS}
        self.undisturbed = {ranks: training for ranks, (training, _) in plain.items()}
        self.expected = {ranks: training.result() for ranks, (training, _) in plain.items()}
        self.seconds = {
            **{(ranks, False): ended.seconds for ranks, (_, ended) in plain.items()},
            **{(ranks, True): self._undisturbed(ranks, beside=True)[1].seconds for ranks in RANKS},
        }
        self.killed = {ranks: self._killed_between_saves(ranks) for ranks in RANKS}

    def calls(self, most: int) -> Iterator[None]:
        """Kills at (at most so many of) the calls of one save."""
        for ranks, rank, kill in self._some(list(self._kills()), most):
            number, moment = kill
            call = self.undisturbed[ranks].calls(rank)[number]
            told = f"{moment} call {number} ({call}) of rank {rank} of {ranks}"
            trial = self._trial(f"every call of a save, {_ranks(ranks)}", told, ranks)
            if not trial.attempt(at=(rank, kill)).was_killed:
                trial.row.problems.append(f"{told}: was not killed")
            trial.finish()
            yield

    def instants(self, trials: int) -> Iterator[None]:
        """Kills at random instants."""
        for number in range(trials):
            ranks, beside = RANKS[number % 2], number // 2 % 2 == 1
            how = "saves beside the steps" if beside else "steps wait for saves"
            trial = self._trial(f"random instants, {_ranks(ranks)}, {how}", "", ranks, beside)
            self._kill_at_an_instant(trial, number)
            if self.rng.random() < 0.5:
                second = self._draw(trial.training)
                trial.told += f", again {second}"
                trial.attempt(**second)
            trial.finish()
            yield

    def _kill_at_an_instant(self, trial: Trial, number: int) -> None:
        """Starts afresh where a training was quicker than the instant."""
        training = trial.training
        while True:
            kill = self._draw(training)
            trial.told = f"instant {number}, {kill}"
            ended = trial.attempt(**kill)
            if ended.was_killed:
                return
            self.seconds[training.ranks, training.beside] = ended.seconds
            training.start_afresh()

    def damages(self, most: int) -> Iterator[None]:
        """Damages to the files of the newest checkpoint, and to LATEST.json, which costs none."""
        for ranks, name, how in self._some(list(self._damages()), most):
            trial = self._trial(f"damaged files, {_ranks(ranks)}", f"{name} {how}", ranks)
            store = trial.training.store
            shutil.copytree(self.killed[ranks].folder, trial.training.folder, dirs_exist_ok=True)
            older, newer = store.steps()
            if name == LATEST:
                damage(store.folder / name, how)
                trial.finish(newer)
            else:
                damage(store.path(newer) / name, how)
                if whole_or_why(store, newer) is None:
                    trial.row.problems.append(f"{trial.told}: was not detected")
                trial.finish(older, damaged_step=newer)
            yield

    def number_of_damages(self) -> int:
        """How many trials `damages` has."""
        return len(list(self._damages()))

    def _damages(self) -> Iterator[tuple[int, str, str]]:
        for ranks, training in self.killed.items():
            newest = training.store.path(training.store.steps()[-1])
            for name in [*sorted(file.name for file in newest.iterdir()), LATEST]:
                for how in ("flip", "half", "empty", "delete"):
                    yield ranks, name, how

    def number_of_calls(self) -> int:
        """How many trials `calls` has."""
        return len(list(self._kills()))

    def _kills(self) -> Iterator[tuple[int, int, Kill]]:
        for ranks in RANKS:
            for rank in range(ranks):
                for number, call in enumerate(self.undisturbed[ranks].calls(rank)):
                    half = ["half"] if call == "write" else []
                    for moment in ("before", *half, "after"):
                        yield ranks, rank, Kill(number, moment)

    def _some(self, cases: list[Any], most: int) -> list[Any]:
        return cases if most == len(cases) else self.rng.sample(cases, most)

    def _draw(self, training: Training) -> dict[str, Any]:
        """When to kill whom; when the others follow."""
        return {
            "after": self.rng.uniform(0, self.seconds[training.ranks, training.beside]),
            "rank": self.rng.choice([None, *range(training.ranks)]),
            "grace": self.rng.uniform(0, GRACE),
        }

    def _trial(self, row: str, told: str, ranks: int, beside: bool = False) -> Trial:
        training = self._training(ranks, beside)
        return Trial(training, self.rows.setdefault(row, Row()), told, self.expected[ranks])

    def _training(self, ranks: int, beside: bool) -> Training:
        self.count += 1
        return Training(self.folder / f"{self.count}", self.row_file, ranks, beside)

    def _undisturbed(self, ranks: int, beside: bool) -> tuple[Training, Ended]:
        training = self._training(ranks, beside)
        ended = training.attempt()
        assert not any(ended.codes), training.errors()
        return training, ended

    def _killed_between_saves(self, ranks: int) -> Training:
        training = self._training(ranks, beside=False)
        training.attempt(at=(0, Kill(0, "before")))
        return training


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sweep = Sweep(Path(folder), options.seed)
        calls = at_most(options.points, sweep.number_of_calls())
        damages = at_most(options.damages, sweep.number_of_damages())
        show(sweep.calls(calls), "killed at a call", calls)
        show(sweep.instants(options.trials), "killed at an instant", options.trials)
        show(sweep.damages(damages), "damaged", damages)
    print_table(sweep.rows)
    publish("crash_sweep", {"seed": options.seed, "kinds": _as_json(sweep.rows)})
    sys.exit(any(row.problems for row in sweep.rows.values()))


def print_table(rows: dict[str, Row]) -> None:
    """One line a kind of trouble, and the problems below."""
    heads = ["trials", "killed", "resumed", "corrupted", "resumed from damaged",
             "most steps lost", "bits differ"]  # fmt: skip
    width = max(map(len, rows), default=0)
    print(f"{'':{width}} | {' | '.join(heads)}")
    for name, row in rows.items():
        cells = [getattr(row, head.replace(" ", "_")) for head in heads]
        line = " | ".join(f"{cell:>{len(head)}}" for cell, head in zip(cells, heads, strict=True))
        print(f"{name:{width}} | {line}")
    for row in rows.values():
        for problem in row.problems:
            print(f"NOT AS PROMISED: {problem}")


def at_most(wanted: int | None, there: int) -> int:
    """All that there are, where no number is wanted."""
    return there if wanted is None else min(wanted, there)


def show(trials: Iterator[None], told: str, total: int) -> None:
    """Makes trials, with their progress."""
    for _ in track(trials, told, total=total, unit="trials"):
        pass


def _as_json(rows: dict[str, Row]) -> dict[str, Any]:
    return {name: vars(row) for name, row in rows.items()}


def _ranks(ranks: int) -> str:
    return "1 rank" if ranks == 1 else f"{ranks} ranks"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="kills at random instants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, help="so many of the calls only, drawn by chance")
    parser.add_argument("--damages", type=int, help="so many of the damages only, drawn by chance")
    parser.add_argument("--folder", type=Path, help="where the trainings lie (default: /tmp)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
