"""Reads the folders of trainings that were tested, and makes tables of several."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from models.distillation import PUBLISHED_TERMS
from report.paper import COLUMNS, LIGHT, LIGHT_REFERENCE_MS, LIGHT_SOURCE, PAPER, REFERENCE
from utils.inputs import (
    LARGEST,
    NUMBER,
    OPTIONAL_NUMBER,
    DataError,
    check_fields,
    read_json_file,
    read_json_lines,
    read_text_file,
)
from utils.markdown import format_table
from utils.metrics import CountResult

KEPT = ("log.jsonl", "result.json")  # of the training
TESTED = ("test.json", "test.csv")  # of test.sh
# What tests that are shown together have in common, and what older ones do not say.
ALIKE, OLDER = ("dataset", "images", "size", "protocol", "max_side", "engine"), {"engine": "eager"}
CROWDS = (0, 100, 200, 400, 800, 1600)  # heads at which classes of crowd sizes begin
COSTS = ("params", "flops_g", "gpu_ms", "cpu_s")  # of test.json, in the order of the paper's table

Point = tuple[str, float, float]  # name, CPU latency / REFERENCE's on the same machine, MAE


@dataclass(frozen=True)
class Run:
    """A training that was tested."""

    folder: Path
    log: list[dict[str, Any]]  # one record an epoch
    result: dict[str, Any]  # of the training
    test: dict[str, Any]  # what test.py --json wrote
    teacher: dict[str, Any] | None  # the same of its teacher
    counts: list[CountResult]  # of the test images

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def label(self) -> str:
        """The network and its loss terms, such as 1/4-CSRNet + SKT."""
        terms = self.result["settings"].get("terms", "hard")
        if terms == "hard":
            return self.test["model"]
        skt = " + SKT" if terms == PUBLISHED_TERMS else f" + {terms.replace(',', ' + ')}"
        return f"{self.test['model']}{skt}"


def read_run(folder: Path) -> Run:
    """Reads the folder of a training that was tested.

    Raises:
        ValueError: a file is missing or malformed.
    """
    for name in (*KEPT, *TESTED):
        if not (folder / name).is_file():
            lacks = "not tested" if name in TESTED else "no training that has ended"
            raise ValueError(
                f"{folder} has no {name}: it is {lacks}; DATASET=... ROOT=... OUT={folder} "
                f"CHECKPOINT={folder}/best_mae.pth bash test.sh tests a training"
            )
    teacher = folder / "teacher.json"
    try:
        return Run(
            folder,
            read_log(folder / "log.jsonl"),
            _read_result(folder / "result.json"),
            _read_test(folder / "test.json"),
            _read_test(teacher, "checkpoint") if teacher.is_file() else None,
            read_counts(folder / "test.csv"),
        )
    except ValueError as error:
        raise ValueError(f"{folder} holds no training and its test ({error})") from None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a training's epochs.

    Raises:
        ValueError: the log is missing or malformed.
    """
    return read_json_lines(path, {"epoch": (int,), "seconds": NUMBER})


