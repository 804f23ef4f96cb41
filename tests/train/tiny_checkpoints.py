"""Small checkpoints of every kind of tensor, written by as many ranks as a test asks for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.train.checkpoints import Checkpoint, CheckpointStore, Identity, Retention
from nanochat.train.parts import Piece, Pieces

IDENTITY = Identity("f" * 64, {"config": {"depth": 4}, "data": ["a", "b"], "code": "1.0"})
KEEP_ALL = Retention(last=1000)
PARTS_OF_TWO = [
    f"{part}-{rank:03d}-of-002.safetensors"
    for part in ("model", "optimizer", "random")
    for rank in (0, 1)
]
FILES_OF_TWO = [*PARTS_OF_TWO, "manifest.json"]


def tensors_of(step: int) -> dict[str, dict[str, Tensor]]:
    """What a training could have at a step: by part and name."""
    generator = torch.Generator().manual_seed(step)
    wide = torch.randn(5, 3, generator=generator)
    wide[0, 0] = float("nan")
    return {
        "model": {
            "wide": wide.bfloat16(),
            "long": torch.randn(14, generator=generator)[::2],
            "deep": torch.randn(4, 3, 2, generator=generator).transpose(1, 2),
        },
        "optimizer": {
            "count": torch.tensor(float(step)),
            "ids": torch.randint(0, 1 << 40, (6, 2), generator=generator),
            "flags": torch.rand(3, generator=generator) > 0.5,
            "no_rows": torch.empty(0, 4),
            "no_columns": torch.empty(4, 0),
        },
        "random": {
            "rank-000": torch.randint(0, 256, (11,), generator=generator, dtype=torch.uint8),
        },
    }


def pieces_of(named: dict[str, Tensor], rank: int, world_size: int) -> Pieces:
    """A rank's share: an even part of the rows, be it none; 0-d ones are rank 0's."""
    pieces = {}
    for name, tensor in named.items():
        if tensor.dim() == 0:
            if rank == 0:
                pieces[name] = Piece(tensor)
            continue
        rows = tensor.shape[0]
        start, stop = (rows * each // world_size for each in (rank, rank + 1))
        pieces[name] = Piece(tensor[start:stop], start, rows)
    return pieces


def store_at(folder: Path, retention: Retention = KEEP_ALL, **options: Any) -> CheckpointStore:
    return CheckpointStore(folder, options.pop("identity", IDENTITY), retention, **options)


def write_parts(
    folder: Path, step: int, world_size: int = 1, ranks: range | None = None, **options: Any
) -> None:
    """Some ranks' parts of a save; all ranks' unless they are named."""
    for rank in range(world_size) if ranks is None else ranks:
        parts = {
            part: pieces_of(named, rank, world_size) for part, named in tensors_of(step).items()
        }
        store_at(folder, rank=rank, world_size=world_size, **options).write_part(step, parts)


def save(store: CheckpointStore, step: int, score: float | None = None) -> int:
    """A whole checkpoint of `step` by the store's process and as many ranks as it has."""
    write_parts(
        store.folder.parent,
        step,
        store.world_size,
        identity=store.identity,
        attempt=store.attempt,
    )
    size = store.commit(step, {"step": step, "window": [0.5, 1e-5]})
    if score is not None:
        store.score(step, score)
    return size


def newest(store: CheckpointStore) -> Checkpoint | None:
    """What a resume does."""
    for step in reversed(store.steps()):
        try:
            store.verify(step)
            return store.open(step)
        except (DamagedArtefact, MissingArtefact) as exc:
            store.set_aside(step, str(exc))
    return None


def bits(tensor: Tensor) -> bytes:
    return torch.stack([tensor.reshape(-1)]).view(torch.uint8).numpy().tobytes()


def assert_same_bits(one: Tensor, other: Tensor, name: str) -> None:
    assert (one.dtype, one.shape) == (other.dtype, other.shape), name
    assert bits(one) == bits(other), name


def assert_holds(checkpoint: Checkpoint | None, step: int) -> None:
    """The checkpoint is that of the step, to the last bit."""
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.loop_state["step"]) == (step, step)
    for part, named in tensors_of(step).items():
        assert checkpoint.names(part) == sorted(named)
        for name, tensor in named.items():
            assert checkpoint.shape(part, name) == tuple(tensor.shape)
            assert_same_bits(checkpoint.rows(part, name), tensor, name)


def harm(path: Path, how: str) -> None:
    """Flips a bit in the middle of a file; or halves, empties or deletes it."""
    content = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "flip":
        middle = len(content) // 2
        path.write_bytes(flipped(content, middle, 6))
    else:
        path.write_bytes(content[: len(content) // 2 if how == "halve" else 0])


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)
