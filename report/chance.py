"""How much of the errors of counters, and of their differences, is the chance of the images.

`python report/chance.py A.csv B.csv` compares what `test.py --per-image` wrote of the same images.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

import numpy as np

from report.runs import images_of, read_counts  # noqa: E402
from utils.markdown import format_table  # noqa: E402
from utils.metrics import CountResult  # noqa: E402
from utils.options import Parser, fail  # noqa: E402

RESAMPLES = 10_000
SURE = 0.95
CAUTION = (
    'Of pairs of equally good counters one in twenty is called "more than chance": of many rows '
    "some are chance, too."
)

Range = tuple[float, float]  # the ends of an interval


def resample(statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> Range:
    """Returns the interval in which a statistic lies with a probability of SURE.

    Source: the percentile bootstrap (Efron, "Bootstrap Methods", 1979).

    Args:
        statistic: maps (RESAMPLES, N) to (RESAMPLES,).
        values: (N,), one of each image.
    """
    chosen = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(statistic(values[chosen]), [(1 - SURE) / 2, (1 + SURE) / 2])
    return float(low), float(high)


def compare_by_chance(counted: Mapping[str, Sequence[CountResult]]) -> str:
    """Returns tables of errors with their intervals, and of the differences of every two counters.

    The differences are paired: images are drawn, and both counters' errors on them are compared.

    Args:
        counted: the counts of the same images, by the counter's name.

    Raises:
        ValueError: the images or their heads differ, or two images have one name.
    """
    first, *others = counted
    for name in others:
        if images_of(counted[name]) != images_of(counted[first]):
            raise ValueError(f"{first} and {name} did not count the same images and heads")
    errors = {
        name: np.array([r.predicted - r.heads for r in sorted(results, key=lambda r: r.name)])
        for name, results in counted.items()
    }
    rows = [
        [name, _mae(values), _span(resample(_mae, values)), _rmse(values)]
        + [_span(resample(_rmse, values))]
        for name, values in errors.items()
    ]
    parts = [format_table(["counter", "MAE", "95 %", "RMSE", "95 %"], rows)]
    rows = []
    for one, other in combinations(errors, 2):
        difference = np.abs(errors[one]) - np.abs(errors[other])
        low, high = resample(_mean, difference)
        verdict = "chance" if low <= 0 <= high else "more than chance"
        rows.append([f"{one} - {other}", f"{_mean(difference):+.2f}", _span((low, high)), verdict])
    if rows:
        parts += [format_table(["difference of MAE", "", "95 %", "may be"], rows), CAUTION]
    return "\n\n".join(parts)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)


def _mae(errors: np.ndarray) -> np.ndarray:
    return np.abs(errors).mean(axis=-1)


def _rmse(errors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(errors).mean(axis=-1))


def _span(ends: Range) -> str:
    return f"{ends[0]:.1f} to {ends[1]:.1f}"


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("counts", type=Path, nargs="+", help="CSV files of test.py --per-image")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    names = [path.stem for path in args.counts]
    if len(set(names)) < len(names):  # such as test.csv, which test.sh writes
        names = [path.resolve().parent.name for path in args.counts]
    if len(set(names)) < len(names):
        raise ValueError("two of the files have the same name, and their folders, too; rename one")
    counts = map(read_counts, args.counts)
    print(compare_by_chance(dict(zip(names, counts, strict=True))))


if __name__ == "__main__":
    try:
        main(parse_args())
    except (ValueError, OSError) as error:
        fail(error)
