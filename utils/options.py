"""What the programs' command lines share."""

from utils.start import end_uncaught

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from utils import ranks
from utils.interrupt import end_alike
from utils.version import VERSION

# Seconds that other processes wait before they print an error: mostly the main process prints the
# same, and torchrun ends all when the first ends.
HEAD_START_S = 3
WORKERS = min(2, os.cpu_count() or 1)  # by default
DIGITS = 19  # of a number of 64 bits; Python would take minutes with millions of them
LONGEST_SIDE = 65_535  # pixels


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults to the help, but for None: what that means, the help itself says."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, [])
        return super()._get_help_string(action) if has_default else action.help


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors take one line, and whose options have no abbreviations."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **options)
        if self.add_help:
            self.add_argument("--version", action="version", version=f"SKT {VERSION}")
        sys.excepthook = end_uncaught
        end_alike()

    def error(self, message: str) -> NoReturn:
        if ranks.local_rank():
            sys.exit(2)  # the first process of this machine has the same options, and prints it
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")

    def _get_option_tuples(self, option_string: str) -> list:
        """Leaves -dSHA for -d SHA, but not -t for -tc, which `allow_abbrev` does not forbid."""
        found = super()._get_option_tuples(option_string)
        return [option for option in found if option_string.startswith(option[1])]

    def refuse(self, args: argparse.Namespace, options: Iterable[str], reason: str) -> None:
        """Ends with an error if one of `options`, such as --lr, is on the command line."""
        unset = object()
        blank = argparse.Namespace(**dict.fromkeys(vars(args), unset))  # keeps defaults away
        given = vars(self.parse_args(namespace=blank))
        for option in options:
            if given[option.removeprefix("--").replace("-", "_")] is not unset:
                self.error(f"{option} {reason}")


def fail(error: Exception) -> NoReturn:
    """Ends the program with an error's message in one line."""
    if not ranks.is_main():
        time.sleep(HEAD_START_S)
    kind = type(error)
    lines = str(error).strip().splitlines() or [kind.__name__]
    # An error in a loader's worker arrives with the worker's traceback before it.
    named = lines[-1].removeprefix(f"{kind.__module__}.")
    sys.exit(f"error: {named.removeprefix(f'{kind.__name__}: ')}")


def number(low: float, high: float = math.inf, exclusive: bool = False) -> Callable[[str], float]:
    """Returns an option type: a finite number from `low`, which may be excluded, to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high or (exclusive and value == low):
            bound = f"{'more than' if exclusive else 'at least'} {low:g}"
            bound += f" and at most {high:g}" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"must be a number of {bound}, got {text!r}")
        return value

    return parse


def whole_number(low: int) -> Callable[[str], int]:
    """Returns an option type: a whole number of at least `low` that has 64 bits."""

    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() and len(text) <= DIGITS else -1
        if not low <= value < 2**63:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {low} and less than 2**63, got {text[:40]!r}"
            )
        return value

    return parse


def parse_side(text: str) -> int | str | None:
    """Reads pixels of a side, `auto`, or `none` as None.

    Raises:
        ValueError: it is none of them.
    """
    if text in ("auto", "none"):
        return text if text == "auto" else None
    if text.isdecimal() and 8 <= int(text[:DIGITS]):
        return int(text[:DIGITS])
    raise ValueError(f"must be auto, none or pixels, at least 8 of them, got {text[:40]!r}")


def choices(words: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Returns an option type: at least one of `words`, separated by commas, in their order."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = text.split(",")
        for word in chosen:
            if word not in words:
                raise argparse.ArgumentTypeError(
                    f"must be of {','.join(words)}, with commas between, got {text!r}"
                )
        return tuple(word for word in words if word in chosen)

    return parse


def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Returns an option type that shows the message of the ValueError that `parse` raises."""

    def checked_parse(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked_parse


def parse_size(text: str) -> tuple[int, int]:
    """Reads HEIGHTxWIDTH in pixels.

    Raises:
        ValueError: it is not of that form.
    """
    height, _, width = text.partition("x")
    sides = [int(t) if t.isdecimal() and len(t) <= DIGITS else 0 for t in (height, width)]
    if not 0 < min(sides) <= max(sides) <= LONGEST_SIDE:
        raise ValueError(
            f"must be HEIGHTxWIDTH in pixels, such as 576x864, at most {LONGEST_SIDE} each, got "
            f"{text[:40]!r}"
        )
    return sides[0], sides[1]
