"""Detects pictures that are out of distribution for a network."""

import math
import threading
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from models.vgg import convolutions

SMALLEST = 1e-4  # added to mean activations, because the logarithm of 0 is infinite
LEAST = 3  # pictures, so that each fold of the cross-validation leaves two
SHRINKAGE = 0.05  # of correlations towards 0: a few hundred pictures estimate them poorly
FOLDS = 10  # of the cross-validation


class GuardError(ValueError):
    """There are too few pictures to fit a guard to."""


@dataclass(frozen=True)
class Guard:
    """The distribution of C features, see `read_features`, and a threshold of distances to it."""

    mean: Tensor  # (C,)
    whitening: Tensor  # (C, C), a square root of the features' inverse covariance
    threshold: Tensor  # (), a Mahalanobis distance

    def score(self, features: Tensor) -> Tensor:
        """Returns the Mahalanobis distance of (N, C) features over the threshold: (N,).

        Above 1, a picture is out of distribution.
        Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples",
        NeurIPS 2018, with one class.
        """
        return ((features - self.mean) @ self.whitening).norm(dim=1) / self.threshold

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the tensors by their names, as `Guard(**tensors)` takes them."""
        return asdict(self)


@torch.no_grad()
def read_features(network: nn.Module, images: Tensor) -> Tensor:
    """Returns the (B, C) features of (B, 3, H, W) normalised RGB, see `count_with_features`."""
    return count_with_features(network, images)[1]


def count_with_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what a network does of images, and the features that a guard judges: (B, C).

    They are the log of the mean activation of each input channel of `judged_layers`. The logarithm
    makes a silent channel, as without a crowd, as remarkable as a loud one.
    """
    means: list[Tensor] = []
    thread = threading.get_ident()  # another one may run the network meanwhile

    def judge(_: nn.Module, inputs: tuple[Tensor]) -> None:
        if threading.get_ident() == thread:
            means.append(inputs[0].mean((2, 3)))

    hooks = [layer.register_forward_pre_hook(judge) for layer in judged_layers(network)]
    try:
        density = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return density, (torch.cat(means, 1).clamp(min=0) + SMALLEST).log()


def judged_layers(network: nn.Module) -> list[nn.Conv2d]:
    """Returns the two convolutions before the last one, whose input channels a guard judges.

    What goes into the last one has lost much of how a picture looks where nothing is counted.
    """
    return list(convolutions(network).values())[-3:-1]


def check_number(pictures: int, false_alarms: float) -> None:
    """Raises GuardError if there are fewer than 1 / false_alarms pictures, or than three."""
    needed = max(LEAST, math.ceil(1 / false_alarms))
    if pictures < needed:
        raise GuardError(
            f"{pictures} pictures cannot tell {false_alarms:.1%} of false alarms, {needed} can"
        )


def fit_guard(features: Tensor, false_alarms: float) -> Guard:
    """Fits a guard to (N, C) features, with `false_alarms` as the expected rate on new pictures.

    The threshold is a quantile of the pictures' distances in a cross-validation, with the rounding
    of conformal prediction (Vovk et al., 2005).

    Raises:
        GuardError: as `check_number`.
    """
    check_number(len(features), false_alarms)
    folds = torch.arange(len(features)) % FOLDS
    distances = [
        _fit(features[folds != fold]).score(features[folds == fold]) for fold in range(FOLDS)
    ]
    rank = min(math.ceil((len(features) + 1) * (1 - false_alarms)), len(features))
    threshold = torch.cat(distances).kthvalue(rank).values
    guard = _fit(features)
    return Guard(guard.mean, guard.whitening, threshold)


def _fit(features: Tensor) -> Guard:
    deviation, mean = torch.std_mean(features, dim=0)
    deviation = deviation.clamp(min=1e-3)  # for channels that are always silent
    correlation = ((features - mean) / deviation).T.cov()
    correlation = (1 - SHRINKAGE) * correlation + SHRINKAGE * torch.eye(len(mean))
    values, vectors = torch.linalg.eigh(correlation)
    whitening = vectors / values.sqrt() / deviation[:, None]
    return Guard(mean, whitening, torch.tensor(1.0))
