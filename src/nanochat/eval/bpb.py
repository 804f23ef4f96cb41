"""Bits per byte: how well a model predicts text, in a unit that no tokenizer can bend.

`bits_per_byte(model, batches, token_bytes)` scores a model, `text_of_rows(...)` recovers the very
text that those batches cover, `compressors(text)` what general-purpose compressors reach on it.

Reads packed rows as batches of token ids; writes nothing.
"""

import lzma
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanochat.data.rows import padding_id
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput
from nanochat.model.gpt import GPT

IGNORED = -1  # the target of a position that is not scored


@torch.no_grad()
def bits_per_byte(
    model: GPT,
    batches: Iterable[tuple[Tensor, Tensor]],
    token_bytes: NDArray[np.int32],
    over_ranks: Callable[[Sequence[float]], list[float]] = list,
) -> dict[str, float]:
    """Σ nats / (ln 2 · Σ bytes) over the scored targets of `batches`.

    `batches` yields (inputs_BT, targets_BT), int64; a target of -1 is not scored, nor is a special
    token, whose entry in `token_bytes` (int32 [V]) is 0. How rows are cut into batches changes
    nothing but the rounding. Where ranks share the rows, `over_ranks` adds up their [nats, tokens,
    bytes], and one without rows has no say.

    Returns {"value": bits per byte, "tokens", "bytes", "nats"}.

    Raises BadInput when nothing at all was scored.
    """
    bytes_V = torch.from_numpy(token_bytes).to(device=model.device, dtype=torch.int64)
    nats, tokens, n_bytes = 0.0, 0, 0
    for inputs_BT, targets_BT in batches:
        targets_BT = targets_BT.to(model.device)
        scored_BT = (targets_BT != IGNORED) & (bytes_V[targets_BT.clamp(min=0)] > 0)
        losses_BT = model.token_losses(
            inputs_BT.to(model.device), targets_BT.masked_fill(~scored_BT, IGNORED)
        )
        nats += losses_BT.double().sum().item()
        tokens += int(scored_BT.sum())
        n_bytes += int(bytes_V[targets_BT[scored_BT]].sum())
    nats, all_tokens, all_bytes = over_ranks([nats, tokens, n_bytes])
    if all_bytes == 0:
        raise BadInput("no byte of text to score: the validation rows hold only special tokens")
    value = nats / (math.log(2) * all_bytes)
    return {"value": value, "tokens": int(all_tokens), "bytes": int(all_bytes), "nats": nats}


def text_of_rows(rows_NT: NDArray[np.integer], max_rows: int, tokenizer: Tokenizer) -> bytes:
    """The text of the first `max_rows` packed rows: their pieces of documents joined by newlines.

    `rows_NT` [N, T+1] as tokenize_shard writes it: every piece follows a BOS, unused cells hold the
    largest number of the type.
    """
    padding = padding_id(rows_NT.dtype)
    pieces: list[bytes] = []
    for row_T in islice(rows_NT, max_rows):
        ids_T = np.asarray(row_T)[np.asarray(row_T) != padding]
        starts = np.flatnonzero(ids_T == tokenizer.bos_id)
        pieces += [
            tokenizer.decode_bytes(piece[1:].tolist()) for piece in np.split(ids_T, starts[1:])
        ]
    return b"\n".join(pieces)


def compressors(text: bytes) -> dict[str, float]:
    """Bits per byte of `xz -9e` and `zstd -19` on `text`, each in one stream."""
    if not text:
        raise BadInput("no text to compress: the validation rows are empty")
    xz = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    zstd = pa.Codec("zstd", compression_level=19).compress(text, asbytes=True)
    return {"xz -9e": 8 * len(xz) / len(text), "zstd -19": 8 * len(zstd) / len(text)}
