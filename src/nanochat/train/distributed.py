"""The ranks of one training: processes with a device each that compute the same weights.

    with RankGroup.join(ranks_of(os.environ)) as group:
        (total,) = group.sum([mine])

What ranks tell each other are sums, so that each of them holds the same numbers afterwards, and
tensors that go to one of them or come from one (train/exchange.py). A process that is alone has
nobody to talk to, and no process group. Reads and writes no files.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.errors import RankLost
from nanochat.hpc.ranks import Ranks
from nanochat.model.device import default_device

PATIENCE = timedelta(minutes=30)
"""For ranks that start late, and for rank 0 while it writes."""
TEXT_BYTES = 256


class RankGroup:
    """This process's place among the ranks; by default it is alone."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = default_device()

    @classmethod
    @contextmanager
    def join(cls, ranks: Ranks) -> Iterator["RankGroup"]:
        """Waits until all ranks are there. Raises RankLost if one does not come."""
        if ranks.world_size == 1:
            yield cls()
            return
        group = cls(ranks.rank, ranks.world_size)
        if group.device.type == "cuda":
            index = ranks.local_rank % torch.cuda.device_count()
            group.device = torch.device("cuda", index)
            torch.cuda.set_device(group.device)
        group._meet(ranks)
        try:
            yield group
        finally:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Rank 0, the only one that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks, in float64: whole numbers below 2^53 are exact."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        self._all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def from_first(self, value: float) -> float:
        """Rank 0's value, on all ranks."""
        return self.sum([value if self.is_first else 0.0])[0]

    def gather_text(self, text: str) -> list[str]:
        """Each rank's text, of which 256 bytes count, on all ranks."""
        own = text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        slots = [0.0] * (TEXT_BYTES * self.world_size)
        slots[TEXT_BYTES * self.rank : TEXT_BYTES * (self.rank + 1)] = map(float, own)
        joined = bytes(int(value) for value in self.sum(slots))
        texts = (joined[start : start + TEXT_BYTES] for start in range(0, len(joined), TEXT_BYTES))
        return [text.rstrip(b"\0").decode(errors="replace") for text in texts]

    def wait(self) -> None:
        """Until all ranks have come here."""
        self.sum([0.0])

    def gather(self, value: float) -> list[float]:
        """Each rank's value, on all ranks."""
        slots = [0.0] * self.world_size
        slots[self.rank] = value
        return self.sum(slots)

    def reduce(self, tensor: Tensor, owner: int) -> "Transfer":
        """Begins to sum a contiguous tensor over all ranks, into the owner's; the others' is spent.

        The order of the additions depends on the number of ranks alone.
        """
        return self._begin(lambda: dist.reduce(tensor, dst=owner, async_op=True))

    def broadcast(self, tensor: Tensor, owner: int) -> "Transfer":
        """Begins to copy the owner's contiguous tensor into everybody's, bit for bit."""
        flat = tensor.view(-1).view(torch.uint8)
        return self._begin(lambda: dist.broadcast(flat, src=owner, async_op=True))

    def _meet(self, ranks: Ranks) -> None:
        on_gpu = self.device.type == "cuda"
        try:
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                init_method=f"tcp://{ranks.address}:{ranks.port}",
                timeout=PATIENCE,
                rank=ranks.rank,
                world_size=ranks.world_size,
                device_id=self.device if on_gpu else None,
            )
        except RuntimeError as exc:
            raise RankLost(
                f"rank {self.rank} did not meet the other {self.world_size - 1} ranks at "
                f"{ranks.address}:{ranks.port} ({_first_line(exc)}): see whether another rank "
                "failed before it, else run again"
            ) from exc

    def _all_reduce(self, tensor: Tensor) -> None:
        self._begin(lambda: dist.all_reduce(tensor, async_op=True)).wait()

    def _begin(self, start: Callable[[], Any]) -> "Transfer":
        if self.world_size == 1:
            return Transfer(self, None)
        try:
            return Transfer(self, start())
        except RuntimeError as exc:
            raise self.lost(exc) from exc

    def lost(self, exc: Exception) -> RankLost:
        """The error of a rank that has nobody to talk to any more."""
        return RankLost(
            f"rank {self.rank} of {self.world_size} lost the others ({_first_line(exc)}): see "
            "which rank failed first; run again to continue from the last checkpoint"
        )


class Transfer:
    """A tensor on its way."""

    def __init__(self, group: RankGroup, work: Any) -> None:
        self.group, self.work = group, work

    def wait(self) -> None:
        """Until it has arrived (on a GPU: until whatever uses it is queued behind its arrival)."""
        if self.work is None:
            return
        try:
            self.work.wait()
        except RuntimeError as exc:
            raise self.group.lost(exc) from exc


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
