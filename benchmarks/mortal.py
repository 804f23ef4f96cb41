"""Tiny trainings that are killed, each rank a process: for crash_sweep.py and its test.

    training = Training(folder, row_file, ranks=2, beside=True)
    ended = training.attempt(after=0.03)           # killed after so many seconds ...
    ended = training.attempt(at=(rank, Kill(7, "before")))   # ... or at a call
    training.attempt().codes; training.result()

The model, the rows and the loop are those of the tests (tests/train/tiny_training.py). Ranks are
forked, since importing torch takes longer than such a training. As srun would, it kills the others
a moment after one was killed. Writes below FOLDER: checkpoints, journal, standard errors.
"""

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from crash_points import DiskCalls, Kill

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "train"))
from tiny_training import make_job, make_store

from nanochat.errors import DamagedArtefact, MissingArtefact, NanochatError
from nanochat.files import sha256_of
from nanochat.model import optimizer
from nanochat.track.journal import Journal, SilentJournal, read_events
from nanochat.train.checkpoint_folder import LATEST
from nanochat.train.checkpoints import CheckpointStore
from nanochat.train.distributed import RankGroup
from nanochat.train.job import Job, Multipliers
from nanochat.train.launch import launched
from nanochat.train.loop import train
from nanochat.train.watchdog import Section
from srun_tasks import environment_of_task, free_job_ids

STEPS = 8
WATCHED_STEP = 4
"""The save whose calls are numbered: the earlier ones fill what the retention keeps."""
ALWAYS_DUE = 1e-9
"""Minutes between saves: the next begins as soon as the one before has ended."""
LOST_OTHERS = 75
PATIENCE = 60.0
"""Seconds in which whatever is left of a training has to end by itself."""

optimizer.SMALLEST_TO_DIVIDE = 256  # so that tiny embeddings have several owners


class Ended(NamedTuple):
    """How an attempt ended."""

    codes: list[int]
    """Of each rank; negative: killed by that signal."""
    seconds: float

    @property
    def was_killed(self) -> bool:
        return any(code == -signal.SIGKILL for code in self.codes)


