"""Videos as sequences of pictures, read and written frame by frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from counting.sources import hide_secrets
from utils.interrupt import StopRequest

FALLBACK_FPS = 25.0  # of a video that does not state its rate
TIMEOUT_S = 10.0  # of a network stream that sends nothing
SHORTFALL, SHORTFALL_S = 0.01, 0.5  # part and seconds of the stated length that may be missing
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that is there; browsers play H.264
TICK = Fraction(1, 60_000)  # seconds; frames of 25 and 29.97 a second last whole numbers of it
BITS_PER_PIXEL = 0.2  # of encoders that are not told a quality


class VideoError(ValueError):
    """A video or a camera cannot be read or written; the message names it and says why."""


@dataclass(frozen=True)
class Frame:
    number: int  # from 0, of all frames, counted or not
    seconds: float  # since the first one
    image: np.ndarray  # (H, W, 3) uint8 RGB


class Video:
    """The frames of a file, or of what is at a URL, one after the other.

    Args:
        stop: ends them before their end.

    Raises:
        VideoError: it cannot be opened, is a picture, or there is no decoder for it.
    """

    def __init__(self, place: Path | str, stop: StopRequest | None = None):
        self._stop = stop
        is_file = isinstance(place, Path)
        self.name = str(place) if is_file else hide_secrets(place)
        # A relative path may look like a URL, and a file may be a playlist that names some.
        target = str(place.absolute()) if is_file else place
        options = {"protocol_whitelist": "file"} if is_file else {"rtsp_flags": "prefer_tcp"}
        timeout = None if is_file else TIMEOUT_S
        try:
            self._container = av.open(
                target, options=options, timeout=timeout, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError) as error:
            what = "is not a readable video" if is_file else "cannot be opened"
            raise VideoError(f"{self.name} {what}: {explain(error)}") from error
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise VideoError(f"{self.name} holds no video")
        kind = self._container.format.name  # jpeg_pipe may be a camera's
        if not is_file and kind.endswith(("image2", "_pipe")) and kind != "jpeg_pipe":
            raise VideoError(f"{self.name} is a picture: save it, and count the file")
        if not (self._stream.codec_context and self._stream.codec_context.name):
            raise VideoError(f"{self.name}: no decoder for this codec")
        told = self._container.duration
        self.is_live = told is None and not is_file
        self._duration = (told or 0) / av.time_base  # seconds
        if self._container.format.name == "avi" and self._stream.average_rate:
            # FFmpeg corrects the length of one that is cut off, but not its number of frames.
            self._duration = float(self._stream.frames / self._stream.average_rate)
        if not self.is_live:
            self._stream.thread_type = "AUTO"  # faster, but late by a frame for each thread
        self.fps = float(self._stream.guessed_rate or FALLBACK_FPS)
        self.frames = self._stream.frames or int(self._duration * self.fps)  # an estimate
        self._convert = VideoReformatter()
        self._failures, self._reached = 0, 0.0

    def read(self, every: int) -> Iterator[Frame]:
        """Yields every `every`-th frame, beginning with the first.

        Raises:
            VideoError: at the end, if some of it is missing or could not be decoded.
        """
        number, reason = 0, ""
        try:
            for seconds, picture in self.pictures():
                if self._stop and self._stop.requested:
                    return
                if number % every == 0:
                    yield Frame(number, seconds, self.as_rgb(picture))
                number += 1
        except av.FFmpegError as error:
            reason = explain(error)
        finally:
            self.close()
        if not number:
            raise VideoError(f"{self.name} holds no frame that can be decoded")
        if reason or self._failures:
            reason = reason or f"damaged parts: {self._failures}"
            raise VideoError(f"{self.name} is damaged; {number} frames were read; {reason}")
        if self._duration - self._reached > max(SHORTFALL_S, SHORTFALL * self._duration):
            reason = f"it ended after {self._reached:.1f} of {self._duration:.1f} s"
            raise VideoError(f"{self.name} is damaged; {number} frames were read; {reason}")

    def pictures(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yields seconds since the first frame, which grow, and every frame that can be decoded.

        Raises:
            av.FFmpegError: reading failed, and will not go on.
        """
        first, seconds = None, 0.0
        for picture in self._decode():
            time = picture.time
            if first is None:
                first = time or 0.0
            elif time is not None and time - first > seconds:
                seconds = time - first
            else:  # no time, or one of another recording that was appended
                seconds += 1 / self.fps
            yield seconds, picture

    def _decode(self) -> Iterator[av.VideoFrame]:
        is_first, start = True, (self._container.start_time or 0) / av.time_base
        for packet in self._container.demux():  # sound, too, which may be longer than the pictures
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._reached = max(self._reached, end - start)
            if packet.stream_index != self._stream.index:
                continue
            self._failures += packet.is_corrupt
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                self._failures += 1
                continue
            self._failures += sum(picture.is_corrupt for picture in pictures)
            if pictures and is_first:  # what was cut out of a video may begin with half a picture
                self._failures, is_first = 0, False
            yield from pictures

    def as_rgb(self, picture: av.VideoFrame) -> np.ndarray:
        """Returns a frame as (H, W, 3) uint8 RGB, turned as players show it."""
        pixels = self._convert.reformat(picture, format="rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, round(picture.rotation / 90)))

    def close(self) -> None:
        self._container.close()


class VideoWriter:
    """Writes RGB frames to an MP4, each of which is shown until the next one's time.

    Args:
        fps: frames a second, more or less; the last frame is shown for 1 / fps seconds.
        name: of the file in errors, if it will have another one.
    """

    def __init__(self, path: Path, fps: float, name: Path | None = None):
        self._path, self._name = path, name or path
        # FFmpeg needs a ratio of small numbers that is not 0.
        self._fps = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
        self._container: av.container.OutputContainer | None = None
        self._last = -1  # ticks

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Appends an (H, W, 3) uint8 RGB frame, H and W even, `seconds` after the first one.

        A frame of another size than the first is brought to that.

        Raises:
            VideoError: it cannot be written.
        """
        try:
            if self._container is None:
                self._begin(image.shape[:2])
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.time_base = TICK
            frame.pts = self._last = max(self._last + 1, round(seconds / TICK))
            self._encode(frame)
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{self._name} cannot be written: {explain(error)}") from error

    def _begin(self, size: tuple[int, int]) -> None:
        # A relative path may look like a URL.
        options = {"movflags": "faststart"}  # a browser plays it before it has it all
        self._container = av.open(str(self._path.absolute()), "w", options=options)
        codec = next(name for name in ENCODERS if name in av.codecs_available)
        # Frames that are stored out of order would make the file's length wrong.
        settings = {"preset": "veryfast", "bf": "0"} if codec == "libx264" else {}
        self._stream = self._container.add_stream(codec, rate=self._fps, options=settings)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = TICK
        if codec != "libx264":
            self._stream.bit_rate = round(BITS_PER_PIXEL * size[0] * size[1] * self._fps)
        self._container.start_encoding()  # here it fails if the file cannot be made

    def _encode(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = round(1 / self._fps / packet.time_base)
            self._container.mux(packet)

    def close(self) -> bool:
        """Closes the file, and returns whether there is one, which needs at least one frame.

        Raises:
            VideoError: it cannot be written.
        """
        if self._last < 0:
            return False
        try:
            self._encode(None)
            self._container.close()
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{self._name} cannot be written: {explain(error)}") from error
        return True


def explain(error: Exception) -> str:
    """Returns an error's reason without its URL, which may hold a password."""
    if isinstance(error, av.error.ExitError):
        return f"no answer in {TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or type(error).__name__
