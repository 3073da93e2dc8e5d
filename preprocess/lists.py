"""Makes the train, validation and test lists of a data set's folder, such as A_train.json."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets.catalogue import Dataset, find_dataset
from datasets.splits import DataError, Sample, check_disjoint, split_validation, write_list
from preprocess.layouts import find_images, splits_of

VAL_SHARE = 0.2  # of the training images, unless another one is wanted


def find_samples(
    dataset: Dataset, split: str, root: Path, gt_root: Path | None
) -> tuple[list[Sample], str]:
    """Returns a split's samples, and a remark if their number is not the published one.

    Raises:
        DataError: the layout is different, or an image has no density map.
    """
    root = root.resolve()
    gt_root = gt_root and gt_root.resolve()
    pairs = find_images(dataset, root, split)
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


@dataclass(frozen=True)
class Validation:
    """How validation images are chosen among the training images, if none are given."""

    share: float | None = None  # None: VAL_SHARE
    seed: int | None = None  # None: 0
    trained_on: bool = False  # Original: always

    def refuse_choice(self, root: Path, given: str) -> None:
        """Raises DataError if a choice is asked for where the images are given."""
        for option, value in (("--val-share", self.share), ("--seed", self.seed)):
            if value is not None:
                raise DataError(f"{option} chooses nothing: {root} has {given} validation images")


def choose_validation(
    dataset: Dataset, root: Path, train: list[Sample], wanted: Validation
) -> tuple[list[Sample], str]:
    """Returns the validation images among the training images, and how they were chosen.

    Raises:
        DataError: a choice is asked for, but there are published ones.
    """
    published = {f"img_{number}" for number in dataset.validation}
    chosen = [s for s in train if s.image.stem.lower() in published]
    if 0 < len(chosen) < len(train):
        wanted.refuse_choice(root, "published")
        part = "the" if len(chosen) == len(published) else "of the"
        return chosen, f"{part} published {len(published)}"
    seed = wanted.seed or 0
    return split_validation(train, wanted.share or VAL_SHARE, seed), f"seed {seed}"


def make_lists(name: str, root: Path, gt_root: Path | None, out: Path, wanted: Validation) -> None:
    """Writes the three lists of the data set `name`, of DATASETS, and prints what they hold.

    Raises:
        DataError: as `find_samples` and `choose_validation`; or an image is in two lists; or there
            are too few.
    """
    dataset = find_dataset(name)
    find = partial(find_samples, dataset, root=root, gt_root=gt_root)
    (train, train_remark), (test, test_remark) = find("train"), find("test")
    if "val" in splits_of(dataset, root):
        wanted.refuse_choice(root, "its own")
        validation, val_remark = find("val")[0], "its own folder"
        train = train + validation
    elif len(train) < 2:
        raise DataError(f"{root}: validation needs at least 2 training images")
    else:
        validation, val_remark = choose_validation(dataset, root, train, wanted)
    check_disjoint("train", train, "test", test)
    if wanted.trained_on:
        val_remark += ", trained on as well"
    else:
        train = [s for s in train if s not in validation]
        check_disjoint("train", train, "val", validation)

    out.mkdir(parents=True, exist_ok=True)
    for split, samples, remark in (
        ("train", train, train_remark and f"of all training images: {train_remark}"),
        ("val", validation, val_remark),
        ("test", test, test_remark),
    ):
        path = out / f"{dataset.prefix}_{split}.json"
        write_list(path, samples)
        print(f"{path}: {len(samples)} images" + (f" ({remark})" if remark else ""))
