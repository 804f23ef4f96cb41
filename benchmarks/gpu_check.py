"""Is this GPU computing what it should, and how fast? Under three minutes, no data needed.

    make gpu-check        or: python benchmarks/gpu_check.py [--seconds 60] [--output FILE]

Needs a CUDA GPU, torch and the package's light dependencies. Trains on random tokens. Prints one
JSON; exit code 0 if all checks hold, 1 if one does not, 2 if there is no GPU. Writes nothing else.
"""

import argparse
import os
import sys
import time
from typing import Any

# cuBLAS promises the same bits twice only with a fixed workspace; it reads this at its start
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from common import matmul_peak, publish
from torch import Tensor

from nanochat.model.device import CompileMode
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.hardware import peak_flops
from nanochat.model.optimizer import MuonAdamW
from nanochat.model.scaling import flops_per_token

TIMED = GPTConfig.from_depth(12, vocab_size=32_768, sequence_len=2048)
SMALL = GPTConfig.from_depth(4, vocab_size=4096, sequence_len=512)
DEVICE_ROWS = 16
PRECISION_TOLERANCE = 0.02
COMPILED_TOLERANCE = 1e-3
WARMUP_STEPS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks a GPU: precision, compile, speed, resume.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to train at depth 12")
    parser.add_argument("--output", help="a file for the JSON too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is visible to torch: run this on a GPU node", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    results = {
        "precision": check_precision(device),
        "compiled": check_compiled(device),
        "resume": check_resume(device),
        "training": time_training(device, arguments.seconds),
    }
    publish("gpu-check", results)
    return 0 if all(result.get("holds", True) for result in results.values()) else 1


def check_precision(device: torch.device) -> dict[str, Any]:
    """A product and a model's logits in bfloat16 differ from float32 by its rounding only."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(1024, 1024, generator=generator).to(device) for _ in range(2))
    product = relative_error(a.bfloat16() @ b.bfloat16(), a @ b)
    exact = GPT(SMALL, torch.float32).to(device)
    exact.init_weights(seed=1)
    rounded = GPT(SMALL, torch.bfloat16).to(device)
    rounded.load_state_dict(exact.state_dict())
    ids, _ = batch(SMALL, rows=2, seed=1, device=device)
    logits = relative_error(rounded.logits(ids), exact.logits(ids))
    holds = max(product, logits) < PRECISION_TOLERANCE
    return {"product_error": product, "logits_error": logits, "holds": holds}


def check_compiled(device: torch.device) -> dict[str, Any]:
    """Compiled and eager training see the same loss."""
    losses = [train(SMALL, device, range(3), mode)[2] for mode in ("off", "on")]
    error = abs(losses[1] - losses[0]) / losses[0]
    return {"eager": losses[0], "compiled": losses[1], "holds": error < COMPILED_TOLERANCE}


def check_resume(device: torch.device) -> dict[str, Any]:
    """Three steps, save, restore, three steps: bit for bit what six steps give."""
    torch.use_deterministic_algorithms(True)
    straight, _, _ = train(SMALL, device, range(6), "off")
    model, optimizer, _ = train(SMALL, device, range(3), "off")
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    state = {name: tensor.cpu() for name, tensor in optimizer.state_dict().items()}
    resumed, _, _ = train(SMALL, device, range(3, 6), "off", weights, state)
    torch.use_deterministic_algorithms(False)
    ours, theirs = resumed.state_dict(), straight.state_dict()
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    return {"different_tensors": different, "holds": not different}


def time_training(device: torch.device, seconds: float) -> dict[str, Any]:
    """Depth 12, compiled, for about `seconds`: tokens/s and the share of the GPU's peak."""
    model, optimizer, _ = train(TIMED, device, range(WARMUP_STEPS), "on")
    ids, targets = batch(TIMED, DEVICE_ROWS, seed=1, device=device)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        loss = train_step(model, optimizer, ids, targets)
        steps += 1
        torch.cuda.synchronize()
    taken = time.perf_counter() - start
    tokens_per_second = steps * targets.numel() / taken
    flops = tokens_per_second * flops_per_token(TIMED)
    peak = peak_flops(device)
    return {
        "steps": steps,
        "loss": loss.item(),
        "tokens_per_second": tokens_per_second,
        "flop_per_second": flops,
        "mfu": flops / peak if peak else None,
        "share_of_matmul_peak": flops / matmul_peak(model.dtype, device.type),
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def train(
    config: GPTConfig,
    device: torch.device,
    steps: range,
    mode: CompileMode,
    weights: dict[str, Tensor] | None = None,
    state: dict[str, Tensor] | None = None,
) -> tuple[GPT, MuonAdamW, float]:
    """A model after `steps`, each on its own random batch, and the last loss per token."""
    model = GPT.fresh(config, device, seed=1)
    model.use_compiled(mode)
    optimizer = MuonAdamW(model, lr_scale=0.2, weight_decay=0.1)
    if weights is not None and state is not None:
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    loss = torch.zeros(())
    for step in steps:
        ids, targets = batch(config, DEVICE_ROWS, seed=step, device=device)
        loss = train_step(model, optimizer, ids, targets)
    return model, optimizer, loss.item()


def train_step(model: GPT, optimizer: MuonAdamW, ids: Tensor, targets: Tensor) -> Tensor:
    loss = model.loss_sum(ids, targets) / targets.numel()
    loss.backward()
    optimizer.step(lr_multiplier=1.0, momentum=0.9)
    optimizer.zero_grad()
    return loss.detach()


def batch(config: GPTConfig, rows: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random ids and, as targets, the ids that follow them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, config.sequence_len + 1)
    ids = torch.randint(0, config.vocab_size, shape, generator=generator).to(device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


if __name__ == "__main__":
    sys.exit(main())
