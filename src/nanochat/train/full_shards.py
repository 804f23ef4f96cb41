"""Weights that no device holds whole: each rank keeps its rows of every parameter.

    shard_weights(model, group)                  # once; the model may lie on the host
    loss = model.loss_sum(ids_BT, targets_BT)    # all ranks, equally often

A part of the model is put together from the ranks' rows just before it computes and given up right
after; its gradients are summed over the ranks, each of which keeps those of its rows (ZeRO, arXiv
1910.02054, stage 3, as PyTorch's fully_shard does it). So the ranks need each other in every pass:
all make equally many (full_shard_batches.py), and none can repeat one alone.

Reads and writes no files.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from nanochat.errors import OutOfMemory
from nanochat.model.gpt import GPT
from nanochat.train.distributed import RankGroup
from nanochat.train.fitting import is_out_of_memory

P = ParamSpec("P")
R = TypeVar("R")

ENTRIES = ("loss_sum", "token_losses")
"""What training calls of a model, in place of its forward."""


def shard_weights(model: GPT, group: RankGroup) -> None:
    """Leaves on the group's device this rank's rows of each parameter, and nothing of the others'.

    Parts go to the device one by one, so it never holds more than the rows and one part whole. All
    ranks call it, with the same weights.
    """
    mesh = init_device_mesh(group.device.type, (group.world_size,))
    for embedding in (model.embedding, *model.value_embeddings.values()):
        # the gradient of a look-up needs no weights
        _shard(embedding, mesh).set_unshard_in_backward(False)
    for block in model.blocks:
        # what its products would be cast to anyway: half the bytes to send
        _shard(block, mesh, model.dtype)
    _shard(model, mesh)  # the rest: head and scalars
    for name in ENTRIES:
        register_fsdp_forward_method(model, name)
        setattr(model, name, _told_apart(getattr(model, name), group))


def _shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> FSDPModule:
    """Gradients are summed, not averaged, in float32."""
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)
    return sharded


def give_up_whole_weights(model: nn.Module) -> None:
    """After a pass without backward, parts may still be whole; they would hide changed rows."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def own_rows(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded parameter or gradient: the same memory, contiguous."""
    assert isinstance(tensor, DTensor), "the part is whole just now"
    return tensor.to_local()


def chunk(rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Where fully_shard's part of range(rows) begins and ends; the last ranks' may be empty."""
    size = -(-rows // world_size)
    return min(rank * size, rows), min((rank + 1) * size, rows)


# --- what can go wrong in a pass ----------------------------------------------------------------


@contextmanager
def pass_of_all_ranks(group: RankGroup) -> Iterator[None]:
    """Raises RankLost where another rank is gone; OutOfMemory where this one has no room, since the
    others are in the middle of the same pass and wait for it."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        if is_out_of_memory(exc):
            raise OutOfMemory(
                f"rank {group.rank} of {group.world_size} ran out of memory; with "
                "operation.shard: weights no rank can try again alone: lower operation.device_rows"
            ) from exc
        if isinstance(exc, dist.DistError) or "gloo" in str(exc):
            raise group.lost(exc) from exc
        raise


def _told_apart(method: Callable[P, R], group: RankGroup) -> Callable[P, R]:
    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        with pass_of_all_ranks(group):
            return method(*args, **kwargs)

    return guarded
