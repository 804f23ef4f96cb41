"""The base model's evaluation: bits per byte, CORE, and what it writes.

`evaluate_base(model, tokenizer, ...)` returns the record that the report reads.

Reads packed validation rows, the validation shard (for the openings it lets the model continue) and
an evaluation bundle; writes nothing.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat.data.loader import validation_batches
from nanochat.data.rows import open_rows
from nanochat.data.shards import read_documents
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import DamagedArtefact
from nanochat.eval.bpb import bits_per_byte, compressors, text_of_rows
from nanochat.eval.core import evaluate_core
from nanochat.model.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.progress import track

PROMPTS = ("The capital of France is", "If you want to learn something new,")
OPENINGS = 3  # held-out documents whose first words the model continues
OPENING_WORDS = 12
NEW_TOKENS = 48
TEMPERATURE = 0.8  # of the last sample; the others are greedy
TOP_K = 50


def evaluate_base(
    model: GPT,
    tokenizer: Tokenizer,
    validation_rows: Path,
    validation_shard: Path,
    bundle_dir: Path,
    max_rows: int,
    max_per_task: int,
    batch_rows: int,
) -> dict[str, Any]:
    """Everything the report says of the base model.

    Scores the first `max_rows` validation rows and `max_per_task` questions of each CORE task (0:
    all of them), `batch_rows` rows at once. Raises DamagedArtefact when the rows come from another
    tokenizer, and what reading rows, documents and bundle raises.
    """
    return {
        "stage": "base",
        "bpb": _compression(model, tokenizer, validation_rows, max_rows, batch_rows),
        "core": evaluate_core(model, tokenizer, bundle_dir, max_per_task, batch_rows),
        "samples": write_samples(model, tokenizer, validation_shard),
    }


def _compression(
    model: GPT, tokenizer: Tokenizer, row_file: Path, max_rows: int, batch_rows: int
) -> dict[str, Any]:
    packed = open_rows(row_file)
    if packed.record.get("tokenizer") != tokenizer.fingerprint:
        raise DamagedArtefact(
            f"{row_file} was made by another tokenizer than the model's: "
            "delete its folder and run `make run` again"
        )
    batches = validation_batches(row_file, max_rows, batch_rows, tokenizer.bos_id)
    n_batches = -(-min(max_rows, len(packed.ids_NC)) // batch_rows)
    shown = track(batches, "bits per byte", total=n_batches, unit="batches")
    score = bits_per_byte(model, shown, tokenizer.token_bytes())
    text = text_of_rows(packed.ids_NC, max_rows, tokenizer)
    return {**score, "compressors": compressors(text)}


def write_samples(model: GPT, tokenizer: Tokenizer, shard: Path) -> list[dict[str, str]]:
    """What the model writes after fixed prompts and after the openings of held-out documents.

    Greedy, and once more after the last prompt with temperature 0.8; the same text every time.
    """
    engine = Engine(model, tokenizer)
    prompts = [*PROMPTS, *islice(_openings(shard), OPENINGS)]
    encoded = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    answers = engine.generate(encoded, NEW_TOKENS)
    answers += engine.generate(encoded[-1:], NEW_TOKENS, temperature=TEMPERATURE, top_k=TOP_K)
    return [
        {"prompt": prompt, "text": tokenizer.decode(answer)}
        for prompt, answer in zip([*prompts, prompts[-1]], answers, strict=True)
    ]


def _openings(shard: Path) -> Iterator[str]:
    for text in read_documents(shard):
        words = text.split()
        if len(words) > 2 * OPENING_WORDS:
            yield " ".join(words[:OPENING_WORDS])
