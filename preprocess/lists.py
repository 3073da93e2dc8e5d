"""A data set's folders -> its train, validation and test lists, such as A_train.json."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets.splits import (
    PART_A_VALIDATION,
    DataError,
    Sample,
    check_disjoint,
    split_validation,
    write_list,
)
from preprocess.layouts import (
    Split,
    find_pairs,
    has_validation,
    own_split,
    shanghaitech_split,
    ucf_split,
)


@dataclass(frozen=True)
class Dataset:
    prefix: str  # of the lists' names
    root: str  # default folder, from the project's
    split: Callable[..., Split]  # (root, split="train" or "test"; own data: or "val")
    published: tuple[int, int] | None = None  # images in train and test


DATASETS = {
    "SHA": Dataset("A", "data/ShanghaiTech", partial(shanghaitech_split, part="A"), (300, 182)),
    "SHB": Dataset("B", "data/ShanghaiTech", partial(shanghaitech_split, part="B"), (400, 316)),
    "QNRF": Dataset("QNRF", "data/UCF-QNRF", ucf_split, (1201, 334)),
    "DEMO": Dataset("demo", "data/demo", partial(shanghaitech_split, part="A")),
    "MINE": Dataset("mine", "data/mine", own_split),
}


def find_samples(
    dataset: Dataset, split: str, root: Path, gt_root: Path | None
) -> tuple[list[Sample], str]:
    """Returns a split's samples, and a remark where their number is not the published one.

    Raises:
        DataError: the layout is another, or an image has no density map.
    """
    root = root.resolve()
    gt_root = gt_root and gt_root.resolve()
    pairs = find_pairs(dataset.split(root, split=split))
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
    """How validation images are chosen among the training images, where none are given."""

    share: float = 0.2
    seed: int = 0
    trained_on: bool = False  # as the original does


def choose_validation(
    name: str, train: list[Sample], wanted: Validation
) -> tuple[list[Sample], str]:
    """Returns the validation images among the training images, and how they were chosen."""
    if name == "SHA":
        published = {f"img_{number}" for number in PART_A_VALIDATION}
        chosen = [s for s in train if s.image.stem.lower() in published]
        if 0 < len(chosen) < len(train):
            return chosen, "the published 59" if len(chosen) == 59 else "of the published 59"
    return split_validation(train, wanted.share, wanted.seed), f"seed {wanted.seed}"


def make_lists(name: str, root: Path, gt_root: Path | None, out: Path, wanted: Validation) -> None:
    """Writes the three lists of the data set `name`, a key of DATASETS, and says what they hold.

    Raises:
        DataError: as `find_samples`; or an image stands in two lists; or too few are there.
    """
    dataset = DATASETS[name]
    find = partial(find_samples, dataset, root=root, gt_root=gt_root)
    (train, train_remark), (test, test_remark) = find("train"), find("test")
    if name == "MINE" and has_validation(root):
        validation, val_remark = find("val")[0], "its own folder"
        train = train + validation
    elif len(train) < 2:
        raise DataError(f"{root}: validation needs at least 2 training images")
    else:
        validation, val_remark = choose_validation(name, train, wanted)
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
