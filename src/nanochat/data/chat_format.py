"""Conversations as token ids: the one place that knows how a chat looks to the model.

    ids, mask = render(conversation, tokenizer, max_tokens=2049)   # for training
    prompt = render_for_completion(conversation, tokenizer)        # for the model to go on from
    parts = parse_answer(generated_ids, tokenizer)                 # what it then said

A conversation is {"messages": [{"role": ..., "content": ...}, ...]}: perhaps one system message,
then user and assistant in turns. Content is text; an assistant's may also be a list of parts
{"type": "text" | "python" | "python_output", "text": ...}: what it says, what it asks of the
calculator, what the calculator answered. As ids:

    bos, user_start, text, user_end, assistant_start, text,
        python_start, expression, python_end, output_start, result, output_end, text, assistant_end

The mask is 1 on what the model must learn to say itself: the assistant's text, the calculator's
expression with the two tokens around it, and assistant_end. Text is encoded as ordinary text, so
nothing that a user types can become a special token.
"""

from collections.abc import Sequence
from typing import Any

from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput

Conversation = dict[str, Any]
Message = dict[str, Any]
Part = dict[str, str]

PART_TOKENS = {
    "python": ("<|python_start|>", "<|python_end|>"),
    "python_output": ("<|output_start|>", "<|output_end|>"),
}
PART_TYPES = ("text", *PART_TOKENS)


def render(
    conversation: Conversation, tokenizer: Tokenizer, max_tokens: int | None = None
) -> tuple[list[int], list[int]]:
    """Ids of the whole conversation and its mask (1: learn to say this), cut at `max_tokens`
    if given.

    Raises BadInput where the conversation is not of the form above.
    """
    ids, mask = _render_turns(user_and_assistant(conversation), tokenizer)
    return ids[:max_tokens], mask[:max_tokens]


def render_for_completion(conversation: Conversation, tokenizer: Tokenizer) -> list[int]:
    """Ids up to and including assistant_start; an assistant's last message is left out.

    Raises BadInput where the conversation is not of the form above.
    """
    turns = user_and_assistant(conversation)
    if turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    ids, _ = _render_turns(turns, tokenizer)
    return [*ids, tokenizer.special("<|assistant_start|>")]


def user_and_assistant(conversation: Conversation) -> list[Message]:
    """The messages, checked, with a system message merged into the first of the user.

    Raises BadInput, naming the message, where roles, order or content are wrong.
    """
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or not messages:
        raise BadInput('a conversation must be {"messages": [...]} with at least one message')
    for number, message in enumerate(messages, start=1):
        _check_fields(message, number)
    skipped = int(messages[0]["role"] == "system")
    turns = messages[skipped:]
    if not turns:
        raise BadInput("a conversation has only a system message: let the user speak too")
    for place, message in enumerate(turns):
        _check_turn(message, place + skipped + 1, expected=("user", "assistant")[place % 2])
    if not skipped:
        return turns
    merged = f"{messages[0]['content']}\n\n{turns[0]['content']}"
    return [{"role": "user", "content": merged}, *turns[1:]]


def parse_answer(ids: Sequence[int], tokenizer: Tokenizer) -> list[Part]:
    """The parts of a generated answer: the inverse of rendering an assistant's message.

    A part whose end never came is closed by the end of `ids`; text parts are never empty.
    """
    opens = {tokenizer.special(start): kind for kind, (start, _) in PART_TOKENS.items()}
    closes = {tokenizer.special(end) for _, end in PART_TOKENS.values()}
    specials = set(tokenizer.special_ids.values())
    runs: list[tuple[str, list[int]]] = [("text", [])]
    for token in ids:
        if token in opens:
            runs.append((opens[token], []))
        elif token in closes:
            runs.append(("text", []))
        elif token not in specials:
            runs[-1][1].append(token)
    return [
        {"type": kind, "text": tokenizer.decode(run)} for kind, run in runs if run or kind != "text"
    ]


def answer_text(content: str | list[Part]) -> str:
    """What an assistant says, without the calculator's parts."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def fit_to_context(
    messages: Sequence[Message], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[int], int]:
    """Prompt ids of at most `max_tokens`, and how many of the oldest messages were left out for it.

    `messages` end with the user's. Exchanges (question and answer) are left out whole. Raises
    BadInput where even the last question alone is too long.
    """
    for dropped in range(0, len(messages), 2):
        ids = render_for_completion({"messages": list(messages[dropped:])}, tokenizer)
        if len(ids) <= max_tokens:
            return ids, dropped
    raise BadInput(
        f"the question has {len(ids):,} tokens and this model has room for {max_tokens:,}: "
        "ask something shorter"
    )


def _render_turns(turns: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    ids, mask = [tokenizer.bos_id], [0]
    for message in turns:
        if message["role"] == "user":
            said = _around(tokenizer, "<|user_start|>", message["content"], "<|user_end|>")
            supervised = [0] * len(said)
        else:
            said, supervised = _render_answer(message["content"], tokenizer)
        ids += said
        mask += supervised
    return ids, mask


def _render_answer(content: str | list[Part], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    ids, mask = [tokenizer.special("<|assistant_start|>")], [0]
    for part in parts:
        if part["type"] == "text":
            said = tokenizer.encode(part["text"])
        else:
            start, end = PART_TOKENS[part["type"]]
            said = _around(tokenizer, start, part["text"], end)
        ids += said
        mask += [int(part["type"] != "python_output")] * len(said)
    return [*ids, tokenizer.special("<|assistant_end|>")], [*mask, 1]


def _around(tokenizer: Tokenizer, start: str, text: str, end: str) -> list[int]:
    return [tokenizer.special(start), *tokenizer.encode(text), tokenizer.special(end)]


def _check_fields(message: Any, number: int) -> None:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise BadInput(f'message {number} of a conversation must have "role" and "content"')
    if message["role"] not in ("system", "user", "assistant"):
        raise BadInput(
            f"message {number} of a conversation has the role {message['role']!r}: "
            "use user, assistant, or system for the first"
        )
    if isinstance(message["content"], str):
        return
    if message["role"] != "assistant" or not _are_parts(message["content"]):
        raise BadInput(
            f"message {number} of a conversation has content that is neither text nor (of the "
            f"assistant) a list of parts with a type in {', '.join(PART_TYPES)} and a text"
        )


def _check_turn(message: Message, number: int, expected: str) -> None:
    if message["role"] != expected:
        raise BadInput(
            f"message {number} of a conversation is from {message['role']!r} where "
            f"{expected!r} has its turn: let user and assistant alternate, user first"
        )


def _are_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, dict)
        and part.get("type") in PART_TYPES
        and isinstance(part.get("text"), str)
        for part in content
    )
