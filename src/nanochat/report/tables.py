"""How the report writes numbers and Markdown tables: one format for each kind of quantity.

`table(header, rows)`, `percent(0.314)`, `duration(75)`, ...; the report's modules use nothing else.

Pure functions of their arguments.
"""

import html
import re
from collections.abc import Sequence

ABSENT = "—"
SIZES = ("B", "kB", "MB", "GB", "TB")
COUNTS = ("", " k", " M", " B", " T")
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of numbers are set to the right, others to the left."""
    columns = zip(*rows, strict=True)
    rule = ["---:" if all(map(_is_number, column)) else "---" for column in columns]
    lines = [header, rule, *[[_cell(text) for text in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_number(text: str) -> bool:
    return text == ABSENT or bool(re.match(r"-?\d", text))


def one_line(text: str) -> str:
    """`text` on one line, with nothing in it that HTML would take for a tag."""
    return html.escape(" ".join(text.split()), quote=False)


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")


def fenced(text: str, language: str = "text") -> str:
    """`text` as a code block, whatever backticks it contains."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def details(summary: str, body: str) -> str:
    """A part that opens on a click."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def whole(number: int) -> str:
    """`1234567` as `1,234,567`."""
    return f"{number:,}"


def percent(share: float) -> str:
    """`0.3141` as `31.4 %`."""
    return f"{100 * share:.1f} %"


def score(value: float) -> str:
    """A centred score or a number of bits per byte: `0.3141`."""
    return f"{value:.4f}"


def size(n_bytes: float) -> str:
    """`12345678` as `12.3 MB`, powers of 1000."""
    return _scaled(n_bytes, SIZES, " ")


def count(number: float) -> str:
    """`12345678` as `12.3 M`."""
    return _scaled(number, COUNTS, "")


def _scaled(number: float, units: Sequence[str], space: str) -> str:
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    text = f"{number:.0f}" if power == 0 or number >= 100 else f"{number:#.3g}"
    return f"{text}{space}{units[power]}"


def flops(number: float) -> str:
    """`1.234e16` as `1.23 × 10¹⁶`."""
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def duration(seconds: float) -> str:
    """`4000` as `1 h 07 min`, `75` as `1 min 15 s`, `9.34` as `9.3 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
