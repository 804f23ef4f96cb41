"""Generating text: prompts in, tokens out, with a cache, a batch, and a calculator.

    engine = Engine(model, tokenizer)
    engine.generate([ids_a, ids_b], max_new_tokens=64, temperature=0.0)     # one answer each
    engine.sample(ids, 4, max_new_tokens=64, temperature=0.8, top_k=50)     # four answers to one
    for token in engine.stream(ids, max_new_tokens=64): ...                 # as they come

A row ends at assistant_end or bos (neither is part of the answer), at `max_new_tokens`, or where
the context is full. What the model writes between python_start and python_end goes to the
calculator, and its result is forced into the row between output_start and output_end, as in
training.

Reads and writes no files. Shapes: B rows still going, T time, V vocabulary.
"""

import codecs
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from nanochat.errors import BadInput
from nanochat.model.attention import KVCache
from nanochat.model.calculator import calculate
from nanochat.model.gpt import GPT


class ChatTokenizer(Protocol):
    """What generating needs of a tokenizer."""

    bos_id: int

    def special(self, name: str) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


@dataclass
class Row:
    """One answer in the making."""

    number: int
    room: int
    """Tokens that may still be added."""
    forced: deque[int] = field(default_factory=deque)
    """Tokens to come whatever the model says: the calculator's result."""
    expression: list[int] | None = None
    """What is being asked of the calculator; None outside python_start .. python_end."""


