"""Finds the pictures, videos, cameras and streams that a user names on the command line."""

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.pictures import list_pictures, read_image
from datasets.splits import read_images
from utils.inputs import DataError, read_text_file

VIDEOS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ts .mts .3gp".split())
LISTS = (".json", ".txt")  # of preprocess/make_json.py, and with a path in every line
CAMERA = re.compile(r"camera:(\d{1,4})")
STREAM = re.compile(r"(rtsps?|https?)://.+", re.IGNORECASE)
LOGIN = re.compile(r"^(\w+:/+).*@")  # up to the last @, as a password may hold an @ or a /
SECRET = re.compile(r"((?:pass|pwd|token|key|secret|auth|sig)[^=&]*=)[^&]*", re.IGNORECASE)
NO_DECODER = "Pillow cannot decode them here; for .heic, pip install pillow-heif"
LONGEST_STEM = 80  # characters of a stream's


@dataclass(frozen=True)
class Source:
    """A picture's or a video's file, a stream's URL, or a camera's number."""

    place: Path | str | int
    is_video: bool
    name: str  # photos/IMG_1.jpg, camera:0, or a URL without passwords
    stem: str  # for the names of its output files, such as IMG_1


class SourceError(ValueError):
    """Nothing was found under a name; the message says what was looked for."""


def find_sources(
    text: str,
    recursive: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    complain: Callable[[str], None] = lambda _: None,
) -> list[Source]:
    """Returns the sources of a file, folder, pattern, list, URL or camera:N.

    In a folder, these are the files with the ending of a picture or a video, in alphabetical order.
    A file that is named itself, in a list or by a pattern, is a picture unless it has the ending of
    a video. A file of LISTS that is named itself is a list; its files, whose relative paths start
    at its folder, keep their order, and nobody looks whether they exist.

    Args:
        recursive: whether a folder's subfolders count.
        tell: takes a line about what a folder holds and is left out.
        complain: takes a line about a subfolder that cannot be read.

    Raises:
        SourceError: nothing was found, or a list is malformed.
        OSError: a folder or a list cannot be read.
    """
    if camera := CAMERA.fullmatch(text):
        return [Source(int(camera[1]), True, text, f"camera{camera[1]}")]
    if STREAM.fullmatch(text):
        name = hide_secrets(text)
        stem = re.sub(r"[^\w.-]+", "_", name.split("://")[1]).strip("._")
        return [Source(text, True, name, stem[:LONGEST_STEM])]
    path = Path(text)
    if path.suffix.lower() in LISTS and path.is_file():
        return [_as_source(file) for file in _read_list(path)]
    if path.is_dir():
        listing = list_pictures(path, recursive, VIDEOS)
        found = listing.files
        if left := listing.left_out:
            tell(f"{text}: left out {len(left)} pictures, such as {left[0].name}: {NO_DECODER}")
        if skipped := listing.subfolders:
            what = f"{len(skipped)} subfolders are skipped, such as {skipped[0].name}"
            tell(f"{text}: {what}; --recursive counts in them, too")
        for folder in listing.closed:
            complain(f"folder {folder} cannot be read")
        missing = f"{text} holds no picture and no video"
    elif path.exists() or not glob.has_magic(text):
        found = [path] if path.is_file() else []
        missing = f"{hide_secrets(text)} does not exist; name a picture, a video, a folder, a "
        missing += "pattern, camera:0, or an address that begins with rtsp:// or http://"
    else:
        found = [Path(file) for file in glob.glob(text, recursive=True)]
        missing = f"no file matches {hide_secrets(text)}"
    found = sorted(file for file in found if file.is_file())
    if not found:
        raise SourceError(missing)
    return [_as_source(file) for file in found]


def read_picture(path: Path) -> np.ndarray:
    """Returns a picture as a viewer shows it, (H, W, 3) uint8 RGB.

    Raises:
        DataError: it cannot be read, see `read_image`, or is not there.
    """
    try:
        return read_image(path, upright=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except DataError:
        raise
    except ValueError:
        raise DataError(f"no file can have the name {str(path)!a}") from None


def searches(text: str, folder: Path, recursive: bool) -> bool:
    """Returns whether `text` is a folder or a pattern that finds files in `folder`.

    A folder that is searched with its subfolders does so in all of them, even if they are empty.
    """
    if Path(text).is_file() or CAMERA.fullmatch(text) or STREAM.fullmatch(text):
        return False
    if recursive and Path(text).is_dir():
        return folder.resolve().is_relative_to(Path(text).resolve())
    try:
        return any(s.place.resolve().parent == folder.resolve() for s in find_sources(text))
    except (SourceError, OSError):
        return False


def hide_secrets(text: str) -> str:
    """Returns a URL without its user, password and tokens; other texts as they are."""
    return SECRET.sub(r"\1***", LOGIN.sub(r"\1***@", text)) if ":/" in text else text


def _as_source(file: Path) -> Source:
    return Source(file, file.suffix.lower() in VIDEOS, str(file), file.stem)


def _read_list(path: Path) -> list[Path]:
    try:
        if path.suffix.lower() == ".json":
            return read_images(path)
        lines = read_text_file(path).split("\n")
    except DataError as error:
        raise SourceError(str(error)) from None
    files = [path.parent / line for line in lines if line.strip()]
    if not files:
        raise SourceError(f"list {path} names no picture")
    return files
