"""Writes files completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its ending, which replaces it at the end.

    After an exception the temporary file is removed, and `path` is unchanged.
    """
    begun = unfinished(path)
    try:
        yield begun
        os.replace(begun, path)
    finally:
        begun.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """Returns a temporary path, with the same ending, where this process may write a file."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


class Names:
    """Gives every written file a unique name: a, a_2, a_3, ..."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, stem: str) -> str:
        """Returns `stem`, with the next free number if it was taken before."""
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name
