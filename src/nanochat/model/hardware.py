"""What a GPU is called, and the bf16 FLOP/s it reaches at best, for MFU.

Figures are the makers' data sheets', dense (without sparsity). Reads the device's name only; loads
no torch until it is asked for a device.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PEAK_BF16_FLOPS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100": 989e12,
    "MI300X": 1307e12,
    "L40S": 362e12,
    "A100": 312e12,
    "RTX 4090": 165e12,
}


def device_name(device: "torch.device") -> str | None:
    """The GPU's name; None on a processor."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def peak_flops(device: "torch.device") -> float | None:
    """The device's peak in bf16 FLOP/s; None where the table does not have it."""
    return peak_of(device_name(device) or "")


def peak_of(name: str) -> float | None:
    """The peak in bf16 FLOP/s of a GPU by its name (`NVIDIA A100-SXM4-80GB`, `a100`)."""
    found = (peak for part, peak in PEAK_BF16_FLOPS.items() if part.lower() in name.lower())
    return next(found, None)
