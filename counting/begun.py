"""Remembers what the actors of a count have begun. An actor itself, it does without PyTorch."""

from collections import Counter


class Begun:
    """An actor that knows which chunks and pictures have been begun, and how often."""

    def __init__(self):
        self._times: Counter[bytes] = Counter()

    def begin(self, name: bytes) -> int:
        """Notes that a chunk or a picture begins; returns how often it had begun before."""
        self._times[name] += 1
        return self._times[name] - 1

    def end(self, name: bytes) -> None:
        del self._times[name]
