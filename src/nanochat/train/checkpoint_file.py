"""Writes a safetensors file, and hashes it on the way.

    size, sha256 = write_tensors_hashed(path, {"weight": tensor})

The library's own writer is not used here. This one hashes what is in memory, in the same pass: what
is read back from a full disk may be short already, and its hash would vouch for it. And it calls
fsync on the descriptor that wrote, which is told of an error that came late (over NFS, a used up
quota). What it writes is read with the library. The file has its name at once: whoever reads it
must wait for what names it, the manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
CHUNK = 1 << 24


def write_tensors_hashed(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Writes `tensors`, on the host or not, and returns the file's bytes and its SHA-256 (hex).

    Raises OSError where the disk refuses.
    """
    # The widest first: then each begins at a multiple of its own width, as mapping it asks for.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    digest = hashlib.sha256()
    with open(path, "wb") as handle:
        for data in _contents({name: tensors[name] for name in names}):
            for start in range(0, len(data), CHUNK):
                digest.update(data[start : start + CHUNK])
                handle.write(data[start : start + CHUNK])
        handle.flush()
        os.fsync(handle.fileno())
        return handle.tell(), digest.hexdigest()


def _contents(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The file, from its beginning to its end; each tensor comes to the host when it is due."""
    yield memoryview(_header(tensors))
    for tensor in tensors.values():
        own = tensor.detach().cpu().contiguous()
        flat = own.as_strided((own.numel(),), (1,))  # a single element may keep any stride
        yield flat.view(torch.uint8).numpy().data


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Length and JSON: of each tensor its dtype, its shape, and where its bytes begin and end."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
