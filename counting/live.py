"""Cameras and network streams: what has no end, and is read as it comes."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np

from counting.video import Frame, Video, VideoError, explain
from utils.interrupt import StopRequest

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # errors are reported in our own words
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

LIVE_FPS = 10.0  # more or less, of an overlay, as counting cannot keep up with a camera's rate
PAUSES_S = (1.0, 60.0)  # the first and the longest one before a lost stream is opened again
GLANCE_S = 0.1  # between two looks whether it is to stop


def open_video(
    place: Path | str | int, stop: StopRequest, tell: Callable[[str], None]
) -> "Video | Camera | Stream":
    """Opens a file, a URL or a camera's number.

    Args:
        stop: ends the frames, of which those of cameras and network streams have no other end.
        tell: takes a line when a network stream is lost, and one when it is back.

    Raises:
        VideoError: it cannot be opened.
    """
    if isinstance(place, int):
        return Camera(place, stop)
    video = Video(place, stop)
    return Stream(place, video, stop, tell) if video.is_live else video


class Camera:
    """The frames of the camera with this number, until `stop`.

    Raises:
        VideoError: it cannot be opened.
    """

    fps, frames = LIVE_FPS, 0

    def __init__(self, number: int, stop: StopRequest):
        self.name, self._stop = f"camera:{number}", stop
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise VideoError(f"{self.name} cannot be opened")

    def read(self, every: int) -> Iterator[Frame]:
        """Yields every `every`-th frame, beginning with the first, until `stop`.

        Raises:
            VideoError: at the end, which a camera should not have.
        """
        began, number = time.monotonic(), 0
        try:
            while not self._stop.requested and self._capture.grab():
                if number % every == 0:
                    seconds = time.monotonic() - began
                    whole, pixels = self._capture.retrieve()
                    if not whole:
                        break
                    grey = pixels.ndim == 2
                    code = cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB
                    yield Frame(number, seconds, cv2.cvtColor(pixels, code))
                number += 1
        finally:
            self._capture.release()
        if not self._stop.requested:
            raise VideoError(f"{self.name} ended after {number} frames")


@dataclass(frozen=True)
class Received:
    number: int  # from 0
    moment: float  # of a clock that starts anywhere
    image: Callable[[], np.ndarray]  # converts it, which is spared those that are left out


class Stream:
    """The newest frames of a network stream, which is opened again whenever it is lost.

    A thread receives all frames, as a sender that has to wait for its receiver gives up. Frames
    that come while another one is counted are left out.
    """

    fps, frames = LIVE_FPS, 0

    def __init__(self, url: str, video: Video, stop: StopRequest, tell: Callable[[str], None]):
        self.name = video.name
        self._url, self._video, self._stop, self._tell = url, video, stop, tell
        self._done = threading.Event()
        self._changed = threading.Condition()
        self._received = 0  # frames
        self._newest: Received | None = None  # if it has not been read

    def read(self, every: int) -> Iterator[Frame]:
        """Yields the newest frame, at least `every` after the one before, until `stop`."""
        thread = threading.Thread(target=self._receive, daemon=True)
        thread.start()
        began, wanted = None, 0
        try:
            while not self._stop.requested and thread.is_alive():
                with self._changed:
                    self._changed.wait_for(lambda: self._newest, GLANCE_S)
                    newest, self._newest = self._newest, None
                if newest and newest.number >= wanted:
                    began, wanted = began or newest.moment, newest.number + every
                    yield Frame(newest.number, newest.moment - began, newest.image())
        finally:
            self._done.set()
            thread.join(GLANCE_S)  # it may be waiting for the network
        if not self._stop.requested:
            raise VideoError(f"{self.name} cannot be received")

    def _receive(self) -> None:
        video, pause = self._video, PAUSES_S[0]
        while not self._done.is_set():
            began, reason = time.monotonic(), "its sender ended it"
            try:
                for _, picture in video.pictures():
                    image = partial(video.as_rgb, picture)
                    with self._changed:
                        self._newest = Received(self._received, time.monotonic(), image)
                        self._changed.notify()
                    self._received += 1
                    if self._done.is_set():
                        break
            except av.FFmpegError as error:
                reason = explain(error)
            finally:
                video.close()
            lost = time.monotonic()
            if lost - began > PAUSES_S[1]:  # one that breaks off again and again waits longer, too
                pause = PAUSES_S[0]
            if not self._done.is_set():
                what = f"is lost after {self._received} frames: {reason}"
                self._tell(f"{self.name} {what}; trying to open it again")
            video, pause = self._reconnect(pause)
            if video:
                self._tell(f"{self.name} is back after {time.monotonic() - lost:.1f} s")

    def _reconnect(self, pause: float) -> tuple[Video | None, float]:
        """Returns the opened stream, or None when it is no longer wanted, and the next pause."""
        while not self._done.wait(pause):
            pause = min(2 * pause, PAUSES_S[1])
            try:
                return Video(self._url), pause
            except VideoError:
                continue
        return None, pause
