"""The ranks of one training: processes with a device each that compute the same weights.

    with RankGroup.join(ranks_of(os.environ)) as group:
        group.sum_gradients(model)

Everything that ranks tell each other is a sum, so that each of them holds the same numbers
afterwards. A process that is alone has nobody to talk to, and no process group.
Reads and writes no files.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.errors import RankLost
from nanochat.hpc.ranks import Ranks
from nanochat.model.device import default_device

PATIENCE = timedelta(minutes=30)
"""For ranks that start late, and for rank 0 while it writes."""
BUCKET_BYTES = 32 * 2**20


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

    def wait(self) -> None:
        """Until all ranks have come here."""
        self.sum([0.0])

    def sum_gradients(self, model: nn.Module) -> None:
        """Sums every parameter's gradient over all ranks, in float32, in place.

        A rank that had no rows, and so no gradients, adds zeros. Buckets and their order depend on
        the model alone; so does the order of the additions, given the number of ranks.
        """
        if self.world_size == 1:
            return
        for bucket in _buckets([_gradient(parameter) for parameter in model.parameters()]):
            flat = torch.cat([gradient.flatten().float() for gradient in bucket])
            self._all_reduce(flat)
            parts = flat.split_with_sizes([gradient.numel() for gradient in bucket])
            for gradient, summed in zip(bucket, parts, strict=True):
                gradient.copy_(summed.view_as(gradient))

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
        try:
            dist.all_reduce(tensor)
        except RuntimeError as exc:
            raise RankLost(
                f"rank {self.rank} of {self.world_size} lost the others ({_first_line(exc)}): see "
                "which rank failed first; run again to continue from the last checkpoint"
            ) from exc


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients that together fill a bucket; one that is larger has a bucket to itself."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        n_bytes = 4 * gradient.numel()
        if bucket and size + n_bytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += n_bytes
    if bucket:
        yield bucket


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
