"""Makes density maps from head points: one Gaussian of unit mass for every head."""

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

TRUNCATE = 4.0  # a Gaussian ends at this many sigmas
TOGETHER = 256  # heads of similar radii whose kernels are computed at once
BORDERS = ("renormalise", "constant", "reflect")
Size = tuple[int, int]  # height, width


def mean_distance(points: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the mean distance of every head to its `neighbours` nearest ones, in pixels.

    With fewer neighbours the mean is over those; a head alone in its image gets infinity.
    Original: SKT's code fails on two or three heads (Part A), BL's on fewer than four.

    Args:
        points: (N, 2).

    Returns:
        (N,).
    """
    if len(points) < 2:
        return np.full(len(points), np.inf)
    distances, _ = cKDTree(points).query(points, k=min(neighbours, len(points) - 1) + 1)
    return distances[:, 1:].mean(1)


def sigmas_by_three_nearest(points: np.ndarray, size: Size) -> np.ndarray:
    """Returns 0.1 x (d1 + d2 + d3), the distances to the three nearest heads: (N,), Part A."""
    if len(points) == 1:
        return _sigma_of_one_head(size)
    return 0.3 * mean_distance(points, neighbours=3)


def sigmas_fixed(points: np.ndarray, size: Size) -> np.ndarray:
    """Returns 15 pixels for every head: (N,), Part B."""
    return np.full(len(points), 15.0)


def sigmas_by_nearest(points: np.ndarray, size: Size) -> np.ndarray:
    """Returns min(d1, 30), d1 being the distance to the nearest head: (N,), UCF-QNRF."""
    if len(points) == 1:
        return _sigma_of_one_head(size)
    return np.minimum(mean_distance(points, neighbours=1), 30.0)


SIGMA_RULES: dict[str, Callable[[np.ndarray, Size], np.ndarray]] = {
    "0.1*(d1+d2+d3)": sigmas_by_three_nearest,
    "15": sigmas_fixed,
    "min(d1,30)": sigmas_by_nearest,
}


def merge_heads(points: np.ndarray) -> np.ndarray:
    """Returns one point per occupied pixel, at whole coordinates: (M, 2) with M <= N.

    Original: all maps are made from these points, so heads on one pixel count once.
    """
    return np.unique(np.floor(points), axis=0)


def density_map(
    points: np.ndarray, sigmas: np.ndarray, size: Size, border: str = "renormalise"
) -> np.ndarray:
    """Returns the (H, W) float32 sum of one Gaussian for every head, centred on the head's pixel.

    Each Gaussian is drawn in its own window of 4 sigmas, as the product of two 1-D kernels.

    Args:
        points: (N, 2), x then y, all inside the image.
        sigmas: (N,) in pixels; 0 puts the whole head on one pixel.
        border: what happens to mass beyond the image. "renormalise" scales the part inside to 1,
            "constant" loses it, "reflect" mirrors it back (scipy.ndimage's names).
            Original: "constant" for Part A and UCF-QNRF, "reflect" for Part B.

    Raises:
        ValueError: `border` is not one of the three.
    """
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
    if len(points) == 0:
        return np.zeros(size, np.float32)
    radii = (TRUNCATE * sigmas + 0.5).astype(int)
    margin = int(radii.max()) if border == "reflect" else 0
    centres = np.floor(points).astype(int) + margin
    height, width = size[0] + 2 * margin, size[1] + 2 * margin
    renormalise = border == "renormalise"
    rows = _kernels(centres[:, 1], sigmas, radii, height, renormalise)
    columns = _kernels(centres[:, 0], sigmas, radii, width, renormalise)

    canvas = np.zeros((height, width))
    for (top, row), (left, column) in zip(rows, columns, strict=True):
        canvas[top : top + len(row), left : left + len(column)] += row[:, None] * column
    if margin:
        canvas = _fold_margin(_fold_margin(canvas, margin).T, margin).T
    return canvas.astype(np.float32)


def _kernels(
    centres: np.ndarray, sigmas: np.ndarray, radii: np.ndarray, length: int, renormalise: bool
) -> list[tuple[int, np.ndarray]]:
    """Returns, for every head, the first index and the values of its 1-D kernel on an axis."""
    first, stop = np.maximum(centres - radii, 0), np.minimum(centres + radii + 1, length)
    safe_sigmas = np.maximum(sigmas, 1e-6)  # coincident heads have sigma 0, radius 0
    kernels: dict[int, tuple[int, np.ndarray]] = {}
    by_radius = np.argsort(radii)
    for chosen in (by_radius[n : n + TOGETHER] for n in range(0, len(radii), TOGETHER)):
        reach = int(radii[chosen[-1]])
        offsets = np.arange(-reach, reach + 1)
        values = np.exp(-0.5 * (offsets / safe_sigmas[chosen, None]) ** 2)
        values *= np.abs(offsets) <= radii[chosen, None]
        values /= values.sum(1, keepdims=True)
        shift = reach - centres[chosen]
        ends = first[chosen], first[chosen] + shift, stop[chosen] + shift
        for head, begin, low, high, row in zip(
            chosen.tolist(), *(end.tolist() for end in ends), values, strict=True
        ):
            kernel = row[low:high].copy()
            kernels[head] = begin, kernel / kernel.sum() if renormalise else kernel
    return [kernels[head] for head in range(len(kernels))]


def _fold_margin(canvas: np.ndarray, margin: int) -> np.ndarray:
    """Mirrors the first and last `margin` rows, of any number, into the rest, edge repeated."""
    length = len(canvas) - 2 * margin
    position = np.arange(-margin, length + margin) % (2 * length)
    folded = np.zeros((length, canvas.shape[1]))
    np.add.at(folded, np.minimum(position, 2 * length - 1 - position), canvas)
    return folded


def _sigma_of_one_head(size: Size) -> np.ndarray:
    return np.array([sum(size) / 8])