class Training:
    """One training in a folder of its own, over as many attempts as it takes.

    `beside`: saves are written while steps are made, one after the other; otherwise each step
    waits for its save.
    """

    def __init__(self, folder: Path, row_file: Path, ranks: int, beside: bool) -> None:
        self.folder, self.row_file, self.ranks, self.beside = folder, row_file, ranks, beside
        self.attempts = 0
        folder.mkdir(exist_ok=True)

    @property
    def store(self) -> CheckpointStore:
        return make_store(self.folder / "run")

    def attempt(
        self,
        after: float | None = None,
        at: tuple[int, Kill] | None = None,
        rank: int | None = None,
        grace: float = PATIENCE,
    ) -> Ended:
        """Starts all ranks and waits for their end.

        Kills `rank` (None: all of them) `after` so many seconds, or one rank `at` a call; and,
        after `grace` more seconds, what is left.
        """
        self.attempts += 1
        start = time.monotonic()
        job_id = next(free_job_ids())
        processes = {self._fork(n, job_id, at): n for n in range(self.ranks)}
        codes: dict[int, int] = {}
        if after is not None:
            _reap(processes, codes, until=start + after)
            _kill([p for p, n in processes.items() if n not in codes and rank in (None, n)])
        kills = after is not None or at is not None
        _reap(processes, codes, until=time.monotonic() + PATIENCE, first=True)
        _reap(processes, codes, until=time.monotonic() + (grace if kills else PATIENCE))
        _kill([p for p, n in processes.items() if n not in codes])
        _reap(processes, codes, until=time.monotonic() + PATIENCE)
        return Ended([codes[n] for n in range(self.ranks)], time.monotonic() - start)

    def start_afresh(self) -> None:
        """Forgets all attempts."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def calls(self, rank: int) -> list[str]:
        """Names of a rank's calls during the watched save; after an attempt without a kill."""
        names: list[str] = json.loads((self.folder / f"calls-{rank}.json").read_text())
        return names

    def starts(self) -> list[list[dict[str, Any]]]:
        """The journal's events, attempt by attempt."""
        attempts: list[list[dict[str, Any]]] = []
        journal = self.folder / "run.jsonl"
        for event in read_events(journal) if journal.exists() else []:
            if event["event"] == "start":
                attempts.append([])
            attempts[-1].append(event)
        return attempts

    def errors(self) -> str:
        """What the ranks of the last attempt wrote to standard error."""
        files = sorted(self.folder.glob(f"{self.attempts}-*.err"))
        return "".join(file.read_text() for file in files)

    def result(self) -> dict[str, Any]:
        """All that the training came to, to the bit: the files of the last step's checkpoint, what
        the loop keeps but for seconds, and the loss of each step."""
        manifest = self.store.manifest(STEPS)
        state = {k: v for k, v in manifest["loop_state"].items() if k != "seconds"}
        events = [event for attempt in self.starts() for event in attempt]
        losses = {e["step"]: e["loss"] for e in events if e["event"] == "step"}
        return {"files": manifest["files"], "state": state, "losses": losses}

    def _fork(self, rank: int, job_id: int, at: tuple[int, Kill] | None) -> int:
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            self._become_a_rank(rank, job_id)
            code = self._exit_code(at[1] if at and at[0] == rank else None)
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _become_a_rank(self, rank: int, job_id: int) -> None:
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            del os.environ[name]
        # no SLURM to ask
        os.environ |= environment_of_task(rank, self.ranks, job_id) | {"PATH": ""}
        # Not the parent's: a thread of it may have held their locks when it forked.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.stderr = open(self.folder / f"{self.attempts}-{rank}.err", "w")  # noqa: SIM115
        os.dup2(sys.stderr.fileno(), 2)

    def _exit_code(self, kill: Kill | None) -> int:
        try:
            self._train(DiskCalls(kill))
        except NanochatError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except SystemExit as silent:
            return int(silent.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            return 1
        return 0

    def _train(self, calls: DiskCalls) -> None:
        calls.install()
        with launched(self.folder / "run", os.environ) as (group, deadline, lease):
            attempt = int(group.from_first(time.time_ns() // 1000))
            store = make_store(self.folder / "run", group, attempt)
            store.may_write = lease.is_mine if lease else lambda: False
            journal = Journal(self.folder / "run.jsonl") if group.is_first else SilentJournal()
            train(self._job(group, calls), store, journal, deadline)
            calls.armed = False
            (self.folder / f"calls-{group.rank}.json").write_text(json.dumps(calls.seen))

    def _job(self, group: RankGroup, calls: DiskCalls) -> Job:
        def enter(section: Section, step: int) -> None:
            if section is Section.SAVE:
                calls.armed = step == WATCHED_STEP

        minutes = ALWAYS_DUE if self.beside else 0.0
        job = make_job(
            self.row_file, device_rows=2, save_every_minutes=minutes, group=group, enter=enter
        )
        return replace(
            job, steps=STEPS, multipliers=lambda step: Multipliers(1.0 - step / STEPS, 0.9, 1.0)
        )


def load_what_ranks_load(row_file: Path) -> None:
    """Before the first fork, so that no rank has to. One GPU cannot serve two ranks: none does."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    make_job(row_file)


def whole_or_why(store: CheckpointStore, step: int) -> str | None:
    """Why a checkpoint is not whole."""
    try:
        store.verify(step)
    except (DamagedArtefact, MissingArtefact) as exc:
        return str(exc)
    return None


def latest_or_why(store: CheckpointStore) -> str | None:
    """Why LATEST.json does not name a checkpoint that is there."""
    latest, steps = store.folder / LATEST, store.steps()
    if not latest.exists():
        return None if len(steps) < 2 else f"no LATEST.json beside {len(steps)} checkpoints"
    try:
        said = json.loads(latest.read_bytes())
    except ValueError as exc:
        return f"LATEST.json is torn ({exc})"
    manifest = store.folder / said["folder"] / "manifest.json"
    if not manifest.is_file():
        return f"LATEST.json names {said['folder']}, which is not there"
    if said["manifest_sha256"] != sha256_of(manifest):
        return f"LATEST.json names another {said['folder']} than there is"
    return None


def damage(file: Path, how: str) -> None:
    """`flip` a bit in the middle, keep `half`, `empty` it, or `delete` it."""
    content = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
        return
    if how == "flip":
        content[len(content) // 2] ^= 1
    size = {"flip": len(content), "half": len(content) // 2, "empty": 0}[how]
    file.write_bytes(content[:size])


def _kill(processes: list[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)


def _reap(
    processes: dict[int, int], codes: dict[int, int], until: float, first: bool = False
) -> None:
    """Collects exit codes by rank until all have ended, or the `first`, or the time has come."""
    enough = 1 if first else len(processes)
    while len(codes) < enough:
        for process, rank in processes.items():
            if rank not in codes and (found := os.waitpid(process, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(found[1])
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.001))
