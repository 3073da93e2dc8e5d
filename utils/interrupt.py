"""Handles Ctrl-C, and what a batch system or a closed terminal sends, as requests to stop."""

import signal
import threading
from typing import Any, NoReturn

from utils import ranks

# SIGHUP is ignored under nohup, and stays so; Windows has none.
STOPPING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


def end_alike() -> None:
    """Lets the signals that end a program do what Ctrl-C does: raise KeyboardInterrupt."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, interrupt)


class StopRequest:
    """In this context, such a signal lets the current step end; a second one stops at once.

    Under torchrun further signals are ignored, as it sends several and finally SIGKILL.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in STOPPING:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        if ranks.processes() == 1:
            self.__exit__()
