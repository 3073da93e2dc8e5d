"""A frozen teacher's answers to whole pictures: kept on disk, and cropped with the pictures."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datasets.cutting import edges, overlaps
from datasets.sizes import STRIDE, Size, grid
from datasets.splits import DataError
from datasets.transforms import Draw
from utils.files import write_whole

MAP, FEATURES = "map", "features"  # parts of an answer, one file each
BLANK = "blank"  # name of the blank picture
KEPT_AS = torch.bfloat16  # of features; maps are float32

Asked = tuple[str, bool]  # a picture's name among the answers, and whether it is mirrored


@dataclass(frozen=True)
class Answers:
    """One teacher's answers to pictures, in memory-mapped files.

    An answer is the density map of a whole picture, mirrored or not, and the feature maps of some
    taps. It lies in the teacher's folder, named by the picture's content, so that all runs with
    this teacher share it. Its files are written completely or not at all.

    Where a crop is padded beyond its picture, it gets the teacher's answer to a blank picture.

    Args:
        folder: the teacher's.
        strides: of the taps whose features are kept, by name.
    """

    folder: Path
    strides: Mapping[str, int]

    @property
    def grid(self) -> int:
        """Crops' corners must be multiples of this many pixels; 1 if only maps are cut."""
        return max(self.strides.values(), default=1)

    def has(self, asked: Asked) -> bool:
        """Returns whether the whole answer is stored."""
        parts = (MAP, FEATURES) if self.strides else (MAP,)
        return all(self._path(asked, part).exists() for part in parts)

    def keep(self, asked: Asked, density: Tensor, features: Sequence[Tensor]) -> None:
        """Writes an answer: a (1, 1, h, w) map of heads per cell, and (1, C, h, w) for every tap.

        Raises:
            WriteError: the disk is full or not writable.
        """
        if self.strides:
            kept = {n: f[0].permute(1, 2, 0) for n, f in zip(self.strides, features, strict=True)}
            _write(self._path(asked, FEATURES), {n: f.to(KEPT_AS) for n, f in kept.items()})
        _write(self._path(asked, MAP), {MAP: density[0, 0].float()})

    def cut_map(self, asked: Asked, size: Size, draw: Draw) -> Tensor:
        """Returns the (ceil(H/8), ceil(W/8)) map of a draw's crop, from a picture of `size`.

        The heads of the answer's cells are shared by area between the crop's cells. Cells that the
        picture's or the crop's edge cuts are as large as what is left of them.

        Raises:
            DataError: the answer's file is damaged, or was removed.
        """
        density = _read(self._path(asked, MAP), [MAP])[MAP]
        shares, areas, known = [], [], []
        for side, whole, stretch, first in zip(
            draw.size, size, draw.stretch, draw.corner(size), strict=True
        ):
            cells, parts = first + edges(side) / stretch, edges(whole)
            shared = overlaps(cells, parts)
            shares.append(shared / parts.diff())
            areas.append(cells.diff())
            known.append(shared.sum(1))
        down, across = shares
        cut = down @ density.double() @ across.T
        beyond = torch.outer(*areas) - torch.outer(*known)  # the picture, in pixels
        if (beyond > 1e-6).any():
            cut += beyond / STRIDE**2 * _read(self._path((BLANK, False), MAP), [MAP])[MAP]
        return cut.float()

    def cut_features(
        self, asked: Sequence[Asked], sizes: Sequence[Size], draws: Sequence[Draw]
    ) -> list[Tensor]:
        """Returns the (B, C, ceil(H/stride), ceil(W/stride)) features of crops, for every tap.

        Args:
            asked: the picture of every crop.
            sizes: of these pictures.
            draws: of one size and not resized, with corners on the `grid`.

        Raises:
            DataError: as `cut_map`.
        """
        if not self.strides:
            return []
        blank = _read(self._path((BLANK, False), FEATURES), self.strides)
        crops = {
            name: feature.new_empty(
                len(draws), *grid(draws[0].size, self.strides[name]), feature.shape[-1]
            )
            for name, feature in blank.items()
        }
        for i, (one, size, draw) in enumerate(zip(asked, sizes, draws, strict=True)):
            top, left = draw.corner(size)
            for name, feature in _read(self._path(one, FEATURES), self.strides).items():
                crop, stride = crops[name][i], self.strides[name]
                part = feature[top // stride :, left // stride :][: len(crop), : crop.shape[1]]
                if part.shape != crop.shape:
                    crop.copy_(blank[name][0])
                crop[: part.shape[0], : part.shape[1]] = part
        return [crop.permute(0, 3, 1, 2) for crop in crops.values()]

    def _path(self, asked: Asked, part: str) -> Path:
        name, mirrored = asked
        return self.folder / f"{name}{'-mirrored' if mirrored else ''}-{part}.safetensors"


def hash_file(path: Path) -> str:
    """Returns a picture's name among the answers, a hash of the file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _read(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Returns tensors that are read from disk only when they are used."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"teacher cache: {path} is missing or damaged ({error}); remove what is left of it, "
            "and a new start makes it again"
        ) from None
