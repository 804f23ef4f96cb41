"""A loss that jumps is seen; one that falls, wobbles or settles on a new level is not."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.train.spikes import LEAST, WINDOW, Spike, SpikeDetector

CURVES = json.loads(Path(__file__).with_name("loss_curves.json").read_bytes())


def noise(seed: int, count: int, level: float = 3.0, sigma: float = 0.02) -> list[float]:
    draw = random.Random(seed)
    return [level + draw.gauss(0.0, sigma) for _ in range(count)]


def alerts(losses: list[float], detector: SpikeDetector | None = None) -> list[int]:
    """The positions of the losses that are spikes."""
    detector = detector or SpikeDetector()
    return [number for number, loss in enumerate(losses) if detector.look(loss)]


@pytest.mark.parametrize("seed", range(20))
def test_normal_noise_is_no_spike(seed: int) -> None:
    assert alerts(noise(seed, 500)) == []


@pytest.mark.parametrize("rate", [0.3, 0.02, 0.001])
def test_a_falling_loss_is_no_spike_from_its_first_step_on(rate: float) -> None:
    fall = [5 * math.exp(-rate * step) for step in range(600)]
    losses = [start + wobble for start, wobble in zip(fall, noise(1, 600), strict=True)]
    assert alerts(losses) == []


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(LEAST + 100, 400), height=st.floats(0.5, 1e6))
def test_a_single_spike_is_the_only_alert(seed: int, at: int, height: float) -> None:
    losses = noise(seed, 420)
    losses[at] += height
    assert alerts(losses) == [at]


def test_a_spike_is_told_with_the_median_before_it_and_its_score() -> None:
    detector = SpikeDetector([2.9, 3.0, 3.1] * 40)
    spike = detector.look(5.0)
    assert spike is not None
    assert spike.median == 3.0
    assert spike.score == pytest.approx(2.0 / (1.4826 * 0.1 + 0.003), rel=1e-3)


def test_one_spike_does_not_hide_the_next() -> None:
    losses = noise(2, 300)
    for at in range(200, 220):
        losses[at] = 1e9
    assert alerts(losses) == list(range(200, 220))


def test_a_stretch_of_wild_losses_does_not_become_the_yardstick() -> None:
    losses = [*noise(2, 200), *[1e9] * 70, *noise(3, 5), 1e6]
    assert alerts(losses) == [*range(200, 270), 275]


def test_a_loss_that_drops_at_once_is_no_spike() -> None:
    assert alerts(noise(2, 200) + noise(3, 200, level=1.0)) == []


@pytest.mark.parametrize("rise", [0.3, 1.0, 5.0, 50.0])
def test_a_new_level_is_a_spike_at_first_and_accepted_after_a_while(rise: float) -> None:
    losses = noise(3, 200) + noise(4, 600, level=3.0 + rise)
    seen = alerts(losses)
    assert seen[0] == 200
    assert seen[-1] < 200 + 2 * WINDOW


def test_losses_that_are_not_finite_are_passed_over() -> None:
    detector = SpikeDetector()
    for loss in noise(5, 100):
        assert detector.look(loss) is None
        before = list(detector.window)
        for broken in (math.nan, math.inf, -math.inf):
            assert detector.look(broken) is None
        assert detector.window == before


def test_it_says_nothing_before_it_knows_enough() -> None:
    assert alerts([*noise(6, LEAST - 1), 1e9]) == []
    assert alerts([*noise(6, LEAST), 1e9]) == [LEAST]


@pytest.mark.parametrize("level", [0.0, 1e-9, 3.0])
def test_losses_that_are_all_alike_give_a_score_that_json_can_hold(level: float) -> None:
    spike = SpikeDetector([level] * WINDOW).look(level + 1.0)
    assert spike is not None
    assert json.loads(json.dumps(spike, allow_nan=False)) == list(spike)
    assert SpikeDetector([level] * WINDOW).look(level * (1 + 1e-3)) is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 300))
def test_a_detector_restored_from_json_goes_on_as_one_that_never_stopped(
    seed: int, cut: int
) -> None:
    losses = noise(seed, 301)
    losses[250] = 9.0
    detector = SpikeDetector()
    straight = [detector.look(loss) for loss in losses]
    detector = SpikeDetector()
    resumed: list[Spike | None] = [detector.look(loss) for loss in losses[:cut]]
    detector = SpikeDetector(json.loads(json.dumps(detector.window)))
    resumed += [detector.look(loss) for loss in losses[cut:]]
    assert resumed == straight


def test_the_window_keeps_no_more_than_the_last_losses() -> None:
    detector = SpikeDetector()
    losses = noise(7, 500)
    alerts(losses, detector)
    assert detector.window == losses[-WINDOW:]
    assert SpikeDetector(losses).window == losses[-WINDOW:]


@pytest.mark.parametrize("stage", ["base", "mid", "sft"])
def test_recorded_trainings_have_no_spike(stage: str) -> None:
    """The losses of the local profile's three stages, on embedded data."""
    assert alerts(CURVES[stage]) == []


def test_a_loss_doubled_in_the_later_half_of_pretraining_is_a_spike() -> None:
    losses = CURVES["base"]
    for at in range(len(losses) // 2, len(losses)):
        assert alerts([*losses[:at], 2 * losses[at], *losses[at + 1 :]]) == [at]
