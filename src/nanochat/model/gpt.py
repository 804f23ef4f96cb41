"""The language model: a decoder-only transformer and everything that is computed with it.

    model = GPT.fresh(config, device, seed=1)
    model.loss_sum(ids_BT, targets_BT).backward()                # training
    logits_BV = model.prefill(ids_BT, lengths_B, cache)          # generation
    logits_BV = model.decode(ids_B, cache)

Reads and writes no files (`weights.py` does).

Shapes: B batch, T time, C channels, H heads, K key/value heads, D head size, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.model.attention import Attention, Context, KVCache, rotary_tables, window_masks
from nanochat.model.device import CompileMode, compiled, compute_dtype, default_device
from nanochat.model.gpt_config import SMEAR_GATE_CHANNELS, GPTConfig
from nanochat.model.layers import Draw, Linear, norm
from nanochat.model.loss import chunked_loss_sum, chunked_token_losses, softcap

MLP_RATIO = 4


class MLP(nn.Module):
    """Two products with the square of a ReLU between them (Primer, arXiv 2109.08668)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = Linear(config.n_embd, MLP_RATIO * config.n_embd)
        self.project = Linear(MLP_RATIO * config.n_embd, config.n_embd)

    def init_weights(self, draw: Draw) -> None:
        draw.matrix(self.expand, scale=0.4)
        self.project.weight.zero_()

    def forward(self, x_BTC: Tensor) -> Tensor:
        """x [B, T, C] to [B, T, C]."""
        y_BTC: Tensor = self.project(F.relu(self.expand(x_BTC)).square())
        return y_BTC


def _compiled_for_training(
    forward: Callable[..., Tensor], mode: CompileMode, device: torch.device
) -> Callable[..., Tensor]:
    """Eager where no gradient is wanted: evaluation has batches of many sizes."""
    fused = compiled(forward, mode, device)
    return lambda *inputs: (fused if torch.is_grad_enabled() else forward)(*inputs)


