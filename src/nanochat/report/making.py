"""The report's parts about how the model was made: data, model, time, provenance.

Each function takes the records and returns one part of the page as Markdown, its heading included.
Pure functions: nothing is read or written.
"""

from datetime import UTC, datetime
from typing import Any

import yaml

from nanochat.report.curves import Journal
from nanochat.report.records import Provenance, Records, Training
from nanochat.report.tables import (
    ABSENT,
    count,
    details,
    duration,
    fenced,
    flops,
    size,
    table,
    whole,
)

TITLES = {"base": "BASE", "mid": "MID", "sft": "SFT"}


def summary(run: str, records: Records) -> str:
    """The title and one paragraph for a reader in a hurry."""
    base, shards = records.base, records.corpus.shards
    seconds = sum(stage.result.seconds for stage in records.stages.values())
    return (
        f"# {run}\n\n"
        f"A language model of **{count(base.plan.parameters)} parameters**, trained from scratch "
        f"on {whole(sum(s.documents for s in shards))} documents "
        f"({size(sum(s.bytes for s in shards))} of text) and then on conversations, "
        f"in **{duration(seconds)}** of training on {_device(base.provenance)}."
    )


def _device(source: Provenance) -> str:
    return source.gpu or f"{source.cpus} cores of {source.cpu}"


def training(records: Records) -> str:
    """What was trained on what: corpus, model, and the work of each stage."""
    corpus, plan = records.corpus, records.base.plan
    facts = [
        ["Corpus", corpus.dataset],
        ["Documents for training", whole(sum(s.documents for s in corpus.shards))],
        ["Bytes for training", size(sum(s.bytes for s in corpus.shards))],
        ["Documents held out", whole(corpus.validation.documents)],
        ["Bytes held out", size(corpus.validation.bytes)],
        ["Vocabulary", f"{whole(records.tokenizer.vocab_size)} tokens"],
        ["Parameters", whole(plan.parameters)],
        ["Parameters that count for scaling", whole(plan.scaling_parameters)],
        ["Training FLOPs per token", flops(plan.flops_per_token)],
    ]
    stages = records.stages.values()
    rows = [
        ["Steps", *[whole(s.result.steps) for s in stages]],
        ["Tokens in a step", *[whole(s.plan.total_batch_tokens) for s in stages]],
        ["Tokens", *[whole(s.result.tokens) for s in stages]],
        ["FLOPs", *[flops(_work(s)) for s in stages]],
        ["Training loss at the end (nats)", *[f"{s.result.train_loss:.3f}" for s in stages]],
    ]
    parts = ["## What was trained on what", table(["", ""], facts)]
    return "\n\n".join([*parts, table(["", *TITLES.values()], rows)])


def _work(stage: Training) -> float:
    return stage.plan.flops_per_token * stage.result.tokens


def curves(figure: str, journal: Journal) -> str:
    """The picture of training, and a word on what of the journal is not in it."""
    legend = (
        "Pale: single steps; strong: the mean of the steps around. Mid-training and SFT learn from "
        "conversations, so their losses cannot be compared with the base model's; bits per byte, "
        "always on the same held-out documents, can."
    )
    parts = ["## Curves", f"![Loss, validation and learning rate of each stage]({figure})", legend]
    if journal.unreadable:
        lines = "line was" if journal.unreadable == 1 else "lines were"
        parts.append(f"{journal.unreadable} {lines} torn by an interruption and left out.")
    return "\n\n".join(parts)


def resources(records: Records) -> str:
    """Time, speed and memory of each stage."""
    stages = records.stages.values()
    rows = [
        ["Time", *[duration(s.result.seconds) for s in stages]],
        ["Tokens per second", *[whole(round(s.result.tokens_per_second)) for s in stages]],
        ["FLOP per second", *[flops(_work(s) / s.result.seconds) for s in stages]],
        ["Peak memory", *[size(s.result.peak_memory_bytes) for s in stages]],
    ]
    return "\n\n".join(["## Time and memory", table(["", *TITLES.values()], rows)])


def provenance(records: Records) -> str:
    """Where every number comes from: code, machine, inputs, weights and settings of each stage."""
    stages = records.stages.values()
    sources = [stage.provenance for stage in stages]
    rows = [
        ["Commit", *[_commit(source) for source in sources]],
        ["Host", *[source.host for source in sources]],
        ["Device", *[_device(source) for source in sources]],
        ["Job", *[source.job_id or ABSENT for source in sources]],
        ["Started (UTC)", *[moment(source.started) for source in sources]],
        ["Finished (UTC)", *[moment(source.finished) for source in sources]],
        ["nanochat, Python, torch", *[_versions(source) for source in sources]],
        ["Weights (SHA-256)", *[f"`{stage.weights_sha256[:16]}`" for stage in stages]],
    ]
    tokenizer = f"Tokenizer fingerprint: `{records.tokenizer.fingerprint}`."
    parts = ["## Provenance", table(["", *TITLES.values()], rows), tokenizer]
    parts += [
        details(f"Settings and inputs of {title}", fenced(_settings(stage), "yaml"))
        for title, stage in zip(TITLES.values(), stages, strict=True)
    ]
    return "\n\n".join(parts)


def _commit(source: Provenance) -> str:
    if source.commit is None:
        return "not a git checkout"
    return f"`{source.commit[:12]}`{' with local changes' if source.dirty else ''}"


def _versions(source: Provenance) -> str:
    return f"{source.nanochat}, {source.python}, {source.torch}"


def moment(seconds: float) -> str:
    """Seconds since 1970 as `2025-06-15 15:06:40`, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _settings(stage: Training) -> str:
    value: dict[str, Any] = {
        "settings": stage.settings,
        "inputs": stage.inputs,
        "weights_sha256": stage.weights_sha256,
    }
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88).rstrip()
