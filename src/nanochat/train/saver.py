"""Saving beside training: a checkpoint costs the loop a glance, not the time of a disk.

    with Saver(job, store) as saver:
        saver.begin(state)         # between two steps
        saver.before_update()      # the copy has to be done before the weights change
        ended = saver.look()       # after every step: what became of it

Each rank copies what it owns to buffers on the host, in a thread, while the next step's forward and
backward pass only read it; then the thread writes. Between the steps the ranks count who has
written: when all have, rank 0 commits, in a thread too; when one could not, the save is abandoned,
the checkpoint before it stands and training goes on. A process that dies at any moment leaves
a folder with a temporary name. Writes checkpoints (train/checkpoints.py).
"""

import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from enum import Enum
from typing import NamedTuple, Self

import torch
from torch import Tensor

from nanochat.errors import DiskError, NanochatError, StoppedEarly
from nanochat.model.units import Owned
from nanochat.train.checkpoints import CheckpointStore
from nanochat.train.fitting import is_out_of_memory
from nanochat.train.job import Job, LoopState
from nanochat.train.parts import Piece, Pieces
from nanochat.train.random_state import random_pieces
from nanochat.train.say import say

FILES_OF_A_RANK = 4


class SaveEnded(NamedTuple):
    """What became of a save. Seconds are of this process."""

    step: int
    error: str | None
    """Why there is no checkpoint; None where there is one."""
    bytes: int
    """Of the whole checkpoint; known to rank 0."""
    seconds: float
    """From its beginning to its end."""
    stall_seconds: float
    """Of these, how long the loop stood still."""


class _Phase(Enum):
    IDLE = "nothing to do"
    WRITING = "each rank writes its part"
    COMMITTING = "rank 0 gives the checkpoint its name"