class Block(nn.Module):
    """Attention, then MLP, each on the normalised stream and added to it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor, embedded_BTKD: Tensor | None, context: Context) -> Tensor:
        """x [B, T, C] to [B, T, C]; `embedded_BTKD` as in Attention."""
        x_BTC = x_BTC + self.attention(norm(x_BTC), embedded_BTKD, context)
        y_BTC: Tensor = x_BTC + self.mlp(norm(x_BTC))
        return y_BTC


class GPT(nn.Module):
    """The model. Matrices are float32 masters; embeddings and activations have `dtype`."""

    def __init__(self, config: GPTConfig, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype or compute_dtype(default_device())
        rows, C = config.padded_vocab_size, config.n_embd
        kv_channels = config.n_kv_head * config.head_dim
        self.embedding = nn.Embedding(rows, C, dtype=self.dtype)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.value_embeddings = nn.ModuleDict(
            {str(i): nn.Embedding(rows, kv_channels, dtype=self.dtype) for i in config.value_layers}
        )
        self.head = Linear(C, rows)
        if config.smear:
            self.smear_gate = Linear(SMEAR_GATE_CHANNELS, 1)
            self.smear_lambda = nn.Parameter(torch.empty(1))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.empty(1))
        if config.residual_lambdas:
            self.residual_lambdas = nn.Parameter(torch.empty(config.n_layer))
            self.first_lambdas = nn.Parameter(torch.empty(config.n_layer))
        self._training_trunk = self._trunk
        self._compile_mode: CompileMode = "off"

    @classmethod
    def fresh(
        cls, config: GPTConfig, device: torch.device, seed: int, dtype: torch.dtype | None = None
    ) -> Self:
        """A newly initialised model on `device`; `dtype` by default as that device computes."""
        with torch.device("meta"):
            model = cls(config, dtype or compute_dtype(device))
        model.to_empty(device=device)
        model.init_weights(seed)
        return model

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Sets every parameter, the same on every kind of device, from `seed` alone."""
        draw = Draw(seed, self.config.init)
        draw.normal(self.embedding.weight, 0.8 if draw.is_uniform else 1.0)
        draw.normal(self.head.weight, 0.001 if draw.is_uniform else 0.0)
        for module in self.blocks.modules():
            if isinstance(module, Attention | MLP):
                module.init_weights(draw)
        bound = math.sqrt(3 / self.config.n_embd)
        for parameter in self.value_embeddings.parameters():
            draw.uniform(parameter, -bound, bound)
        self._init_refinements(draw)

    def _init_refinements(self, draw: Draw) -> None:
        L, device = self.config.n_layer, self.device
        if self.config.smear:
            draw.gate(self.smear_gate)
            self.smear_lambda.zero_()
        if self.config.backout:
            self.backout_lambda.fill_(0.2)
        if self.config.residual_lambdas:
            self.residual_lambdas.copy_(torch.linspace(1.15, 1.05, L, device=device))
            self.first_lambdas.copy_(torch.linspace(0.20, 0.05, L, device=device))

    def use_compiled(self, mode: CompileMode, by_block: bool = False) -> None:
        """Chooses how training computes: compiled or eager (see `device.compiled`).

        With `by_block` each block is compiled for itself: then its gradients are there as soon as
        backward is through with it, not all at the end, and like blocks are compiled once (at depth
        6 on a processor: 25 s in place of 138, and 14 % more for a pass).
        """
        self._compile_mode = mode
        if not by_block:
            self._training_trunk = compiled(self._trunk, mode, self.device)
            return
        for block in self.blocks:
            block.forward = _compiled_for_training(block.forward, mode, self.device)

    def for_inference(self) -> Self:
        """Casts the matrices to the compute dtype, for good: the same logits, no more training."""
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, Linear):
                module.to(self.dtype)
        return self

    def loss_sum(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Sum of the cross-entropy in nats (float32 scalar) over all targets but -1.

        `ids_BT` and `targets_BT` are int64. Differentiable, without ever holding all logits.
        """
        x_BTC = self._training_trunk(ids_BT)
        weight = self.head.weight[: self.config.vocab_size]
        return chunked_loss_sum(
            x_BTC.flatten(0, 1),
            weight,
            targets_BT.flatten(),
            self.config.softcap,
            self._compile_mode,
        )

    @torch.no_grad()
    def token_losses(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Cross-entropy of each target in nats, float32 [B, T], 0 where the target is -1."""
        x_BTC = self._trunk(ids_BT)
        weight = self.head.weight[: self.config.vocab_size]
        losses_N = chunked_token_losses(
            x_BTC.flatten(0, 1), weight, targets_BT.flatten(), self.config.softcap
        )
        return losses_N.view_as(targets_BT)

    @torch.no_grad()
    def logits(self, ids_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits float32 [B, T, V] of the token after each one; a cache takes all T of each row."""
        if cache is None:
            return self._head_logits(self._trunk(ids_BT))
        B, T = ids_BT.shape
        counts_B = torch.full((B,), T, dtype=torch.int64, device=ids_BT.device)
        return self._head_logits(self._extend(ids_BT, counts_B, cache.longest + T, cache))

    @torch.no_grad()
    def prefill(self, ids_BT: Tensor, lengths_B: Tensor, cache: KVCache) -> Tensor:
        """Appends each row's first `lengths_B` tokens; logits [B, V] after each row's last one.

        Rows are right-padded with any valid id. Raises BadInput if they do not fit the cache.
        """
        longest = int((cache.lengths + lengths_B).max())
        x_BTC = self._extend(ids_BT, lengths_B, longest, cache)
        row_B = torch.arange(ids_BT.size(0), device=ids_BT.device)
        return self._head_logits(x_BTC[row_B, lengths_B - 1])

    @torch.no_grad()
    def decode(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        """Appends one token to each row; logits float32 [B, V] of the next."""
        return self.logits(ids_B[:, None], cache)[:, 0]

    def _trunk(self, ids_BT: Tensor) -> Tensor:
        positions_T = torch.arange(ids_BT.size(1), device=ids_BT.device)
        masks = window_masks(self.config, ids_BT.size(1), ids_BT.device)
        embedded_BTC = norm(self.embedding(ids_BT))
        return self._layers(ids_BT, embedded_BTC, None, Context(self._rope(positions_T), masks))

    def _extend(self, ids_BT: Tensor, counts_B: Tensor, longest: int, cache: KVCache) -> Tensor:
        positions_BT, masks = cache.begin(ids_BT.size(1))
        context = Context(self._rope(positions_BT), masks, cache, positions_BT)
        embedded_BTC = norm(self.embedding(ids_BT))
        x_BTC = self._layers(ids_BT, embedded_BTC, cache.previous_BC, context)
        cache.finish(counts_B, longest, embedded_BTC)
        return x_BTC

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_tables(positions, self.config.head_dim, self.config.rope_base, self.dtype)

    def _layers(
        self, ids_BT: Tensor, x_BTC: Tensor, previous_BC: Tensor | None, context: Context
    ) -> Tensor:
        if self.config.smear:
            x_BTC = self._smear(x_BTC, previous_BC)
        first_BTC = half_BTC = x_BTC
        for i, block in enumerate(self.blocks):
            if self.config.residual_lambdas:
                x_BTC = self.residual_lambdas[i] * x_BTC + self.first_lambdas[i] * first_BTC
            x_BTC = block(x_BTC, self._embedded_values(i, ids_BT), context)
            if i == self.config.n_layer // 2:
                half_BTC = x_BTC
        if self.config.backout:
            x_BTC = x_BTC - self.backout_lambda.to(x_BTC.dtype) * half_BTC
        return norm(x_BTC)

    def _smear(self, x_BTC: Tensor, previous_BC: Tensor | None) -> Tensor:
        if previous_BC is None:
            previous_BC = torch.zeros_like(x_BTC[:, 0])
        before_BTC = torch.cat((previous_BC[:, None], x_BTC[:, :-1]), dim=1)
        gate_BT1 = torch.sigmoid(self.smear_gate(x_BTC[..., :SMEAR_GATE_CHANNELS]))
        return x_BTC + self.smear_lambda.to(x_BTC.dtype) * gate_BT1 * before_BTC

    def _embedded_values(self, layer: int, ids_BT: Tensor) -> Tensor | None:
        if layer not in self.config.value_layers:
            return None
        embedded: Tensor = self.value_embeddings[str(layer)](ids_BT)
        return embedded.view(*ids_BT.shape, self.config.n_kv_head, self.config.head_dim)

    def _head_logits(self, x: Tensor) -> Tensor:
        return softcap(self.head(x)[..., : self.config.vocab_size].float(), self.config.softcap)
