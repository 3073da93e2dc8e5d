"""The one reader of pictures: whatever a file holds, it becomes 8-bit RGB, or one line of error."""

import os
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from datasets.sizes import Size
from utils.inputs import DataError, check_regular
from utils.progress import say_once
from utils.ram import GIGABYTE, free_ram

with suppress(ImportError):  # installed by who has .heic files
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.MAX_IMAGE_PIXELS = None  # pictures may have any size
warnings.filterwarnings("ignore", module="PIL")  # of metadata that do not concern the pixels

# Endings of pictures in a folder. Whether those from .heic on can be decoded depends on Pillow.
PICTURES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .gif .ppm .pgm .jp2 .heic .heif .avif".split()
)
PAGED = ("TIFF", "GIF", "WEBP", "PNG")  # formats of several pages or frames, all of equal rank
DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # bits of a picture's values
BYTES_PER_PIXEL = 7  # Pillow's 4, and our 3
LARGE = 10**8  # pixels, from which on the free memory is asked
ORIENTATION = 0x0112  # the EXIF tag that says how a stored picture must be turned
Result = TypeVar("Result")
PNG = b"\x89PNG\r\n\x1a\n"

TURNS = {  # by EXIF orientation
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True)
class Listing:
    """What a folder holds, in alphabetical order, without hidden files."""

    files: list[Path]
    left_out: list[Path]  # pictures that cannot be decoded here
    subfolders: list[Path]  # not listed
    closed: list[Path]  # subfolders that cannot be read


def list_pictures(folder: Path, recursive: bool, others: Collection[str] = ()) -> Listing:
    """Lists a folder's pictures, known by their endings, and files with the endings `others`.

    Hidden files begin with a dot, as those do that macOS puts beside others. Links to folders are
    followed, but none of them is listed twice.

    Raises:
        OSError: the folder cannot be read.
    """
    closed: list[Path] = []
    paths = sorted(_walk(folder, closed) if recursive else folder.iterdir())
    hidden = [any(p.startswith(".") for p in path.relative_to(folder).parts) for path in paths]
    paths = [path for path, is_hidden in zip(paths, hidden, strict=True) if not is_hidden]
    pictures = {path for path in paths if path.suffix.lower() in PICTURES}
    decoded = {path for path in pictures if _is_decodable(path.suffix.lower())}
    return Listing(
        [p for p in paths if p.is_file() and (p in decoded or p.suffix.lower() in others)],
        [path for path in paths if path in pictures - decoded],
        [] if recursive else [path for path in paths if path.is_dir()],
        closed,
    )


