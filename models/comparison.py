"""A student's features beside the teacher's: adapted, compared and pooled, never kept at width.

The adapted feature of a tap of stride 1 is as large as the teacher's, and several times that with
what its derivative keeps. Here it is made a part at a time, and again for the gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Entries of an adapted feature that are made at a time.
CPU_ENTRIES = 2**20  # near what stays in a cache: 4 MB in float32
MOST_ENTRIES = 2**24  # elsewhere, where few large steps are fast: 64 MB in float32

# Vectors (..., C) of a student and a teacher -> their distance (...), and a and b (...) with which
# the distance's gradient for the student is a * student + b * teacher.
Measure = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def compare(
    student: Tensor, teacher: Tensor, adapter: nn.Conv2d, measure: Measure, pool: int
) -> tuple[Tensor, Tensor]:
    """Adapts a student's feature at a tap, measures its distance to the teacher's, and pools it.

    The distance is computed in float32, or in the features' type where that is more precise.

    Args:
        student: (B, C_student, H, W).
        teacher: (B, C, H, W); no gradient is made for it.
        adapter: 1x1 convolution from the one's channels to the other's, which ReLU follows.
        measure: of the channels at one position.
        pool: side of the squares of which the maximum is taken.

    Returns:
        The distance summed over positions, and averaged over images; and the adapted feature,
        max-pooled, (B, C, ceil(H/pool), ceil(W/pool)).
    """
    images, channels, height, width = teacher.shape
    entries = CPU_ENTRIES if teacher.device.type == "cpu" else MOST_ENTRIES
    images = max(1, entries // (channels * height * width))
    rows = max(1, entries // (channels * width * pool)) * pool
    weight = adapter.weight.flatten(1)
    distances, pooled = [], []
    for some, taught in zip(student.split(images), teacher.split(images), strict=True):
        compared = [
            _Comparison.apply(s, t, weight, adapter.bias, measure, pool)
            for s, t in zip(some.split(rows, 2), taught.split(rows, 2), strict=True)
        ]
        distances += [distance for distance, _ in compared]
        pooled.append(torch.cat([feature for _, feature in compared], 2))
    return torch.stack(distances).sum() / len(student), torch.cat(pooled)


def precise(x: Tensor) -> Tensor:
    """Returns x in float32, or as it is where that is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Comparison(torch.autograd.Function):
    """`compare` for some images or rows. No adapted feature is kept; the gradient makes another."""

    @staticmethod
    def forward(ctx, student, teacher, weight, bias, measure, pool):
        with torch.autocast(student.device.type, enabled=False):
            adapted = _adapt(student, weight, bias)
            distance, *slopes = measure(precise(adapted), precise(_channels_last(teacher)))
            pooled, places = _pool(adapted, pool)
        ctx.save_for_backward(student, teacher, weight, bias, places, *slopes)
        return distance.sum(), pooled

    @staticmethod
    @once_differentiable
    def backward(ctx, by_distance, by_pooled):
        student, teacher, weight, bias, places, *slopes = ctx.saved_tensors
        with torch.autocast(student.device.type, enabled=False):
            adapted = _adapt(student, weight, bias)
            a, b = (by_distance * slope[..., None] for slope in slopes)
            gradient = (a * adapted).addcmul_(b, _channels_last(teacher))
            _unpool(gradient, by_pooled, places)
            gradient = torch.ops.aten.threshold_backward(gradient, adapted, 0)  # of ReLU
            by_bias = gradient.sum((0, 1, 2))
            gradient = gradient.to(student.dtype)
            by_weight = gradient.flatten(0, 2).T @ _channels_last(student).flatten(0, 2)
            by_student = (gradient @ weight.to(student.dtype)).permute(0, 3, 1, 2)
        return by_student, None, by_weight.to(weight.dtype), by_bias.to(bias.dtype), None, None


def _channels_last(feature: Tensor) -> Tensor:
    return feature.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def _adapt(student: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, C_student, H, W) -> (B, H, W, C)."""
    weight, bias = weight.to(student.dtype), bias.to(student.dtype)
    return F.relu(F.linear(_channels_last(student), weight, bias), inplace=True)


def _pool(adapted: Tensor, pool: int) -> tuple[Tensor, Tensor | None]:
    """(B, H, W, C) -> (B, C, h, w) and, for each entry, the position in (H, W) that it is from."""
    adapted = adapted.permute(0, 3, 1, 2)
    if pool == 1:
        return adapted, None
    return F.max_pool2d(adapted, pool, ceil_mode=True, return_indices=True)


def _unpool(gradient: Tensor, by_pooled: Tensor, places: Tensor | None) -> None:
    """Adds the gradient (B, C, h, w) of `_pool`'s result to the (B, H, W, C) of what it pooled."""
    by_pooled = _channels_last(by_pooled).to(gradient.dtype)
    if places is None:
        gradient += by_pooled
        return
    cells = gradient.view(len(gradient), -1, gradient.shape[-1])
    cells.scatter_add_(1, _channels_last(places).flatten(1, 2), by_pooled.flatten(1, 2))
