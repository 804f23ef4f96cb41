"""Which rank holds the others up: steps are as slow as the slowest of them.

    times = StepTimes()
    times.add(compute_seconds, data_seconds)
    straggler = describe(compute_medians_of_all_ranks, data_medians_of_all_ranks, hosts)
    if straggler.sentence: ...

`compute` is the time in which a rank works itself, without waiting for others; `data` the time in
which it waits for its rows. Medians of the last steps are compared: one slow step is no straggler.
Reads and writes no files.
"""

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WORTH_SAYING = 1.2
"""Times the median rank's step."""


class StepTimes:
    """A rank's last steps."""

    def __init__(self, window: int = 50) -> None:
        self._compute: deque[float] = deque(maxlen=window)
        self._data: deque[float] = deque(maxlen=window)

    def add(self, compute: float, data: float) -> None:
        """The seconds of one step."""
        self._compute.append(compute)
        self._data.append(data)

    def medians(self) -> tuple[float, float]:
        """Seconds a step of computing and of waiting for data; zeros before the first step."""
        if not self._compute:
            return 0.0, 0.0
        return statistics.median(self._compute), statistics.median(self._data)


@dataclass(frozen=True)
class Straggler:
    """The slowest rank. Seconds are a step's."""

    rank: int
    host: str
    ratio: float
    """Its computing and waiting for data, over the median rank's."""
    is_data: bool
    """Whether waiting for data makes it slow, more than computing does."""
    seconds: float
    """What it spends on that ..."""
    median: float
    """... and what the median rank does."""

    @property
    def sentence(self) -> str | None:
        """A line for people; None where the slowest rank is hardly slower than the others."""
        if self.ratio <= WORTH_SAYING:
            return None
        doing = "waiting for data" if self.is_data else "computing"
        return (
            f"rank {self.rank} on {self.host} is the slowest: {self.seconds:.3g} s a step of "
            f"{doing} where the median is {self.median:.3g} s"
        )


def describe(compute: Sequence[float], data: Sequence[float], hosts: Sequence[str]) -> Straggler:
    """The slowest rank, the first of equals; one entry a rank in each sequence.

    Of an even number of ranks the faster middle one is the median, so that of two ranks the fast
    one is what the slow one is measured by.
    """
    totals = [own + waited for own, waited in zip(compute, data, strict=True)]
    rank = totals.index(max(totals))
    of_compute, of_data = statistics.median_low(compute), statistics.median_low(data)
    is_data = data[rank] - of_data > compute[rank] - of_compute
    usual = statistics.median_low(totals)
    return Straggler(
        rank=rank,
        host=hosts[rank],
        ratio=totals[rank] / usual if usual > 0 else 1.0,
        is_data=is_data,
        seconds=data[rank] if is_data else compute[rank],
        median=of_data if is_data else of_compute,
    )
