"""Writes the results of counting: overlays, videos with a running count, and raw maps."""

import os
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from counting.overlay import draw_density
from counting.readings import NOTES, Reading
from counting.regions import Region
from counting.sources import Source
from counting.video import Frame, VideoWriter
from utils.files import printable, unfinished, written_whole
from utils.pixels import limited_size

LEAST_DENSEST = 0.01  # heads per cell, so that noise in empty places is not coloured
LONGEST_NAME = 24  # characters of a file's name in a picture
QUALITY = 90  # of JPEG


@dataclass
class Outputs:
    """Writes overlays, and maps as .npy, to the requested folders.

    Files are named by the sources' stems, which must differ. Maps of a video's frames are in a
    folder of its name.
    """

    overlays: Path | None
    maps: Path | None
    regions: tuple[Region, ...]
    max_side: int | None = None  # of the pictures as they were counted

    def files(self, source: Source) -> list[tuple[str, Path]]:
        """Returns the files that a source is written to, except maps of frames, and why."""
        drawn = ("density.mp4", "counts.png") if source.is_video else ("density.jpg",)
        files = [self.overlays / f"{source.stem}_{kind}" for kind in drawn if self.overlays]
        if self.maps and not source.is_video:
            files.append(self.maps / f"{source.stem}.npy")
        return [("--npy" if path.suffix == ".npy" else "--out", path) for path in files]

    def save_picture(
        self, stem: str, image: np.ndarray, density: np.ndarray, reading: Reading
    ) -> None:
        """Writes the overlay and the map of a picture, if they are requested."""
        self.save_map(stem, density)
        if self.overlays:
            drawn = self._draw(image, density, density.max(), Path(reading.name).name, reading)
            with written_whole(self.overlays / f"{stem}_density.jpg") as path:
                Image.fromarray(drawn).save(path, quality=QUALITY)

    def save_map(self, stem: str, density: np.ndarray) -> None:
        """Writes a float32 map of heads per 8x8 pixels of the picture as it was counted."""
        if self.maps:
            with written_whole(self.maps / f"{stem}.npy") as path:
                np.save(path, density)

    @contextmanager
    def film(self, stem: str, fps: float) -> Iterator["Film"]:
        """Yields a `Film`, which writes a video's overlay and its frames' maps.

        The overlay keeps the frames written so far, even after an exception. For `fps` see
        `VideoWriter`.
        """
        if not self.overlays:
            yield Film(self, stem, None)
            return
        path = self.overlays / f"{stem}_density.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = VideoWriter(unfinished(path), fps, path)
        try:
            yield Film(self, stem, writer)
        finally:
            try:
                if writer.close():
                    os.replace(unfinished(path), path)
            finally:
                unfinished(path).unlink(missing_ok=True)

    def save_timeline(self, stem: str, timeline: "Timeline", alarm: float | None) -> None:
        """Plots a video's count over time, and the alarm's level unless that is for regions."""
        alarm = None if self.regions else alarm
        if self.overlays:
            path = self.overlays / f"{stem}_counts.png"
            from utils.plots import draw_timeline  # half a second, and videos alone need it

            draw_timeline(timeline.seconds, timeline.counts, path, printable(stem), alarm)

    def _draw(
        self, image: np.ndarray, density: np.ndarray, densest: float, name: str, reading: Reading
    ) -> np.ndarray:
        name = printable(name)
        name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
        caption = f"{reading.count:.1f} people   {name}", reading.remarks
        densest = max(float(densest), LEAST_DENSEST)
        counted = limited_size(image.shape[:2], self.max_side)
        return draw_density(
            image, density, densest, caption, self.regions, reading.regions, counted
        )


@dataclass
class Film:
    """A video's overlay, whose colour scale ends at the densest place so far."""

    outputs: Outputs
    stem: str
    writer: VideoWriter | None
    densest: float = 0.0

    def add(self, frame: Frame, density: np.ndarray, reading: Reading) -> None:
        """Appends a frame.

        Raises:
            VideoError: it cannot be written.
        """
        self.outputs.save_map(f"{self.stem}/{frame.number:06}", density)
        if self.writer:
            self.densest = max(self.densest, float(density.max()))
            minutes, tenths = divmod(round(10 * frame.seconds), 600)
            clock = f"{minutes}:{tenths / 10:04.1f}"
            drawn = self.outputs._draw(frame.image, density, self.densest, clock, reading)
            self.writer.write(drawn, frame.seconds)


@dataclass
class Timeline:
    """A video's counts, 16 bytes per frame, and the totals of its regions and notes."""

    seconds: array = field(default_factory=lambda: array("d"))
    counts: array = field(default_factory=lambda: array("d"))
    regions: Counter[str] = field(default_factory=Counter)  # people, summed over frames
    notes: Counter[str] = field(default_factory=Counter)  # frames that have them
    is_alarm: bool = False  # in the last frame
    began: float = field(default_factory=time.perf_counter)

    def add(self, reading: Reading) -> bool:
        """Appends a frame's count, and returns whether an alarm begins with it."""
        self.seconds.append(reading.seconds)
        self.counts.append(reading.count)
        self.regions.update(reading.regions)
        self.notes.update(reading.notes)
        was_alarm, self.is_alarm = self.is_alarm, "alarm" in reading.notes
        return self.is_alarm and not was_alarm

    def __str__(self) -> str:
        """Returns a summary in one line; there must be a frame."""
        frames, most = len(self.counts), max(self.counts)
        mean, at = sum(self.counts) / frames, self.seconds[self.counts.index(most)]
        pace = frames / (time.perf_counter() - self.began)
        notes = "".join(f", {NOTES[note]} in {number}" for note, number in self.notes.items())
        regions = "".join(f", {name} {total / frames:.1f}" for name, total in self.regions.items())
        return (
            f"{mean:.1f} people on average{regions}, at most {most:.1f} (at {at:.1f} s), "
            f"{frames} frames{notes}, counted {pace:.1f} a second"
        )
