"""A student's features beside the teacher's, tap by tap and as relations between taps.

The adapted feature of a tap of stride 1 is as large as the teacher's, and several times that with
what its derivative keeps. `compare` makes it a part at a time and keeps none of it. Products of its
vectors with others are computed in the student's channels, which are fewer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.taps import Tap

# Entries of an adapted feature that are made at a time.
CPU_ENTRIES = 2**20  # near what stays in a cache: 4 MB in float32
MOST_ENTRIES = 2**24  # elsewhere, where few large steps are fast: 64 MB in float32
LEAST_LENGTH = 1e-8  # of a vector that is divided by its length, as in F.cosine_similarity

# Of vectors s of a student and t of a teacher: their product, their lengths (N,), their channels
# -> their distance (N,), and a and b (N,) with which its gradient for s is a * s + b * t.
Measure = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


def cosine_distance(
    product: Tensor, student: Tensor, teacher: Tensor, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """1 - cosine similarity, of vectors' product and lengths; and its a and b, see Measure."""
    student = student.clamp(min=LEAST_LENGTH)
    lengths = student * teacher.clamp(min=LEAST_LENGTH)
    similarity = product / lengths
    return 1 - similarity, similarity / student.square(), -1 / lengths


def squared_distance(
    product: Tensor, student: Tensor, teacher: Tensor, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared difference, the ablation's "L2"; and its a and b.

    The mean, where the paper leaves it open, keeps wide layers from outweighing narrow ones.
    """
    slope = torch.full_like(product, 2 / channels)
    return (student.square() - 2 * product + teacher.square()) / channels, slope, -slope


INTRA_DISTANCES: dict[str, Measure] = {"cos": cosine_distance, "l2": squared_distance}


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


def inter_layer_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """L_inter: over all pairs of groups, the squared difference of the two relation matrices.

    Both are lists of groups (B, C_i, h, w) on one grid, see `relation_groups`.
    """
    device = student[0].device.type
    reduced = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        stacks = [normalise_groups(groups) for groups in (student, teacher)]
        products = reduced if reduced == torch.bfloat16 else stacks[0].dtype
        channels = [group.shape[1] for group in student]
        return RelationDistance.apply(*stacks, channels, products)


def pool_sides(taps: Sequence[Tap], density_stride: int = 8) -> list[int]:
    """Returns, for the map and then every tap, the cells in a row that the coarsest has one for."""
    strides = [density_stride, *(tap.stride for tap in taps)]
    return [max(strides) // stride for stride in strides]


def relation_groups(maps: Sequence[Tensor], pools: Sequence[int]) -> list[Tensor]:
    """Max-pools maps (B, C_i, H_i, W_i) onto one grid, that of the coarsest: (B, C_i, h, w)."""
    return [
        F.max_pool2d(group, pool, ceil_mode=True) if pool > 1 else group
        for group, pool in zip(maps, pools, strict=True)
    ]


def normalise_groups(groups: Sequence[Tensor]) -> Tensor:
    """Stacks groups (B, C_i, h, w), normalised per image and channel: (B, C_1 + C_2 + ..., h * w).

    The products of two of its rows are their flow (Yim et al., CVPR 2017), the mean over positions.
    """
    stack = torch.cat([precise(group).flatten(2) for group in groups], 1)
    positions = stack.shape[-1]
    scale = stack.new_full([positions], positions**-0.5)
    return F.layer_norm(stack, [positions], scale)  # over positions alone: an instance norm


class RelationDistance(torch.autograd.Function):
    """The squared difference of relation matrices over all pairs of groups, averaged over images.

    Pairs of one group with all before it make one matrix. The gradient is made with the matrices,
    of which none is kept.
    """

    @staticmethod
    def forward(
        ctx, student: Tensor, teacher: Tensor, channels: Sequence[int], products: torch.dtype
    ) -> Tensor:
        """Takes (B, C, positions) of `normalise_groups`.

        Args:
            channels: of each group.
            products: their type; what is summed up stays in the student's.
        """
        error = (student - teacher).to(products)
        student, teacher = student.to(products), teacher.to(products)
        gradient = torch.zeros_like(student)
        distance, end = 0.0, student.shape[1]
        for count in reversed(channels[1:]):
            first = end - count
            rows, before = slice(first, end), slice(first)
            # s s' - t t' = s (s - t)' + (s - t) t', of which the rounding is as small as s - t.
            difference = torch.bmm(student[:, rows], error[:, before].mT)  # (B, count, first)
            difference.baddbmm_(error[:, rows], teacher[:, before].mT)
            distance = distance + torch.linalg.vector_norm(precise(difference)).square()
            gradient[:, rows].baddbmm_(difference, student[:, before])
            gradient[:, before].baddbmm_(difference.mT, student[:, rows])
            end = first
        ctx.save_for_backward(gradient)
        return distance / len(student)

    @staticmethod
    @once_differentiable
    def backward(ctx, by_distance: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return precise(gradient) * (2 / len(gradient) * by_distance), None, None, None
