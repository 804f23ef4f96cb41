"""The calculator: exact, and deaf to everything that is not arithmetic or counting."""

import pytest

from nanochat.model.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("23*47", "1081"),
        (" 2 + 3 * (4 - 1) ", "11"),
        ("20 / 2", "10"),
        ("1/8", "0.125"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.3333333333"),
        ("-7 - -3", "-4"),
        ("1,250 + 1", "1251"),
        ("'strawberry'.count('r')", "3"),
        ('"banana".count("an")', "2"),
        ("'it'.count('z')", "0"),
    ],
)
def test_known_expressions_have_their_result(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "2 +",
        "1/0",
        "2**3",
        "2//3",
        "9" * 60 + "*" + "9" * 50,
        "1+" * 80 + "1",
        "(" * 110 + "1",
        "__import__('os')",
        "'a'.upper()",
        "'a'.count('b').real",
        "'a' * 1000000000",
        "1 2",
        "007",
        "1(2)",
        "\x00",
    ],
)
def test_everything_else_has_no_result(expression: str) -> None:
    assert calculate(expression) is None
