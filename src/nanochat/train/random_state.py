"""Every source of random numbers of a rank: seeded, captured for a checkpoint, and restored.

    seed_everything(config.seed, group.rank)
    pieces = random_pieces(group.device)
    restore_random(pieces, group.device)

Four sources: torch's generator of the processor, torch's generator of the rank's GPU if it has one,
Python's `random` and numpy's global one. Each is one tensor, so that a checkpoint keeps it without
a pickle. What is drawn after `restore_random` are the very numbers that were drawn after the
capture, the second half of a Gaussian pair included. Reads and writes no files.
"""

import random
import struct
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from nanochat.errors import DamagedArtefact

TORCH, CUDA, PYTHON, NUMPY = "torch", "cuda", "python", "numpy"
PYTHON_WORDS, NUMPY_WORDS = 625, 624
"""Of a Mersenne twister: Python counts its position as one word more."""


def seed_everything(seed: int, rank: int) -> None:
    """Seeds all sources, differently on each rank.

    The three seeds are the 64-bit words of numpy's SeedSequence([seed, rank]), whose output is the
    same in every version: for torch (processor and GPUs), for `random`, for numpy.
    """
    words = np.random.SeedSequence([seed, rank]).generate_state(3, np.uint64)
    torch.manual_seed(int(words[0]))
    random.seed(int(words[1]))
    np.random.seed(words[2:].view(np.uint32))


def random_pieces(device: torch.device) -> dict[str, Tensor]:
    """The state of every source, as tensors on the CPU; `cuda` only where `device` is a GPU."""
    pieces = {TORCH: torch.get_rng_state(), PYTHON: _python(), NUMPY: _numpy()}
    if device.type == "cuda":
        pieces[CUDA] = torch.cuda.get_rng_state(device)
    return pieces


def restore_random(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `random_pieces` took. A source without a tensor is left as it is, so that a
    checkpoint of a GPU resumes on a processor and the other way round.

    Raises DamagedArtefact where a tensor is not the state of its source.
    """
    restore: dict[str, Callable[[Tensor], None]] = {
        TORCH: torch.set_rng_state,
        PYTHON: _restore_python,
        NUMPY: _restore_numpy,
    }
    if device.type == "cuda":
        restore[CUDA] = lambda state: torch.cuda.set_rng_state(state, device)
    for name in restore.keys() & tensors.keys():
        try:
            restore[name](tensors[name])
        except (RuntimeError, TypeError, ValueError, OverflowError) as exc:
            raise DamagedArtefact(
                f"the checkpoint's state of the random numbers of {name} cannot be restored "
                f"({exc}): set that checkpoint aside, and the one before it is used"
            ) from exc


def _python() -> Tensor:
    version, words, gaussian = random.getstate()
    return _packed([version, *words], gaussian)


def _restore_python(state: Tensor) -> None:
    (version, *words), gaussian = _unpacked(state, 1 + PYTHON_WORDS)
    random.setstate((version, tuple(words), gaussian))


def _numpy() -> Tensor:
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    twister = state["state"]
    cached = state["gauss"] if state["has_gauss"] else None
    return _packed([int(twister["pos"]), *twister["key"].tolist()], cached)


def _restore_numpy(state: Tensor) -> None:
    (position, *key), gaussian = _unpacked(state, 1 + NUMPY_WORDS)
    if not 0 <= position <= NUMPY_WORDS:
        raise ValueError(f"position {position} is out of range")  # numpy would believe it
    cached = (0, 0.0) if gaussian is None else (1, gaussian)
    np.random.set_state(("MT19937", np.array(key, np.uint32), position, *cached))


def _packed(numbers: list[int], gaussian: float | None) -> Tensor:
    """The numbers, whether a Gaussian is kept for the next draw, and its bits."""
    bits = struct.unpack("<q", struct.pack("<d", gaussian or 0.0))[0]
    return torch.tensor([*numbers, int(gaussian is not None), bits], dtype=torch.int64)


def _unpacked(state: Tensor, count: int) -> tuple[list[int], float | None]:
    if state.dtype != torch.int64 or state.shape != (count + 2,):
        raise ValueError(f"{count + 2} whole numbers expected, {tuple(state.shape)} found")
    *numbers, is_kept, bits = state.tolist()
    gaussian: float = struct.unpack("<d", struct.pack("<q", bits))[0]
    return numbers, gaussian if is_kept else None
