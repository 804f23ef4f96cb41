"""The memory plan against what autograd keeps, what the optimizer holds and what is allocated."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.memory import (
    BACKWARD_CHANNELS,
    available_bytes,
    cgroup_limits,
    kept_per_token,
    memory_plan,
    usable,
)
from nanochat.model.muon import MuonStack
from nanochat.model.optimizer import MuonAdamW
from nanochat.model.units import Update

CPU = torch.device("cpu")
BF16, F32 = torch.bfloat16, torch.float32
GIB = 2**30


def small(depth: int = 4, length: int = 256, october: bool = False) -> GPTConfig:
    make = GPTConfig.october_2025 if october else GPTConfig.from_depth
    return make(depth, vocab_size=512, sequence_len=length, aspect_ratio=32, head_dim=32)


def fresh(shape: GPTConfig, dtype: torch.dtype) -> GPT:
    model = GPT(shape, dtype)
    model.init_weights(seed=1)
    return model


def tokens_of(shape: GPTConfig, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, shape.vocab_size, (rows, shape.sequence_len), generator=generator)


def kept_by_autograd(model: GPT, ids_BT: torch.Tensor) -> int:
    """Bytes of all distinct storages that a forward pass saves, but for the weights'."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss_sum(ids_BT, ids_BT)
    sizes = {p: tensor.untyped_storage().nbytes() for p, tensor in kept.items() if p not in own}
    loss.backward()
    return sum(sizes.values())


def planned(shape: GPTConfig, rows: int, dtype: torch.dtype, compiled: bool) -> int:
    size = dtype.itemsize
    plan = memory_plan(shape, 1, size, "cpu", compiled)
    head = 4 * shape.vocab_size * shape.n_embd  # its gradient is made in the forward pass
    kept = kept_per_token(shape, size, "cpu", compiled)
    return plan.copies + rows * shape.sequence_len * kept + head


