"""Distillation loops of CSRNet: the published one, and ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.profiler import record_function

from datasets.crowd import CrowdDataset
from datasets.sampler import CropIndex
from datasets.sizes import Size
from datasets.splits import Sample
from datasets.transforms import Augmentation
from models import comparison, distillation
from models.build import build_network
from models.counter import Counter
from models.initial import init_kaiming
from models.taps import Adapters, FeatureReader, ask_kept, ask_live, tap_channels
from preprocess.density import density_map, sigmas_by_three_nearest
from report.benchmarks import published_training as published
from training.teaching import teach_crops
from utils.pixels import normalise
from utils.precision import autocast

LAMBDA = 0.5  # weight of intra and inter
HEADS = 500  # per picture
PARTS = ("data", "teacher forward", "student forward", "hard and soft", "intra, with adapters")
PARTS += ("inter", "student backward", "optimiser")

Features = list[Tensor]


class Loop:
    """A distillation loop, whose parts a profiler sees by name.

    The backward pass is split where parts end, at the student's map, features and groups.
    """

    layout = torch.channels_last
    precision = torch.float32
    squared_error = staticmethod(distillation.squared_error)

    def __init__(
        self,
        samples: Sequence[Sample],
        draws: Augmentation,
        device: torch.device,
        picture: Size,
    ):
        self.samples, self.draws, self.device, self.picture = samples, draws, device, picture
        torch.manual_seed(0)
        self.teacher, self.student = (build_network("csrnet", w) for w in (1, Fraction(1, 4)))
        widths = (tap_channels(network) for network in (self.student, self.teacher))
        self.adapters = Adapters(self.student.taps, *widths)
        for module in (self.teacher, self.student, self.adapters):
            init_kaiming(module)
            module.to(device, memory_format=self.layout)
        self.teacher.eval().requires_grad_(False)
        self._ask = ask_live(self.teacher, self.teacher.taps)
        self._read_student = FeatureReader(self.student, self.student.taps)
        self.map_pool, *self.pools = comparison.pool_sides(self.student.taps)
        parameters = [*self.student.parameters(), *self.adapters.parameters()]
        self.optimizer = self.build_optimizer(parameters)

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, 1e-4, weight_decay=5e-4, fused=True)

    def read(self, indices: Sequence[CropIndex]) -> tuple[Tensor, dict]:
        """Returns crops as normalised images, and their batch with "density", on the device."""
        raise NotImplementedError

    def intra(self, student: Features, teacher: Features) -> tuple[Tensor, Features]:
        """Returns the intra-layer loss, and the student's groups for the inter-layer loss."""
        raise NotImplementedError

    def inter(
        self, student: Features, predicted: Tensor, teacher: Features, taught: Tensor
    ) -> Tensor:
        """Returns the inter-layer loss."""
        raise NotImplementedError

    def take_step(self, indices: Sequence[CropIndex]) -> dict[str, Tensor]:
        """Takes an optimiser step; returns its loss terms."""
        with autocast(self.device, self.precision):
            with self._part("data"):
                images, batch = self.read(indices)
            with self._part("teacher forward"), torch.no_grad():
                taught = self._ask(images, batch)
            with self._part("student forward"):
                predicted, features = self._read_student(images)
            leaves = [_leaf(x) for x in (predicted, *features)]
            losses = self._descend(leaves[0], leaves[1:], taught, batch["density"])
        with self._part("student backward"):
            torch.autograd.backward([predicted, *features], [leaf.grad for leaf in leaves])
        with self._part("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        return losses

    def _descend(
        self, predicted: Tensor, features: Features, taught: tuple[Tensor, Features], target: Tensor
    ) -> dict[str, Tensor]:
        """Returns the terms, after adding their gradients to the student's map and features."""
        losses = {}
        with self._part("hard and soft"):
            losses["hard"] = self.squared_error(predicted, target)
            losses["soft"] = self.squared_error(predicted, taught[0])
            (losses["hard"] + losses["soft"]).backward()
        with self._part("intra, with adapters"):
            losses["intra"], groups = self.intra(features, taught[1])
        with self._part("inter"):
            leaves = [_leaf(group) for group in groups]
            losses["inter"] = self.inter(leaves, predicted, taught[1], taught[0])
            (LAMBDA * losses["inter"]).backward()
        with self._part("intra, with adapters"):
            ends = [LAMBDA * losses["intra"], *groups]
            torch.autograd.backward(ends, [None, *(leaf.grad for leaf in leaves)])
        return losses

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        with record_function(name):
            yield
            if self.device.type == "cuda" and torch.autograd.profiler._is_profiler_enabled:
                torch.cuda.synchronize(self.device)


class Published(Loop):
    """One crop per step, in PyTorch's default layout, its picture and map read from disk."""

    layout = torch.contiguous_format
    squared_error = staticmethod(published.squared_error)

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, 1e-4, weight_decay=5e-4)

    def read(self, indices: Sequence[CropIndex]) -> tuple[Tensor, dict]:
        ((number, seed),) = indices
        draw = self.draws.draw(seed, self.picture)
        image, density = published.read_crop(self.samples[number], draw.box, draw.flip)
        return image.to(self.device), {"density": density.to(self.device)}

    def intra(self, student: Features, teacher: Features) -> tuple[Tensor, Features]:
        adapted = [
            torch.relu(adapter(feature))
            for adapter, feature in zip(self.adapters.values(), student, strict=True)
        ]
        return published.intra_loss(adapted, teacher), adapted

    def inter(
        self, student: Features, predicted: Tensor, teacher: Features, taught: Tensor
    ) -> Tensor:
        groups = (
            published.pool_groups(features, density, [*self.pools, self.map_pool])
            for features, density in ((student, predicted), (teacher, taught))
        )
        return published.inter_loss(*groups)

    def take_step(self, indices: Sequence[CropIndex]) -> dict[str, Tensor]:
        """Takes a step for each crop and reads its terms; returns their means."""
        sums: dict[str, float] = {}
        for index in indices:
            for name, term in super().take_step([index]).items():
                sums[name] = sums.get(name, 0.0) + term.item()
        return {name: torch.tensor(total / len(indices)) for name, total in sums.items()}


