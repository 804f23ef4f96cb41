"""Signals only set a flag; the training loop looks at it between steps.

with StopFlag() as stop:
    while not stop.requested: ...
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""How SLURM, a terminal, and `sbatch --signal` ask a process to stop."""


class StopFlag:
    """Catches CAUGHT while its block runs; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopFlag":
        for number in CAUGHT:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


@contextmanager
def warnings_ignored() -> Iterator[None]:
    """Outside the loop, a warning of the time limit must not kill what is being written."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    previous = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
