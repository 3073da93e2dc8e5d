"""The Bayesian loss (Ma et al., ICCV 2019), which compares a density map with heads as points."""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.distillation import HardLoss, density_loss
from models.taps import Batch

MOST_ENTRIES = 2**22  # of the posterior that are computed at a time: 16 MB in float32
LEAST_SQUARE = 1e-5  # lower bound of the squared distance to the nearest head, a divisor


def bayesian_loss(
    density: Tensor,
    points: Tensor,
    targets: Tensor,
    sides: Tensor,
    background: float,
    sigma: float = 8.0,
    stride: int = 8,
) -> Tensor:
    """Returns the sum over heads of |target - expected count|, plus |the background's count|.

    The expected count of head n is the sum over cells m of p(n|m) D(m). Without heads, the loss is
    the absolute predicted count. It is averaged over the batch, and computed in float32 or, if that
    is more precise, in the density's type.

    Args:
        density: (B, 1, h, w), heads per cell.
        points: (B, N, 2) heads in pixels of the crop, x then y, padded with infinity.
        targets: (B, N) what each head counts; 0 for padding.
        sides: (B,) shorter side of each whole image, in pixels.
        background: the background's reach as a part of `sides`, see `expected_counts`.
        sigma: standard deviation of a head's likelihood, in pixels.
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
        name: "density" compares with the batch's `density`, "bayesian" with its `points`, `targets`
            and `side`.
        background: of the Bayesian loss, like `sigma`.

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
    """Returns the sum over cells of posterior times density: (B, N + 1), the background last.

    The posterior of a cell at x_m is the softmax over heads at z_n of -|x_m - z_n|^2 / (2 sigma^2).
    In it, the background has the squared distance reach^2 / |x_m - z_nearest|^2. The posterior is
    computed for some rows of cells at a time, and again for the gradient, so that memory does not
    grow with cells times heads.
    Original: BL's code has had this distance and the paper's, (reach - |x_m - z_nearest|)^2.

    Args:
        density: (B, 1, h, w), heads per cell.
        points: (B, N, 2) in pixels, x then y; infinite ones count 0.
        reach: (B,) in pixels.
        sigma: in pixels.
        stride: pixels per cell; a cell's position is its centre.
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
    """Returns `expected_counts` of (B, h, w) density, whose cells lie at x (w,) and y (h,)."""
    across = (points[..., :1] - x).square()  # (B, N, w)
    down = (points[..., 1:] - y).square()  # (B, N, h)
    squares = down[..., None] + across[..., None, :]  # (B, N, h, w)
    nearest = _nearest(squares)
    away = reach.square()[:, None, None, None] / nearest.clamp(min=LEAST_SQUARE)
    posterior = torch.softmax(torch.cat([squares, away], 1) / (-2 * sigma**2), 1)
    return torch.einsum("bnyx,byx->bn", posterior, density)


def _nearest(squares: Tensor) -> Tensor:
    """Returns the least of (B, N, h, w) squared distances: (B, 1, h, w), infinite without heads."""
    if squares.shape[1] == 0:
        return squares.new_full((len(squares), 1, *squares.shape[2:]), torch.inf)
    return squares.amin(1, keepdim=True)
