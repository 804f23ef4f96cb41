"""Progress with an ETA, for people: a bar on a terminal, a plain line every few seconds in a log.

`for shard in track(shards, "tokenizing", unit="shards"): ...`
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


def track(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "it"
) -> Iterator[T]:
    """Yields `items` while showing how many of `total` are done, the rate and the time left."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _bar(items, description, total, unit)
    else:
        yield from _lines(items, description, total, unit)


def format_seconds(seconds: float) -> str:
    """`3723.4` as `1h02m`, `75` as `1m15s`, `9.3` as `9s`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def _bar(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import Progress

    columns = [*Progress.get_default_columns()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=f"{description} ({unit})")


def _lines(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            print(_line(description, done, total, unit, now - start), file=sys.stderr, flush=True)


def _line(description: str, done: int, total: int | None, unit: str, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    line = f"{description}: {done:,}{f'/{total:,}' if total else ''} {unit}, {rate:,.1f} {unit}/s"
    if total and done < total:
        return f"{line}, ETA {format_seconds((total - done) / rate)}"
    return f"{line}, took {format_seconds(seconds)}"