def peak_of(act, *arguments) -> int:  # type: ignore[no-untyped-def]
    """Most bytes that were allocated at once during `act`, above what was there before."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        act(*arguments)
    events = profile.profiler.kineto_results.events()
    sizes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, size in sizes:
        now += size
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        (small(2, 256), 4),
        (small(4, 512), 1),
        (small(8, 256), 2),
        (small(3, 1024), 1),
        (small(4, 256, october=True), 2),
        (replace(small(4, 256), n_kv_head=1), 2),
        (replace(small(4, 256), smear=False, backout=False), 2),
        (replace(small(4, 256), value_embeddings=False, residual_lambdas=False), 2),
    ],
)
def test_the_plan_counts_what_an_eager_pass_keeps(
    shape: GPTConfig, rows: int, dtype: torch.dtype
) -> None:
    kept = kept_by_autograd(fresh(shape, dtype), tokens_of(shape, rows))
    assert planned(shape, rows, dtype, compiled=False) == pytest.approx(kept, rel=0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's, on loading its compiler
def test_the_plan_counts_what_a_compiled_pass_keeps() -> None:
    """What is kept is decided before any kernel is made, so that no kernel has to be made here."""
    shape = small(2, 256)
    model = fresh(shape, BF16)
    model._training_trunk = torch.compile(model._trunk, backend="aot_eager_decomp_partition")
    kept = kept_by_autograd(model, tokens_of(shape, rows=2))
    assert planned(shape, 2, BF16, compiled=True) == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_no_moment_of_a_pass_takes_more_than_the_plan(dtype: torch.dtype) -> None:
    shape = replace(small(4, 512), vocab_size=32768)
    model, ids_BT = fresh(shape, dtype), tokens_of(shape, rows=2)
    model.loss_sum(ids_BT, ids_BT).backward()  # the gradients are there from then on
    peak = peak_of(lambda: model.loss_sum(ids_BT, ids_BT).backward())
    plan = memory_plan(shape, 1, dtype.itemsize, "cpu", compiled=False)
    total = plan.copies + 2 * plan.activations_per_row + plan.loss
    assert 0.8 * total < peak <= total


def test_gradients_on_their_way_take_no_more_than_the_plan() -> None:
    shape = small(8, 512)  # wide and deep enough for the backward pass to hold more than the loss
    model, ids_BT = fresh(shape, F32), tokens_of(shape, rows=2)
    kept = kept_by_autograd(model, ids_BT)
    peak = peak_of(lambda: model.loss_sum(ids_BT, ids_BT).backward())
    planned = ids_BT.numel() * BACKWARD_CHANNELS["eager"] * shape.n_embd * F32.itemsize
    assert 0.8 * planned < peak - kept <= planned


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_an_update_takes_no_more_than_the_plan(dtype: torch.dtype) -> None:
    shape = small(4)
    matrices = {
        f"blocks.{i}": nn.Parameter(torch.randn(4 * shape.n_embd, shape.n_embd)) for i in range(4)
    }
    stack = MuonStack(matrices, dtype, lr_scale=1.0, owner=0, is_mine=True)
    gradient = stack.gradient()
    with torch.no_grad():
        peak = peak_of(stack.update, gradient, Update(1.0, 0.95, 0.1))
    assert 0.7 < peak / memory_plan(shape, 1, dtype.itemsize, "cpu", False).update <= 1.01


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_weights_and_moments_are_those_of_the_fullest_rank(
    world_size: int, dtype: torch.dtype
) -> None:
    shape = small(8)
    model = fresh(shape, dtype)
    plan = memory_plan(shape, world_size, dtype.itemsize, "cuda", compiled=True)
    assert plan.weights == sum(parameter.nbytes for parameter in model.parameters())
    moments, saved = [], []
    for rank in range(world_size):
        optimizer = MuonAdamW(model, 1.0, 0.1, rank, world_size)
        own = sum(part.tensor.nbytes for part in optimizer.owned().values())
        moments.append(own)
        saved.append(own + sum(part.tensor.nbytes for part in optimizer.owned_weights().values()))
    assert 0.99 * max(moments) <= plan.optimizer <= 1.15 * max(moments)
    assert 0.99 * max(saved) <= plan.save_copy <= 1.15 * max(saved)


def test_rows_are_halved_until_they_fit() -> None:
    plan = memory_plan(GPTConfig.from_depth(12), 8, 2, "cuda", compiled=True)
    assert plan.largest_rows(plan.total(24), at_most=24) == 24
    assert plan.largest_rows(plan.total(24) - 1, at_most=24) == 12
    assert plan.largest_rows(plan.total(1), at_most=24) == 1
    assert plan.largest_rows(plan.total(1) - 1, at_most=24) == 0


@pytest.mark.parametrize(("depth", "rows"), [(12, 64), (20, 32), (24, 16)])
def test_published_models_fit_eight_cards_of_80_gb_as_published(depth: int, rows: int) -> None:
    plan = memory_plan(GPTConfig.from_depth(depth), 8, 2, "cuda", compiled=True)
    assert plan.largest_rows(usable(int(79.1 * GIB)), at_most=64) == rows


def test_a_save_takes_memory_of_a_processor_and_none_of_a_gpu() -> None:
    on_cpu, on_gpu = (memory_plan(small(), 2, 2, kind, True) for kind in ("cpu", "cuda"))
    assert on_cpu.fixed - on_gpu.fixed == on_cpu.save_copy == on_gpu.save_copy > 0


def group(folder: Path, name: str, limit: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(limit + "\n")


def test_limits_of_version_2_groups_are_found_up_to_the_root(tmp_path: Path) -> None:
    group(tmp_path / "system" / "slurm" / "job_7", "memory.max", "max")
    group(tmp_path / "system" / "slurm", "memory.max", "5000")
    group(tmp_path, "memory.max", "9000")
    assert sorted(cgroup_limits("0::/system/slurm/job_7\n", tmp_path)) == [5000, 9000]


def test_limits_of_version_1_groups_are_those_of_the_memory_controller(tmp_path: Path) -> None:
    group(tmp_path / "memory" / "slurm" / "job_7", "memory.limit_in_bytes", "5000")
    group(tmp_path / "memory" / "cpu", "memory.limit_in_bytes", "1")
    lines = "5:cpu,cpuacct:/cpu\n4:memory:/slurm/job_7\n1:name=systemd:/a:b\n0::/\n"
    assert cgroup_limits(lines, tmp_path) == [5000]


def test_a_container_that_does_not_see_its_own_group_has_the_limit_of_the_mount(
    tmp_path: Path,
) -> None:
    group(tmp_path, "memory.max", "5000")
    assert cgroup_limits("0::/kubepods/pod-1\n", tmp_path) == [5000]


def test_memory_is_no_more_than_the_machine_has_and_shared_by_its_processes() -> None:
    everything = available_bytes(CPU)
    assert 0 < everything <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert available_bytes(CPU, sharing=4) == everything // 4


def test_a_limit_on_the_address_space_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB // 2, GIB))
    assert available_bytes(CPU) == GIB // 2
