"""From a shard of text to packed rows of token ids.

    tokenize_shard(parquet, tokenizer, row_file, sequence_len=2048, threads=4)

Reads one parquet shard; writes `row_file` (.npy) and its record beside it (see data/rows.py). No
token of any document is dropped.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.data.packing import Ints, lay_rows, plan_rows
from nanochat.data.rows import Ids, id_type, write_rows
from nanochat.data.shards import count_documents, read_documents
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput
from nanochat.files import sha256_of
from nanochat.progress import track

DOCUMENTS_AT_ONCE = 1024


def tokenize_shard(
    parquet: Path, tokenizer: Tokenizer, row_file: Path, sequence_len: int, threads: int = 1
) -> dict[str, Any]:
    """Tokenizes and packs a shard into rows of `sequence_len` + 1 ids; returns the record.

    Needs about six bytes of memory a token with a vocabulary under 65,535. Raises BadInput where
    the documents are all empty, and what `read_documents` raises.
    """
    documents = track(
        read_documents(parquet), f"tokenizing {parquet.name}", count_documents(parquet), "documents"
    )
    tokens, counts_D, text_bytes = encode_documents(documents, tokenizer, threads)
    if not len(tokens):
        raise BadInput(f"{parquet} holds only empty documents: remove it, or put text into it")
    plan = plan_rows(counts_D, sequence_len + 1)
    rows_NC = lay_rows(plan, tokens, sequence_len + 1, tokenizer.bos_id)
    cells_used = len(tokens) + len(plan.start_P)
    record = {
        "documents": len(counts_D),
        "bytes": text_bytes,
        "tokens": len(tokens),
        "pieces": len(plan.start_P),
        "padding": round(1 - cells_used / rows_NC.size, 6),
        "tokenizer": tokenizer.fingerprint,
        "source": {"file": parquet.name, "sha256": sha256_of(parquet)},
    }
    return write_rows(row_file.parent, row_file.stem, rows_NC, None, record)


def encode_documents(
    texts: Iterable[str], tokenizer: Tokenizer, threads: int
) -> tuple[Ids, Ints, int]:
    """All tokens of `texts` in one array, the number of tokens of each text, and their bytes."""
    dtype = id_type(tokenizer.vocab_size)
    parts: list[Ids] = []
    counts: list[int] = []
    text_bytes = 0
    for batch in _batches(texts, DOCUMENTS_AT_ONCE):
        encoded = tokenizer.encode_batch(batch, threads)
        counts += [len(ids) for ids in encoded]
        text_bytes += sum(len(text.encode()) for text in batch)
        parts.append(np.fromiter(chain.from_iterable(encoded), dtype, sum(map(len, encoded))))
    return np.concatenate(parts), np.array(counts, dtype=np.int64), text_bytes


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
