"""A mixture of conversations as packed rows: what mid-training and SFT read.

    sources = [(Path("task_data/spelling/train.parquet"), 2000), (Path("my.jsonl"), None)]
    build_chat_rows(sources, tokenizer, 512, output_dir, name="mid", seed=42, all_tokens=True)

Reads generated tasks (.parquet) and a user's own conversations (.jsonl: in each line an object
{"messages": [...]} or a bare list of messages). Writes <name>.npy, <name>.mask.npy and <name>.json
(see data/rows.py); the same arguments and files give the same bytes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from nanochat.data.chat_format import Conversation, render, user_and_assistant
from nanochat.data.packing import pack_conversations
from nanochat.data.rows import write_rows
from nanochat.data.task_files import load_items
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput, MissingArtefact
from nanochat.files import sha256_of
from nanochat.progress import track

Source = tuple[Path, int | None]
Rendered = tuple[list[int], list[int]]
MAX_EXCHANGES = 4  # generated questions that one conversation may hold


def read_conversations(path: Path) -> list[Conversation]:
    """A user's own conversations.

    Raises MissingArtefact where there is no file, and BadInput, with the line's number, for a line
    that is not a conversation or that ends without an answer.
    """
    conversations = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    conversations.append(_read_line(line, f"{path}, line {number}"))
    except FileNotFoundError as exc:
        raise MissingArtefact(f"no conversations at {path}: correct chat.conversations") from exc
    except UnicodeDecodeError as exc:
        raise BadInput(f"{path} is not UTF-8 text ({exc}): save it as UTF-8") from exc
    if not conversations:
        raise BadInput(f"{path} holds no conversations: give one a line, as JSON")
    return conversations


def build_chat_rows(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    sequence_len: int,
    output_dir: Path,
    name: str,
    seed: int,
    all_tokens: bool,
) -> dict[str, Any]:
    """Packs the first so many conversations (None: all) of each source into rows of T+1 ids.

    The generated questions are shuffled and joined into conversations of one to four exchanges, so
    that the model learns to go on after an answer. `all_tokens` makes every token a target, else
    only what the assistant says is one. A conversation over T+1 tokens loses its end; one that
    loses everything the assistant says is left out. Both are counted in the record, which is
    returned. Raises BadInput where nothing is left.
    """
    capacity = sequence_len + 1
    generated, own = _load(sources)
    Random(seed).shuffle(generated)
    rendered = _joined([render(each, tokenizer) for each in generated], capacity, Random(seed))
    rendered += [render(each, tokenizer) for each in own]
    kept = [(ids, mask) for ids, mask in rendered if any(mask[:capacity])]
    if not kept:
        raise BadInput(
            f"no conversation of the mixture {name!r} has an answer within {sequence_len} tokens: "
            "add items to it, or raise model.sequence_len"
        )
    if all_tokens:
        kept = [(ids, [1] * len(ids)) for ids, _ in kept]
    packed = pack_conversations(kept, sequence_len, tokenizer.vocab_size)
    used = sum(min(len(ids), capacity) for ids, _ in kept)
    record = {
        "conversations": len(kept),
        "truncated": packed.truncated,
        "dropped": len(rendered) - len(kept),
        "tokens": used,
        "supervised_tokens": int(packed.masks_NC.sum()),
        "padding": round(1 - used / packed.rows_NC.size, 6),
        "all_tokens": all_tokens,
        "tokenizer": tokenizer.fingerprint,
        "sources": [
            {"file": f"{path.parent.name}/{path.name}", "items": limit, "sha256": sha256_of(path)}
            for path, limit in sources
        ],
    }
    return write_rows(output_dir, name, packed.rows_NC, packed.masks_NC, record)


def _load(sources: Sequence[Source]) -> tuple[list[Conversation], list[Conversation]]:
    """The generated conversations of one exchange each, and a user's own."""
    generated: list[Conversation] = []
    own: list[Conversation] = []
    for path, limit in track(sources, "reading conversations", unit="files"):
        if path.suffix == ".parquet":
            generated += [item.conversation for item in load_items(path)[:limit]]
        else:
            own += read_conversations(path)[:limit]
    return generated, own


def _joined(exchanges: Sequence[Rendered], capacity: int, rng: Random) -> list[Rendered]:
    """Neighbours joined into conversations of one to MAX_EXCHANGES, as far as they fit a row."""
    joined: list[Rendered] = []
    wanted = 0
    for ids, mask in exchanges:
        if wanted > 0 and len(joined[-1][0]) + len(ids) - 1 <= capacity:
            joined[-1] = (joined[-1][0] + ids[1:], joined[-1][1] + mask[1:])  # one bos is enough
        else:
            joined.append((ids, mask))
            wanted = rng.randint(1, MAX_EXCHANGES)
        wanted -= 1
    return joined


def _read_line(line: str, place: str) -> Conversation:
    try:
        value = json.loads(line)
    except ValueError as exc:
        raise BadInput(f"{place} is not JSON ({exc}): write one conversation a line") from exc
    conversation = {"messages": value} if isinstance(value, list) else value
    try:
        turns = user_and_assistant(conversation)
    except BadInput as exc:
        raise BadInput(f"{place}: {exc}") from exc
    if turns[-1]["role"] != "assistant":
        raise BadInput(f"{place}: the conversation ends without the assistant's answer: add one")
    return {"messages": conversation["messages"]}
