"""The shape of a model and its refinements, as one frozen value; loads no torch.

`GPTConfig.from_depth(12, vocab_size=32768)` is the current architecture at depth 12;
`GPTConfig.october_2025(12)` is the same code with the refinements off.

Reads and writes nothing: `to_dict` and `from_dict` carry a format version, so that weights of
another architecture are refused and never loaded into the wrong one.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from nanochat.config import Config
from nanochat.errors import ConfigError, DamagedArtefact

CONFIG_VERSION = 1
VOCABULARY_MULTIPLE = 64  # matrix kernels want rounded sizes
WINDOW_MULTIPLE = 128  # attention kernels work in tiles of this many keys
VALUE_GATE_CHANNELS = 12  # channels that decide how much of a value embedding is mixed in
MAX_SOFTCAP = 60.0  # the loss sums e^logit over the vocabulary in float32
SMEAR_GATE_CHANNELS = 24  # channels that decide how much of the previous token is mixed in


@dataclass(frozen=True)
class GPTConfig:
    """One decoder-only transformer. Sizes are in tokens and channels."""

    vocab_size: int
    """Tokens the tokenizer knows; the matrices hold `padded_vocab_size` rows."""
    sequence_len: int
    """Tokens in a training row; positions beyond it work, but were never trained."""
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    window_pattern: str = "SSSL"
    """S (a quarter of sequence_len) or L (all of it) per layer, repeated; the last layer is L."""
    rope_base: float = 100_000.0
    value_embeddings: bool = True
    """Every second layer, the last included, adds a gated embedding of the token to its values."""
    smear: bool = True
    """Each token's embedding gets a gated share of the previous token's."""
    backout: bool = True
    """A learned share of the stream at half depth is subtracted before the logits."""
    residual_lambdas: bool = True
    """Each block scales the stream and adds a share of the first embedding."""
    qk_scale: float = 1.2
    """Factor on queries and on keys after their norm."""
    softcap: float = 15.0
    """Logits are softcap * tanh(logits / softcap)."""
    init: Literal["uniform", "normal"] = "uniform"
    """uniform: the current initialisation; normal: that of October 2025."""

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.sequence_len, self.n_layer, self.n_head, self.n_kv_head)
        if min(sizes) < 1:
            raise ConfigError(f"a model needs sizes of 1 or more, but this one has {self}")
        if self.n_embd % self.n_head or self.head_dim % 2:
            raise ConfigError(
                f"n_embd={self.n_embd} does not split into n_head={self.n_head} heads of an even "
                "size: choose a width that is a multiple of twice the heads"
            )
        if self.n_head % self.n_kv_head:
            raise ConfigError(
                f"n_head={self.n_head} is not a multiple of n_kv_head={self.n_kv_head}"
            )
        if self.smear and self.n_embd < SMEAR_GATE_CHANNELS:
            raise ConfigError(f"n_embd={self.n_embd} is too narrow: use 24 or more, or smear=False")
        if not 0 < self.softcap <= MAX_SOFTCAP:
            raise ConfigError(f"softcap={self.softcap}: use a value above 0, {MAX_SOFTCAP} at most")
        if not self.window_pattern or set(self.window_pattern) - set("SL"):
            raise ConfigError(
                f"window_pattern={self.window_pattern!r} may only hold the letters S and L"
            )

    @classmethod
    def from_depth(
        cls,
        depth: int,
        vocab_size: int = 32768,
        sequence_len: int = 2048,
        aspect_ratio: int = 64,
        head_dim: int = 128,
        window_pattern: str = "SSSL",
    ) -> Self:
        """The current architecture: `depth` sets the width (aspect_ratio a layer) and the heads."""
        if depth < 1:
            raise ConfigError(f"depth is {depth}: use 1 or more layers")
        n_head = math.ceil(depth * aspect_ratio / head_dim)
        return cls(
            vocab_size=vocab_size,
            sequence_len=sequence_len,
            n_layer=depth,
            n_head=n_head,
            n_kv_head=n_head,
            n_embd=n_head * head_dim,
            window_pattern=window_pattern,
        )

    @classmethod
    def october_2025(
        cls,
        depth: int,
        vocab_size: int = 65536,
        sequence_len: int = 2048,
        aspect_ratio: int = 64,
        head_dim: int = 128,
    ) -> Self:
        """The architecture of October 2025: the same code with every refinement off."""
        current = cls.from_depth(
            depth, vocab_size, sequence_len, aspect_ratio, head_dim, window_pattern="L"
        )
        return replace(
            current,
            rope_base=10_000.0,
            value_embeddings=False,
            smear=False,
            backout=False,
            residual_lambdas=False,
            qk_scale=1.0,
            init="normal",
        )

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def windows(self) -> tuple[int, ...]:
        """Per layer, how many positions a token sees, itself included."""
        quarter = -(-self.sequence_len // (4 * WINDOW_MULTIPLE)) * WINDOW_MULTIPLE
        short = min(quarter, self.sequence_len)
        letters = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.n_layer)]
        letters[-1] = "L"
        return tuple(short if letter == "S" else self.sequence_len for letter in letters)

    @property
    def value_layers(self) -> tuple[int, ...]:
        """The layers that own a value embedding: every second one, the last included."""
        if not self.value_embeddings:
            return ()
        return tuple(i for i in range(self.n_layer) if i % 2 == (self.n_layer - 1) % 2)

    def to_dict(self) -> dict[str, Any]:
        """All fields and the format's version, for a JSON file."""
        return {"version": CONFIG_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config that `to_dict` described; raises DamagedArtefact for any other content."""
        if values.get("version") != CONFIG_VERSION:
            raise DamagedArtefact(
                f"the model's config has version {values.get('version')!r}, but this program reads "
                f"version {CONFIG_VERSION}: use the release that wrote it, or train again"
            )
        known = {field.name for field in fields(cls)}
        given = set(values) - {"version"}
        if given != known:
            raise DamagedArtefact(
                f"the model's config lacks {sorted(known - given)} and has the unknown "
                f"{sorted(given - known)}: the file is damaged, train again"
            )
        return cls(**{name: values[name] for name in known})


def shape_of(config: Config) -> GPTConfig:
    """The shape of the model that a run's config asks for."""
    wanted, vocab_size = config.model, config.tokenizer.vocab_size
    if wanted.architecture == "october-2025":
        shape = GPTConfig.october_2025(
            wanted.depth, vocab_size, wanted.sequence_len, wanted.aspect_ratio, wanted.head_dim
        )
    else:
        shape = GPTConfig.from_depth(
            wanted.depth,
            vocab_size,
            wanted.sequence_len,
            wanted.aspect_ratio,
            wanted.head_dim,
            wanted.window_pattern,
        )
    switched_off: dict[str, Any] = dict.fromkeys(wanted.without, False)
    return replace(shape, **switched_off)