class Engine:
    """Generates with `model`, whose device and dtype it uses."""

    def __init__(self, model: GPT, tokenizer: ChatTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context = model.config.sequence_len
        self.device = model.device
        self._ends = {tokenizer.special("<|assistant_end|>"), tokenizer.bos_id}
        self._python_start = tokenizer.special("<|python_start|>")
        self._python_end = tokenizer.special("<|python_end|>")
        self._output_start = tokenizer.special("<|output_start|>")
        self._output_end = tokenizer.special("<|output_end|>")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        """One answer to each prompt, all in one batch; prompts may have different lengths.

        `temperature` 0 takes the likeliest token, else tokens are drawn (among the `top_k`
        likeliest) with a generator of this call's own. Raises BadInput for an empty prompt or one
        longer than the context.
        """
        if not prompts:
            return []
        logits_BV, cache = self._prefill(prompts, max_new_tokens)
        rows = [
            Row(number, room=min(max_new_tokens, self.context - len(prompt)))
            for number, prompt in enumerate(prompts)
        ]
        draw = Sampler(temperature, top_k, seed, self.device)
        return _collect(len(rows), self._decode(logits_BV, cache, rows, draw))

    def sample(
        self,
        prompt: Sequence[int],
        count: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[list[int]]:
        """`count` answers to one prompt, which is read once; see `generate` for the rest."""
        logits_1V, cache = self._prefill([prompt], max_new_tokens)
        room = min(max_new_tokens, self.context - len(prompt))
        rows = [Row(number, room) for number in range(count)]
        draw = Sampler(temperature, top_k, seed, self.device)
        steps = self._decode(logits_1V.expand(count, -1), cache.repeat(count), rows, draw)
        return _collect(count, steps)

    def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """The tokens of one answer as they come; see `generate` for the rest."""
        logits_1V, cache = self._prefill([prompt], max_new_tokens)
        row = Row(0, room=min(max_new_tokens, self.context - len(prompt)))
        draw = Sampler(temperature, top_k, seed, self.device)
        for step in self._decode(logits_1V, cache, [row], draw):
            yield from (token for _, token in step)

    def next_token_logits(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each prompt, float32 [B, V]."""
        return self._prefill(prompts, max_new_tokens=0)[0]

    @torch.inference_mode()
    def _prefill(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> tuple[Tensor, KVCache]:
        lengths = [len(prompt) for prompt in prompts]
        if min(lengths) == 0 or max(lengths) > self.context:
            raise BadInput(
                f"a prompt has {min(lengths) and max(lengths):,} tokens, but this model takes 1 to "
                f"{self.context:,}: make it {'shorter' if min(lengths) else 'longer'}"
            )
        longest = max(lengths)
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        ids_BT = torch.tensor(padded, device=self.device)
        lengths_B = torch.tensor(lengths, device=self.device)
        size = min(self.context, longest + max_new_tokens)
        cache = KVCache(self.model.config, len(prompts), size, self.device, self.model.dtype)
        return self.model.prefill(ids_BT, lengths_B, cache), cache

    @torch.inference_mode()
    def _decode(
        self, logits_BV: Tensor, cache: KVCache, rows: list[Row], draw: "Sampler"
    ) -> Iterator[list[tuple[int, int]]]:
        """Yields, step by step, (row number, token) of every row that goes on."""
        while True:
            drawn = draw(logits_BV)
            tokens = [self._advance(row, token) for row, token in zip(rows, drawn, strict=True)]
            going = [place for place, token in enumerate(tokens) if token is not None]
            step = [(rows[i].number, token) for i, token in enumerate(tokens) if token is not None]
            yield step
            unfinished = [place for place in going if rows[place].room > 0]
            if not unfinished:
                return
            if len(unfinished) < len(rows):
                rows = [rows[place] for place in unfinished]
                cache = _keep(cache, unfinished)
            ids_B = torch.tensor([tokens[place] for place in unfinished], device=self.device)
            logits_BV = self.model.decode(ids_B, cache)

    def _advance(self, row: Row, drawn: int) -> int | None:
        """The row's next token (forced or drawn), or None where the answer ends."""
        if row.room <= 0:
            return None
        row.room -= 1
        if row.forced:
            return row.forced.popleft()
        if drawn in self._ends:
            return None
        if drawn == self._python_start:
            row.expression = []
        elif drawn == self._python_end and row.expression is not None:
            row.forced.extend(self._output(row.expression))
            row.expression = None
        elif row.expression is not None:
            row.expression.append(drawn)
        return drawn

    def _output(self, expression: list[int]) -> list[int]:
        result = calculate(self.tokenizer.decode(expression))
        if result is None:
            return []
        return [self._output_start, *self.tokenizer.encode(result), self._output_end]


class Sampler:
    """Draws one token a row from logits [B, V], with a random generator of its own."""

    def __init__(
        self, temperature: float, top_k: int | None, seed: int, device: torch.device
    ) -> None:
        if temperature < 0:
            raise BadInput(f"the temperature is {temperature}: use 0 (likeliest token) or more")
        if top_k is not None and top_k < 1:
            raise BadInput(f"top_k is {top_k}: use 1 or more, or leave it out")
        self.temperature = temperature
        self.top_k = top_k
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, logits_BV: Tensor) -> list[int]:
        if self.temperature == 0:
            return logits_BV.argmax(dim=-1).tolist()
        if self.top_k is None or self.top_k >= logits_BV.size(-1):
            return self._draw(logits_BV).tolist()
        best_BK, ids_BK = logits_BV.topk(self.top_k, dim=-1)
        return ids_BK.gather(1, self._draw(best_BK)[:, None])[:, 0].tolist()

    def _draw(self, logits_BK: Tensor) -> Tensor:
        probabilities_BK = torch.softmax(logits_BK.float() / self.temperature, dim=-1)
        return torch.multinomial(probabilities_BK, 1, generator=self.generator)[:, 0]


class TextStream:
    """Turns tokens into text as they come, never breaking a character of several bytes."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; "" while a character is only half there."""
        return self._decoder.decode(self.tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """What is left at the end: a replacement character for a half one, else ""."""
        return self._decoder.decode(b"", final=True)


def _collect(count: int, steps: Iterator[list[tuple[int, int]]]) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in range(count)]
    for step in steps:
        for number, token in step:
            answers[number].append(token)
    return answers


def _keep(cache: KVCache, places: list[int]) -> KVCache:
    """The cache of some rows only, so that finished ones cost nothing more."""
    index = torch.tensor(places, device=cache.lengths.device)
    cache.keys_LBKSD = cache.keys_LBKSD[:, index]
    cache.values_LBKSD = cache.values_LBKSD[:, index]
    cache.previous_BC = cache.previous_BC[index]
    cache.lengths = cache.lengths[index]
    cache.longest = int(cache.lengths.max())
    return cache
