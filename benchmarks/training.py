"""How fast a model trains, beside the matmul peak of the same processor, measured in between.

    python benchmarks/training.py [--output FILE]

Depth 4, T=512, 8,192 random tokens a step, optimizer included, at two vocabularies, compiled (where
a compiler is found) and eager. Each repeat times the peak and then one step: what else the machine
does slows both, and `share_of_peak` is the median of their ratios. Reads no files.
"""

import statistics
import time
from typing import Any

import torch
from common import matmul_peak, publish, rate

from nanochat.model.device import CompileMode, can_compile, default_device
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.optimizer import MuonAdamW
from nanochat.model.scaling import flops_per_token

DEPTH = 4
SEQUENCE_LEN = 512
ROWS = 16
VOCABULARIES = (32_768, 4096)
REPEATS = 7


def main() -> None:
    device = default_device()
    modes: list[CompileMode] = ["on", "off"] if can_compile(device) else ["off"]
    results = {}
    for vocab_size in VOCABULARIES:
        config = GPTConfig.from_depth(DEPTH, vocab_size, SEQUENCE_LEN)
        for mode in modes:
            name = f"vocabulary {vocab_size}, {'compiled' if mode == 'on' else 'eager'}"
            results[name] = bench_training(config, mode, device)
    publish("training", results)


def bench_training(config: GPTConfig, mode: CompileMode, device: torch.device) -> dict[str, Any]:
    """Tokens and model FLOP/s of whole steps, as a share of the peak of the compute dtype."""
    model = GPT.fresh(config, device, seed=1)
    model.use_compiled(mode)
    optimizer = MuonAdamW(model, lr_scale=0.125, weight_decay=0.1)
    ids = torch.randint(0, config.vocab_size, (ROWS, SEQUENCE_LEN + 1), device=device)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        start = time.perf_counter()
        loss = model.loss_sum(inputs, targets) / targets.numel()
        loss.backward()
        optimizer.step(lr_multiplier=1.0, momentum=0.9)
        optimizer.zero_grad()
        loss.item()  # waits for the device
        return time.perf_counter() - start

    first_seconds = step()
    step()
    peaks, seconds = [], []
    for _ in range(REPEATS):
        peaks.append(matmul_peak(model.dtype, device.type))
        seconds.append(step())
    tokens = targets.numel()
    flops = flops_per_token(config) * tokens
    timing = {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}
    shares = [flops / taken / peak for taken, peak in zip(seconds, peaks, strict=True)]
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens_per_second": rate(tokens, timing),
        "gflop_per_second": rate(flops / 1e9, timing),
        "matmul_peak_gflop_per_second": statistics.median(peaks) / 1e9,
        "share_of_peak": {
            "median": statistics.median(shares),
            "lowest": min(shares),
            "highest": max(shares),
        },
        "first_step_seconds": first_seconds,
    }


if __name__ == "__main__":
    main()
