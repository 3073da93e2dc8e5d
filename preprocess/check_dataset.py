"""Says what is wrong with a data set before anything is trained on it.

Ends with 1 if there are errors, with 0 if there are warnings only, or nothing.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

import numpy as np

from datasets.catalogue import DATASETS  # noqa: E402
from datasets.splits import DataError  # noqa: E402
from preprocess.checks import (  # noqa: E402
    ERRORS,
    WARNINGS,
    Checked,
    Defect,
    Job,
    check_image,
    check_pairing,
    check_repetition,
)
from preprocess.commands import run  # noqa: E402
from preprocess.generation import default_root  # noqa: E402
from preprocess.layouts import find_split, pair_up, splits_of  # noqa: E402
from preprocess.pictures import draw_contact_sheet, draw_distributions  # noqa: E402
from preprocess.processes import Failed, run_in_processes  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.options import Parser, whole_number  # noqa: E402

NAMED = 3  # files per line


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--root", type=Path, help="data set's folder, by default $ROOT or its own in data/")
    add("--dataset", type=str.upper, choices=DATASETS, default="MINE", help="name")
    add("--gt-root", type=Path, help="where the density maps are, if not in --root")
    add("--out", type=Path, help="folder for report.json, distributions.png, contact_sheet.jpg")
    add("--workers", type=whole_number(1), default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    args.root = args.root or default_root(DATASETS[args.dataset])
    return args


def main(args: argparse.Namespace) -> int:
    jobs, defects = find_jobs(args.dataset, args.root, args.gt_root)
    outcomes = run_in_processes(check_image, jobs, args.workers, "checking", lambda job: job.pair)
    images = [blame(*one) for one in zip(jobs, outcomes, strict=True)]
    check_repetition(images)
    defects += [defect for image in images for defect in image.defects]
    summary = {s: summarise(images, s) for s in dict.fromkeys(job.split for job in jobs)}
    for split, numbers in summary.items():
        print(f"{split}: " + ", ".join(f"{key} {value}" for key, value in numbers.items()))
    for severity, kinds in (("error", ERRORS), ("warning", WARNINGS)):
        for kind in kinds:
            print_kind(severity, [defect for defect in defects if defect.kind == kind])
    if args.out is not None:
        write_report(args.out, images, summary, defects)
    errors = sum(defect.kind in ERRORS for defect in defects)
    print(f"{errors} errors, {len(defects) - errors} warnings")
    return int(errors > 0)


def find_jobs(name: str, root: Path, gt_root: Path | None) -> tuple[list[Job], list[Defect]]:
    """Returns a data set's annotated images, and defects for files without a counterpart.

    Raises:
        DataError: the layout is not the data set's.
    """
    jobs, defects = [], []
    dataset = DATASETS[name]
    for split in splits_of(dataset, root):
        pairing = pair_up(find_split(dataset, root, split))
        if not pairing.pairs and not pairing.images:
            raise DataError(f"{split}: {root} holds no images of this split")
        defects += check_pairing(pairing, root)
        for pair in pairing.pairs:
            density = pair.density_path(root, gt_root)
            jobs.append(Job(str(pair.image.relative_to(root)), split, pair, density))
    return jobs, defects


def blame(job: Job, outcome: Checked | Failed) -> Checked:
    """Returns an image's findings, or that looking for them failed."""
    if isinstance(outcome, Checked):
        return outcome
    return Checked(job, defects=[Defect("unreadable annotation", job.name, outcome.message)])


def summarise(images: Sequence[Checked], split: str) -> dict[str, object]:
    """Returns the numbers of images and heads of a split, and the ranges of heads and sizes."""
    images = [image for image in images if image.job.split == split]
    summary: dict[str, object] = {"images": len(images)}
    heads = [image.heads for image in images if image.heads is not None]
    if heads:
        summary |= {"heads": sum(heads), "least": min(heads)}
        summary |= {"median": float(np.median(heads)), "most": max(heads)}
    sizes = [image.size for image in images if image.size]
    if sizes:
        for side, lengths in zip(("height", "width"), zip(*sizes, strict=True), strict=True):
            summary[side] = f"{min(lengths)}-{max(lengths)}"
    return summary


def print_kind(severity: str, defects: Sequence[Defect]) -> None:
    """Prints one line with the first defects of a kind, or nothing if there are none."""
    if not defects:
        return
    named = [f"{d.name} ({d.detail})" if d.detail else d.name for d in defects[:NAMED]]
    more = ", ..." if len(defects) > NAMED else ""
    print(f"{severity}: {defects[0].kind}: {len(defects)}: {', '.join(named)}{more}")


def write_report(
    out: Path, images: Sequence[Checked], summary: dict, defects: Sequence[Defect]
) -> None:
    """Writes the report's files into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    report = {"splits": summary, "defects": [vars(defect) for defect in defects]}
    write_json(out / "report.json", report)
    if any(image.heads is not None for image in images):
        draw_distributions(images, out / "distributions.png")
        draw_contact_sheet(images, out / "contact_sheet.jpg")


if __name__ == "__main__":
    run(parse_args, main)
