"""Makes a table and a figure of an ablation from the runs in a folder.

`python report/ablation.py FOLDER` writes both, as `ablation.md` and `ablation.png`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from models.build import parse_width  # noqa: E402
from models.distillation import PUBLISHED_TERMS  # noqa: E402
from report.runs import KEPT, learning_curve, read_log  # noqa: E402
from utils.files import copy_whole, write_whole  # noqa: E402
from utils.inputs import NUMBER, OPTIONAL_NUMBER, check_fields, read_json_file  # noqa: E402
from utils.markdown import format_table  # noqa: E402
from utils.options import Parser, fail  # noqa: E402
from utils.plots import begin_at_zero, save_figure  # noqa: E402


@dataclass(frozen=True)
class Variant:
    """A distillation of an ablation, and its errors."""

    folder: Path
    log: list[dict[str, Any]]  # one record an epoch
    width: Fraction
    parameters: int
    terms: str  # of the loss, with commas
    intra: str  # distance
    budget: str  # must be equal for variants to be compared
    teachers: str  # hashes; of all variants that have any the same
    epochs: int
    val_mae: float
    mae: float
    rmse: float

    @property
    def label(self) -> str:
        """The loss terms, such as hard + soft + intra (l2)."""
        terms = self.terms.replace(",", " + ")
        return terms if self.intra == "cos" else terms.replace("intra", f"intra ({self.intra})")


def read_variants(folder: Path) -> list[Variant]:
    """Returns the finished runs in a folder, the widest and those of the fewest terms first.

    Raises:
        ValueError: there is none, a result is not a distillation's, or they cannot be compared.
    """
    variants = [_read_variant(path) for path in sorted(folder.glob("*/result.json"))]
    if not variants:
        raise ValueError(f"{folder} holds no finished run (FOLDER/RUN/result.json)")
    budgets = sorted({variant.budget for variant in variants})
    if len(budgets) > 1:
        raise ValueError(f"{folder} mixes runs of {' and of '.join(budgets)}: name another folder")
    teachers = {variant.teachers: variant for variant in variants if variant.teachers}
    if len(teachers) > 1:
        first, second = (variant.folder.name for variant in list(teachers.values())[:2])
        raise ValueError(f"{folder} mixes teachers: those of {first} and {second} differ")
    return sorted(variants, key=lambda v: (-v.width, v.terms.count(","), v.terms, v.intra))


def _read_variant(path: Path) -> Variant:
    try:
        kinds = {"settings": (dict,), "test": (dict,), "parameters": (int,), "val_mae": NUMBER}
        kinds |= {"width": (str,), "arch": (str,), "epochs": (int,), "max_minutes": OPTIONAL_NUMBER}
        kinds |= {"device": (str,)}
        result = check_fields(read_json_file(path), kinds, path)
        texts = dict.fromkeys(("terms", "intra", "dataset"), (str,))
        settings = check_fields(result["settings"], texts, path)
        test = check_fields(result["test"], {"mae": NUMBER, "rmse": NUMBER}, path)
        return Variant(
            path.parent,
            read_log(path.with_name("log.jsonl")),
            parse_width(result["width"]),
            result["parameters"],
            settings["terms"],
            settings["intra"],
            f"{result['arch']} on {settings['dataset']} for {_budget(result)}",
            str(settings.get("teachers", "")),  # older results have none
            result["epochs"],
            result["val_mae"],
            test["mae"],
            test["rmse"],
        )
    except ValueError as error:
        raise ValueError(f"{path} is no distillation's result ({error})") from None


def _budget(result: Mapping[str, Any]) -> str:
    if result["max_minutes"] is None:
        return f"{result['epochs']} epochs"
    return f"{result['max_minutes']:g} minutes on {result['device']}"


def show_ablation(folder: Path, page: Path, figure: Path) -> list[str]:
    """Draws a figure and returns paragraphs of a page: a table with links to logs, the figure.

    A page outside of the folder gets copies of the logs and results, in runs/ beside it.

    Raises:
        ValueError: see `read_variants`.
    """
    variants, logs = read_variants(folder), folder
    if page.parent.resolve() != folder.resolve():
        logs = page.parent / "runs" / folder.name
        for variant in variants:
            kept = logs / variant.folder.name
            kept.mkdir(parents=True, exist_ok=True)
            for name in KEPT:
                copy_whole(variant.folder / name, kept / name)
    draw_ablation(variants, figure)
    return [
        tabulate(variants, logs.relative_to(page.parent)),
        f"Every variant: {variants[0].budget}.",
        f"![Errors of the ablation's variants]({figure.name})",
    ]


def tabulate(variants: Sequence[Variant], logs: Path) -> str:
    """Returns a Markdown table: what each variant was trained with, and its errors.

    Args:
        logs: where the variants' folders are, seen from the page.
    """
    return format_table(
        ("width", "parameters", "loss terms", "epochs", "val MAE", "MAE", "RMSE"),
        [
            (
                str(v.width),
                f"{v.parameters:,}",
                f"[{v.label}]({(logs / v.folder.name / 'log.jsonl').as_posix()})",
                str(v.epochs),
                v.val_mae,
                v.mae,
                v.rmse,
            )
            for v in variants
        ],
    )


def draw_ablation(variants: Sequence[Variant], path: Path) -> None:
    """Draws every variant's learning and test error; the error against the width, if it varies."""
    widths = sorted({v.width for v in variants})
    wide = len(widths) > 1
    columns = 3 if wide else 2
    size = 6 * columns, max(5, 0.4 * len(variants))
    figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained")
    figure.suptitle(variants[0].budget)
    rows, errors = range(len(variants)), [v.mae for v in variants]
    colours = [plt.get_cmap("tab20")(row) for row in rows]
    axes[0].bar_label(axes[0].barh(rows, errors, color=colours), fmt="%.1f", padding=2)
    axes[0].set_yticks(rows, [f"{v.width}  {v.label}" if wide else v.label for v in variants])
    axes[0].invert_yaxis()
    axes[0].set(xlabel="test MAE", xlim=(0, 1.15 * max(errors)))
    for variant, colour in zip(variants, colours, strict=True):
        axes[1].plot(*learning_curve(variant.log), ".-", color=colour)
    axes[1].set(xlabel="minutes of training", ylabel="validation MAE (heads)")
    begin_at_zero(axes[1])
    if wide:
        _draw_widths(axes[2], variants, widths)
    save_figure(figure, path)


def _draw_widths(axes: Axes, variants: Sequence[Variant], widths: Sequence[Fraction]) -> None:
    """Draws the error against the width, with and without SKT."""
    for terms, label in ((PUBLISHED_TERMS, "with SKT"), ("hard", "alone")):
        runs = [v for v in variants if v.terms == terms and v.intra == "cos"]
        axes.plot([float(v.width) for v in runs], [v.mae for v in runs], ".-", label=label)
    axes.set_xticks([float(width) for width in widths], [str(width) for width in widths])
    axes.set(xlabel="channels, as a part of the plan's", ylabel="test MAE")
    begin_at_zero(axes)
    axes.legend()


def main(folder: Path) -> None:
    page, figure = folder / "ablation.md", folder / "ablation.png"
    table, budget, shown = show_ablation(folder, page, figure)
    write_whole(page, f"{table}\n\n{budget}\n\n{shown}\n")
    print(f"{table}\n\n{budget}\nThe figure is {figure}")


if __name__ == "__main__":
    description = "Table and figure of an ablation's runs."
    parser = Parser(description=description)
    parser.add_argument("folder", type=Path, help="whose folders are the runs")
    try:
        main(parser.parse_args().folder)
    except (ValueError, OSError) as error:
        fail(error)
