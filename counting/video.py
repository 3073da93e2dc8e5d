"""Videos and cameras as streams of pictures, read and written frame by frame."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # errors are reported in our own words
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

CAMERA_FPS = 10  # of a camera's recording, as counting cannot keep up with its rate
FALLBACK_FPS = 25.0  # of a file that does not state its rate
MISSING = 0.02  # part of the announced frames that may be missing: some files only estimate them


class VideoError(ValueError):
    """A video or a camera cannot be read or written; the message names it and says why."""


@dataclass(frozen=True)
class Frame:
    number: int  # from 0, of all frames, counted or not
    seconds: float  # since the first one
    image: np.ndarray  # (H, W, 3) uint8 RGB


class Video:
    """The frames of a file, or of the camera with this number, one after the other.

    Raises:
        VideoError: it cannot be opened.
    """

    def __init__(self, place: Path | int):
        self.name = f"camera:{place}" if isinstance(place, int) else str(place)
        self._capture = cv2.VideoCapture(place if isinstance(place, int) else str(place))
        if not self._capture.isOpened():
            what = "cannot be opened" if isinstance(place, int) else "is not a readable video"
            raise VideoError(f"{self.name} {what}")
        self.is_live = isinstance(place, int)
        told = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = told if 0 < told < 1000 else FALLBACK_FPS
        announced = 0 if self.is_live else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames = max(0, announced)  # some files announce none, or too few

    def read(self, every: int) -> Iterator[Frame]:
        """Yields every `every`-th frame, beginning with the first.

        Raises:
            VideoError: at the end, if the file ended early or holds no frame, or the camera failed.
        """
        began, number = time.monotonic(), 0
        try:
            while self._capture.grab():
                if number % every == 0:
                    seconds = time.monotonic() - began if self.is_live else number / self.fps
                    whole, pixels = self._capture.retrieve()
                    if not whole:
                        break
                    yield Frame(number, seconds, _as_rgb(pixels))
                number += 1
        finally:
            self._capture.release()
        if self.is_live or number < max(1, (1 - MISSING) * self.frames):
            of = f" of {self.frames}" if self.frames else ""
            raise VideoError(f"{self.name} ended, or is damaged, after {number}{of} frames")


class VideoWriter:
    """Writes RGB frames, all of the first one's size, to an MP4.

    Args:
        fps: the rate of a file, all of whose frames are written; None for a camera, whose frames
            are repeated or dropped so that the video plays in real time.
    """

    def __init__(self, path: Path, fps: float | None):
        self._path, self._live, self._fps = path, fps is None, fps or CAMERA_FPS
        self._writer: cv2.VideoWriter | None = None
        self._written = 0

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Appends an (H, W, 3) uint8 RGB frame, H and W even, `seconds` after the first one.

        Raises:
            VideoError: it cannot be written.
        """
        if self._writer is None:
            code, size = cv2.VideoWriter.fourcc(*"mp4v"), image.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self._path), code, self._fps, size)
        if not self._writer.isOpened():
            raise VideoError(f"{self._path} cannot be written as an MP4")
        due = int(seconds * self._fps) + 1 if self._live else self._written + 1
        pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for _ in range(self._written, due):
            self._writer.write(pixels)
        self._written = max(self._written, due)

    def close(self) -> bool:
        """Closes the file, and returns whether there is one, which needs at least one frame."""
        if self._writer is not None:
            self._writer.release()
        return self._written > 0


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB)
