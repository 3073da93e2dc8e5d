"""Files that are either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path beside `path`, of the same ending, which takes its place at the end.

    After an exception nothing is left of it, and `path` is as it was.
    """
    begun = unfinished(path)
    try:
        yield begun
        os.replace(begun, path)
    finally:
        begun.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """Returns where this process may write a file until it is whole, with the same ending."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


class Names:
    """Gives every file that is written a name of its own: a, a_2, a_3, ..."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, stem: str) -> str:
        """Returns `stem`, or what is next where it was taken before."""
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name
