"""The tokenizer: byte-level BPE, trained by rustbpe, applied by tiktoken.

    tokenizer = train_tokenizer(texts, vocab_size=32768, max_characters=2_000_000_000,
                                max_document_characters=10_000)
    tokenizer.save(directory)
    Tokenizer.load(directory).encode("hello")

A saved tokenizer is two readable files, and nothing that runs code when it is opened:

    merges.tiktoken    one line a token, `base64(bytes) rank`, as OpenAI publishes its own
    tokenizer.json     split pattern, special tokens with their ids, vocabulary size, fingerprint
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rustbpe
import tiktoken

from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.files import atomic_write, read_json, write_json

BOS = "<|bos|>"
SPECIAL_TOKENS = (
    BOS,
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)

# GPT-4's split pattern, but numbers are cut after two digits instead of three: a vocabulary of 32K
# has no room for a thousand numbers (measured by karpathy/nanochat at depth 12: 0.965 against 0.972
# bits per byte).
SPLIT_PATTERN = "|".join(
    [
        r"'(?i:[sdmt]|ll|ve|re)",  # English contractions
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",  # a word, with the space or sign before it
        r"\p{N}{1,2}",  # at most two digits
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",  # punctuation, with the line ends after it
        r"\s*[\r\n]",  # blank lines
        r"\s+(?!\S)",  # spaces, but for the last one before a word
        r"\s+",
    ]
)

MERGES_FILE = "merges.tiktoken"
RECORD_FILE = "tokenizer.json"
MADE_BY = "make run"
BYTES = 256

# The regex engine inside tiktoken and rustbpe overflows its stack on a million spaces in a row, so
# neither is handed more characters than this at once.
LONGEST = 500_000


class Tokenizer:
    """Token ids from text and back. Ids: the merges by rank, then the special tokens in order."""

    def __init__(self, ranks: dict[bytes, int], pattern: str = SPLIT_PATTERN) -> None:
        self.ranks = ranks
        self.pattern = pattern
        self.special_ids = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        self.bos_id = self.special_ids[BOS]
        self.fingerprint = _fingerprint(ranks, pattern)
        self._encoding = tiktoken.Encoding(
            name="nanochat",
            pat_str=pattern,
            mergeable_ranks=ranks,
            special_tokens=self.special_ids,
        )

    def special(self, name: str) -> int:
        """Id of the special token `name`, e.g. `<|user_start|>`; KeyError for any other string."""
        return self.special_ids[name]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; what looks like a special token in it is plain text."""
        if len(text) <= LONGEST:
            return self._encoding.encode_ordinary(text)
        parts = [text[i : i + LONGEST] for i in range(0, len(text), LONGEST)]
        return [token for part in parts for token in self._encoding.encode_ordinary(part)]

    def encode_batch(self, texts: list[str], threads: int = 1) -> list[list[int]]:
        """`encode` of each text, on `threads` threads."""
        if max(map(len, texts), default=0) > LONGEST:
            return [self.encode(text) for text in texts]
        return self._encoding.encode_ordinary_batch(texts, num_threads=threads)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`; a special token gives its name."""
        return self._encoding.decode_bytes(list(ids))

    def token_bytes(self) -> npt.NDArray[np.int32]:
        """Bytes each id stands for, int32 [vocab_size]; 0 for special tokens.

        Counted on the raw bytes of the merges: a token can be half a character, so a detour through
        `str` would miscount it, and bits per byte with it.
        """
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        for token, rank in self.ranks.items():
            sizes[rank] = len(token)
        return sizes

    def save(self, directory: Path) -> None:
        """Writes both files into `directory`; the record last, since it vouches for the merges."""
        by_rank = sorted(self.ranks.items(), key=lambda item: item[1])
        with atomic_write(Path(directory) / MERGES_FILE) as handle:
            for token, rank in by_rank:
                handle.write(base64.b64encode(token) + b" %d\n" % rank)
        record = {
            "pattern": self.pattern,
            "special_tokens": self.special_ids,
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
        }
        write_json(Path(directory) / RECORD_FILE, record)

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Reads a saved tokenizer.

        Raises MissingArtefact where there is none, DamagedArtefact where its content is not what
        its record says.
        """
        merges, record_path = Path(directory) / MERGES_FILE, Path(directory) / RECORD_FILE
        if not record_path.exists() or not merges.exists():
            raise MissingArtefact(f"no tokenizer at {directory}: run `{MADE_BY}` first")
        record = read_json(record_path, MADE_BY)
        try:
            tokenizer = cls(_read_ranks(merges), record["pattern"])
            whole = record["fingerprint"] == tokenizer.fingerprint
        except (ValueError, KeyError, TypeError) as exc:
            raise _damaged(directory) from exc
        if not whole or record.get("special_tokens") != tokenizer.special_ids:
            raise _damaged(directory)
        return tokenizer


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    max_characters: int,
    max_document_characters: int,
) -> Tokenizer:
    """Trains a tokenizer of `vocab_size` ids, the nine special tokens included.

    Reads the first `max_document_characters` (never over half a million) of each text until
    `max_characters` are read. Raises BadInput where the text has too few distinct pairs for so
    large a vocabulary.
    """
    merges = vocab_size - len(SPECIAL_TOKENS)
    smallest = BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise BadInput(f"a vocabulary of {vocab_size} is too small: give at least {smallest}")
    trainer = rustbpe.Tokenizer()
    sample = _first_characters(texts, max_characters, max_document_characters)
    trainer.train_from_iterator(sample, vocab_size=merges, pattern=SPLIT_PATTERN)
    ranks = dict(trainer.get_mergeable_ranks())
    if len(ranks) < merges:
        possible = len(ranks) + len(SPECIAL_TOKENS)
        raise BadInput(
            f"the text is too short for a vocabulary of {vocab_size:,} tokens, it only gives "
            f"{possible:,}: lower tokenizer.vocab_size or add text"
        )
    return Tokenizer(ranks)


def _first_characters(texts: Iterable[str], total: int, each: int) -> Iterator[str]:
    left = total
    for text in texts:
        if left <= 0:
            return
        part = text[: min(each, left, LONGEST)]
        left -= len(part)
        yield part


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token, validate=True)] = int(rank)
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < BYTES:
        raise binascii.Error(f"the ranks in {path} are not 0, 1, 2, ...")
    return ranks


def _fingerprint(ranks: dict[bytes, int], pattern: str) -> str:
    digest = hashlib.sha256(f"{pattern}\n{SPECIAL_TOKENS}\n".encode())
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        digest.update(b"%d %s\n" % (rank, base64.b64encode(token)))
    return digest.hexdigest()


def _damaged(directory: Path) -> DamagedArtefact:
    return DamagedArtefact(
        f"the tokenizer at {directory} is not what its record says: "
        f"delete the folder and run `{MADE_BY}` again"
    )
