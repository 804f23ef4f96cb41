"""How fast a model writes: tokens/s at several batch sizes, beside one row at a time.

    python benchmarks/decode.py [--output FILE]

Depth 4, random weights, prompts of 64 tokens, 128 new ones a row, greedy. Prefill is timed apart.
Reads no files.
"""

from typing import Any

import torch
from common import measure, publish, rate

from nanochat.model.attention import KVCache
from nanochat.model.device import default_device
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

DEPTH = 4
SEQUENCE_LEN = 512
VOCABULARY = 8192
BATCHES = (1, 8, 32)
PROMPT_TOKENS = 64
NEW_TOKENS = 128
REPEATS = 5


def main() -> None:
    config = GPTConfig.from_depth(DEPTH, VOCABULARY, SEQUENCE_LEN)
    model = GPT.fresh(config, default_device(), seed=1).for_inference()
    results: dict[str, Any] = {f"batch {batch}": bench_batch(model, batch) for batch in BATCHES}
    single = results["batch 1"]["decode_tokens_per_second"]["median"]
    for result in results.values():
        result["times_batch_1"] = result["decode_tokens_per_second"]["median"] / single
    publish("decode", results)


def bench_batch(model: GPT, batch: int) -> dict[str, Any]:
    """Prefill and decode rates of `batch` rows together."""
    ids_BT = torch.randint(0, VOCABULARY, (batch, PROMPT_TOKENS), device=model.device)
    lengths_B = torch.full((batch,), PROMPT_TOKENS, device=model.device)

    def prefill() -> tuple[KVCache, torch.Tensor]:
        max_len = PROMPT_TOKENS + NEW_TOKENS
        cache = KVCache(model.config, batch, max_len, model.device, model.dtype)
        return cache, model.prefill(ids_BT, lengths_B, cache).argmax(dim=1)

    def write() -> None:
        cache, ids_B = prefill()
        for _ in range(NEW_TOKENS):
            ids_B = model.decode(ids_B, cache).argmax(dim=1)
        ids_B.tolist()  # waits for the device

    prefill_timing, both_timing = measure(prefill, REPEATS), measure(write, REPEATS)
    decode_timing = {key: both_timing[key] - prefill_timing["median_s"] for key in both_timing}
    return {
        "prefill_tokens_per_second": rate(batch * PROMPT_TOKENS, prefill_timing),
        "decode_tokens_per_second": rate(batch * NEW_TOKENS, decode_timing),
    }


if __name__ == "__main__":
    main()
