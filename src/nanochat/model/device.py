"""Where and how numbers are computed: the device, the compute dtype, and what gets compiled.

`default_device()`, `compute_dtype(device)`, `compiled(function, mode)`.

Reads the environment variable NANOCHAT_DTYPE (bfloat16 or float32), once.
"""

import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Literal, ParamSpec, TypeVar

import torch

from nanochat.errors import ConfigError

log = logging.getLogger(__name__)

CompileMode = Literal["auto", "on", "off"]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
FIRST_BF16_CUDA_CAPABILITY = (8, 0)  # Ampere

P = ParamSpec("P")
R = TypeVar("R")


def default_device() -> torch.device:
    """The GPU of this process if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(
    device: torch.device, environment: Mapping[str, str] | None = None
) -> torch.dtype:
    """The dtype of activations and matrix products on `device`.

    bfloat16 where the hardware multiplies it (CUDA from compute capability 8.0, processors with
    avx512_bf16 or amx_bf16), else float32. NANOCHAT_DTYPE overrides; ConfigError if unknown.
    """
    wish = _wished_dtype() if environment is None else environment.get("NANOCHAT_DTYPE", "")
    if not wish:
        return torch.bfloat16 if _multiplies_bf16(device.type) else torch.float32
    if wish not in DTYPES:
        raise ConfigError(f"NANOCHAT_DTYPE is {wish!r}: use one of {', '.join(DTYPES)}")
    return DTYPES[wish]


@functools.cache
def _wished_dtype() -> str:
    return os.environ.get("NANOCHAT_DTYPE", "")


@functools.cache
def _multiplies_bf16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= FIRST_BF16_CUDA_CAPABILITY
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def same_bits_every_time() -> None:
    """Makes this process compute the same bits from the same numbers, whenever it runs.

    Without this, threads add to the embeddings' gradients in whatever order they come (seen on
    compiled processor code: 14 different gradients in 40 passes over one batch). An operation that
    has no such form warns, and is used all the same.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(True, warn_only=True)


def compiled(
    function: Callable[P, R], mode: CompileMode, device: torch.device, any_size: bool = False
) -> Callable[P, R]:
    """`function`, compiled by torch.compile if `mode` and the machine allow it.

    "auto" compiles where `can_compile` says so; "on" insists (ConfigError where it can't); "off"
    returns the function unchanged. With `any_size` one kernel serves tensors of all sizes; else
    each new size compiles anew.
    """
    if mode == "off" or (mode == "auto" and not can_compile(device)):
        return function
    if not can_compile(device):
        raise ConfigError(
            "compile is 'on', but torch.compile does not work on this machine (the log says why): "
            "install g++, or set compile to 'auto'"
        )
    return torch.compile(function, dynamic=any_size)


@functools.cache
def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here, found by trying; logs one line, once, if it does not.

    It needs a compiler, Python's headers and a folder that may hold programs.
    """
    try:
        torch.compile(_double)(torch.ones(2, device=device))
    except (RuntimeError, OSError) as exc:
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        log.warning("training runs eagerly, because torch.compile does not work here: %s", reason)
        return False
    return True


def _double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x