class Live(Loop):
    """Batches that are cut on the device, from images and maps held there."""

    def __init__(self, samples: Sequence[Sample], draws: Augmentation, *rest: Any):
        super().__init__(samples, draws, *rest)
        if self.device.type == "cuda":
            self.precision = torch.bfloat16
        self.crops = CrowdDataset(samples, draws)
        self.crops.hold(self.device, quiet=True)

    def read(self, indices: Sequence[CropIndex]) -> tuple[Tensor, dict]:
        batch = self.crops[indices]
        return normalise(batch["image"]), batch

    def intra(self, student: Features, teacher: Features) -> tuple[Tensor, Features]:
        adapters = list(self.adapters.values())
        return distillation.intra_layer_loss(student, teacher, adapters, self.pools)

    def inter(
        self, student: Features, predicted: Tensor, teacher: Features, taught: Tensor
    ) -> Tensor:
        pools = [self.map_pool, *self.pools]
        return comparison.inter_layer_loss(
            [*comparison.relation_groups([predicted], pools[:1]), *student],
            comparison.relation_groups([taught, *teacher], pools),
        )


class Kept(Live):
    """The same, with the teacher's answers made beforehand and kept beside the pictures."""

    def __init__(self, samples: Sequence[Sample], *rest: Any):
        super().__init__(samples, *rest)
        self._ask = ask_kept(self.teacher, self.teacher.taps)
        teacher = Counter(self.teacher, "csrnet", Fraction(1), {})
        folder = samples[0].image.parent / "answers"
        teach_crops(self.crops, [teacher], True, folder, self.precision, self.device)

    def read(self, indices: Sequence[CropIndex]) -> tuple[Tensor, dict]:
        images, batch = super().read(indices)
        batch["taught"] = batch["taught"].to(self.device)
        batch["features"] = [feature.to(self.device) for feature in batch["features"]]
        return images, batch


class KeptShort(Kept):
    """The same in bfloat16, for CPUs that multiply it fast."""

    precision = torch.bfloat16


def write_pictures(folder: Path, count: int, size: Size) -> list[Sample]:
    """Writes JPEGs of smooth noise, and maps of random heads with the published shrinking."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    samples = [Sample(folder / f"{i}.jpg", folder / f"{i}.h5") for i in range(count)]
    for sample in samples:
        coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1]).save(sample.image)
        points = (rng.random((HEADS, 2)) * size[::-1]).astype(np.float32)
        with h5py.File(sample.density, "w") as file:
            sigmas = sigmas_by_three_nearest(points, size)
            file["density"] = density_map(points, sigmas, size)
            file["points"] = points
            file.attrs["shrink"] = "bicubic"
    return samples


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()
