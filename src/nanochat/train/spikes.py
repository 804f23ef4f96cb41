"""A loss far above what the last steps promised.

    detector = SpikeDetector(window)
    spike = detector.look(loss)
    if spike: ...

The yardstick is the median of the last losses and their median absolute deviation (MAD): unlike
mean and standard deviation, neither moves for a single wild value. A falling loss lies below its
median and never alerts. `window` is a list of floats: a checkpoint keeps it, so that a resumed
training judges as an undisturbed one. Reads and writes no files.
"""

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

WINDOW = 128
"""Losses looked back upon."""
LEAST = 32
"""Losses before the detector speaks: the MAD of 16 normal values is so uncertain that one in 2,000
scores above THRESHOLD; of 32, one in 70,000; of 128, none in 200,000."""
THRESHOLD = 6.0
"""Standard deviations of normal noise. The highest score in 5,900 steps of 30 undisturbed trainings
(pretraining, mid-training and SFT of small models) was 3.4; a loss that is half again as high as
it should be scored above 6 in nine of ten later pretraining steps."""
MAD_TO_SIGMA = 1.4826
"""Of normal noise."""
FLOOR = 1e-3
"""Of the median, added to the yardstick: losses that hardly differ would make it vanish."""
LEAST_SCALE = 1e-6
"""Keeps a score finite where every loss was zero."""


class Spike(NamedTuple):
    """A loss that is too high."""

    median: float
    """Of the losses before it."""
    score: float
    """How many yardsticks above the median it lies."""


class SpikeDetector:
    """Looks at one loss a step."""

    def __init__(self, window: Iterable[float] = ()) -> None:
        self.window = list(window)[-WINDOW:]
        """The last losses: all of the detector's state."""

    def look(self, loss: float) -> Spike | None:
        """The spike that `loss` is, if it is one. A loss that is not finite is passed over.

        A spike enters the window clipped to the threshold: it cannot hide the next one, and yet a
        level that stays is the new median after 50 to 200 steps.
        """
        if not math.isfinite(loss):
            return None
        median, scale = _median_and_scale(self.window)
        score = (loss - median) / scale if len(self.window) >= LEAST else 0.0
        is_spike = score > THRESHOLD
        self.window = [*self.window, median + THRESHOLD * scale if is_spike else loss][-WINDOW:]
        return Spike(median, score) if is_spike else None


def _median_and_scale(losses: list[float]) -> tuple[float, float]:
    if not losses:
        return 0.0, 1.0
    median = statistics.median(losses)
    mad = statistics.median(abs(loss - median) for loss in losses)
    return median, MAD_TO_SIGMA * mad + FLOOR * abs(median) + LEAST_SCALE
