"""The terminal chat: what appears, what is remembered, and how it ends."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.data.chat_format import render_for_completion
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput, MissingArtefact
from nanochat.model.attention import KVCache
from nanochat.model.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.weights import save_model
from nanochat.serve import terminal
from nanochat.serve.terminal import Chat, converse

CONTEXT = 96
ANSWER = "Na\u00efve: "


class Reciter(GPT):
    """A model that recites `line` after any prompt, and remembers the prompts."""

    line: list[int]
    prompts: list[list[int]]

    def prefill(self, ids_BT: Tensor, lengths_B: Tensor, cache: KVCache) -> Tensor:
        super().prefill(ids_BT, lengths_B, cache)
        self.prompts.append(ids_BT[0].tolist())
        return self._wish(0)

    def decode(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        super().decode(ids_B, cache)
        return self._wish(cache.longest - len(self.prompts[-1]))

    def _wish(self, place: int) -> Tensor:
        logits_1V = torch.full((1, self.config.vocab_size), -9.0)
        logits_1V[0, self.line[place]] = 9.0
        return logits_1V


def config(tokenizer: Tokenizer) -> GPTConfig:
    return GPTConfig.from_depth(1, tokenizer.vocab_size, CONTEXT, aspect_ratio=32, head_dim=16)


@pytest.fixture
def reciter(tiny_tokenizer: Tokenizer) -> Reciter:
    """Says `Naïve: `, asks for 6*7, gets 42, and says `42`."""
    model = Reciter(config(tiny_tokenizer), torch.float32)
    model.init_weights(seed=1)
    special, encode = tiny_tokenizer.special, tiny_tokenizer.encode
    asked = [special("<|python_start|>"), *encode("6*7"), special("<|python_end|>")]
    forced = [special("<|output_start|>"), *encode("42"), special("<|output_end|>")]
    model.line = [*encode(ANSWER), *asked, *forced, *encode("42"), special("<|assistant_end|>")]
    model.prompts = []
    return model


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def talk(reciter: Reciter, tiny_tokenizer: Tokenizer, out: io.StringIO) -> Chat:
    return Chat(Engine(reciter, tiny_tokenizer), tiny_tokenizer, 0.0, None, 40, seed=1, out=out)


def asked(reciter: Reciter, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(reciter.prompts[-1])


def test_answer_shows_text_and_calculator(talk: Chat, out: io.StringIO) -> None:
    talk.answer("Hi")
    assert out.getvalue() == f"{ANSWER}[6*7=42] 42\n"


def test_calculator_is_dim_on_a_terminal(talk: Chat, out: io.StringIO) -> None:
    out.isatty = lambda: True  # type: ignore[method-assign]
    talk.answer("Hi")
    shown = out.getvalue()
    assert shown.startswith(ANSWER + "\x1b[2m[\x1b[0m") and shown.endswith("\x1b[0m42\n")
    assert "6*7" in shown.replace("\x1b[0m\x1b[2m", "")


def test_next_question_is_asked_with_what_was_said_before(
    talk: Chat, reciter: Reciter, tiny_tokenizer: Tokenizer
) -> None:
    converse(talk, ["Hi\n", "\n", "More\n"])
    assert asked(reciter, tiny_tokenizer) == (
        "<|bos|><|user_start|>Hi<|user_end|><|assistant_start|>" + ANSWER + "<|python_start|>6*7"
        "<|python_end|><|output_start|>42<|output_end|>42<|assistant_end|>"
        "<|user_start|>More<|user_end|><|assistant_start|>"
    )


def test_clear_forgets_and_exit_leaves(
    talk: Chat, reciter: Reciter, tiny_tokenizer: Tokenizer
) -> None:
    converse(talk, ["Hi", "/clear", "New", "/exit", "never"])
    alone = {"messages": [{"role": "user", "content": "New"}]}
    assert reciter.prompts[-1] == render_for_completion(alone, tiny_tokenizer)
    assert len(reciter.prompts) == 2


def test_full_context_drops_the_oldest_exchange_with_a_notice(
    talk: Chat, reciter: Reciter, tiny_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    converse(talk, ["first question", "second question", "third question"])
    prompt = asked(reciter, tiny_tokenizer)
    assert "third question" in prompt and "first question" not in prompt
    assert len(reciter.prompts[-1]) + 40 <= CONTEXT
    assert "the context is full" in capsys.readouterr().err
    assert "first question" not in [message["content"] for message in talk.messages]


def test_unusable_line_gets_a_sentence_and_the_chat_goes_on(
    talk: Chat, out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    converse(talk, ["x" * 500, "/dance", "Hi"])
    error = capsys.readouterr().err
    assert "ask something shorter" in error and "unknown command /dance" in error
    assert out.getvalue().count("\n") == 1 and len(talk.messages) == 2


def test_stopped_answer_counts_as_never_asked(
    talk: Chat, reciter: Reciter, monkeypatch: pytest.MonkeyPatch
) -> None:
    recite = reciter.decode
    calls = []

    def interrupted(ids_B: Tensor, cache: KVCache) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return recite(ids_B, cache)

    monkeypatch.setattr(reciter, "decode", interrupted)
    converse(talk, ["Hi", "Again"])
    assert [m["content"] for m in talk.messages if m["role"] == "user"] == ["Again"]


@pytest.fixture
def saved(tiny_tokenizer: Tokenizer, tmp_path: Path) -> tuple[Path, Path]:
    """Folders of an untrained model and its tokenizer."""
    model = GPT.fresh(config(tiny_tokenizer), torch.device("cpu"), seed=1)
    save_model(tmp_path / "model", model, {})
    tiny_tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "model", tmp_path / "tokenizer"


def settings(**changes: Any) -> dict[str, Any]:
    return {"temperature": 0.8, "top_k": 20, "max_new_tokens": 5, "seed": 1, **changes}


def test_one_shot_prints_one_answer(
    saved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.chat(*saved, prompt="Hello", **settings())
    first = capsys.readouterr().out
    terminal.chat(*saved, prompt="Hello", **settings())
    assert first.endswith("\n") and first == capsys.readouterr().out


def test_lines_from_a_pipe_are_answered_without_prompt_signs(
    saved: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n/exit\nnever\n"))
    terminal.chat(*saved, prompt=None, **settings())
    piped = capsys.readouterr().out
    terminal.chat(*saved, prompt="Hello", **settings())
    assert piped == capsys.readouterr().out


def test_typed_lines_come_from_the_keyboard_until_ctrl_d() -> None:
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("one\rhalf\x03two\r\x04")
        assert list(terminal._typed_lines()) == ["one", "two"]


def test_missing_model_and_unusable_settings_are_refused(
    saved: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(MissingArtefact):
        terminal.chat(tmp_path / "none", saved[1], prompt="x", **settings())
    with pytest.raises(BadInput, match="max_new_tokens is 0"):
        terminal.chat(*saved, prompt="x", **settings(max_new_tokens=0))
