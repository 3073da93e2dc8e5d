"""The data sets, each described by one entry of DATASETS."""

from collections.abc import Collection
from dataclasses import dataclass

from datasets.splits import PART_A_VALIDATION


@dataclass(frozen=True)
class Dataset:
    """A data set, and what the programs need to know about it.

    Args:
        prefix: of its lists' names, such as A in A_train.json.
        root: its default folder, relative to the project's.
        layout: its folder layout, of preprocess.layouts.LAYOUTS.
        part: which of several data sets in one folder it is, for layouts that have parts.
        sigma: the rule of its density maps, of preprocess.density.SIGMA_RULES.
        original_border: what the published code does with a Gaussian's mass beyond the image, of
            preprocess.density.BORDERS.
        boxes: which heads a crop holds, of datasets.points.BOX_RULES; for the Bayesian loss.
        background: reach of the Bayesian loss's background, as a part of the image's short side.
        recipe: whose published recipes it takes, "SHA" or "QNRF".
        size: height and width of images for cost and latency.
        published: its numbers of train and test images; None: any number.
        validation: numbers of the training images that are its published validation images.
        is_large: whether its images and maps are too many for a GPU's memory, 49 GB for UCF-QNRF.
        demonstration: whether it is synthetic, with short trainings.
        title: its name on pages; empty: that in DATASETS.
    """

    prefix: str
    root: str
    layout: str
    part: str | None = None
    sigma: str = "0.1*(d1+d2+d3)"
    original_border: str = "constant"
    boxes: str = "SHA"
    background: float = 0.1
    recipe: str = "SHA"
    size: tuple[int, int] = (576, 864)
    published: tuple[int, int] | None = None
    validation: Collection[int] = ()
    is_large: bool = False
    demonstration: bool = False
    title: str = ""


DATASETS = {
    "SHA": Dataset(
        prefix="A",
        root="data/ShanghaiTech",
        layout="shanghaitech",
        part="A",
        published=(300, 182),
        validation=PART_A_VALIDATION,
        title="ShanghaiTech Part A",
    ),
    "SHB": Dataset(
        prefix="B",
        root="data/ShanghaiTech",
        layout="shanghaitech",
        part="B",
        sigma="15",
        original_border="reflect",
        published=(400, 316),
        title="ShanghaiTech Part B",
    ),
    "QNRF": Dataset(
        prefix="QNRF",
        root="data/UCF-QNRF",
        layout="ucf",
        sigma="min(d1,30)",
        boxes="QNRF",
        background=1.0,
        recipe="QNRF",
        size=(2032, 2912),
        published=(1201, 334),
        is_large=True,
        title="UCF-QNRF",
    ),
    "DEMO": Dataset(
        prefix="demo",
        root="data/demo",
        layout="shanghaitech",
        part="A",
        demonstration=True,
        title="The demonstration",
    ),
    "MINE": Dataset(prefix="mine", root="data/mine", layout="own", title="Own data"),
}


def find_dataset(name: str) -> Dataset:
    """Returns an entry of DATASETS.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in DATASETS:
        raise ValueError(f"the data set must be one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name]
