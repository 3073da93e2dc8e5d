"""Tables in Markdown."""

from collections.abc import Callable, Sequence
from typing import Any


def format_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    form: Callable[[float], str] = "{:.2f}".format,
) -> str:
    """Returns a table; numbers get two decimals or another form, None and missing cells nothing."""
    rows = [[*row, *[None] * (len(columns) - len(row))] for row in rows]
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    texts = [
        ["" if cell is None else cell if isinstance(cell, str) else form(cell) for cell in line]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in texts)
