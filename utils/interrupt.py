"""Handles Ctrl-C and SIGTERM as requests to stop after the current step."""

import signal
from typing import Any

from utils import distributed


class StopRequest:
    """In this context, Ctrl-C or SIGTERM lets the current step end; a second one stops at once.

    Under torchrun further signals are ignored, as it sends several and finally SIGKILL.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        self.requested = True
        if distributed.processes() == 1:
            self.__exit__()
