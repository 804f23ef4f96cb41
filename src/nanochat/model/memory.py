"""How much memory training takes, from the shape alone, and how much there is.

    plan = memory_plan(shape, world_size=8, dtype_bytes=2, device_type="cuda", compiled=True)
    plan.total(rows=32)                                    # bytes on one rank's device
    plan.largest_rows(usable(available_bytes(device)), at_most=32)

What autograd keeps was counted in the model's code and compared with what saved_tensors_hooks sees
on a processor, for depths of 2 to 8, 256 to 1024 tokens, 1 to 4 rows, float32 and bfloat16, eager
and compiled: within 3 %. What a backward pass and Muon hold on top was measured with the profiler.
CUDA's figures follow from the same counts and are not measured: what a compiler keeps is decided
before it knows the device, and the eager norm of CUDA keeps no float32 copy of its input, as the
processor's does. CUDA's context, cuBLAS, NCCL and an allocator that leaves gaps take more: HEADROOM
is for them. On the host, buffers that CUDA can read are rounded up to powers of two.

Reads the limits of this process's control groups; loads torch only for a device and the sizes of
the loss's chunks.
"""

import os
import resource
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.model.gpt_config import GPTConfig
from nanochat.model.scaling import count_parameters

if TYPE_CHECKING:
    import torch

HEADROOM = 0.1
"""Share of the memory that a plan leaves alone."""
FLOAT32 = 4
MLP_RATIO = 4
BACKWARD_CHANNELS = {"eager": 12, "compiled": 4}
"""Gradients under way in a block's backward pass, in widths of the model; measured 8 to 11.5
eagerly and 1.5 to 3.7 compiled, where buffers are used again."""
UPDATE_BYTES = {2: 14, 4: 24}
"""A number of Muon's largest stack while it is updated, by the bytes of the compute dtype: copies
of the update and its Gram matrices. Measured 14 and 18 to 24."""
SWEEP_BYTES = 8
"""An eager sweep over a chunk of logits holds two float32 copies."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one rank's device, on the rank that has most."""

    weights: int
    gradients: int
    optimizer: int
    """The moments that one rank owns."""
    save_copy: int
    """What one rank owns of weights and moments, copied to the host for a checkpoint."""
    copies: int
    """Matrices in the compute dtype, and attention masks: kept by a pass of any number of rows."""
    activations_per_row: int
    """Kept by autograd for a row of sequence_len tokens, and a block's gradients on the way."""
    loss: int
    """The loss's chunks of logits, and its gradient of the head."""
    update: int
    """Of Muon's largest stack, or float32 sums of gradients; the activations are gone by then."""
    world_size: int
    device_type: str

    @property
    def fixed(self) -> int:
        """What is there from start to end. On a processor the copy for a save lies there too."""
        on_device = self.save_copy if self.device_type == "cpu" else 0
        return self.weights + self.gradients + self.optimizer + on_device

    def total(self, rows: int) -> int:
        """At the fullest moment of a step with micro-batches of `rows` rows."""
        in_pass = self.copies + rows * self.activations_per_row + self.loss
        return self.fixed + max(in_pass, self.update)

    def largest_rows(self, limit_bytes: int, at_most: int) -> int:
        """The first of at_most, at_most // 2, ..., 1 that fits into `limit_bytes`; 0 if none."""
        rows = at_most
        while rows and self.total(rows) > limit_bytes:
            rows //= 2
        return rows


