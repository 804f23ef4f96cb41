"""The report's parts about what the model can do: scores, compression, samples, a conversation.

Each function takes the records and returns one part of the page as Markdown, its heading included.
Pure functions: nothing is read or written.
"""

from nanochat.report.records import ChatEvaluation, ChatTask, Message, Records
from nanochat.report.tables import (
    ABSENT,
    details,
    fenced,
    one_line,
    percent,
    score,
    size,
    table,
    whole,
)

SHOWN_AS = {"text": "{}", "python": "[calculator: {}]", "python_output": "[result: {}]"}


def score_card(records: Records) -> str:
    """BASE | MID | SFT for every metric, with chance levels."""
    core = records.base_eval.core
    bpb = [score(stage.result.validation_bpb) for stage in records.stages.values()]
    rows = [
        ["Validation bits per byte (lower is better)", ABSENT, *bpb],
        [f"**CORE** ({len(core.tasks)} tasks)", score(0), score(core.value), ABSENT, ABSENT],
        *_chat_rows(records),
        [
            "**ChatCORE**",
            score(0),
            ABSENT,
            score(records.mid_eval.chatcore.value),
            score(records.sft_eval.chatcore.value),
        ],
    ]
    header = ["Metric", "Chance", "BASE", "MID", "SFT"]
    notes = (
        "Accuracies are on questions that training never saw. CORE and ChatCORE are means of "
        "(accuracy − chance) / (1 − chance): 0 is guessing, 1 is perfect. "
        f"{ABSENT} means not measured at this stage."
    )
    parts = ["## Scores", table(header, rows), notes, _chatcore_tasks(records)]
    return "\n\n".join(parts)


def _chat_rows(records: Records) -> list[list[str]]:
    mid = {task.name: task for task in records.mid_eval.tasks}
    sft = {task.name: task for task in records.sft_eval.tasks}
    rows = []
    for name, task in (mid | sft).items():
        accuracies = [percent(s[name].accuracy) if name in s else ABSENT for s in (mid, sft)]
        label = f"{name} ({whole(task.items)} items)"
        rows.append([label, percent(task.chance), ABSENT, *accuracies])
    return rows


def _chatcore_tasks(records: Records) -> str:
    mid, sft = records.mid_eval.chatcore.tasks, records.sft_eval.chatcore.tasks
    if mid == sft:
        return f"ChatCORE covers {', '.join(sft)}."
    return (
        f"ChatCORE covers {', '.join(mid)} after mid-training and {', '.join(sft)} after SFT: "
        "the two numbers cannot be compared."
    )


def compression(records: Records) -> str:
    """The base model beside general-purpose compressors, on the same text."""
    bpb = records.base_eval.bpb
    rows = [["**this model**", score(bpb.value), percent(bpb.value / 8)]]
    for name, value in sorted(bpb.compressors.items()):
        rows.append([f"`{name}`", score(value), percent(value / 8)])
    text = (
        "A model that predicts text compresses it. On the same held-out text "
        f"({size(bpb.bytes)}, {whole(bpb.tokens)} tokens):"
    )
    header = ["", "Bits per byte", "Of the original size"]
    return "\n\n".join(["## Against compressors", text, table(header, rows)])


def core_tasks(records: Records) -> str:
    """Every CORE task of the base model, and those whose data is missing."""
    core = records.base_eval.core
    rows = [
        [
            task.label,
            task.type.replace("_", " "),
            whole(task.shots),
            whole(task.items),
            percent(task.chance),
            percent(task.accuracy),
            score(task.centered),
        ]
        for task in core.tasks
    ]
    header = ["Task", "Type", "Shots", "Items", "Chance", "Accuracy", "Centred"]
    parts = ["## CORE tasks of the base model", table(header, rows)]
    if core.missing:
        parts.append(f"Not in the evaluation bundle, so not measured: {', '.join(core.missing)}.")
    return "\n\n".join(parts)


def tokenizer(records: Records) -> str:
    """Bytes per token on several kinds of text, beside what is known of GPT-2 and GPT-4."""
    rows = [
        [
            row.text,
            size(row.bytes),
            whole(row.tokens),
            f"{row.bytes_per_token:.2f}",
            *[ABSENT if other is None else f"{other:.2f}" for other in (row.gpt2, row.gpt4)],
        ]
        for row in records.tokenizer.compression
    ]
    header = ["Text", "Size", "Tokens", "Bytes per token", "GPT-2", "GPT-4"]
    text = f"{whole(records.tokenizer.vocab_size)} tokens; more bytes per token is better."
    parts = ["## Tokenizer", text, table(header, rows)]
    if any(row.gpt2 is None or row.gpt4 is None for row in records.tokenizer.compression):
        parts.append(
            "GPT-2 has 50,257 tokens and GPT-4 100,277. Their columns are empty where tiktoken has "
            "no copy of their vocabularies on this machine."
        )
    return "\n\n".join(parts)


def samples(records: Records) -> str:
    """What the base model writes after a few prompts."""
    parts = ["## What the base model writes"]
    for sample in records.base_eval.samples:
        parts += [f"**{_inline(sample.prompt)}**", fenced(sample.text)]
    return "\n\n".join(parts)


def conversation(records: Records) -> str:
    """A conversation with the chat model."""
    turns = [
        f"**{message.role}**\n\n{fenced(_spoken(message))}"
        for message in records.sft_eval.transcript
    ]
    return "\n\n".join(["## A conversation with the chat model", *turns])


def _spoken(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(SHOWN_AS[part.type].format(part.text) for part in message.content)


def chat_examples(records: Records) -> str:
    """Some questions of each chat task with the chat model's answers."""
    parts = ["## Questions and answers"]
    parts += [details(_task_summary(task), _examples(task)) for task in _with_examples(records)]
    return "\n\n".join(parts)


def _with_examples(records: Records) -> list[ChatTask]:
    evaluation: ChatEvaluation = records.sft_eval
    return [task for task in evaluation.tasks if task.examples]


def _task_summary(task: ChatTask) -> str:
    return f"{task.name} ({task.kind}): {percent(task.accuracy)} of {whole(task.items)}"


def _examples(task: ChatTask) -> str:
    rows = [[e.question, e.expected, e.answer, "yes" if e.correct else "no"] for e in task.examples]
    return table(["Question", "Expected", "Answer", "Correct"], rows)


def _inline(text: str) -> str:
    return one_line(text).replace("*", "\\*")
