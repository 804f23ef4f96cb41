"""The schedules start, hold and end where they should, in runs of every length."""

import pytest

from nanochat.model.schedules import lr_multiplier, muon_momentum, weight_decay_multiplier

LENGTHS = [1, 2, 10, 300, 2520, 10_000]


def test_learning_rate_warms_up_in_40_steps_holds_and_ends_at_5_percent() -> None:
    assert lr_multiplier(0, 2520) == 1 / 40
    assert lr_multiplier(39, 2520) == lr_multiplier(500, 2520) == 1.0
    assert lr_multiplier(882, 2520) == 1.0  # 35 % of the run: the warmdown begins
    assert lr_multiplier(1701, 2520) == pytest.approx(0.525)  # half way down
    assert lr_multiplier(2520, 2520) == pytest.approx(0.05)


def test_momentum_rises_over_400_steps_and_falls_in_the_warmdown() -> None:
    assert muon_momentum(0, 2520) == 0.85
    assert muon_momentum(200, 2520) == pytest.approx(0.91)
    assert muon_momentum(400, 2520) == muon_momentum(882, 2520) == 0.97
    assert muon_momentum(2520, 2520) == pytest.approx(0.90)


def test_weight_decay_falls_along_half_a_cosine() -> None:
    values = [weight_decay_multiplier(step, 100) for step in (0, 50, 100)]
    assert values == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("total", LENGTHS)
def test_every_run_reaches_the_full_rate_and_stays_within_bounds(total: int) -> None:
    rates = [lr_multiplier(step, total) for step in range(total)]
    assert max(rates) == 1.0
    assert min(rates) > 0.0


@pytest.mark.parametrize("total", LENGTHS)
def test_momentum_stays_within_its_range(total: int) -> None:
    assert all(0.85 <= muon_momentum(step, total) <= 0.97 for step in range(total))


@pytest.mark.parametrize("total", LENGTHS[2:])
def test_ramps_of_a_short_run_end_before_its_warmdown(total: int) -> None:
    warmdown = round(0.35 * total)
    assert muon_momentum(warmdown, total) == pytest.approx(0.97, abs=0.01)
    assert lr_multiplier(warmdown, total) == pytest.approx(1.0, abs=0.06)
