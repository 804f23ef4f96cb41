"""What changes during training, as pure functions of the step; loads no torch.

`lr_multiplier(step, total_steps)`, `muon_momentum(...)`, `weight_decay_multiplier(...)`, with
`step` from 0. Reads and writes nothing.

The ramps at the start have fixed lengths in the reference (2,520 steps at depth 12); a shorter run
gets ramps in proportion, so that none is still warming up when the warmdown begins.
"""

import math

WARMUP_STEPS = 40
WARMUP_SHARE = 0.1  # of a short run
WARMDOWN_SHARE = 0.65
FINAL_LR = 0.05
MOMENTUM_START, MOMENTUM_PEAK, MOMENTUM_END = 0.85, 0.97, 0.90
MOMENTUM_RAMP_STEPS = 400
MOMENTUM_RAMP_SHARE = 0.16  # of a short run: 400 of 2,520


def lr_multiplier(
    step: int, total_steps: int, warmdown: float = WARMDOWN_SHARE, final: float = FINAL_LR
) -> float:
    """Linear warmup, constant 1, linear warmdown over the last share of the steps to `final`."""
    warmup_steps = min(WARMUP_STEPS, math.ceil(WARMUP_SHARE * total_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 1.0 - (1.0 - final) * _warmdown(step, total_steps, warmdown)


def muon_momentum(step: int, total_steps: int, warmdown: float = WARMDOWN_SHARE) -> float:
    """0.85 to 0.97 over the first 400 steps, then down to 0.90 during the warmdown."""
    ramp_steps = min(MOMENTUM_RAMP_STEPS, math.ceil(MOMENTUM_RAMP_SHARE * total_steps))
    if step < ramp_steps:
        return MOMENTUM_START + (MOMENTUM_PEAK - MOMENTUM_START) * step / ramp_steps
    return MOMENTUM_PEAK - (MOMENTUM_PEAK - MOMENTUM_END) * _warmdown(step, total_steps, warmdown)


def weight_decay_multiplier(step: int, total_steps: int) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * step / total_steps))


def _warmdown(step: int, total_steps: int, share: float) -> float:
    """How much of the warmdown is over, from 0 to 1."""
    warmdown_steps = max(1, round(share * total_steps))
    return max(0.0, 1.0 - (total_steps - step) / warmdown_steps)
