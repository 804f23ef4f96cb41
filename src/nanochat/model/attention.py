"""Attention: rotary positions, sliding windows, value embeddings, and the cache for inference.

Used by `gpt.GPT`; `KVCache(config, batch, max_len, device, dtype)` is made by whoever generates
text and handed to `GPT.prefill` and `GPT.decode`. Reads and writes no files.

Shapes: B batch, T time, C channels, H heads, K key/value heads, D head size, S cached positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.errors import BadInput
from nanochat.model.gpt_config import VALUE_GATE_CHANNELS, GPTConfig
from nanochat.model.layers import Draw, Linear, norm

VALUE_GATE_RANGE = 3.0  # a gate goes from 0 to this; 1.5 at the start


def rotary_tables(
    positions: Tensor, head_dim: int, base: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (arXiv 2104.09864): `positions` [..., T] to [..., T, 1, D/2]."""
    channels = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = base ** (-channels / head_dim)
    angles = positions[..., None, None].float() * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BTHD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turns each pair (channel i, channel i + D/2) by the position's angle."""
    cos, sin = rope
    first, second = x_BTHD.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


@dataclass(frozen=True)
class Context:
    """What all layers of one forward pass share."""

    rope: tuple[Tensor, Tensor]
    masks: dict[int, Tensor | None]
    """Per window size, which keys a query sees (True); None is plain causal attention."""
    cache: KVCache | None = None
    positions_BT: Tensor | None = None
    """Where the cache takes this pass's keys and values."""


def window_masks(config: GPTConfig, length: int, device: torch.device) -> dict[int, Tensor | None]:
    """The masks [T, T] of a pass without a cache, one per window size of the model."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return {
        window: None if window >= length else (distance >= 0) & (distance < window)
        for window in set(config.windows)
    }


class Attention(nn.Module):
    """Causal self-attention of one layer, over the last `window` positions."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.window = config.windows[layer]
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.head_dim = config.head_dim
        # queries and keys each times qk_scale, then the usual 1 / sqrt(D)
        self.scale = config.qk_scale**2 / math.sqrt(config.head_dim)
        kv_channels = config.n_kv_head * config.head_dim
        self.query = Linear(config.n_embd, config.n_embd)
        self.key = Linear(config.n_embd, kv_channels)
        self.value = Linear(config.n_embd, kv_channels)
        self.project = Linear(config.n_embd, config.n_embd)
        has_gate = layer in config.value_layers
        self.value_gate = Linear(VALUE_GATE_CHANNELS, config.n_kv_head) if has_gate else None

    def init_weights(self, draw: Draw) -> None:
        for linear in (self.query, self.key, self.value):
            draw.matrix(linear)
        self.project.weight.zero_()
        if self.value_gate is not None:
            draw.gate(self.value_gate)

    def forward(self, x_BTC: Tensor, embedded_BTKD: Tensor | None, context: Context) -> Tensor:
        """x [B, T, C] to [B, T, C]; `embedded_BTKD` is the tokens' value embedding, if any."""
        B, T, _ = x_BTC.shape
        qk_BTC = torch.cat((self.query(x_BTC), self.key(x_BTC)), dim=-1)
        qk_BTHD = norm(rotate(qk_BTC.view(B, T, -1, self.head_dim), context.rope))
        q_BTHD, k_BTKD = qk_BTHD[:, :, : self.n_head], qk_BTHD[:, :, self.n_head :]
        v_BTKD = self.value(x_BTC).view(B, T, self.n_kv_head, self.head_dim)
        if self.value_gate is not None and embedded_BTKD is not None:
            gate_BTK = torch.sigmoid(self.value_gate(x_BTC[..., :VALUE_GATE_CHANNELS]))
            v_BTKD = v_BTKD + VALUE_GATE_RANGE * gate_BTK[..., None] * embedded_BTKD
        y_BTHD = self._attend(q_BTHD, k_BTKD, v_BTKD, context)
        y_BTC: Tensor = self.project(y_BTHD.reshape(B, T, -1))
        return y_BTC

    def _attend(self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, context: Context) -> Tensor:
        k_BKSD, v_BKSD = k_BTKD.transpose(1, 2), v_BTKD.transpose(1, 2)
        if context.cache is not None:
            assert context.positions_BT is not None
            k_BKSD, v_BKSD = context.cache.write(self.layer, context.positions_BT, k_BTKD, v_BTKD)
        mask = context.masks[self.window]
        y_BHTD = F.scaled_dot_product_attention(
            q_BTHD.transpose(1, 2),
            k_BKSD,
            v_BKSD,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scale,
            enable_gqa=self.n_kv_head != self.n_head,
        )
        return y_BHTD.transpose(1, 2)


