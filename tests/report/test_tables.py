"""One format for each kind of quantity."""

import pytest

from nanochat.report import tables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (tables.whole(1234567), "1,234,567"),
        (tables.percent(0.3141), "31.4 %"),
        (tables.percent(1), "100.0 %"),
        (tables.score(-0.01234), "-0.0123"),
        (tables.size(0), "0 B"),
        (tables.size(999), "999 B"),
        (tables.size(999_600), "1.00 MB"),
        (tables.size(12_345_678), "12.3 MB"),
        (tables.size(5e15), "5000 TB"),
        (tables.count(950), "950"),
        (tables.count(5_243_906), "5.24 M"),
        (tables.count(1.5e9), "1.50 B"),
        (tables.flops(3.92e19), "3.92 × 10¹⁹"),
        (tables.flops(9.999e9), "1.00 × 10¹⁰"),
        (tables.duration(9.34), "9.3 s"),
        (tables.duration(59.97), "1 min 00 s"),
        (tables.duration(75), "1 min 15 s"),
        (tables.duration(3599.7), "1 h 00 min"),
        (tables.duration(26_000), "7 h 13 min"),
    ],
)
def test_quantities_are_written_as_people_read_them(text, expected):
    assert text == expected


def test_numbers_stand_right_and_words_left():
    page = tables.table(["a", "b", "c"], [["x", "1.5", "—"], ["y", "-2", "3 %"]])
    assert page.splitlines()[1] == "| --- | ---: | ---: |"


def test_a_cell_stays_in_its_row_whatever_it_holds():
    page = tables.table(["a"], [["x | y\nz <b> </details>"]])
    assert page.splitlines()[2] == "| x \\| y z &lt;b&gt; &lt;/details&gt; |"


def test_a_code_block_is_fenced_by_more_backticks_than_it_holds():
    assert tables.fenced("a ```` b") == "`````text\na ```` b\n`````"
    assert tables.fenced("plain", "yaml") == "```yaml\nplain\n```"
