"""How fast text becomes batches: tokenizer, packing, loader, each beside a baseline.

    python benchmarks/data.py [--output FILE]

Reads the real shards of ../shared/data/corpus where they are there, else the embedded corpus (which
it builds); writes into a temporary folder only. Baselines, run on the same data in the same run:
rustbpe's own encoder for encoding, and for packing the published best-fit loader of the reference,
which keeps a buffer of 1,000 documents, fills each row with the largest one that fits, and crops
the shortest one, throwing its end away, where none fits.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rustbpe
import torch
from common import measure, publish, rate

from nanochat.data.corpus import build_embedded
from nanochat.data.loader import RowLoader
from nanochat.data.packing import Ints, lay_rows, plan_rows
from nanochat.data.rows import Ids, write_rows
from nanochat.data.shards import read_documents
from nanochat.data.tokenize_shard import encode_documents
from nanochat.data.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, train_tokenizer

REAL_CORPUS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "corpus"
VOCAB_SIZE = 32_768
SEQUENCE_LEN = 2048
THREADS = 2
REPEATS = 5
BUFFER = 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        name, texts = load_texts(Path(folder))
        training, tokenizer = bench_training(texts)
        tokens, counts_D, _ = encode_documents(texts, tokenizer, THREADS)
        results = {
            "corpus": {"name": name, "documents": len(texts), "megabytes": megabytes(texts)},
            "tokenizer_training": training,
            "encoding": bench_encoding(texts[: len(texts) // 6], tokenizer),
            "packing": bench_packing(tokens, counts_D, tokenizer.bos_id),
            "loader": bench_loader(tokens, counts_D, tokenizer, Path(folder)),
        }
    publish("data", results)


def load_texts(folder: Path) -> tuple[str, list[str]]:
    """The training shards' documents, and the name of the corpus."""
    name, source = "shared/data/corpus", REAL_CORPUS
    if not source.is_dir():
        name, source = "embedded", folder
        build_embedded(folder, train_shards=6)
    shards = sorted(source.glob("shard_*.parquet"))[:-1]
    return name, [text for shard in shards for text in read_documents(shard)]


def megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def bench_training(texts: list[str]) -> tuple[dict[str, Any], Tokenizer]:
    """Once: it takes long, and its speed depends on the amount of text."""
    start = time.perf_counter()
    tokenizer = train_tokenizer(texts, VOCAB_SIZE, 2_000_000_000, 10_000)
    seconds = time.perf_counter() - start
    read = megabytes([text[:10_000] for text in texts])
    figures = {"vocab_size": VOCAB_SIZE, "megabytes": read, "seconds": seconds}
    return {**figures, "megabytes_per_second": read / seconds}, tokenizer


def bench_encoding(texts: list[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """tiktoken, which the project uses, beside rustbpe with the same merges."""
    size, tokens = megabytes(texts), sum(map(len, tokenizer.encode_batch(texts, THREADS)))
    ours = rate(size, measure(lambda: tokenizer.encode_batch(texts, THREADS), REPEATS))
    trainer = rustbpe.Tokenizer()
    merges = VOCAB_SIZE - len(SPECIAL_TOKENS)
    trainer.train_from_iterator(iter(texts), vocab_size=merges, pattern=SPLIT_PATTERN)
    theirs = rate(size, measure(lambda: trainer.batch_encode(texts), REPEATS))
    return {
        "threads": THREADS,
        "megabytes": size,
        "tokens": tokens,
        "bytes_per_token": size * 1e6 / tokens,
        "megabytes_per_second": ours,
        "rustbpe_megabytes_per_second": theirs,
        "ratio": ours["median"] / theirs["median"],
    }


def bench_packing(tokens: Ids, counts_D: Ints, bos_id: int) -> dict[str, Any]:
    capacity = SEQUENCE_LEN + 1
    whole = measure(
        lambda: lay_rows(plan_rows(counts_D, capacity), tokens, capacity, bos_id), REPEATS
    )
    plan = plan_rows(counts_D, capacity)
    laid = int(plan.count_P.sum())
    used = laid + len(plan.start_P)
    starts = np.cumsum(counts_D) - counts_D
    documents = [
        tokens[start : start + count] for start, count in zip(starts, counts_D, strict=True)
    ]
    reference = measure(lambda: pack_with_cropping(documents, capacity, bos_id), 1)
    rows, lost = pack_with_cropping(documents, capacity, bos_id)
    ours = rate(len(tokens), whole)
    return {
        "documents": len(counts_D),
        "tokens": len(tokens),
        "sequence_len": SEQUENCE_LEN,
        "tokens_per_second": ours,
        "padding": 1 - used / (plan.n_rows * capacity),
        "tokens_lost": len(tokens) - laid,
        "pieces_beyond_one_a_document": len(plan.start_P) - int((counts_D > 0).sum()),
        "reference": {
            "tokens_per_second": len(tokens) / reference["median_s"],
            "padding": 0.0,
            "rows": rows,
            "tokens_lost": lost,
            "share_lost": lost / len(tokens),
        },
        "ratio": ours["median"] * reference["median_s"] / len(tokens),
    }


def pack_with_cropping(documents: list[Ids], capacity: int, bos_id: int) -> tuple[int, int]:
    """The reference's packing; returns its rows and the tokens it throws away.

    It ends when the documents do, so the last, unfinished row is not counted as lost.
    """
    waiting = iter(documents)
    buffer: list[Ids] = []
    row = np.empty(capacity, dtype=np.uint32)
    rows = lost = filled = 0
    while True:
        while len(buffer) < BUFFER and (document := next(waiting, None)) is not None:
            buffer.append(np.concatenate([[bos_id], document]))
        if not buffer:
            return rows, lost
        room = capacity - filled
        fitting = [i for i, document in enumerate(buffer) if len(document) <= room]
        if fitting:
            piece = buffer.pop(max(fitting, key=lambda i: len(buffer[i])))
        else:
            piece = buffer.pop(min(range(len(buffer)), key=lambda i: len(buffer[i])))
            lost += len(piece) - room
        taken = min(len(piece), room)
        row[filled : filled + taken] = piece[:taken]
        filled += taken
        if filled == capacity:
            rows, filled = rows + 1, 0


def bench_loader(tokens: Ids, counts_D: Ints, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Single-threaded, 524,288 tokens a step, int64 tensors out."""
    capacity, rows_per_step, device_rows, steps = SEQUENCE_LEN + 1, 256, 32, 10
    rows_NC = lay_rows(plan_rows(counts_D, capacity), tokens, capacity, tokenizer.bos_id)
    write_rows(folder / "rows", "shard_00000", rows_NC, None, {"tokenizer": "benchmark"})
    files = [folder / "rows" / "shard_00000.npy"]
    loader = RowLoader(files, rows_per_step, seed=1, bos_id=tokenizer.bos_id)

    def load() -> int:
        batches = (
            batch for step in range(steps) for batch in loader.micro_batches(step, device_rows)
        )
        return sum(inputs_BT.numel() for inputs_BT, _ in batches)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    timing = measure(load, REPEATS)
    torch.set_num_threads(threads)
    late = measure(lambda: loader.rows_of_step(10**9), REPEATS)
    return {
        "rows": loader.n_rows,
        "sequence_len": SEQUENCE_LEN,
        "device_rows": device_rows,
        "tokens_per_second": rate(load(), timing),
        "seconds_to_find_the_rows_of_step_1e9": late,
    }


if __name__ == "__main__":
    main()
