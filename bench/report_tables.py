"""How figures and tables are written in docs/BENCHMARKS.md. Pure."""

import re
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"<(?=[a-zA-Z/!])", "&lt;", " ".join(text.split()).replace("|", "\\|"))


def number(value: float | None) -> str:
    """Return a figure as people write it: three digits that count; a dash where it is missing."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def times(value: float | None, unit: float | None) -> str:
    """Return `value` as a multiple of `unit`; a dash where one of them is missing."""
    return "-" if value is None or not unit else f"{value / unit:.2f}x"