class KVCache:
    """Keys and values of the tokens seen so far, one row per conversation.

    Rows may have different lengths: `lengths` int64 [B] counts each row's tokens. What lies beyond
    a row's length is leftovers that no query sees and that the next tokens overwrite.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int,
        max_len: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.max_len = max_len
        shape = (config.n_layer, batch, config.n_kv_head, max_len, config.head_dim)
        self.keys_LBKSD = torch.zeros(shape, device=device, dtype=dtype)
        self.values_LBKSD = torch.zeros(shape, device=device, dtype=dtype)
        self.previous_BC = torch.zeros(batch, config.n_embd, device=device, dtype=dtype)
        """Each row's last normalised embedding, which smear mixes into the next token's."""
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self.longest = 0
        """The longest row's length, on the host: how many positions attention has to look at."""

    @property
    def batch(self) -> int:
        return self.lengths.size(0)

    def begin(self, length: int) -> tuple[Tensor, dict[int, Tensor | None]]:
        """Positions [B, T] of the next `length` tokens, and per window the mask [B, 1, T, S].

        Raises BadInput if they do not fit.
        """
        if self.longest + length > self.max_len:
            raise BadInput(
                f"{self.longest + length} tokens do not fit the cache of {self.max_len}: "
                "shorten the conversation or ask for fewer tokens"
            )
        steps = torch.arange(length, device=self.lengths.device)
        positions_BT = self.lengths[:, None] + steps
        keys = torch.arange(self.longest + length, device=self.lengths.device)
        distance_BTS = positions_BT[:, :, None] - keys
        visible = distance_BTS >= 0
        masks: dict[int, Tensor | None] = {
            window: (visible & (distance_BTS < window))[:, None]
            for window in set(self.config.windows)
        }
        return positions_BT, masks

    def write(
        self, layer: int, positions_BT: Tensor, k_BTKD: Tensor, v_BTKD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Stores a layer's keys and values; returns all of its [B, K, S, D] so far."""
        used = self.longest + positions_BT.size(1)
        row_B1 = torch.arange(self.batch, device=self.lengths.device)[:, None]
        for store_LBKSD, new_BTKD in ((self.keys_LBKSD, k_BTKD), (self.values_LBKSD, v_BTKD)):
            store_LBKSD[layer][row_B1, :, positions_BT] = new_BTKD
        return self.keys_LBKSD[layer, :, :, :used], self.values_LBKSD[layer, :, :, :used]

    def finish(self, counts_B: Tensor, longest: int, embedded_BTC: Tensor) -> None:
        """Takes note of `counts_B` new tokens a row, the longest row now holding `longest`."""
        row_B = torch.arange(self.batch, device=self.lengths.device)
        self.previous_BC = embedded_BTC[row_B, counts_B - 1]
        self.lengths = self.lengths + counts_B
        self.longest = longest

    def repeat(self, count: int) -> KVCache:
        """A cache of `count` rows, each a copy of this one's only row."""
        assert self.batch == 1, f"only a cache of one row can be repeated, this has {self.batch}"
        copy = KVCache.__new__(KVCache)
        copy.config, copy.max_len, copy.longest = self.config, self.max_len, self.longest
        copy.keys_LBKSD = self.keys_LBKSD.repeat(1, count, 1, 1, 1)
        copy.values_LBKSD = self.values_LBKSD.repeat(1, count, 1, 1, 1)
        copy.previous_BC = self.previous_BC.repeat(count, 1)
        copy.lengths = self.lengths.repeat(count)
        return copy
