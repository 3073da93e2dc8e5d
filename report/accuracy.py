"""A page of results: trained networks beside the paper's, and how they err.

`python report/accuracy.py RUN... --out results/shanghaitech_a.md` reads the folders of trainings,
each tested by `test.sh` with OUT=RUN, and writes tables and figures of them; the logs are copied to
`runs/` beside the page. Of the data set it shows counts, and densities of the worst images.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from matplotlib import pyplot as plt

from datasets.catalogue import DATASETS  # noqa: E402
from report.ablation import show_ablation  # noqa: E402
from report.chance import RESAMPLES, compare_by_chance  # noqa: E402
from report.paper import REFERENCE  # noqa: E402
from report.runs import (  # noqa: E402
    KEPT,
    Point,
    Run,
    check_alike,
    compare_crowds,
    compare_latencies,
    compare_seeds,
    compare_to_teachers,
    compare_with_paper,
    describe_trainings,
    learning_curve,
    read_run,
)
from utils.files import copy_whole, write_whole  # noqa: E402
from utils.options import Parser, fail  # noqa: E402
from utils.plots import begin_at_zero, label_points, save_figure  # noqa: E402


def draw_learning(runs: Sequence[Run], path: Path) -> None:
    """Draws every run's validation error against its minutes."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for run in runs:
        axes.plot(*learning_curve(run.log), ".-", label=run.name)
    axes.set(xlabel="minutes of training", ylabel="validation MAE (heads)")
    begin_at_zero(axes)
    axes.legend()
    save_figure(figure, path)


def draw_errors(runs: Sequence[Run], path: Path) -> None:
    """Draws every run's predicted against annotated counts on logarithmic axes that begin at 1."""
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.5 * columns, 4.5 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(runs) :]:
        axes.axis("off")
    for axes, run in zip(grid.flat, runs, strict=False):
        heads = [max(1, count.heads) for count in run.counts]
        predicted = [max(1, count.predicted) for count in run.counts]
        limits = 0.8 * min(heads + predicted), 1.25 * max(heads + predicted)
        axes.plot(limits, limits, color="0.7")
        axes.plot(heads, predicted, ".", alpha=0.6)
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        title = f"{run.name}, MAE {run.test['mae']:.2f}"
        axes.set(xlabel="annotated heads", ylabel="predicted count, at least 1", title=title)
    save_figure(figure, path)


def draw_tradeoff(latencies: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draws MAE against CPU latency, see `compare_latencies`."""
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for (origin, points), marker in zip(latencies.items(), "s^o", strict=True):
        axes.plot([x for _, x, _ in points], [y for *_, y in points], marker, label=origin)
    axes.set(xscale="log", xlabel=f"CPU latency / {REFERENCE}'s on the same machine", ylabel="MAE")
    axes.legend()
    label_points(axes, [*itertools.chain(*latencies.values())])
    save_figure(figure, path)


def write_page(
    runs: Sequence[Run], ablations: Sequence[Path], title: str | None, note: str, out: Path
) -> None:
    """Writes a page, the logs in runs/ beside it, and figures named after it and their content.

    Raises:
        ValueError: the runs cannot share a page, see `check_alike`.
    """
    check_alike(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    dataset = runs[0].test["dataset"]
    known = DATASETS[dataset].title if dataset in DATASETS else ""
    title = title or f"{known or dataset}: trained networks beside the paper's"
    parts = [f"# {title}", note, *_compare(runs, out), *_show_training(runs, out)]
    parts += _show_errors(runs, out)
    parts += [
        "## Chance",
        f"How far the errors would vary if other images had been drawn, by {RESAMPLES:,} bootstrap "
        "samples of these. Differences are of the same images. The chance of a training, such as "
        "its seed, comes on top.",
        compare_by_chance({run.name: run.counts for run in runs}),
    ]
    for ablation in ablations:
        parts += [f"## {ablation.name}"]
        parts += show_ablation(ablation, out, _beside(out, ablation.name))
    write_whole(out, "\n\n".join(filter(None, parts)) + "\n")


def _compare(runs: Sequence[Run], out: Path) -> list[str]:
    test, figure, tradeoff = runs[0].test, _beside(out, "tradeoff"), []
    if points := compare_latencies(runs, test["dataset"]):
        draw_tradeoff(points, figure)
        tradeoff = [
            f"![Error against latency]({figure.name})",
            f"Latencies of several machines, as multiples of a {REFERENCE}'s on the same one: the "
            "paper's CPU column, that of our table, and for the light counters ONNX Runtime with "
            "two threads.",
        ]
    latencies = [run.test[key] for run in runs for key in ("gpu_latency", "cpu_latency")]
    devices = sorted({latency["device"] for latency in latencies if latency})
    ratios = []
    if table := compare_to_teachers(runs, test["dataset"]):
        ratios = [
            "Figures of teachers divided by their students'; an error's below 1 says that the "
            "student errs more:",
            table,
        ]
    return [
        f"{test['images']} test images, errors against annotated heads. Cost and latency of one "
        f"{'x'.join(map(str, test['size']))} picture; ours on {' and '.join(devices)}, the paper's "
        "on a GTX 1080 and its authors' CPU. Empty cells are not measured.",
        compare_with_paper(runs, test["dataset"]),
        *ratios,
        *tradeoff,
    ]


def _show_training(runs: Sequence[Run], out: Path) -> list[str]:
    for run in runs:
        kept = out.parent / "runs" / run.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            copy_whole(run.folder / name, kept / name)
    figure = _beside(out, "learning")
    draw_learning(runs, figure)
    return [
        "## Training",
        "The epoch is chosen by the MAE of the validation images; the test images are scored for "
        "that epoch alone.",
        describe_trainings(runs),
        compare_seeds(runs),
        f"![Validation error during training]({figure.name})",
    ]


def _show_errors(runs: Sequence[Run], out: Path) -> list[str]:
    figure = _beside(out, "counts")
    draw_errors(runs, figure)
    parts = [
        "## Errors",
        f"![Predicted against annotated counts]({figure.name})",
        "MAE and mean error, above 0 where too many are counted, by the heads in an image:",
        compare_crowds(runs),
    ]
    for run in runs:
        if (run.folder / "worst.png").is_file():
            figure = copy_whole(run.folder / "worst.png", _beside(out, f"worst_{run.name}"))
            parts += [
                f"The worst images of {run.name}, annotated and predicted density:",
                f"![Annotated and predicted density]({figure.name})",
            ]
    return parts


def _beside(out: Path, shown: str) -> Path:
    return out.with_name(f"{out.stem}_{shown}.png")


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of trainings, each tested")
    parser.add_argument("--out", type=Path, required=True, help="the page, a Markdown file")
    parser.add_argument("--title", help="of the page (default: by the data set)")
    parser.add_argument("--note", default="", help="a paragraph below the title")
    parser.add_argument("--ablation", type=Path, nargs="+", default=[], help="of ablation.sh")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse_args()
    try:
        write_page(
            [read_run(folder) for folder in options.runs],
            options.ablation,
            options.title,
            options.note,
            options.out,
        )
        print(f"{options.out} and the figures beside it are written")
    except (ValueError, OSError) as error:
        fail(error)
