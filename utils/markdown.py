"""Tables in Markdown."""

from collections.abc import Sequence
from typing import Any


def format_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a table; floats get two decimals, None and missing cells stay empty."""
    rows = [[*row, *[None] * (len(columns) - len(row))] for row in rows]
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    texts = [
        ["" if cell is None else cell if isinstance(cell, str) else f"{cell:.2f}" for cell in line]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in texts)
