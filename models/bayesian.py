"""The Bayesian loss (Ma et al., ICCV 2019): a density map against heads as points."""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.distillation import HardLoss, density_loss
from models.taps import Batch

MOST_ENTRIES = 2**22  # of the posterior at a time: 16 MB in float32
LEAST_SQUARE = 1e-5  # of the distance to the nearest head, which is divided by


def bayesian_loss(
    density: Tensor,
    points: Tensor,
    targets: Tensor,
    sides: Tensor,
    background: float,
    sigma: float = 8.0,
    stride: int = 8,
) -> Tensor:
    """Sum over heads of |target - expected count|, + |expected count of the background|.

    The expected count of head n is the sum over cells m of p(n|m) D(m). Where nobody is, that is
    the absolute predicted count. Summed over heads and averaged over the batch; computed in
    float32, or in the density's type where that is more precise.

    Args:
        density: (B, 1, h, w), heads per cell.
        points: (B, N, 2) heads in pixels of the crop, x then y; infinite where an image has fewer.
        targets: (B, N) what each head counts, 0 for the infinite ones.
        sides: (B,) shorter side of each whole image, in pixels.
        background: this part of `sides` is how far the background seems to be from a cell that
            lies as far from its nearest head.
        sigma: of the heads' likelihood, in pixels.
        stride: pixels per cell.

    Returns:
        A scalar.
    """
    expected = expected_counts(density, points, background * sides, sigma, stride)
    targets = torch.cat([targets, targets.new_zeros(len(targets), 1)], 1)
    return (targets - expected).abs().sum() / len(density)


def build_hard_loss(name: str, background: float, sigma: float) -> HardLoss:
    """Returns the loss of a (B, 1, h, w) map against a batch's ground truth.

    Args:
        name: "density" compares with the map `density`, "bayesian" with `points`, `targets` and
            the images' shorter `side`.
        background: of the Bayesian loss, as is `sigma`.

    Raises:
        ValueError: there is no loss of that name.
    """

    def points_loss(predicted: Tensor, batch: Batch) -> Tensor:
        heads = batch["points"], batch["targets"], batch["side"]
        return bayesian_loss(predicted, *heads, background, sigma)

    losses = {"density": density_loss, "bayesian": points_loss}
    if name not in losses:
        raise ValueError(f"the hard loss must be one of {', '.join(losses)}, got {name!r}")
    return losses[name]


def expected_counts(
    density: Tensor, points: Tensor, reach: Tensor, sigma: float = 8.0, stride: int = 8
) -> Tensor:
    """Returns (B, N + 1): the sum over cells of posterior times density; the background is last.

    A cell m at x_m belongs to head n with the softmax over n of -|x_m - z_n|^2 / (2 sigma^2), and
    to the background with the squared distance reach^2 / |x_m - z_nearest|^2. The posterior is
    made for some rows of cells at a time, and again for the gradient, so that memory does not
    grow with cells times heads.

    Args:
        density: (B, 1, h, w), heads per cell.
        points: (B, N, 2) in pixels, x then y; those that are infinite count nothing.
        reach: (B,) in pixels.
        sigma: in pixels.
        stride: pixels per cell; a cell lies at its middle.
    """
    precision = torch.promote_types(density.dtype, torch.float32)
    count = partial(_count_rows, points.to(precision), reach.to(precision), sigma)
    with torch.autocast(density.device.type, enabled=False):
        density = density[:, 0].to(precision)
        images, height, width = density.shape
        x, y = (
            stride * torch.arange(side, device=density.device, dtype=precision) + stride / 2
            for side in (width, height)
        )
        rows = max(1, MOST_ENTRIES // (images * (points.shape[1] + 1) * width))
        parts = [
            checkpoint(count, x, part_y, part, use_reentrant=False, preserve_rng_state=False)
            for part_y, part in zip(y.split(rows), density.split(rows, 1), strict=True)
        ]
        return torch.stack(parts).sum(0)


def _count_rows(
    points: Tensor, reach: Tensor, sigma: float, x: Tensor, y: Tensor, density: Tensor
) -> Tensor:
    """(B, N, 2) points, (w,) and (h,) positions of cells, (B, h, w) density -> (B, N + 1)."""
    across = (points[..., :1] - x).square()  # (B, N, w)
    down = (points[..., 1:] - y).square()  # (B, N, h)
    squares = down[..., None] + across[..., None, :]  # (B, N, h, w)
    nearest = _nearest(squares)
    away = reach.square()[:, None, None, None] / nearest.clamp(min=LEAST_SQUARE)
    posterior = torch.softmax(torch.cat([squares, away], 1) / (-2 * sigma**2), 1)
    return torch.einsum("bnyx,byx->bn", posterior, density)


def _nearest(squares: Tensor) -> Tensor:
    """(B, N, h, w) -> (B, 1, h, w); nobody is infinitely far."""
    if squares.shape[1] == 0:
        return squares.new_full((len(squares), 1, *squares.shape[2:]), torch.inf)
    return squares.amin(1, keepdim=True)
