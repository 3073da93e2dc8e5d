"""How the commands of this folder end: well, by a user's mistake, or by a signal."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from datasets.splits import DataError
from preprocess.processes import STOPPING, ignore_signals


class Stopped(KeyboardInterrupt):
    """A signal asks the program to end; its first argument is the number."""


def run(
    parse_args: Callable[[], argparse.Namespace], main: Callable[[argparse.Namespace], int | None]
) -> NoReturn:
    """Runs a command and ends the program.

    A user's mistake takes a line for every file. Ctrl-C, SIGTERM and SIGHUP take one word, after
    workers have ended and unfinished files are gone; callers see that the signal ended it.
    """
    handled = [n for n in STOPPING if signal.getsignal(n) != signal.SIG_IGN]  # as nohup sets it
    try:
        try:
            for number in handled:
                signal.signal(number, _stop)
            code = main(parse_args())
        except (DataError, OSError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            code = "\n".join(f"error: {line}" for line in lines)
        finally:
            for number in handled:
                signal.signal(number, signal.SIG_DFL)  # all is done but Python's own end
    except Stopped as stopped:
        (number,) = stopped.args
        print("stopped", file=sys.stderr, flush=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        code = 128 + number
    sys.exit(code)


def _stop(number: int, _: object) -> NoReturn:
    ignore_signals()
    raise Stopped(number)
