"""A mixture of conversations as packed rows: what mid-training and SFT read.

    parts = [Part("spelling", Path("task_data/spelling/train.parquet"), 2000, "items"),
             Part("smoltalk", Path("downloads/tasks/smoltalk/train.parquet"), None, "table"),
             Part("own", Path("my.jsonl"), None, "conversations")]
    build_chat_rows(parts, tokenizer, 2048, output_dir, "mid", seed=42, all_tokens=True, threads=8)

Reads generated tasks, downloaded tables (data/tables.py) and conversations as .jsonl (in each line
an object {"messages": [...]} or a bare list of messages). Writes <name>.npy, <name>.mask.npy and
<name>.json (see data/rows.py); the same arguments and files give the same bytes. Takes about ten
bytes of memory a token.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from nanochat.data.chat_format import Conversation, render, user_and_assistant
from nanochat.data.packing import pack_conversations
from nanochat.data.rows import Ids, Masks, id_type, write_rows
from nanochat.data.tables import count_rows, read_conversations_of
from nanochat.data.task_files import load_items
from nanochat.data.tokenizer import Tokenizer
from nanochat.errors import BadInput, MissingArtefact
from nanochat.files import sha256_of
from nanochat.progress import track

Rendered = tuple[Ids, Masks]
MAX_EXCHANGES = 4  # generated questions that one conversation may hold
CONVERSATIONS_AT_ONCE = 2048  # as Python objects; all else is held as arrays


@dataclass(frozen=True)
class Part:
    """A part of a mixture: a file and how many of its conversations are taken (None: all).

    `items` are generated questions, joined with each other; of `items` and `conversations` the
    first ones are taken, of a `table`, which may be sorted by subject, a sample.
    """

    name: str
    path: Path
    limit: int | None
    kind: Literal["items", "table", "conversations"]


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
        raise MissingArtefact(
            f"no conversations at {path}: correct chat.conversations, or run `make run`"
        ) from exc
    except UnicodeDecodeError as exc:
        raise BadInput(f"{path} is not UTF-8 text ({exc}): save it as UTF-8") from exc
    if not conversations:
        raise BadInput(f"{path} holds no conversations: give one a line, as JSON")
    return conversations


def build_chat_rows(
    parts: Sequence[Part],
    tokenizer: Tokenizer,
    sequence_len: int,
    output_dir: Path,
    name: str,
    seed: int,
    all_tokens: bool,
    threads: int = 1,
) -> dict[str, Any]:
    """Packs the conversations of a mixture into rows of T+1 ids, rendered on `threads` threads.

    The generated questions are shuffled and joined into conversations of one to four exchanges, so
    that the model learns to go on after an answer. `all_tokens` makes every token a target, else
    only what the assistant says is one. A conversation over T+1 tokens loses its end; one that
    loses everything the assistant says is left out. Both are counted in the record, which is
    returned. Raises BadInput where nothing is left.
    """
    capacity = sequence_len + 1
    rendered, facts = _render_parts(parts, tokenizer, seed, capacity, threads)
    kept = [(ids, mask) for ids, mask in rendered if mask[:capacity].any()]
    if not kept:
        raise BadInput(
            f"no conversation of the mixture {name!r} has an answer within {sequence_len} tokens: "
            "add items to it, or raise model.sequence_len"
        )
    if all_tokens:
        kept = [(ids, np.ones_like(mask)) for ids, mask in kept]
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
        "sources": facts,
    }
    return write_rows(output_dir, name, packed.rows_NC, packed.masks_NC, record)


def _render_parts(
    parts: Sequence[Part], tokenizer: Tokenizer, seed: int, capacity: int, threads: int
) -> tuple[list[Rendered], list[dict[str, Any]]]:
    """Every conversation of the mixture, the generated ones joined, and what the record says of
    each part: its conversations and their tokens, before any is joined or cut."""
    exchanges: list[Rendered] = []
    others: list[Rendered] = []
    facts = []
    for part in parts:
        wanted, conversations = _conversations(part, seed)
        shown = track(conversations, f"rendering {part.name}", wanted, "conversations")
        rendered = list(_rendered(shown, tokenizer, threads))
        (exchanges if part.kind == "items" else others).extend(rendered)
        facts.append(
            {
                "name": part.name,
                "file": f"{part.path.parent.name}/{part.path.name}",
                "items": part.limit,
                "sha256": sha256_of(part.path),
                "conversations": len(rendered),
                "unusable": wanted - len(rendered),
                "tokens": sum(len(ids) for ids, _ in rendered),
            }
        )
    Random(seed).shuffle(exchanges)
    return _joined(exchanges, capacity, Random(seed)) + others, facts


def _conversations(part: Part, seed: int) -> tuple[int, Iterable[Conversation]]:
    """How many conversations are taken of a part, and these; a table may give fewer."""
    if part.kind == "table":
        rows = count_rows(part.name, part.path)
        wanted = rows if part.limit is None else min(part.limit, rows)
        places = set(Random(f"{part.name} {seed}").sample(range(rows), wanted))
        return wanted, read_conversations_of(part.name, part.path, places)
    if part.kind == "items":
        found = [item.conversation for item in load_items(part.path)[: part.limit]]
    else:
        found = read_conversations(part.path)[: part.limit]
    return len(found), found


def _rendered(
    conversations: Iterable[Conversation], tokenizer: Tokenizer, threads: int
) -> Iterator[Rendered]:
    """Ids and masks in the order of the conversations; encoding leaves the interpreter's lock."""
    dtype = id_type(tokenizer.vocab_size)

    def render_one(conversation: Conversation) -> Rendered:
        ids, mask = render(conversation, tokenizer)
        return np.array(ids, dtype), np.array(mask, np.uint8)

    waiting = iter(conversations)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(waiting, CONVERSATIONS_AT_ONCE)):
            yield from pool.map(render_one, batch)


def _joined(exchanges: Sequence[Rendered], capacity: int, rng: Random) -> list[Rendered]:
    """Neighbours joined into conversations of one to MAX_EXCHANGES, as far as they fit a row."""
    joined: list[Rendered] = []
    wanted = 0
    for ids, mask in exchanges:
        if wanted > 0 and len(joined[-1][0]) + len(ids) - 1 <= capacity:
            before_ids, before_mask = joined[-1]  # one bos is enough
            joined[-1] = np.append(before_ids, ids[1:]), np.append(before_mask, mask[1:])
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