def _walk(folder: Path, closed: list[Path]) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders; appends those that cannot be read."""

    def refuse(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        closed.append(Path(error.filename))

    seen = {folder.resolve()}
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        yield from (Path(place, name) for name in files)
        for name in sorted(folders):
            if (real := Path(place, name).resolve()) in seen:
                folders.remove(name)
            seen.add(real)
        folders.sort()


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """Returns an image file as (H, W, 3) uint8 RGB, whatever its colour space or depth.

    Deep values are scaled by the range that they use: a 16-bit file of 12-bit values by 4095. Of
    several pages or frames it is the first. Both are said on stderr. Metadata that cannot be read
    do not matter.

    Args:
        upright: apply its EXIF orientation; annotations refer to the pixels as stored. A TIFF is
            upright in any case, since its decoders turn it.

    Raises:
        DataError: the file is no image, is damaged or truncated, or too large for the memory.
    """

    def decode(image: Image.Image) -> np.ndarray:
        _check_memory(image.size, path)
        if (pages := _count_pages(image)) > 1:
            say_once(f"{path}: only the first of its {pages} pages or frames")
        turn = TURNS.get(_read_orientation(image)) if upright else None
        if _is_deep(image):
            pixels = _reduce_depth(_read_deep(image, path), path)
        else:
            # Converting an RGB picture would copy it, for which large ones leave no room.
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
        return np.ascontiguousarray(turn(pixels)) if turn else pixels

    return _open(path, decode)


def read_size(path: Path) -> Size:
    """Returns an image's height and width as stored, without decoding its pixels.

    Raises:
        DataError: the file is no image.
    """
    return _open(path, lambda image: (image.height, image.width))


def is_turned(path: Path) -> bool:
    """Returns whether an image must be turned or mirrored to be upright.

    Raises:
        DataError: the file is no image.
    """
    return _open(path, lambda image: _read_orientation(image) in TURNS)


def _open(path: Path, use: Callable[[Image.Image], Result]) -> Result:
    """Returns what `use` makes of an opened image; what a decoder raises becomes a DataError."""
    check_regular(path)
    try:
        try:
            with Image.open(path) as image:
                return use(image)
        except (DataError, FileNotFoundError, MemoryError):
            raise
        except Exception:
            if (essence := _strip_png(path)) is None:
                raise
            with Image.open(essence) as image:
                return use(image)
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{path} needs more memory than there is") from None
    except Exception as error:  # damaged bytes may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a readable image ({reason})") from None


def _strip_png(path: Path) -> BytesIO | None:
    """Returns a PNG without what may be left out, but for transparency; None of another file.

    Pillow refuses good pixels for too long a text or a damaged profile beside them.
    """
    with path.open("rb") as file:
        if file.read(len(PNG)) != PNG:
            return None
    data = path.read_bytes()
    kept, place = [PNG], len(PNG)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(data[place:end])
        place = end
    return BytesIO(b"".join(kept))


@lru_cache
def _is_decodable(ending: str) -> bool:
    return Image.registered_extensions().get(ending) in Image.OPEN


def _check_memory(size: tuple[int, int], path: Path) -> None:
    """Raises DataError if a large picture does not fit into the free memory."""
    width, height = size
    needed = BYTES_PER_PIXEL * width * height
    if width * height > LARGE and needed > (free := free_ram()):
        raise DataError(
            f"{path} has {width}x{height} pixels: these take {needed / GIGABYTE:.3g} GB, "
            f"and {free / GIGABYTE:.3g} are free"
        )


def _count_pages(image: Image.Image) -> int:
    """Returns the number of an image's pages or frames, as far as they can be read."""
    try:
        return image.n_frames if image.format in PAGED else 1
    except Exception:  # damage in a later one does not concern the first
        return 1


def _read_orientation(image: Image.Image) -> int:
    """Returns how a decoded image must be turned; 1, not at all, if its EXIF is unreadable."""
    if image.format == "TIFF":  # Pillow and OpenCV have turned it then
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # see `_open`
        return 1


def _is_deep(image: Image.Image) -> bool:
    """Returns whether an image's values have more than 8 bits, which Pillow would cut off."""
    stored = str(image.tile[0][3]) if image.tile else ""
    has_16_bits = ";16" in stored and "BGR;16" not in stored  # those of a BMP are of all channels
    return image.mode.startswith(("I", "F")) or has_16_bits


def _read_deep(image: Image.Image, path: Path) -> np.ndarray:
    """Returns the values of a deep image, (H, W) or (H, W, 3) RGB."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise DataError(f"{path} has 16 bits a channel, which cannot be read; save it in 8")
    if values.ndim == 3 and values.shape[2] < 3:
        values = values[..., 0]
    return values if values.ndim == 2 else values[..., 2::-1]


def _reduce_depth(values: np.ndarray, path: Path) -> np.ndarray:
    """Scales deep values to (H, W, 3) uint8 by the range that they use, and says so.

    Raises:
        DataError: they are no brightness.
    """
    low, high = float(values.min()), float(values.max())
    if not (0 <= low and high < 2 ** DEPTHS[-1]):
        raise DataError(f"{path} has values from {low:g} to {high:g}; a picture's are from 0 on")
    if values.dtype.kind == "f" and high <= 1:
        full, read_as = 1, "shares of 1"
    else:
        bits = next(bits for bits in DEPTHS if high < 2**bits)
        full, read_as = 2**bits - 1, f"{bits} bits"
    if read_as != "16 bits":
        say_once(f"{path}, and others alike: values up to {high:g} are read as {read_as}", read_as)
    pixels = (values * (255 / full) + 0.5).astype(np.uint8)
    return np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else np.ascontiguousarray(pixels)