def learning_curve(log: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Returns the minutes of a training's validations, and the MAE of the better weights."""
    scored = [record for record in log if "val_mae" in record]
    errors = [min(r["val_mae"], r.get("val_ema_mae", r["val_mae"])) for r in scored]
    return [r["seconds"] / 60 for r in scored], errors


def _read_result(path: Path) -> dict[str, Any]:
    kinds = {"settings": (dict,), "epochs": (int,), "minutes": NUMBER, "epoch": (int,)}
    kinds |= {"val_mae": NUMBER, "validation": (str,)}
    result = check_fields(read_json_file(path), kinds, path)
    texts = {"terms", "init", "student_ckpt"} & result["settings"].keys()  # a teacher has fewer
    check_fields(result["settings"], dict.fromkeys(["seed", *texts], (str,)), path)
    return result


def _read_test(path: Path, *texts: str) -> dict[str, Any]:
    kinds = dict.fromkeys(("model", "dataset", "protocol", *texts), (str,))
    kinds |= dict.fromkeys(("mae", "rmse", "params", "flops_g"), NUMBER)
    kinds |= dict.fromkeys(("gpu_ms", "cpu_s"), OPTIONAL_NUMBER)
    latencies = dict.fromkeys(("gpu_latency", "cpu_latency"), (dict, type(None)))
    test = check_fields(
        read_json_file(path), kinds | latencies | {"images": (int,), "size": (list,)}, path
    )
    for latency in filter(None, map(test.get, latencies)):
        check_fields(latency, {"device": (str,)}, path)
    return test


def read_counts(path: Path) -> list[CountResult]:
    """Returns what `test.py --per-image` wrote.

    Raises:
        ValueError: the file is malformed or empty.
    """
    counts = []
    try:
        rows = list(csv.DictReader(read_text_file(path).splitlines()))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file ({error})") from None
    for number, row in enumerate(rows, start=1):
        try:
            count = CountResult(row["name"], int(row["heads"]), 0.0, float(row["predicted"]))
        except (KeyError, TypeError, ValueError):
            count = None
        if count is None or count.heads < 0 or not abs(count.predicted) <= LARGEST:
            raise DataError(f"{path}, row {number}: must have a name, heads and a predicted count")
        counts.append(count)
    if not counts:
        raise DataError(f"{path} has no counts")
    return counts


def images_of(counts: Sequence[CountResult]) -> dict[str, int]:
    """Returns the annotated heads of images by name.

    Raises:
        ValueError: two images have one name, so that counts cannot be told apart.
    """
    heads = {}
    for count in counts:
        if count.name in heads:
            raise ValueError(f"two of the counted images are called {count.name}; rename one")
        heads[count.name] = count.heads
    return heads


def check_alike(runs: Sequence[Run]) -> None:
    """Raises ValueError if runs share a name, or their tests differ in ALIKE or the heads."""
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise ValueError(f"two runs are called {run.name}; rename the folder of one")
        for key in ALIKE:
            first, other = (one.test.get(key, OLDER.get(key)) for one in (runs[0], run))
            if first != other:
                raise ValueError(
                    f"{run.folder}: its test has {key} {other}, the first run's {first}"
                )
        if images_of(run.counts) != images_of(runs[0].counts):
            raise ValueError(
                f"{run.folder}: its test has other images or heads than the first run's"
            )


def compare_with_paper(runs: Sequence[Run], dataset: str) -> str:
    """Returns the paper's table with our rows below its own."""
    rows = [[f"paper: {name}", *values] for name, *values in PAPER.get(dataset, ())]
    rows += [
        [f"published: [{name}]({LIGHT_SOURCE})", *figures[:3]]
        for name, *figures in LIGHT.get(dataset, ())
    ]
    shown = {run.folder.resolve() for run in runs}
    for run in runs:
        teacher = Path(run.teacher["checkpoint"]).resolve() if run.teacher else None
        if teacher and not shown & {teacher, teacher.parent}:
            shown.add(teacher)
            which = "first teacher" if _has_more_teachers(run) else "teacher"
            rows.append([f"{which} of {run.name}: {run.teacher['model']}", *_measured(run.teacher)])
        rows.append([f"{run.name}: {run.label}", *_measured(run.test)])
    return format_table(COLUMNS, rows)


def compare_latencies(runs: Sequence[Run], dataset: str) -> dict[str, list[Point]]:
    """Returns a point for every network, by the origin of its figures.

    Empty if the CPU latency of no REFERENCE was measured, or nothing is published for the data set.
    Runs that were measured on other machines than the first REFERENCE are left out.
    """
    timed = [run for run in runs if run.test["cpu_s"]]
    references = [run.test for run in timed if run.test["model"] == REFERENCE]
    if not references or dataset not in LIGHT:
        return {}
    machine, own = _machine(references[0]), references[0]["cpu_s"]
    timed = [run for run in timed if _machine(run.test) == machine]
    published = {name: (row[-1], row[0]) for name, *row in PAPER[dataset]}
    reference, _ = published[f"{REFERENCE} + SKT"]
    return {
        "paper": [(name, cpu / reference, mae) for name, (cpu, mae) in published.items()],
        "light counters": [
            (name, ms / LIGHT_REFERENCE_MS, mae) for name, mae, *_, ms in LIGHT[dataset]
        ],
        "ours": [(run.name, run.test["cpu_s"] / own, run.test["mae"]) for run in timed],
    }


def _machine(test: Mapping[str, Any]) -> str | None:
    return (test["cpu_latency"] or {}).get("device")


def _has_more_teachers(run: Run) -> bool:
    return bool(run.result["settings"].get("more_teachers"))


def compare_to_teachers(runs: Sequence[Run], dataset: str) -> str:
    """Returns every figure of the teachers divided by their students', errors included.

    Of several teachers it is the first. Empty if there are no teachers.
    """
    published = PAPER.get(dataset, ())
    rows = [
        [f"paper: {student[0]}", *_ratios(teacher[1:], student[1:])]
        for teacher, student in zip(published[::2], published[1::2], strict=True)
    ]
    rows += [
        [
            f"{run.name}: {run.label}{', first teacher' if _has_more_teachers(run) else ''}",
            *_ratios(_measured(run.teacher), _measured(run.test)),
        ]
        for run in runs
        if run.teacher
    ]
    return format_table(("teacher / student", *COLUMNS[1:]), rows) if rows else ""


def describe_trainings(runs: Sequence[Run]) -> str:
    """Returns a table of how every run was trained, and how its epoch was chosen."""
    columns = [
        "run",
        "start",
        "loss terms",
        "seed",
        "epochs",
        "minutes",
        "chosen",
        "val MAE",
        "validation",
    ]
    rows = []
    for run in runs:
        result, settings = run.result, run.result["settings"]
        rows.append(
            [
                f"[{run.name}](runs/{run.name}/log.jsonl)",
                _start(settings),
                settings.get("terms", "hard").replace(",", ", "),
                settings["seed"],
                str(result["epochs"]),
                result["minutes"],
                str(result["epoch"]),
                result["val_mae"],
                result["validation"],
            ]
        )
    return format_table(columns, rows)


def compare_seeds(runs: Sequence[Run]) -> str:
    """Returns mean and deviation of the errors of runs that differ in the seed alone.

    Their durations may differ, too, if a time limit ended them. Empty if there are no such runs.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = {k: v for k, v in run.result["settings"].items() if k != "seed"}
        groups.setdefault(json.dumps([run.label, same]), []).append(run)
    rows = [
        [
            f"{group[0].label}: {', '.join(run.name for run in group)}",
            *(f(errors) for errors in _errors(group) for f in (mean, stdev)),
        ]
        for group in groups.values()
        if len({run.result["settings"]["seed"] for run in group}) == len(group) > 1
    ]
    columns = ("seeds", "MAE, mean", "deviation", "RMSE, mean", "deviation")
    return format_table(columns, rows) if rows else ""


def compare_crowds(runs: Sequence[Run]) -> str:
    """Returns every run's MAE and mean error by the number of annotated heads."""
    classes = []
    for low, high in zip(CROWDS, (*CROWDS[1:], math.inf), strict=True):
        images = sum(low <= count.heads < high for count in runs[0].counts)
        if images:
            name = f"{low} to {high - 1}" if high < math.inf else f"from {low}"
            classes.append((low, high, f"{name} ({images})"))
    rows = [
        [run.name, *(_err_between(run.counts, low, high) for low, high, _ in classes)]
        for run in runs
    ]
    return format_table(["heads (images)", *(name for *_, name in classes)], rows)


def _err_between(counts: Sequence[CountResult], low: int, high: float) -> str:
    """Returns MAE and mean error of the images with `low` to below `high` heads."""
    errors = [count.predicted - count.heads for count in counts if low <= count.heads < high]
    return f"{mean(map(abs, errors)):.1f}, {mean(errors):+.1f}"


def _measured(test: dict[str, Any]) -> list[float | None]:
    """Returns a test's row of the paper's table, without the name."""
    costs = [test[key] for key in COSTS]
    return [test["mae"], test["rmse"], costs[0] / 1e6, *costs[1:]]


def _errors(runs: Sequence[Run]) -> list[list[float]]:
    return [[run.test[name] for run in runs] for name in ("mae", "rmse")]


def _ratios(teacher: Sequence[float | None], student: Sequence[float | None]) -> list[float | None]:
    return [t / s if t and s else None for t, s in zip(teacher, student, strict=True)]


def _start(settings: Mapping[str, str]) -> str:
    """Returns a training's start: a checkpoint, or the way its weights were initialised."""
    checkpoint = settings.get("student_ckpt", "None")
    return settings.get("init", "") if checkpoint == "None" else checkpoint
