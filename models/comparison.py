"""A student's features beside the teacher's: adapted, compared and pooled, never kept at width.

The adapted feature of a tap of stride 1 is as large as the teacher's, and several times that with
what its derivative keeps. Here it is made a part at a time, and passed as seldom as can be: what
its vectors' products with others are worth is found in the student's channels, which are fewer.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Entries of an adapted feature that are made at a time.
CPU_ENTRIES = 2**20  # near what stays in a cache: 4 MB in float32
MOST_ENTRIES = 2**24  # elsewhere, where few large steps are fast: 64 MB in float32

# Of vectors s of a student and t of a teacher: their product, their lengths (N,), their channels
# -> their distance (N,), and a and b (N,) with which its gradient for s is a * s + b * t.
Measure = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


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
    """`compare` for some images or rows.

    The distance's gradients are made at once, while the adapted feature is there; nothing as wide
    is kept but what is pooled.
    """

    @staticmethod
    def forward(ctx, student, teacher, weight, bias, measure, pool):
        with torch.autocast(student.device.type, enabled=False):
            narrow = precise(_channels_last(student))
            shape, narrow = narrow.shape, narrow.flatten(0, 2)  # (positions, C_student)
            weight, bias = weight.to(narrow.dtype), bias.to(narrow.dtype)
            adapted = torch.addmm(bias, narrow, weight.T).relu_()
            taught = _channels_last(teacher).flatten(0, 2).to(narrow.dtype)
            lengths = [torch.linalg.vector_norm(x, dim=1) for x in (adapted, taught)]
            taught = torch.ops.aten.threshold_backward(taught, adapted, 0)  # 0 where ReLU gave it
            own, others = adapted @ weight, taught @ weight  # (positions, C_student)
            # Where ReLU lets through, adapted is narrow @ weight.T + bias: so is its product.
            product = torch.linalg.vecdot(others, narrow).add_(taught @ bias)
            distance, a, b = measure(product, *lengths, len(weight))
            by_student = (a[:, None] * own).addcmul_(b[:, None], others)
            by_weight = (a[:, None] * narrow).T @ adapted + (b[:, None] * narrow).T @ taught
            by_bias = a @ adapted + b @ taught
            pooled, places = _pool(adapted.view(*shape[:3], -1), pool)
        ctx.save_for_backward(student, pooled, places, weight, by_student, by_weight.T, by_bias)
        return distance.sum(), pooled.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, by_distance, by_pooled):
        student, pooled, places, weight, *gradients = ctx.saved_tensors
        with torch.autocast(student.device.type, enabled=False):
            narrow = precise(_channels_last(student))
            shape, narrow = narrow.shape, narrow.flatten(0, 2)
            by_pooled = _channels_last(by_pooled).to(pooled.dtype).contiguous()
            by_pooled = torch.ops.aten.threshold_backward(by_pooled, _channels_last(pooled), 0)
            by_bias = by_pooled.sum((0, 1, 2))
            gradient = _unpool(by_pooled, places, shape[:3])
            further = gradient @ weight, (narrow.T @ gradient).T, by_bias
            by_student, by_weight, by_bias = (
                more.add_(by_distance * one) for one, more in zip(gradients, further, strict=True)
            )
            by_student = by_student.view(shape).permute(0, 3, 1, 2).to(student.dtype)
        return by_student, None, by_weight, by_bias, None, None


def _channels_last(feature: Tensor) -> Tensor:
    return feature.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)


def _pool(adapted: Tensor, pool: int) -> tuple[Tensor, Tensor | None]:
    """(B, H, W, C) -> (B, C, h, w) and, for each entry, the position in (H, W) that it is from."""
    adapted = adapted.permute(0, 3, 1, 2)
    if pool == 1:
        return adapted, None
    return F.max_pool2d(adapted, pool, ceil_mode=True, return_indices=True)


def _unpool(by_pooled: Tensor, places: Tensor | None, shape: torch.Size) -> Tensor:
    """The gradient (B, h, w, C) of `_pool`'s result -> that of what it pooled, (B * H * W, C)."""
    by_pooled = by_pooled.flatten(1, 2)
    if places is not None:
        places = _channels_last(places).flatten(1, 2)
        images, height, width = shape
        cells = by_pooled.new_zeros(images, height * width, by_pooled.shape[-1])
        by_pooled = cells.scatter_(1, places, by_pooled)
    return by_pooled.flatten(0, 1)