class Saver:
    """One rank's part in saving. All ranks are in the same phase: they change it together."""

    def __init__(self, job: Job, store: CheckpointStore) -> None:
        self.job, self.store, self.group = job, store, job.group
        self.phase = _Phase.IDLE
        self._task: _Task | None = None
        self._copied = threading.Event()
        self._copied.set()
        self._buffers: dict[str, Tensor] = {}
        self._loop_state: LoopState = LoopState()
        self._began = self._stalled = 0.0
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.join()

    @property
    def _on_gpu(self) -> bool:
        return self.group.device.type == "cuda"

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way; the same on all ranks."""
        return self.phase is not _Phase.IDLE

    def begin(self, state: LoopState) -> SaveEnded | None:
        """Starts to save the present state; returns why not, where the disk has no room for it."""
        assert not self.is_busy, "settle() comes first"
        start = time.monotonic()
        self._began, self._stalled, self._loop_state = start, 0.0, LoopState(**asdict(state))
        parts = self._parts()
        size = sum(p.tensor.nbytes for pieces in parts.values() for p in pieces.values())
        refusal = self._refusal(sum(self.group.gather(size)))
        if refusal is not None:
            self._stalled = time.monotonic() - start
            return self._ended(refusal)
        self._copied.clear()
        ready = torch.cuda.current_stream().record_event() if self._on_gpu else None
        self.phase = _Phase.WRITING
        self._task = _Task(lambda: self._write(state.step, parts, ready))
        self._stalled = time.monotonic() - start
        return None

    def before_update(self) -> float:
        """Waits until the state has been copied; returns the seconds that took."""
        if self._copied.is_set():
            return 0.0
        start = time.monotonic()
        self._copied.wait()
        seconds = time.monotonic() - start
        self._stalled += seconds
        return seconds

    def look(self) -> SaveEnded | None:
        """What became of the save, once it has ended; all ranks call it between two steps.

        Raises StoppedEarly where another process has taken the folder over.
        """
        if not self.is_busy:
            return None
        done, failed, superseded = self.group.sum(self._said())
        if superseded:
            self._raise_own_error()
            raise StoppedEarly("another process has taken over the checkpoints")
        expected = self.group.world_size if self.phase is _Phase.WRITING else 1
        if done + failed < expected:
            return None
        if failed:
            return self._ended(self._abandon())
        if self.phase is _Phase.COMMITTING:
            return self._ended(None)
        self.phase, self._task = _Phase.COMMITTING, None
        if self.group.is_first:
            self._task = _Task(self._commit)
        return None

    def settle(self) -> SaveEnded | None:
        """Waits for the end of a save that is under way."""
        start, ended = time.monotonic(), None
        while self.is_busy:
            if self._task is not None:
                self._task.join()
            ended = self.look()
        if ended is None:
            return None
        return ended._replace(stall_seconds=ended.stall_seconds + time.monotonic() - start)

    def _parts(self) -> dict[str, Pieces]:
        """What this rank owns: the live tensors, but for the random states."""
        optimizer, rank = self.job.optimizer, self.group.rank
        random = random_pieces(self.group.device)
        return {
            "model": _pieces(optimizer.owned_weights()),
            "optimizer": _pieces(optimizer.owned()),
            "random": {f"rank-{rank:03d}.{key}": Piece(value) for key, value in random.items()},
        }

    def _refusal(self, size: float) -> str | None:
        """Why rank 0 sees no room for so many bytes, on all ranks."""
        refusal = ""
        if self.group.is_first:
            try:
                self.store.require_room(int(size), FILES_OF_A_RANK * self.group.world_size)
            except (DiskError, OSError) as exc:
                refusal = str(exc)
        refused = self.group.from_first(float(bool(refusal)))
        return (refusal or "rank 0 found no room") if refused else None

    def _write(self, step: int, parts: dict[str, Pieces], ready: torch.cuda.Event | None) -> None:
        try:
            copies = self._copies(parts, ready)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            raise DiskError("the host has no memory for the copy that is written") from exc
        finally:
            self._copied.set()
        self._require_finite(copies["model"])
        self.store.write_part(step, copies)

    def _require_finite(self, weights: Pieces) -> None:
        """Weights that are not finite are nothing to go back to: the checkpoint before is."""
        for name, piece in weights.items():
            if not piece.tensor.isfinite().all():
                raise DiskError(f"{name} holds numbers that are not finite")

    def _copies(
        self, parts: dict[str, Pieces], ready: torch.cuda.Event | None
    ) -> dict[str, Pieces]:
        """The pieces on the host, in buffers that are used again each time."""
        stream = None
        if ready is not None:
            stream = torch.cuda.Stream(self.group.device)  # type: ignore[no-untyped-call]
            stream.wait_event(ready)
        with torch.cuda.stream(stream), torch.no_grad():
            copies = {
                part: {
                    name: replace(piece, tensor=self._buffer(f"{part}.{name}", piece.tensor))
                    for name, piece in pieces.items()
                }
                for part, pieces in parts.items()
            }
        if stream is not None:
            stream.synchronize()
        return copies

    def _buffer(self, key: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None:
            pinned = tensor.device.type == "cuda"
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._buffers[key] = buffer
        return buffer.copy_(tensor, non_blocking=True)

    def _commit(self) -> None:
        state = self._loop_state
        self._bytes = self.store.commit(state.step, asdict(state))

    def _said(self) -> list[float]:
        """This rank's word: its part is done, it failed, the folder is another process's."""
        task = self._task
        if task is None or not task.is_done:
            return [0.0, 0.0, 0.0]
        superseded = isinstance(task.error, StoppedEarly)
        return [float(task.error is None), float(task.error is not None), float(superseded)]

    def _raise_own_error(self) -> None:
        if self._task is not None and self._task.error is not None:
            raise self._task.error

    def _abandon(self) -> str:
        """Forgets the save; returns why it failed, in the words of those that could not write."""
        own = self._task.error if self._task else None
        told = f"rank {self.group.rank} on {platform.node()}: {own}" if own else ""
        if own is not None and not self.group.is_first:
            say(f"warning: {self.job.stage} {told}", sys.stderr)
        reasons = [reason for reason in self.group.gather_text(told) if reason]
        if own is not None and not isinstance(own, NanochatError):
            raise own  # a bug
        if self.group.is_first:
            self.store.abandon(self._loop_state.step)
        return str(own) if own and self.group.is_first else "; ".join(reasons)

    def _ended(self, error: str | None) -> SaveEnded:
        self.phase, self._task = _Phase.IDLE, None
        seconds = time.monotonic() - self._began
        return SaveEnded(self._loop_state.step, error, self._bytes, seconds, self._stalled)


def _pieces(owned: Mapping[str, Owned]) -> Pieces:
    return {name: Piece(part.tensor, part.start, part.rows) for name, part in owned.items()}


class _Task:
    """Something done in a thread, and how it ended."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self.is_done = False
        self._act = act
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as exc:  # raised, or reported, by the thread that looks
            self.error = exc
        self.is_done = True
