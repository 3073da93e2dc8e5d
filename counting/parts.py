"""Results of many pictures: a folder of parts, to which the next start adds what is missing."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from filelock import FileLock, Timeout

from counting.readings import COLUMNS, Reading, csv_row
from utils.files import TEXT, printable, write_json, written_whole
from utils.inputs import DataError, read_json_file

ABOUT = "_about.json"  # readers of Parquet folders pass over names that begin so
PART, ERRORS = "part", "errors"  # how the names of files with counts, and with errors, begin
PART_ROWS, PART_S = 10_000, 60  # rows and seconds after which a part is written


@dataclass(frozen=True)
class Failure:
    """A picture that could not be counted."""

    name: str
    error: str  # in one line


Outcome = Reading | Failure


class PartsError(ValueError):
    """A folder's parts cannot be added to; the message is for the user."""


@contextmanager
def open_parts(
    folder: Path, ending: str, regions: Sequence[str], facts: Mapping[str, Any]
) -> Iterator["Parts"]:
    """Yields the parts of a folder, which is made if need be. At the end the last one is written.

    Pictures that had an error before have no row any more, so that they are tried again.

    Args:
        ending: of the parts, of FORMATS.
        facts: JSON of what the counts depend on, such as weights; equal for all parts of a folder.

    Raises:
        PartsError: the folder holds parts with other facts or another ending, damaged ones, or
            something else; or another process adds to it.
        WriteError: it cannot be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise PartsError(f"{folder} is a file; --ray writes parts into a folder")
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            _check(folder, {"format": ending, **facts})
            for path in folder.glob(f"{ERRORS}-*"):
                path.unlink()
            parts = Parts(folder, ending, regions)
            try:
                yield parts
            finally:
                parts.write()
    except Timeout:
        raise PartsError(f"another program adds to {folder}; name another folder") from None


def _check(folder: Path, facts: Mapping[str, Any]) -> None:
    about = folder / ABOUT
    if not about.exists():
        if any(path.name[0] != "." for path in folder.iterdir()):
            raise PartsError(f"{folder} holds other files; --ray needs a folder of its own")
        write_json(about, facts)
        return
    try:
        found = read_json_file(about)
    except DataError as error:
        raise PartsError(f"{error}; name another folder") from None
    found = found if isinstance(found, dict) else {}
    for key, value in facts.items():
        if found.get(key) != value:
            raise PartsError(
                f"{folder} holds counts of {key} {found.get(key)}, these are of {key} {value}; "
                "name another folder"
            )


class Parts:
    """Rows of pictures, which go to files of a folder.

    Attributes:
        counted: names of the pictures that have a count, as `printable` writes them.
        alarms: how many of them have an alarm.
    """

    def __init__(self, folder: Path, ending: str, regions: Sequence[str]):
        self.counted: set[str] = set()
        self.alarms = 0
        self._folder, self._ending, self._regions = folder, ending, regions
        self._rows: list[Outcome] = []
        self._began = monotonic()
        self._number = 0
        for path in sorted(folder.glob(f"{PART}-*{ending}")):
            self._read(path)

    def lacks(self, name: str) -> bool:
        """Returns whether a picture has no count yet."""
        return printable(name) not in self.counted

    def add(self, outcome: Outcome) -> bool:
        """Appends a picture's row, and returns whether a part was written."""
        if not self._rows:
            self._began = monotonic()
        self._rows.append(outcome)
        if full := len(self._rows) >= PART_ROWS or monotonic() - self._began > PART_S:
            self.write()
        return full

    def write(self) -> None:
        """Writes the rows that no file has yet: counts to one part, errors to another.

        Raises:
            WriteError: they cannot be written.
        """
        failures = [row for row in self._rows if isinstance(row, Failure)]
        readings = [row for row in self._rows if isinstance(row, Reading)]
        self._number += bool(self._rows)
        for kind, rows in ((PART, readings), (ERRORS, failures)):
            if rows:
                path = self._folder / f"{kind}-{self._number:06}{self._ending}"
                with written_whole(path) as begun:
                    FORMATS[self._ending].write(begun, rows, self._regions)
        self._rows = []

    def _read(self, path: Path) -> None:
        try:
            self._number = max(self._number, int(path.stem.removeprefix(f"{PART}-")))
            for name, notes in FORMATS[self._ending].read(path):
                self.counted.add(name)
                self.alarms += "alarm" in notes.split()
        except (ValueError, KeyError, csv.Error) as error:
            raise PartsError(
                f"{path} is damaged ({' '.join(str(error).split())}); remove it, and its pictures "
                "are counted again"
            ) from None


@dataclass(frozen=True)
class Format:
    """How parts are written, and how the names and notes of their rows are read."""

    write: Callable[[Path, Iterable[Outcome], Sequence[str]], None]
    read: Callable[[Path], Iterator[tuple[str, str]]]


def _write_csv(path: Path, rows: Iterable[Outcome], regions: Sequence[str]) -> None:
    columns = [*COLUMNS, *regions, "error"]
    with path.open("w", newline="", **TEXT) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            if isinstance(row, Reading):
                writer.writerow([*csv_row(row, regions), ""])
            else:
                writer.writerow([row.name, *[""] * (len(columns) - 2), row.error])


def _read_csv(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        if header[:1] != ["name"]:
            raise ValueError("its first line does not begin with name")
        for fields in rows:
            row = dict(zip(header, fields, strict=True))
            yield row["name"], row["notes"]


def _write_parquet(path: Path, rows: Iterable[Outcome], regions: Sequence[str]) -> None:
    import pyarrow as pa  # comes with Ray Data
    from pyarrow import parquet

    text, kinds = pa.string(), {"name": pa.string(), "frame": pa.int64(), "notes": pa.string()}
    columns = [(name, kinds.get(name, pa.float64())) for name in (*COLUMNS, *regions)]
    objects = []
    for row in rows:
        values = {**vars(row), "name": printable(row.name)}
        if isinstance(row, Reading):
            values |= {"notes": " ".join(row.notes), **row.regions}
        objects.append(values)
    schema = pa.schema([*columns, ("error", text)])
    parquet.write_table(pa.Table.from_pylist(objects, schema), path)


def _read_parquet(path: Path) -> Iterator[tuple[str, str]]:
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["name", "notes"])
    return zip(*(table[column].to_pylist() for column in ("name", "notes")), strict=True)


FORMATS = {".csv": Format(_write_csv, _read_csv), ".parquet": Format(_write_parquet, _read_parquet)}
