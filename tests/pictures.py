"""Pictures with heads for the tests of the data path."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from datasets.splits import Sample
from datasets.transforms import FixedCrop


def write_sample(
    folder: Path,
    name: str = "a",
    size: tuple[int, int] = (64, 96),
    points: Sequence = ((20, 30),),
    mode: str = "RGB",
    **attributes: str,
) -> Sample:
    """Writes a dark picture with a bright dot under every point, and the map of these dots."""
    picture = np.zeros((*size, 3), np.uint8)
    for x, y in points:
        picture[y, x] = 255
    return write_picture(folder, name, picture, points, mode, **attributes)


def write_noise(folder: Path, name: str, size: tuple[int, int], heads: int) -> Sample:
    """Writes a picture of random colours with random heads, always the same under a name."""
    rng = np.random.default_rng([*name.encode()])
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return write_picture(folder, name, picture, rng.integers(0, size[::-1], (heads, 2)))


def write_picture(
    folder: Path,
    name: str,
    picture: np.ndarray,
    points: Sequence,
    mode: str = "RGB",
    **attributes: str,
) -> Sample:
    """Writes a picture and, for every point, a head on one pixel, 5 pixels from the others."""
    folder.mkdir(exist_ok=True)
    image, path = (folder / f"{name}.{'jpg' if mode == 'CMYK' else 'png'}", folder / f"{name}.h5")
    Image.fromarray(picture).convert(mode).save(image)
    density = np.zeros(picture.shape[:2], np.float32)
    for x, y in points:
        density[y, x] += 1
    with h5py.File(path, "w") as file:
        file["density"], file["points"] = density, np.float32(points).reshape(-1, 2)
        file["distances"] = np.full(len(points), 5, np.float32)
        file.attrs.update(attributes)
    return Sample(image, path)


def options(
    train: Sequence[Sample], val: Sequence[Sample], test: Sequence[Sample], **changed: Any
) -> argparse.Namespace:
    """Writes the lists beside the first image, and returns a training's data options."""
    chosen = {
        "train_on_val": False,
        "empty": None,
        "empty_share": 0.125,
        "crop": FixedCrop(32, 40),
        "flip": 0.5,
        "scale": None,
        "colour": 0.0,
        "corrupt": 0.0,
        "crops_per_image": 2,
        "batch_size": 3,
        "boxes": "SHA",
        "cache": "none",
        "workers": 0,
        "seed": 0,
        "device": torch.device("cpu"),
    } | changed
    for name, samples in (("train", train), ("val", val), ("test", test)):
        path = chosen[f"{name}_json"] = train[0].image.with_name(f"{name}.json")
        path.write_text(json.dumps([str(sample.image) for sample in samples]))
    return argparse.Namespace(**chosen)


def assert_same_batches(first: Sequence[dict], second: Sequence[dict]) -> None:
    """Asserts that batches are equal to the bit, and of the same types."""
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == other[name].dtype, name
                assert torch.equal(value, other[name]), name
            else:
                assert value == other[name], name
