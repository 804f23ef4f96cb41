"""How many bytes a token stands for, on several kinds of text, beside GPT-2 and GPT-4.

    compression_table(tokenizer, {"train": train_text, "validation": validation_text})

Reads nothing but the text it is given, and writes nothing. The columns of GPT-2 and GPT-4 are
computed where tiktoken already has their vocabularies in its cache (TIKTOKEN_CACHE_DIR), and are
None elsewhere: this never touches the network. GPT-2 has 50,257 tokens, GPT-4 100,277; the
reference of this project, 65,536 tokens trained on web text, reaches about 4.8 characters a token
on English.
"""

import hashlib
import os
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import tiktoken

from nanochat.data.passages import PASSAGES, code_passage
from nanochat.data.tokenizer import Tokenizer
from nanochat.files import sha256_of

# What tiktoken would fetch for each vocabulary, and the SHA-256 it expects. It caches a file under
# the SHA-1 of its address, and fetches again what is not in the cache or has another SHA-256.
ADDRESS = "https://openaipublic.blob.core.windows.net"
KNOWN_VOCABULARIES = {
    "gpt2": (
        "gpt2",
        {
            f"{ADDRESS}/gpt-2/encodings/main/vocab.bpe": (
                "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
            ),
            f"{ADDRESS}/gpt-2/encodings/main/encoder.json": (
                "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
            ),
        },
    ),
    "gpt4": (
        "cl100k_base",
        {
            f"{ADDRESS}/encodings/cl100k_base.tiktoken": (
                "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
            ),
        },
    ),
}


def compression_table(tokenizer: Tokenizer, texts: dict[str, str]) -> list[dict[str, Any]]:
    """One row a text: the built-in passages, code, then `texts` by name; empty ones are left out.

    A row is {"text", "bytes", "tokens", "bytes_per_token", "gpt2", "gpt4"}; the last two are bytes
    per token as well, or None.
    """
    known = {column: _cached_encoding(column) for column in KNOWN_VOCABULARIES}
    rows = []
    for name, text in {**PASSAGES, "code": code_passage(), **texts}.items():
        if not text:
            continue
        size, tokens = len(text.encode()), len(tokenizer.encode(text))
        row: dict[str, Any] = {
            "text": name,
            "bytes": size,
            "tokens": tokens,
            "bytes_per_token": size / tokens,
        }
        for column, encoding in known.items():
            row[column] = size / len(encoding.encode_ordinary(text)) if encoding else None
        rows.append(row)
    return rows


def _cached_encoding(column: str) -> tiktoken.Encoding | None:
    name, files = KNOWN_VOCABULARIES[column]
    folder = _cache_folder()
    if folder is None:
        return None
    for address, expected in files.items():
        cached = folder / hashlib.sha1(address.encode()).hexdigest()
        if not cached.is_file() or sha256_of(cached) != expected:
            return None
    return tiktoken.get_encoding(name)


def _cache_folder() -> Path | None:
    """Where tiktoken caches, by its own rules; None if told not to."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(gettempdir()) / "data-gym-cache"
