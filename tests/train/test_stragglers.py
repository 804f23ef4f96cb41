"""The rank that holds the others up is named, with its host and what makes it slow."""

import pytest

from nanochat.train.stragglers import StepTimes, describe

HOSTS = ["gpu06"] * 4 + ["gpu07"] * 4


def test_a_rank_that_computes_slowly_is_named_with_its_host() -> None:
    compute = [1.0, 1.01, 1.0, 1.02, 1.01, 1.42, 1.03, 1.01]
    slow = describe(compute, [0.01] * 8, HOSTS)
    assert (slow.rank, slow.host, slow.is_data) == (5, "gpu07", False)
    assert slow.ratio == pytest.approx(1.43 / 1.02)
    assert slow.sentence == (
        "rank 5 on gpu07 is the slowest: 1.42 s a step of computing where the median is 1.01 s"
    )


def test_a_rank_that_waits_for_its_data_is_told_from_one_that_computes_slowly() -> None:
    slow = describe([1.0, 0.9, 1.0, 1.0], [0.02, 0.51, 0.01, 0.02], HOSTS[:4])
    assert slow.sentence == (
        "rank 1 on gpu06 is the slowest: 0.51 s a step of waiting for data where the median is "
        "0.02 s"
    )


def test_ranks_that_are_nearly_alike_are_not_worth_a_line() -> None:
    assert describe([1.0, 1.19], [0.0, 0.0], HOSTS[:2]).sentence is None
    assert describe([1.0, 1.21], [0.0, 0.0], HOSTS[:2]).sentence is not None


def test_of_two_ranks_the_slow_one_is_measured_by_the_fast_one() -> None:
    assert describe([3.0, 1.0], [0.0, 0.0], HOSTS[:2]).ratio == 3.0


def test_a_slow_half_of_the_ranks_is_measured_by_the_fast_half() -> None:
    assert describe([1.0] * 4 + [2.0] * 4, [0.0] * 8, HOSTS).ratio == 2.0


@pytest.mark.parametrize("seconds", [0.0, 0.7])
def test_a_rank_that_is_alone_is_no_straggler(seconds: float) -> None:
    slow = describe([seconds], [0.0], ["laptop"])
    assert (slow.rank, slow.ratio) == (0, 1.0)
    assert slow.sentence is None


def test_medians_are_of_the_last_steps_and_one_slow_step_does_not_move_them() -> None:
    times = StepTimes(window=5)
    assert times.medians() == (0.0, 0.0)
    for _ in range(100):
        times.add(9.0, 8.0)
    for compute in (1.0, 1.1, 77.0, 1.2, 1.1):
        times.add(compute, 0.5)
    assert times.medians() == (1.1, 0.5)
