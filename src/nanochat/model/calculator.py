"""The calculator a chat model may call: arithmetic, and counting letters in a word.

`calculate("23 * 47")` gives "1081", `calculate("'strawberry'.count('r')")` gives "3", and whatever
is neither gives None.

Nothing is ever evaluated as Python: the expression is parsed and its tree walked, knowing only the
few nodes below. Numbers are exact fractions, so 0.1 + 0.2 is 0.3.
"""

import ast
import operator
import re
from fractions import Fraction

MAX_CHARACTERS = 120
MAX_DIGITS = 24  # of a result: longer ones are of no use to a reader
SIGNIFICANT_DIGITS = 10  # of a result that is not whole

ARITHMETIC = re.compile(r"[\d\s.,+\-*/()]+")
COUNT = re.compile(r"""\s*(['"])([^'"\\]*)\1\.count\((['"])([^'"\\]+)\3\)\s*""")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str | None:
    """The result as text, or None where `expression` is not one that the calculator knows.

    Knows + - * / and parentheses over whole and decimal numbers (thousands' commas are skipped),
    and `'word'.count('x')`. A whole result has no decimal point: 20 / 2 is "10".
    """
    if len(expression) > MAX_CHARACTERS:
        return None
    if match := COUNT.fullmatch(expression):
        return str(match[2].count(match[4]))
    if not ARITHMETIC.fullmatch(expression):
        return None
    try:
        tree = ast.parse(expression.replace(",", "").strip(), mode="eval")
        return _format(_value(tree.body))
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        result = OPERATORS[type(node.op)](_value(node.left), _value(node.right))
        assert isinstance(result, Fraction)
        return result
    raise ValueError(f"the calculator has no {type(node).__name__}")


def _format(value: Fraction) -> str | None:
    if abs(value) >= 10**MAX_DIGITS:
        return None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.{SIGNIFICANT_DIGITS}g}"
