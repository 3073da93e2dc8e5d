"""A counter as it is shipped: pictures in, density map and count out."""

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.guard import Guard, count_with_features
from utils.pixels import normalise

REQUIREMENTS = "requirements-deploy.txt"
SIZE = (2, 67, 83)  # images, height and width to trace graphs with; all stay dynamic
AXES = ("batch", "height", "width")
OUTPUTS = ("density", "count")
RATING = "unlikeness"  # a third one, with a guard

# Pictures, as `prepare` makes them -> (B, 1, h, w) density, (B,) counts and, with a guard, (B,)
# unlikeness.
Infer = Callable[[np.ndarray], tuple[np.ndarray, ...]]


class EngineError(RuntimeError):
    """An engine cannot be built or cannot run; the message says what is missing."""


class Deployed(nn.Module):
    """A copy of a counter, for inference on the CPU, that returns density maps and counts.

    Args:
        preprocess: whether it takes uint8 pictures and normalises them itself.
        guard: rates the images as well.
    """

    def __init__(self, network: nn.Module, preprocess: bool = False, guard: Guard | None = None):
        super().__init__()
        self.network = copy_for_tracing(network, torch.device("cpu"))
        self.preprocess = preprocess
        self.guard = guard

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps images to (B, 1, ceil(H/8), ceil(W/8)) heads per cell and (B,) heads.

        With a guard, their (B,) unlikeness follows, see `Guard.score`.

        Args:
            images: (B, H, W, 3) uint8 RGB with `preprocess`; else (B, 3, H, W) normalised RGB.
        """
        if self.preprocess:
            images = normalise(images.permute(0, 3, 1, 2))
        if self.guard is None:
            density = self.network(images)
            return density, density.sum((1, 2, 3))
        density, features = count_with_features(self.network, images)
        return density, density.sum((1, 2, 3)), self.guard.score(features)

    @property
    def input_name(self) -> str:
        return "pixels" if self.preprocess else "images"

    @property
    def outputs(self) -> tuple[str, ...]:
        return OUTPUTS if self.guard is None else (*OUTPUTS, RATING)

    @property
    def axes(self) -> dict[int, str]:
        """The input's dynamic axes."""
        return dict(zip((0, 1, 2) if self.preprocess else (0, 2, 3), AXES, strict=True))

    def example(self) -> Tensor:
        """Returns an input of SIZE, all zeros."""
        count, height, width = SIZE
        if self.preprocess:
            return torch.zeros(count, height, width, 3, dtype=torch.uint8)
        return torch.zeros(count, 3, height, width)

    @torch.no_grad()
    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(output.numpy() for output in self(torch.from_numpy(images)))


def copy_for_inference(network: nn.Module, device: torch.device) -> nn.Module:
    """Returns a copy in evaluation mode, channels-last, without gradients or normalisation."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    fold_normalisation(network)
    return network.to(device, memory_format=torch.channels_last)


def copy_for_tracing(network: nn.Module, device: torch.device) -> nn.Module:
    """Returns a copy as `copy_for_inference` does, whose ReLU6 do not work in place.

    PyTorch takes an in-place ReLU6 apart while it traces: exporting a mobile student to ONNX takes
    2.4 times as long with them, and torch.compile 3.5 times.
    """
    network = copy_for_inference(network, device)
    for layer in network.modules():
        if isinstance(layer, nn.ReLU6):
            layer.inplace = False
    return network


def fold_normalisation(network: nn.Module) -> None:
    """Folds batch normalisation, in evaluation mode, into the convolution before it.

    Only where the two follow each other in a `Sequential`; all that it computes stays the same.
    """
    stacks = [module for module in network.modules() if isinstance(module, nn.Sequential)]
    for stack in stacks:
        for (name, layer), (following, norm) in pairwise(list(stack.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                stack.add_module(name, fuse_conv_bn_eval(layer, norm))
                stack.add_module(following, nn.Identity())


def prepare(pixels: Tensor, preprocess: bool) -> np.ndarray:
    """Returns (B, 3, H, W) uint8 RGB as a `Deployed` network with this `preprocess` takes it."""
    images = pixels.permute(0, 2, 3, 1) if preprocess else normalise(pixels)
    return np.ascontiguousarray(images.numpy())


def import_package(name: str) -> ModuleType:
    """Imports a package of REQUIREMENTS and returns it.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise EngineError(f"package {package} is missing: pip install -r {REQUIREMENTS}") from None


@contextmanager
def silence() -> Iterator[None]:
    """Suppresses the output and the warnings of converters, which concern their own code."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
