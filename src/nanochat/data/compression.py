"""How many bytes a token stands for, on several kinds of text, beside GPT-2 and GPT-4.

    compression_table(tokenizer, {"train": train_text}, {"gpt2_merges": Path(...), ...})

Reads the vocabularies of GPT-2 and GPT-4 where they were downloaded (VOCABULARIES in registry.py)
and leaves their columns empty elsewhere; writes nothing. GPT-2 has 50,257 tokens, GPT-4 100,277;
the reference of this project, 65,536 tokens trained on web text, reaches about 4.8 characters a
token on English.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks, load_tiktoken_bpe

from nanochat.data.passages import PASSAGES, code_passage
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import DamagedArtefact

# How each cuts text before it merges bytes, as published with the vocabularies.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
GPT4_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"""
    r""" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)


def compression_table(
    tokenizer: Tokenizer, texts: dict[str, str], vocabularies: Mapping[str, Path]
) -> list[dict[str, Any]]:
    """One row a text: the built-in passages, code, then `texts` by name; empty ones are left out.

    A row is {"text", "bytes", "tokens", "bytes_per_token", "gpt2", "gpt4"}; the last two are bytes
    per token as well, or None without `vocabularies`. Raises DamagedArtefact where these cannot be
    read.
    """
    known = {column: read(vocabularies) for column, read in KNOWN.items()} if vocabularies else {}
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
        for column in KNOWN:
            encoding = known.get(column)
            row[column] = size / len(encoding.encode_ordinary(text)) if encoding else None
        rows.append(row)
    return rows


def _gpt2(files: Mapping[str, Path]) -> tiktoken.Encoding:
    merges, encoder = files["gpt2_merges"], files["gpt2_encoder"]
    _without_a_second_copy()
    try:
        ranks = data_gym_to_mergeable_bpe_ranks(str(merges), str(encoder))
    except (ValueError, KeyError, AssertionError, OSError) as exc:
        raise _damaged(merges, encoder) from exc
    return tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


def _gpt4(files: Mapping[str, Path]) -> tiktoken.Encoding:
    file = files["gpt4_ranks"]
    _without_a_second_copy()
    try:
        ranks = load_tiktoken_bpe(str(file))
    except (ValueError, OSError) as exc:
        raise _damaged(file) from exc
    return tiktoken.Encoding("gpt4", pat_str=GPT4_PATTERN, mergeable_ranks=ranks, special_tokens={})


KNOWN = {"gpt2": _gpt2, "gpt4": _gpt4}


def _without_a_second_copy() -> None:
    """tiktoken would copy each file that it reads into its cache."""
    os.environ["TIKTOKEN_CACHE_DIR"] = ""


def _damaged(*files: Path) -> DamagedArtefact:
    names = " or ".join(map(str, files))
    return DamagedArtefact(
        f"{names} is no vocabulary of tiktoken's: delete it and run `snakemake downloads` again"
    )
