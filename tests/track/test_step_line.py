"""What is printed for people can be read back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.track.step_line import StepLine, format_step, parse_step

LINE = StepLine("base", 120, 400, 3.4121, 0.5, 4812, 1.21, 340.0)


@given(
    st.builds(
        StepLine,
        stage=st.sampled_from(["base", "mid", "sft"]),
        step=st.integers(1, 99_999),
        steps=st.just(99_999),
        loss=st.integers(0, 200_000).map(lambda n: n / 10_000),
        lr=st.integers(0, 1_000).map(lambda n: n / 1_000),
        tokens_per_second=st.integers(0, 10_000_000),
        step_seconds=st.integers(0, 99_999).map(lambda n: n / 100),
        eta_seconds=st.integers(0, 59).map(float) | st.integers(0, 999).map(lambda n: 60.0 * n),
        mfu=st.none() | st.integers(0, 1_000).map(lambda n: n / 1_000),
    )
)
def test_a_line_is_read_back_as_it_was_written(line: StepLine) -> None:
    read = parse_step("12:00 " + format_step(line))
    assert read is not None
    assert read.mfu == pytest.approx(line.mfu)
    assert replace(read, mfu=None) == replace(line, mfu=None)


def test_the_line_says_what_people_look_for() -> None:
    assert format_step(LINE) == (
        "base step 00120/00400 (30.0%) | loss 3.4121 | lr 0.500 | 4,812 tok/s | 1.21 s | ETA 5m40s"
    )


def test_another_line_is_no_step() -> None:
    assert parse_step("base step 00120 | validation 1.9 bits per byte") is None
