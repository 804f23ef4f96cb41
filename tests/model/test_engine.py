"""Generation: the cache, the batch, the samples, the calculator, and text that never breaks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput
from nanochat.model.attention import KVCache
from nanochat.model.engine import Engine, TextStream
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

CONTEXT = 48


def tiny_gpt(vocab_size: int) -> GPT:
    """A float32 model of two layers whose logits differ clearly from token to token."""
    config = GPTConfig.from_depth(2, vocab_size, CONTEXT, aspect_ratio=16, head_dim=16)
    model = GPT(config, torch.float32)
    model.init_weights(seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="module")
def model(tiny_tokenizer: Tokenizer) -> GPT:
    return tiny_gpt(tiny_tokenizer.vocab_size)


@pytest.fixture(scope="module")
def engine(model: GPT, tiny_tokenizer: Tokenizer) -> Engine:
    return Engine(model, tiny_tokenizer)


@pytest.fixture(scope="module")
def prompts(tiny_tokenizer: Tokenizer) -> list[list[int]]:
    texts = ["The", "An object that has a value", "import this and that from there"]
    return [[tiny_tokenizer.bos_id, *tiny_tokenizer.encode(text)] for text in texts]


class ScriptedGPT(GPT):
    """A model that wants to say what `script` says, given each row's number of tokens so far."""

    script: Callable[[int, int], int]

    def prefill(self, ids_BT: Tensor, lengths_B: Tensor, cache: KVCache) -> Tensor:
        super().prefill(ids_BT, lengths_B, cache)
        return self._wishes(cache)

    def decode(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        super().decode(ids_B, cache)
        return self._wishes(cache)

    def _wishes(self, cache: KVCache) -> Tensor:
        logits_BV = torch.zeros(cache.batch, self.config.vocab_size)
        for row, length in enumerate(cache.lengths.tolist()):
            logits_BV[row, self.script(row, length)] = 9.0
        return logits_BV


def scripted(tokenizer: Tokenizer, script: Callable[[int, int], int]) -> Engine:
    config = GPTConfig.from_depth(1, tokenizer.vocab_size, CONTEXT, aspect_ratio=32, head_dim=16)
    model = ScriptedGPT(config, torch.float32)
    model.init_weights(seed=1)
    model.script = script
    return Engine(model, tokenizer)


def saying(tokenizer: Tokenizer, text: list[str | int]) -> list[int]:
    ids: list[int] = []
    for part in text:
        ids += [part] if isinstance(part, int) else _ids(part, tokenizer)
    return ids


def _ids(part: str, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.special(part)] if part.startswith("<|") else tokenizer.encode(part)


def test_cached_greedy_answer_equals_recomputing_everything(
    engine: Engine, model: GPT, prompts: list[list[int]]
) -> None:
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(12):
            ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
        assert engine.generate([prompt], 12) == [ids[len(prompt) :]]


def test_batch_of_different_prompts_equals_one_by_one(
    engine: Engine, prompts: list[list[int]]
) -> None:
    alone = [engine.generate([prompt], 20)[0] for prompt in prompts]
    assert engine.generate(prompts, 20) == alone
    assert len(set(map(tuple, alone))) == len(prompts)


def test_stream_equals_generate(engine: Engine, prompts: list[list[int]]) -> None:
    settings = {"max_new_tokens": 15, "temperature": 1.0, "top_k": 20, "seed": 7}
    assert (
        list(engine.stream(prompts[1], **settings)) == engine.generate([prompts[1]], **settings)[0]
    )


def test_seed_decides_the_answer(engine: Engine, prompts: list[list[int]]) -> None:
    first = engine.generate(prompts, 10, temperature=1.0, seed=1)
    assert first == engine.generate(prompts, 10, temperature=1.0, seed=1)
    assert first != engine.generate(prompts, 10, temperature=1.0, seed=2)


def test_sampling_leaves_the_global_generator_alone(
    engine: Engine, prompts: list[list[int]]
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    engine.generate(prompts, 3, temperature=1.0, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_samples_differ_from_the_first_token_on(engine: Engine, prompts: list[list[int]]) -> None:
    samples = engine.sample(prompts[0], 16, max_new_tokens=2, temperature=2.0, seed=1)
    assert len({sample[0] for sample in samples if sample}) > 3


def test_greedy_samples_are_all_the_greedy_answer(engine: Engine, prompts: list[list[int]]) -> None:
    samples = engine.sample(prompts[0], 3, max_new_tokens=8, temperature=0.0)
    assert samples == engine.generate([prompts[0]], 8) * 3


def test_top_k_one_is_greedy_at_any_temperature(engine: Engine, prompts: list[list[int]]) -> None:
    greedy = engine.generate(prompts, 8)
    assert engine.generate(prompts, 8, temperature=5.0, top_k=1, seed=3) == greedy


def test_top_k_limits_what_is_drawn(engine: Engine, model: GPT, prompts: list[list[int]]) -> None:
    best = model.logits(torch.tensor([prompts[0]]))[0, -1].topk(3).indices.tolist()
    samples = engine.sample(prompts[0], 64, 1, temperature=50.0, top_k=3, seed=1)
    assert {sample[0] for sample in samples} == set(best)


def test_answer_ends_at_assistant_end_or_bos(tiny_tokenizer: Tokenizer) -> None:
    ends = [tiny_tokenizer.special("<|assistant_end|>"), tiny_tokenizer.bos_id]
    for end in ends:
        engine = scripted(tiny_tokenizer, lambda row, length, end=end: end if length > 6 else 65)
        assert engine.generate([[1, 2, 3]], 20) == [[65, 65, 65, 65]]


def test_rows_that_end_early_leave_the_others_undisturbed(tiny_tokenizer: Tokenizer) -> None:
    end = tiny_tokenizer.special("<|assistant_end|>")
    engine = scripted(tiny_tokenizer, lambda row, length: end if length == 10 else length)
    answers = engine.generate([[1] * 9, [1] * 11, [1] * 2, [1] * 10], 6)
    assert answers == [[9], [11, 12, 13, 14, 15, 16], [2, 3, 4, 5, 6, 7], []]


def test_limits_on_length_are_kept(tiny_tokenizer: Tokenizer) -> None:
    engine = scripted(tiny_tokenizer, lambda row, length: 65)
    assert engine.generate([[1, 2]], 3) == [[65] * 3]
    lengths = [CONTEXT, CONTEXT - 1, CONTEXT - 20, 1]
    answers = engine.generate([[1] * length for length in lengths], 30)
    assert [len(answer) for answer in answers] == [0, 1, 20, 30]


def test_calculator_result_is_forced_into_the_answer(tiny_tokenizer: Tokenizer) -> None:
    asked = saying(tiny_tokenizer, ["<|python_start|>", "6*7", "<|python_end|>"])
    forced = saying(tiny_tokenizer, ["<|output_start|>", "42", "<|output_end|>"])
    end = tiny_tokenizer.special("<|assistant_end|>")
    line = [1, *asked, *[end] * len(forced), *tiny_tokenizer.encode("!"), end]
    engine = scripted(tiny_tokenizer, lambda row, length: line[length])
    expected = [*asked, *forced, *tiny_tokenizer.encode("!")]
    assert engine.generate([[1]], 40) == [expected]
    assert list(engine.stream([1], 40)) == expected
    assert engine.generate([[1]], len(asked) + 1) == [expected[: len(asked) + 1]]


@pytest.mark.parametrize("expression", ["import os", "", "1/0"])
def test_what_the_calculator_does_not_know_forces_nothing(
    expression: str, tiny_tokenizer: Tokenizer
) -> None:
    asked = saying(tiny_tokenizer, ["<|python_start|>", expression, "<|python_end|>"])
    line = [1, *asked, tiny_tokenizer.special("<|assistant_end|>")]
    engine = scripted(tiny_tokenizer, lambda row, length: line[length])
    assert engine.generate([[1]], 40) == [asked]


def test_each_row_has_its_own_calculator(tiny_tokenizer: Tokenizer) -> None:
    def line(expression: str) -> list[int]:
        return saying(tiny_tokenizer, ["<|python_start|>", expression, "<|python_end|>"])

    lines = [[1, *line(text), *[65] * 20] for text in ("9-4", "(9-4)*100")]
    engine = scripted(tiny_tokenizer, lambda row, length: lines[row][length])
    answers = [tiny_tokenizer.decode(ids) for ids in engine.generate([[1], [1]], 20)]
    assert "<|output_start|>5<|output_end|>" in answers[0]
    assert "<|output_start|>500<|output_end|>" in answers[1]


def test_next_token_logits_are_those_of_the_last_token(
    engine: Engine, model: GPT, prompts: list[list[int]]
) -> None:
    logits_BV = engine.next_token_logits(prompts)
    for row, prompt in enumerate(prompts):
        expected = model.logits(torch.tensor([prompt]))[0, -1]
        torch.testing.assert_close(logits_BV[row], expected, atol=1e-4, rtol=1e-4)


def test_text_stream_never_breaks_a_character(tiny_tokenizer: Tokenizer) -> None:
    text = "na\u00efve \u2192 \U0001f600 \u4f60\u597d"
    stream = TextStream(tiny_tokenizer)
    ids = tiny_tokenizer.encode(text)
    pieces = [stream.push(token) for token in ids] + [stream.flush()]
    assert len(ids) > len(text)  # characters do come in halves
    assert "\ufffd" not in "".join(pieces) and "".join(pieces) == text


def test_text_stream_marks_a_character_that_never_ends(tiny_tokenizer: Tokenizer) -> None:
    stream = TextStream(tiny_tokenizer)
    first_half = tiny_tokenizer.encode("\U0001f600")[:1]
    assert stream.push(first_half[0]) == ""
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0"),
    ],
)
def test_unusable_settings_are_refused(
    settings: dict[str, float], sentence: str, engine: Engine
) -> None:
    with pytest.raises(BadInput, match=sentence):
        engine.generate([[1]], 3, **settings)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [([], "0 tokens.*longer"), ([1] * (CONTEXT + 1), "49 tokens.*1 to 48.*shorter")],
)
def test_prompt_that_does_not_fit_is_refused(
    prompt: list[int], sentence: str, engine: Engine
) -> None:
    with pytest.raises(BadInput, match=sentence):
        engine.generate([prompt], 3)
