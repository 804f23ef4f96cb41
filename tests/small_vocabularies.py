"""Vocabularies of 256 bytes and one merge, in the formats of GPT-2's and GPT-4's."""

import base64
import json


def vocabularies() -> dict[str, bytes]:
    """By their names in the registry; the merge is "th"."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    order = [*printable, *(byte for byte in range(256) if byte not in printable)]
    names = [chr(byte) for byte in printable]
    names += [chr(256 + place) for place in range(256 - len(printable))]
    encoder = {name: place for place, name in enumerate([*names, "th"])}
    tokens = [*(bytes([byte]) for byte in order), b"th"]
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    return {
        "gpt2_merges": b"#version: 0.2\nt h\n",
        "gpt2_encoder": json.dumps(encoder).encode(),
        "gpt4_ranks": "".join(lines).encode(),
    }
