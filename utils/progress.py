"""Progress bars, and lines beside them."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

from utils.files import printable

SAID: set[str] = set()  # lines that are printed once per process


class Bar(tqdm):
    """tqdm's bar on a terminal; elsewhere none, as a log would keep every step of its motion."""

    def __init__(self, *args: Any, disable: bool = False, **options: Any):
        super().__init__(*args, disable=disable or not sys.stderr.isatty(), **options)


def say_once(line: str, key: str | None = None) -> None:
    """Prints a line on stderr, unless this process has printed it, or one with its key."""
    if (key or line) not in SAID:
        SAID.add(key or line)
        Bar.write(line, sys.stderr)


def say(line: str, file: TextIO | None = None) -> None:
    """Prints a line; on a terminal, above the progress bars."""
    line = printable(line)
    if sys.stderr.isatty():
        Bar.write(line, file)
    else:
        print(line, file=file)


def tell(line: str) -> None:
    """Prints a line that is no result."""
    say(line, sys.stderr)