def memory_plan(
    shape: GPTConfig,
    world_size: int,
    dtype_bytes: int,
    device_type: str,
    compiled: bool,
    shards_weights: bool = False,
) -> MemoryPlan:
    """The plan for `world_size` ranks; `dtype_bytes` is the size of an activation (2 or 4).

    With `shards_weights` the ranks divide weights and gradients too, and hold of them what a block
    needs at a time (this part is reasoned, not measured).
    """
    counts = count_parameters(shape)
    embeddings = counts.embedding + counts.value_embeddings
    weights = FLOAT32 * (counts.total - embeddings) + dtype_bytes * embeddings
    own_weights, moments = _owned(shape, world_size, dtype_bytes)
    kept = kept_per_token(shape, dtype_bytes, device_type, compiled)
    backward = BACKWARD_CHANNELS["compiled" if compiled else "eager"] * shape.n_embd * dtype_bytes
    copies, loss = (
        _copies(shape, dtype_bytes, compiled),
        _loss_bytes(shape, dtype_bytes, device_type, compiled),
    )
    if shards_weights and world_size > 1:
        weights = -(-weights // world_size)
        copies = _gathered(shape, dtype_bytes)
        loss += FLOAT32 * shape.vocab_size * shape.n_embd  # the head's gradient on its way
    return MemoryPlan(
        weights=weights,
        gradients=weights,
        optimizer=moments,
        save_copy=own_weights + moments,
        copies=copies,
        activations_per_row=shape.sequence_len * (kept + backward),
        loss=loss,
        update=_update_bytes(shape, world_size, dtype_bytes),
        world_size=world_size,
        device_type=device_type,
    )


def kept_per_token(shape: GPTConfig, dtype_bytes: int, device_type: str, compiled: bool) -> int:
    """Bytes that autograd keeps for each token of a micro-batch, from forward to backward.

    A block: 8 C of the MLP's hidden layer before and after its activation, queries and keys before
    and after their norm, values, and 5 C of the stream, its norms and attention's output.
    """
    L, C, K = shape.n_layer, shape.n_embd, shape.n_kv_head * shape.head_dim
    channels = L * (2 * MLP_RATIO * C + 2 * (C + K) + K + 5 * C) + 2 * C  # and both ends' streams
    channels += len(shape.value_layers) * K
    if shape.smear:
        channels += 3 * C
    if shape.residual_lambdas:
        channels += (L - 1) * C
    upcast = 0
    if not compiled:
        channels += C
        if device_type == "cpu":  # whose eager norm keeps its input in float32
            upcast = (FLOAT32 - dtype_bytes) * ((2 * L + 2) * C + L * (C + K))
    scales = L * (2 * shape.n_head + shape.n_kv_head + 2) + 2  # float32, of norms and softmax
    ids = 2 * 8
    return dtype_bytes * channels + upcast + FLOAT32 * scales + ids


def usable(n_bytes: int) -> int:
    """What a plan may fill of a device's memory."""
    return int((1 - HEADROOM) * n_bytes)


def available_bytes(device: "torch.device", sharing: int = 1) -> int:
    """Memory that training may fill: a GPU's, else this process's part of the host's.

    On a processor it is the least of the memory that is built in, what the control groups allow
    (SLURM's limit is one) and `ulimit -v`, divided by the `sharing` processes on this host.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[1])
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    groups = Path("/proc/self/cgroup")
    limits = cgroup_limits(groups.read_text() if groups.is_file() else "")
    shared = min([physical, *limits]) // sharing
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]  # of each process
    return shared if address_space == resource.RLIM_INFINITY else min(shared, address_space)


def cgroup_limits(membership: str, mounted: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Memory limits of the groups named in `membership` (/proc/self/cgroup) and of all above them.

    Knows version 1, version 2 and both at once. A container may not see the folders of its own
    groups; then the mounted folder itself holds the limit.
    """
    limits = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots, name = [mounted, mounted / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            roots, name = [mounted / "memory"], "memory.limit_in_bytes"
        else:
            continue
        for root in roots:
            group = root / path.lstrip("/")
            folders = [group, *(above for above in group.parents if above.is_relative_to(root))]
            limits += [_limit_in(folder / name) for folder in folders]
    return [limit for limit in limits if limit is not None]


def _limit_in(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _matrices(shape: GPTConfig) -> Counter[tuple[int, int]]:
    """How many matrices of each shape Muon updates."""
    L, C, K = shape.n_layer, shape.n_embd, shape.n_kv_head * shape.head_dim
    matrices: Counter[tuple[int, int]] = Counter()
    matrices[C, C] += 2 * L
    matrices[K, C] += 2 * L
    matrices[MLP_RATIO * C, C] += L
    matrices[C, MLP_RATIO * C] += L
    return matrices


def _owned(shape: GPTConfig, world_size: int, dtype_bytes: int) -> tuple[int, int]:
    """Bytes of the weights that one rank updates, and of their moments: rows, or whole matrices,
    divided evenly, and rounded up."""
    kv_channels = shape.n_kv_head * shape.head_dim
    rows = -(-shape.padded_vocab_size // world_size)
    embedded = rows * (shape.n_embd + len(shape.value_layers) * kv_channels) * dtype_bytes
    by_adam = embedded + rows * shape.n_embd * FLOAT32  # the head
    by_muon = momentum = 0
    for (M, N), number in _matrices(shape).items():
        own = -(-number // world_size) * FLOAT32
        by_muon += own * M * N
        momentum += own * (M * N + max(M, N))  # and a second moment for each row, or column
    return by_adam + by_muon, 2 * by_adam + momentum


def _copies(shape: GPTConfig, dtype_bytes: int, compiled: bool) -> int:
    cast = count_parameters(shape).matrices * dtype_bytes if dtype_bytes < FLOAT32 else 0
    masked = sum(window < shape.sequence_len for window in shape.windows)
    masks = min(masked, 1) if compiled else masked  # a compiler makes one for all layers
    return cast + masks * shape.sequence_len**2 * dtype_bytes


def _gathered(shape: GPTConfig, dtype_bytes: int) -> int:
    """Whole weights that are there for a moment: the head, the largest embedding, a block and the
    next one with their gradients; and masks."""
    V, C = shape.vocab_size, shape.n_embd
    block = count_parameters(shape).matrices // shape.n_layer
    masked = sum(window < shape.sequence_len for window in shape.windows)
    at_once = 3 * block * dtype_bytes + 2 * block * FLOAT32
    masks = masked * shape.sequence_len**2 * dtype_bytes
    return FLOAT32 * V * C + dtype_bytes * V * C + at_once + masks


def _loss_bytes(shape: GPTConfig, dtype_bytes: int, device_type: str, compiled: bool) -> int:
    """The head's gradient, and beside it the buffers of loss._Pass, later the scaled gradient."""
    from nanochat.model.loss import CHUNK_LOGITS, GROUP_CHUNKS

    V, C = shape.vocab_size, shape.n_embd
    logits = CHUNK_LOGITS[device_type] * GROUP_CHUNKS[device_type]
    buffers = logits * dtype_bytes + logits // V * C * dtype_bytes  # and the group's activations
    buffers += 0 if compiled else CHUNK_LOGITS[device_type] * SWEEP_BYTES
    heads = V * C * dtype_bytes * (2 if dtype_bytes < FLOAT32 else 1)  # its cast, and a share
    gradient = V * C * FLOAT32
    return gradient + max(gradient, buffers + heads)


def _update_bytes(shape: GPTConfig, world_size: int, dtype_bytes: int) -> int:
    """Sums over the ranks are made in float32; Muon updates one stack at a time."""
    counts = count_parameters(shape)
    embeddings = counts.embedding + counts.value_embeddings
    summed = FLOAT32 * embeddings if world_size > 1 and dtype_bytes < FLOAT32 else 0
    numbers = max(M * N * -(-number // world_size) for (M, N), number in _matrices(shape).items())
    return max(summed, UPDATE_BYTES[dtype_bytes] * numbers)
