"""Readings of pictures as lines of text, CSV and JSON, written while counting goes on."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from utils.files import TEXT, naming, without_nan

NOTES = {  # what may be noted about a picture, in words for users
    "alarm": "ALARM",
    "flat": "nothing to see",
    "unlike": "unlike the training pictures",
}
COLUMNS = ("name", "frame", "seconds", "count", "unlikeness", "notes")


@dataclass(frozen=True)
class Reading:
    """The counts of a picture, or of a frame of a video."""

    name: str
    frame: int | None  # from 0, of a video
    seconds: float | None  # since its first frame
    count: float
    unlikeness: float | None  # above 1: unlike the training pictures; None without a guard
    notes: tuple[str, ...]  # of NOTES
    regions: dict[str, float]

    @property
    def remarks(self) -> str:
        """The notes in words."""
        return ", ".join(NOTES[note] for note in self.notes)

    def __str__(self) -> str:
        """Returns a line of text: name, count, regions' counts, notes."""
        regions = [f"{region} {count:.1f}" for region, count in self.regions.items()]
        return "  ".join([f"{self.name}: {self.count:.1f} people", *regions, self.remarks]).rstrip()


@contextmanager
def open_records(
    csv_path: Path | None, json_path: Path | None, regions: Sequence[str]
) -> Iterator[Callable[[Reading], None]]:
    """Yields a function that writes a reading to the requested files at once.

    They are opened for the first one. The CSV file has COLUMNS and one more for every region. The
    JSON file has an object per line, with the fields of `Reading`.

    Raises:
        WriteError, by that function: a file cannot be written.
    """
    with ExitStack() as stack:
        files: dict[Path, TextIO] = {}

        def begin(path: Path) -> bool:
            if begun := path not in files:
                path.parent.mkdir(parents=True, exist_ok=True)
                files[path] = path.open("w", buffering=1, newline="", **TEXT)
                stack.callback(close, path)
            return begun

        def close(path: Path) -> None:
            with naming(path):  # what a full disk did not take is tried again
                files[path].close()

        def write_csv(path: Path, reading: Reading) -> None:
            header = [[*COLUMNS, *regions]] if begin(path) else []
            csv.writer(files[path]).writerows([*header, csv_row(reading, regions)])

        def write_json(path: Path, reading: Reading) -> None:
            begin(path)
            line = json.dumps(without_nan(vars(reading)), ensure_ascii=False, allow_nan=False)
            files[path].write(f"{line}\n")

        def record(reading: Reading) -> None:
            for path, write in ((csv_path, write_csv), (json_path, write_json)):
                if path:
                    with naming(path):
                        write(path, reading)

        yield record


def csv_row(reading: Reading, regions: Sequence[str]) -> list[object]:
    """Returns the values of COLUMNS and then of the regions, as text that a CSV file has."""
    seconds = "" if reading.seconds is None else f"{reading.seconds:.3f}"
    unlikeness = "" if reading.unlikeness is None else f"{reading.unlikeness:.3f}"
    counts = (f"{reading.regions[name]:.4f}" for name in regions)
    notes = " ".join(reading.notes)
    start = [reading.name, reading.frame, seconds, f"{reading.count:.4f}", unlikeness, notes]
    return [*start, *counts]
