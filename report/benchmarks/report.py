"""Describes the machine of a benchmark's result, and makes tables and a figure of several."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: servers have no screen
from utils.start import KEEPS_MEMORY  # noqa: E402

import torch  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: E402

from deploy.latency import describe  # noqa: E402
from utils.files import write_whole  # noqa: E402
from utils.inputs import DataError, check_fields  # noqa: E402
from utils.markdown import format_table  # noqa: E402
from utils.plots import save_figure  # noqa: E402

PACKAGES = ("torch", "numpy", "scipy", "onnxruntime", "openvino", "nncf")
NEEDED = dict.fromkeys(("title", "device", "date", "command"), (str,)) | {
    "columns": (dict,), "rows": (list,), "threads": (int,), "versions": (dict,)
}  # fmt: skip
WIDE = 1000  # from the axis' left to its right: its labels leave out 2 and 5

COLUMNS = {  # of most tables: key of a row -> heading
    "label": "",
    "baseline": "baseline (ms)",
    "ours": "ours (ms)",
    "low": "lowest decile",
    "high": "highest decile",
    "ratio": "ratio",
    "floor": "floor (ms)",
    "difference": "greatest difference",
}

FLOOR = (
    " The floor is what the operations take at the measured rate of matrix products, or the bytes "
    "at that of copies, whichever is longer."
)

Result = Mapping[str, Any]


class ComparisonError(RuntimeError):
    """The compared implementations do not compute the same."""


class ReportError(ValueError):
    """A file is not a benchmark's result."""


def describe_run(device: torch.device) -> dict[str, Any]:
    """Returns the origin of a result: device, threads, versions, allocator, date."""
    return {
        "device": describe(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "allocator": allocator(),
        "date": datetime.date.today().isoformat(),
    }


def allocator() -> str:
    """Returns how glibc allocates here; keeping large blocks spares CPU passes page faults."""
    return "glibc keeps large blocks" if KEEPS_MEMORY else "glibc's allocator as it is"


def compare_times(label: str, baseline: float, ours: float) -> dict[str, Any]:
    """Returns a row of two times, given in seconds."""
    ratio = baseline / ours
    return {"label": label, "baseline": 1000 * baseline, "ours": 1000 * ours, "ratio": ratio}


def merge(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Groups results by title; those of a title share a table.

    Empty rows are left out if a result of another title, and none of this one, has measured them.
    """
    titles: dict[str, list[Result]] = {}
    for result in results:
        titles.setdefault(result["title"], []).append(result)
    everywhere = _measured_labels(results)
    for alike in titles.values():
        elsewhere = everywhere - _measured_labels(alike)
        for i, result in enumerate(alike):
            rows = [row for row in result["rows"] if row["label"] not in elsewhere]
            alike[i] = result | {"rows": rows}
    return titles


def _measured_labels(results: Sequence[Result]) -> set[str]:
    rows = [row for result in results for row in result["rows"]]
    return {row["label"] for row in rows if row.get("ours") is not None}


def merge_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns the rows of several results, merged by label; measured rows replace empty ones.

    Further measured rows of a label name their machine.
    """
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        for row in result["rows"]:
            label = row["label"]
            if row.get("ours") is not None and rows.get(label, {}).get("ours") is not None:
                label = f"{label}, {result['device']}"
                alike = sum(known.startswith(label) for known in rows)
                label += f", {alike + 1}" if alike else ""
                rows[label] = row | {"label": label}
            elif row.get("ours") is not None or label not in rows:
                rows[label] = row
    return list(rows.values())


def tabulate(results: Sequence[Result]) -> str:
    """Returns a Markdown table of results with one title; what was not measured stays empty."""
    columns = {k: v for result in results for k, v in result["columns"].items()}
    rows = [[row.get(key) for key in columns] for row in merge_rows(results)]
    return format_table(list(columns.values()), rows, format_value)


def format_value(value: float) -> str:
    """Returns three digits of a number, or all before the point."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{decimals}f}"


def check_result(result: Any, path: Path) -> Result:
    """Returns the content of a JSON file, once checked.

    Raises:
        ReportError: it is not a result of a benchmark.
    """
    try:
        check_fields(result, NEEDED, "it")
        for row in result["rows"]:
            check_fields(row, {"label": (str,)}, "a row")
    except DataError as error:
        raise ReportError(f"{path} is no result that benchmark.py --json wrote: {error}") from None
    return result


def write_report(results: Sequence[Result], folder: Path, name: str) -> None:
    """Writes name.md, a table for each title, and name.png into a folder."""
    explained = "Times are medians. `ratio` is the baseline's time over ours."
    if any("floor" in result["columns"] for result in results):
        explained += FLOOR
    explained += " Empty cells are not measured yet."
    parts = [f"# {name.capitalize()}", explained, f"![Times]({name}.png)"]
    for title, group in merge(results).items():
        parts += [f"## {title}", tabulate(group)]
        parts += [_format_origin(result) for result in group]
    write_whole(folder / f"{name}.md", "\n\n".join(parts) + "\n")
    draw(results, folder / f"{name}.png")


def draw(results: Sequence[Result], path: Path) -> None:
    """Draws every measured row's time, its baseline's behind it, and its floor.

    Each title has a plot for each device, as times on different devices may lie far apart.
    """
    plots: dict[str, list[Result]] = {}
    for result in results:
        plots.setdefault(f"{result['title']}\n{result['device']}", []).append(result)
    tables = {title: _measured(merge_rows(group)) for title, group in plots.items()}
    tables = {title: rows for title, rows in tables.items() if rows}
    heights = [1.8 + 0.32 * len(rows) for rows in tables.values()]
    figure, axes = plt.subplots(
        max(1, len(tables)), 1, figsize=(10, max(2, sum(heights))), squeeze=False,
        gridspec_kw={"height_ratios": heights or [1]}, layout="constrained",
    )  # fmt: skip
    for axis, (title, rows) in zip(axes[:, 0], tables.items(), strict=False):
        _draw_rows(axis, title, rows)
    save_figure(figure, path)


def _draw_rows(axis: plt.Axes, title: str, rows: Sequence[Result]) -> None:
    places = range(len(rows))
    axis.barh(places, [row["baseline"] for row in rows], color="0.88", label="baseline")
    bars = axis.barh(places, [row["ours"] for row in rows], height=0.5, label="measured")
    labels = [f"{format_value(row['ours'])} ms, {format_value(row['ratio'])}x" for row in rows]
    axis.bar_label(bars, labels, padding=4, fontsize=8)
    floors = {place: row["floor"] for place, row in enumerate(rows) if row.get("floor")}
    if floors:
        marks = {"markersize": 12, "markeredgewidth": 2}
        axis.plot(floors.values(), floors.keys(), "k|", label="floor", **marks)
    axis.set_yticks(places, [row["label"] for row in rows], fontsize=8)
    axis.invert_yaxis()
    times = [time for row in rows for time in (row["baseline"], row["ours"], row.get("floor"))]
    low, high = min(filter(None, times)), max(filter(None, times))
    left, right = low / 2, high * (high / low) ** 0.45
    axis.set(xscale="log", xlim=(left, right), xlabel="ms")
    labelled = (1, 2, 5) if right / left < WIDE else (1,)
    axis.xaxis.set_major_locator(LogLocator(subs=labelled, numticks=20))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _measured(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("ours") is not None]


def _format_origin(result: Result) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in result["versions"].items() if v)
    notes = "".join(f" {note}" for note in result.get("notes", ()))
    return f"{result['date']}, {result['device']}; {versions}. `{result['command']}`.{notes}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
