"""Writes the train, validation and test lists of a data set, such as A_train.json."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from datasets.splits import (  # noqa: E402
    PART_A_VALIDATION,
    DataError,
    Sample,
    check_disjoint,
    split_validation,
    write_list,
)
from preprocess.layouts import AnnotatedImage, find_shanghaitech, find_ucf  # noqa: E402

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Dataset:
    prefix: str  # of the lists' names
    root: str  # default folder, from the project's
    find: Callable[[Path, str], list[AnnotatedImage]]  # (root, "train" or "test")
    published: tuple[int, int] | None = None  # images in train and test


DATASETS = {
    "SHA": Dataset("A", "data/ShanghaiTech", lambda r, s: find_shanghaitech(r, "A", s), (300, 182)),
    "SHB": Dataset("B", "data/ShanghaiTech", lambda r, s: find_shanghaitech(r, "B", s), (400, 316)),
    "QNRF": Dataset("QNRF", "data/UCF-QNRF", find_ucf, (1201, 334)),
    "DEMO": Dataset("demo", "data/demo", lambda r, s: find_shanghaitech(r, "A", s)),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--dataset", choices=DATASETS, default="SHA", help="default: SHA")
    add("--root", type=Path, help="data set's folder (default: $ROOT or data/...)")
    add("--gt-root", type=Path, help="the --out that the maps were written to (default: root)")
    add("--out", type=Path, default=Path("."), help="folder for the lists (default: this one)")
    add("--val-share", type=float, default=0.2, help="of the training images (default: 0.2)")
    add("--seed", type=int, default=0, help="of the split where none is published (default: 0)")
    add("--train-on-val", action="store_true", help="the original's list: train on all images")
    args = parser.parse_args()
    if not 0 < args.val_share < 1:
        parser.error(f"--val-share must lie between 0 and 1, got {args.val_share}")
    if args.root is None:
        args.root = Path(os.environ.get("ROOT", PROJECT / DATASETS[args.dataset].root))
    return args


def find_samples(
    dataset: Dataset, split: str, root: Path, gt_root: Path | None
) -> tuple[list[Sample], str]:
    """Returns a split's samples, and a remark where their number is not the published one.

    Raises:
        DataError: the layout is another, or an image has no density map.
    """
    root = root.resolve()
    gt_root = gt_root and gt_root.resolve()
    pairs = dataset.find(root, split)
    samples = [Sample(pair.image, pair.density_path(root, gt_root)) for pair in pairs]
    missing = [s.density for s in samples if not s.density.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} density maps are missing, such as {missing[0]}; "
            "run the GT generation command first, or name its --out as --gt-root"
        )
    remark = ""
    if dataset.published:
        surplus = len(samples) - dataset.published[split == "test"]
        if surplus:
            published = dataset.published[split == "test"]
            word = "surplus" if surplus > 0 else "missing"
            remark = f"{published} published, {abs(surplus)} {word}"
    return samples, remark


def choose_validation(args: argparse.Namespace, train: list[Sample]) -> tuple[list[Sample], str]:
    """Returns the validation images among the training images, and how they were chosen."""
    if len(train) < 2:
        raise DataError(f"{args.root}: validation needs at least 2 training images")
    if args.dataset == "SHA":
        published = {f"img_{number}" for number in PART_A_VALIDATION}
        chosen = [s for s in train if s.image.stem.lower() in published]
        if 0 < len(chosen) < len(train):
            return chosen, "the published 59" if len(chosen) == 59 else "of the published 59"
    return split_validation(train, args.val_share, args.seed), f"seed {args.seed}"


def main(args: argparse.Namespace) -> None:
    dataset = DATASETS[args.dataset]
    find = partial(find_samples, dataset, root=args.root, gt_root=args.gt_root)
    (train, train_remark), (test, test_remark) = find("train"), find("test")
    check_disjoint("train", train, "test", test)
    validation, val_remark = choose_validation(args, train)
    if args.train_on_val:
        val_remark += ", trained on as well"
    else:
        train = [s for s in train if s not in validation]
        check_disjoint("train", train, "val", validation)

    args.out.mkdir(parents=True, exist_ok=True)
    for name, samples, remark in (
        ("train", train, train_remark and f"of all training images: {train_remark}"),
        ("val", validation, val_remark),
        ("test", test, test_remark),
    ):
        path = args.out / f"{dataset.prefix}_{name}.json"
        write_list(path, samples)
        print(f"{path}: {len(samples)} images" + (f" ({remark})" if remark else ""))


if __name__ == "__main__":
    try:
        main(parse_args())
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
