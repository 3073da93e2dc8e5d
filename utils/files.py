"""Writes files completely or not at all, and never over what a program reads."""

import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

MACHINE = re.sub(r"\W", "_", platform.node())[:32]
UNFINISHED = ".skt-"  # how unfinished files begin; then machine, process and a hash of the name
ABANDONED_S = 24 * 3600  # after so long without a change, another machine's is a leftover, too
# How text is written. What UTF-8 cannot hold, a file name in another encoding, becomes an escape,
# which in JSON reads back as that name.
TEXT = {"encoding": "utf-8", "errors": "backslashreplace"}
LONGEST_STEM = 200  # bytes; file systems allow 255 for a name, and endings are to come


class WriteError(OSError):
    """A file could not or must not be written; the message names it. What was there still is."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its ending, which replaces it at the end.

    The content has reached the disk then. After an exception the temporary file is removed, and
    `path` is unchanged. Makes the folder, and removes what killed processes left in it. A device or
    a pipe, such as /dev/stdout, is written to directly.

    Raises:
        WriteError: the disk is full or not writable, or `path` is a folder.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            yield path
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        begun = unfinished(target)
        try:
            yield begun
            with begun.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(begun, target)
        finally:
            begun.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        left = "; what was there before still is" if target.is_file() else ""
        raise WriteError(f"{path} could not be written ({reason}){left}") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raises a WriteError that names the file where writing it raises an OSError."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} could not be written ({error.strerror})") from None


def make_folder(path: Path) -> None:
    """Makes the folder of a file that will be written, before what takes long.

    Raises:
        WriteError: it cannot be made.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Writes text or bytes as `written_whole` does."""
    if isinstance(content, str):
        content = content.encode(**TEXT)
    with written_whole(path) as begun:
        begun.write_bytes(content)


def copy_whole(source: Path, target: Path) -> Path:
    """Copies a file's content as `written_whole` writes it; returns `target`."""
    with written_whole(target) as begun:
        shutil.copyfile(source, begun)
    return target


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as `written_whole` does; numbers that are not finite become null."""
    write_whole(path, json.dumps(without_nan(value), indent=1, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """Returns a value for JSON, with None in the place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


@contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder beside `path`, which is removed at the end unless it has moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = unfinished(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def printable(text: str) -> str:
    """Returns text that fonts and UTF-8 can show: a file name in another encoding is escaped."""
    return text.encode(**TEXT).decode()


def unfinished(path: Path) -> Path:
    """Returns a temporary path, with the same ending, where this process may write `path`.

    Removes what killed processes left in its folder.
    """
    _sweep(path.parent)
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return path.with_name(f"{UNFINISHED}{MACHINE}-{os.getpid()}-{digest}{path.suffix}")


def check_outputs(
    outputs: Iterable[tuple[str, Path | None]], inputs: Iterable[Path | None]
) -> None:
    """Refuses to write a file that the program reads, or two outputs into one.

    Args:
        outputs: options and the files that they write; None is skipped, here and in `inputs`.

    Raises:
        WriteError: an output is, by its real path, an input or another output.
    """
    read = {_identity(path): path for path in inputs if path is not None}
    written: dict[Any, str] = {}
    for name, path in outputs:
        if path is None or (path.exists() and not (path.is_file() or path.is_dir())):
            continue
        identity = _identity(path)
        if identity in read:
            raise WriteError(f"{name} {path} would overwrite what is read from there")
        if identity in written:
            raise WriteError(f"{written[identity]} and {name} would both write {path}")
        written[identity] = name


class Names:
    """Gives every written file a unique name: a, a_2, a_3, ..."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, stem: str) -> str:
        """Returns `stem`, cut if it is too long, and with the next free number if it is taken."""
        while len(stem.encode(errors="surrogatepass")) > LONGEST_STEM:
            stem = stem[:-1]
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def _identity(path: Path) -> tuple[int, int] | str:
    """Returns what two names of one file, such as links, have in common."""
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path)
    except ValueError:  # no file can have this name
        return str(path)
    return found.st_dev, found.st_ino


@lru_cache
def _sweep(folder: Path) -> None:
    """Removes what killed processes left unfinished in a folder, once per process."""
    for left in folder.glob(f"{UNFINISHED}*"):
        _, machine, process, _ = f"{left.name}---".split("-", 3)
        try:
            old = time.time() - left.lstat().st_mtime > ABANDONED_S
            if old or (machine == MACHINE and not _is_running(process)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        except OSError:  # another process swept it
            continue


def _is_running(process: str) -> bool:
    if os.name != "posix" or not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
