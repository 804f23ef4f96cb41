"""Shows how many megabytes of a piece of work are done, and the time left.

    def work(count): ...; count(len(chunk)); ...
    result = with_meter(work, "verifying", total_bytes)

The work runs in a thread, and may start more of them. Prints to stderr; writes nothing.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

from nanochat.progress import track

T = TypeVar("T")
Count = Callable[[int], None]
"""Called with the number of bytes that were done just now; raises where the work shall stop."""

MB = 1_000_000


def with_meter(work: Callable[[Count], T], description: str, total_bytes: float) -> T:
    """What `work` returns or raises. Ctrl-C stops it at its next chunk."""
    counts: SimpleQueue[int | None] = SimpleQueue()
    stopped = Event()

    def count(size: int) -> None:
        if stopped.is_set():
            raise CancelledError
        counts.put(size)

    total = int(total_bytes // MB)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, count)
        future.add_done_callback(lambda _: counts.put(None))
        try:
            for _ in track(_megabytes(counts, total), description, total, "MB"):
                pass
        except BaseException:
            stopped.set()
            raise
    return future.result()


def _megabytes(counts: "SimpleQueue[int | None]", total: int) -> Iterator[int]:
    """Yields once a megabyte, `total` times at most, until the work has ended."""
    done = shown = 0
    while (size := counts.get()) is not None:
        done += size
        while shown < min(total, done // MB):
            shown += 1
            yield shown
