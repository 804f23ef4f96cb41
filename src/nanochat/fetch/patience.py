"""Trying again: what may pass is tried more rarely each time, and not for ever.

    patiently(attempt, url, watch, brought=lambda: received / enough_to_count)

An attempt that brings something costs no patience: a server that breaks every connection after a
tenth of the file gives the file. $NANOCHAT_DOWNLOAD_BACKOFF is the first wait in seconds, 1 if not
set; it doubles each time.
"""

import os
import random
from collections.abc import Callable

from nanochat.errors import ConfigError, DownloadError
from nanochat.fetch.display import Watch

FEW = 3  # attempts at what a further attempt seldom mends
MANY = 7  # attempts without progress at what often passes
ATTEMPTS = 300  # in all, whatever progress they make
LONGEST_WAIT = 60.0
ANOTHER_SPEAKER = "a proxy, a login page or a wrong HF_ENDPOINT may have answered: check these"


class Unreachable(DownloadError):
    """Nobody answers at that host, so that its other files need not be tried."""


class Trouble(Exception):
    """A failure that may pass: what was seen, and what to do if it does not."""

    def __init__(
        self,
        seen: str,
        advice: str = "run again later to continue",
        patience: int = MANY,
        wait: float | None = None,
        error: type[DownloadError] = DownloadError,
        start_anew: bool = False,
    ) -> None:
        super().__init__(seen)
        self.seen, self.advice, self.patience = seen, advice, patience
        self.wait = wait
        """Seconds that the server asks to wait."""
        self.error = error
        """What it becomes after `patience` attempts."""
        self.start_anew = start_anew
        """Whether the bytes that are here already are of no use."""


def stalled(seconds: float) -> Trouble:
    """Nothing, or next to nothing, has come for so long."""
    return Trouble(
        f"no data for {seconds:g} s",
        "run again later to continue, or give HF_HUB_DOWNLOAD_TIMEOUT more seconds",
    )


def broken(seen: str) -> Trouble:
    """The connection ended before the file did."""
    return Trouble(f"the connection broke: {seen}", "run again to continue where it broke")


def wrong(seen: str) -> Trouble:
    """A whole file came, and it is another one."""
    return Trouble(seen, f"nothing was kept; {ANOTHER_SPEAKER}", FEW, start_anew=True)


def seconds_of(variable: str, otherwise: float) -> float:
    """Seconds that an environment variable gives; raises ConfigError where it is no number."""
    value = os.environ.get(variable, "").strip() or str(otherwise)
    try:
        return float(value)
    except ValueError as exc:
        raise ConfigError(f"{variable} is {value!r}: give a number of seconds") from exc


def patiently(
    attempt: Callable[[], object], url: str, watch: Watch, brought: Callable[[], float]
) -> None:
    """Calls `attempt` until it raises no Trouble; raises DownloadError when that is hopeless.

    `brought` is what has come so far as a multiple of what counts as progress.
    """
    backoff = seconds_of("NANOCHAT_DOWNLOAD_BACKOFF", 1)
    idle: dict[int, int] = {}
    best, tries = brought(), 0
    while True:
        tries += 1
        try:
            attempt()
            return
        except Trouble as trouble:
            if brought() >= best + 1:
                best = brought()
                idle.pop(MANY, None)  # the few are for what does not pass
            idle[trouble.patience] = idle.get(trouble.patience, 0) + 1
            if idle[trouble.patience] >= trouble.patience or tries >= ATTEMPTS:
                times = "once" if tries == 1 else f"{tries} times"
                raise trouble.error(
                    f"cannot download {url} ({trouble.seen}; tried {times}): {trouble.advice}"
                ) from trouble
            wait = min(backoff * 2 ** (sum(idle.values()) - 1), LONGEST_WAIT)
            wait *= random.uniform(0.5, 1)  # not all at once, of many
            watch.wait(max(wait, trouble.wait or 0), trouble.seen)
