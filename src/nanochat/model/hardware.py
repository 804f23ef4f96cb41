"""What a GPU is called, and the bf16 FLOP/s it reaches at best, for MFU.

Figures are the makers' data sheets', dense (without sparsity). Reads the device's name only.
"""

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


def device_name(device: torch.device) -> str | None:
    """The GPU's name; None on a processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def peak_flops(device: torch.device) -> float | None:
    """The device's peak in bf16 FLOP/s; None where the table does not have it."""
    name = device_name(device) or ""
    return next((peak for part, peak in PEAK_BF16_FLOPS.items() if part in name), None)
