"""Talking to a model in the terminal: `nanochat chat`, or once with `nanochat chat -p "..."`.

    chat(model_dir, tokenizer_dir, prompt=None, temperature=0.6, top_k=50, max_new_tokens=256,
         seed=1)

On a terminal: line editing, history (arrow keys), /clear to start anew, /exit or Ctrl-D to leave,
Ctrl-C to stop an answer. From a pipe: every line is a message, the answers go to the output.
Answers appear as they are written; what passes through the calculator is shown as [23*47=1081],
dimmed. When a conversation outgrows the model's context, its oldest exchanges are left out, and a
notice says so.

Reads a model and a tokenizer; writes to the screen only.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from nanochat.data.chat_format import fit_to_context, parse_answer
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput
from nanochat.model.device import default_device
from nanochat.model.engine import Engine, TextStream
from nanochat.model.weights import load_model

HELP = "Type a message. /clear starts anew, /exit leaves, Ctrl-C stops an answer."
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def chat(
    model_dir: Path,
    tokenizer_dir: Path,
    prompt: str | None,
    temperature: float,
    top_k: int | None,
    max_new_tokens: int,
    seed: int,
) -> None:
    """Answers `prompt`, or without one every line that is typed or piped in.

    Raises MissingArtefact where there is no model or tokenizer, BadInput for settings that can't be
    used, and for a `prompt` longer than the model's context.
    """
    tokenizer = Tokenizer.load(tokenizer_dir)
    engine = Engine(load_model(model_dir, default_device()).for_inference(), tokenizer)
    talk = Chat(engine, tokenizer, temperature, top_k, max_new_tokens, seed)
    if prompt is not None:
        talk.answer(prompt)
    elif sys.stdin.isatty():
        print(HELP)
        converse(talk, _typed_lines())
    else:
        converse(talk, sys.stdin)


class Chat:
    """One conversation: remembers what was said, and writes answers to `out` as they come."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        temperature: float,
        top_k: int | None,
        max_new_tokens: int,
        seed: int,
        out: TextIO | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise BadInput(f"max_new_tokens is {max_new_tokens}: use 1 or more")
        self.engine = engine
        self.tokenizer = tokenizer
        self.settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k}
        self.room = min(max_new_tokens, engine.context // 2)
        self.seed = seed
        self.out = out or sys.stdout
        self.messages: list[dict[str, Any]] = []

    def clear(self) -> None:
        """Forgets what was said."""
        self.messages = []

    def answer(self, text: str) -> None:
        """Takes `text` as the user's next message and writes the model's answer.

        Raises BadInput where `text` alone is too long; KeyboardInterrupt stops the answer. In both
        cases the message counts as never said.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        prompt, dropped = fit_to_context(messages, self.tokenizer, self.engine.context - self.room)
        if dropped:
            self._notice(f"(the context is full: the oldest {dropped} messages are forgotten)")
        ids: list[int] = []
        stream = self.engine.stream(prompt, self.room, seed=self.seed, **self.settings)
        for piece in readable(_noting(stream, ids), self.tokenizer, self._dimmed):
            print(piece, end="", file=self.out, flush=True)
        print(file=self.out, flush=True)
        self.seed += 1
        said = {"role": "assistant", "content": parse_answer(ids, self.tokenizer)}
        self.messages = [*messages[dropped:], said]

    def _dimmed(self, text: str) -> str:
        return f"{DIM}{text}{PLAIN}" if self.out.isatty() else text

    def _notice(self, text: str) -> None:
        print(text, file=sys.stderr)


def converse(talk: Chat, lines: Iterable[str]) -> None:
    """Answers line after line until /exit or the end; a line that can't be used gets a sentence."""
    for line in lines:
        text = line.strip()
        if text in ("/exit", "/quit"):
            return
        if text == "/clear":
            talk.clear()
        elif text.startswith("/"):
            print(f"unknown command {text.split()[0]}. {HELP}", file=sys.stderr)
        elif text:
            try:
                talk.answer(text)
            except KeyboardInterrupt:
                print("\n(stopped)", file=sys.stderr)
            except BadInput as exc:
                print(exc, file=sys.stderr)


def readable(
    ids: Iterable[int], tokenizer: Tokenizer, dimmed: Callable[[str], str]
) -> Iterator[str]:
    """The pieces of an answer as they come, with the calculator's part as [expression=result]."""
    marks = {
        tokenizer.special("<|python_start|>"): dimmed("["),
        tokenizer.special("<|output_start|>"): dimmed("="),
        tokenizer.special("<|output_end|>"): dimmed("] "),
    }
    specials = set(tokenizer.special_ids.values())
    text = TextStream(tokenizer)
    within = False
    for token in ids:
        if token in specials:
            within = token in marks and token != tokenizer.special("<|output_end|>")
            piece = text.flush() + marks.get(token, "")
        else:
            piece = text.push(token)
            piece = dimmed(piece) if within and piece else piece
        if piece:
            yield piece
    if rest := text.flush():
        yield rest


def _noting(ids: Iterable[int], noted: list[int]) -> Iterator[int]:
    for token in ids:
        noted.append(token)
        yield token


def _typed_lines() -> Iterator[str]:
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue  # a half-typed line is dropped
        except EOFError:
            return
