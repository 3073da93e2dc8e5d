"""Compares a student's feature maps with the teacher's, tap by tap and by relations between taps.

At a tap of stride 1, the adapted feature map is as large as the teacher's, and automatic
differentiation would keep several times that. `compare` computes it part by part instead and keeps
only what is pooled. Dot products of its vectors are computed in the student's channels, which are
fewer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.taps import Tap

# Entries of an adapted feature map that are computed at a time.
CPU_ENTRIES = 2**20  # about what a cache holds: 4 MB in float32
MOST_ENTRIES = 2**24  # on other devices, which prefer few large steps: 64 MB in float32
LEAST_LENGTH = 1e-8  # lower bound of lengths in divisors, as in F.cosine_similarity

# For vectors s of a student and t of a teacher: their dot products and lengths, (N,) each, and the
# number of channels -> their distances (N,), and a and b (N,): the gradient for s is a * s + b * t.
Measure = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


def cosine_distance(
    product: Tensor, student: Tensor, teacher: Tensor, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns 1 - cosine similarity, and its a and b, see `Measure`."""
    student = student.clamp(min=LEAST_LENGTH)
    lengths = student * teacher.clamp(min=LEAST_LENGTH)
    similarity = product / lengths
    return 1 - similarity, similarity / student.square(), -1 / lengths


def squared_distance(
    product: Tensor, student: Tensor, teacher: Tensor, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean squared difference of channels, the ablation's "L2", and its a and b.

    The paper does not say whether to take the mean or the sum. The mean keeps wide layers from
    outweighing narrow ones.
    """
    slope = torch.full_like(product, 2 / channels)
    return (student.square() - 2 * product + teacher.square()) / channels, slope, -slope


INTRA_DISTANCES: dict[str, Measure] = {"cos": cosine_distance, "l2": squared_distance}


def compare(
    student: Tensor, teacher: Tensor, adapter: nn.Conv2d, measure: Measure, pool: int
) -> tuple[Tensor, Tensor]:
    """Adapts a student's feature map, measures its distance to the teacher's, and max-pools it.

    The distance is computed in float32, or in the features' type where that is more precise.

    Args:
        student: (B, C_student, H, W).
        teacher: (B, C, H, W); it gets no gradient.
        adapter: 1x1 convolution from the student's channels to the teacher's; ReLU follows.
        measure: distance between the two vectors at a position.
        pool: kernel size and stride of the max-pooling.

    Returns:
        The distance, summed over positions and averaged over images; and the adapted feature map,
        max-pooled, (B, C, ceil(H/pool), ceil(W/pool)).
    """
    _, channels, height, width = teacher.shape
    entries = CPU_ENTRIES if teacher.device.type == "cpu" else MOST_ENTRIES
    images = max(1, entries // (channels * height * width))  # at once
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
    """Returns x in float32, or unchanged if its type is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Comparison(torch.autograd.Function):
    """`compare` for some images or rows.

    The distance's gradients are computed in the forward pass, while the adapted feature map exists.
    Of that map, only the pooled part is kept.
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
            taught = torch.ops.aten.threshold_backward(taught, adapted, 0)  # 0 where ReLU gave 0
            own, others = adapted @ weight, taught @ weight  # (positions, C_student)
            # Where ReLU gave more than 0, adapted is narrow @ weight.T + bias.
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
    """Max-pools (B, H, W, C) to (B, C, h, w); also returns where in (H, W) each entry is from."""
    adapted = adapted.permute(0, 3, 1, 2)
    if pool == 1:
        return adapted, None
    return F.max_pool2d(adapted, pool, ceil_mode=True, return_indices=True)


def _unpool(by_pooled: Tensor, places: Tensor | None, shape: torch.Size) -> Tensor:
    """Maps the gradient (B, h, w, C) of `_pool`'s output to that of its input, (B * H * W, C)."""
    by_pooled = by_pooled.flatten(1, 2)
    if places is not None:
        places = _channels_last(places).flatten(1, 2)
        images, height, width = shape
        cells = by_pooled.new_zeros(images, height * width, by_pooled.shape[-1])
        by_pooled = cells.scatter_(1, places, by_pooled)
    return by_pooled.flatten(0, 1)


def inter_layer_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Returns L_inter: the squared difference of relation matrices, summed over pairs of groups.

    Both arguments are lists of groups (B, C_i, h, w) on one grid, see `relation_groups`.
    """
    device = student[0].device.type
    reduced = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        stacks = [normalise_groups(groups) for groups in (student, teacher)]
        products = reduced if reduced == torch.bfloat16 else stacks[0].dtype
        channels = [group.shape[1] for group in student]
        return RelationDistance.apply(*stacks, channels, products)


def pool_sides(taps: Sequence[Tap], density_stride: int = 8) -> list[int]:
    """Returns the pool sizes that bring the map and then every tap onto the coarsest grid."""
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

    The dot product of two rows, a mean over positions, is an entry of an FSP matrix (Yim et al.,
    CVPR 2017).
    """
    stack = torch.cat([precise(group).flatten(2) for group in groups], 1)
    positions = stack.shape[-1]
    scale = stack.new_full([positions], positions**-0.5)
    return F.layer_norm(stack, [positions], scale)  # over positions alone: instance normalisation


class RelationDistance(torch.autograd.Function):
    """The squared difference of relation matrices, summed over pairs and averaged over images.

    A group's pairs with all groups before it form one matrix. The gradient is computed along with
    the matrices, none of which is kept.
    """

    @staticmethod
    def forward(
        ctx, student: Tensor, teacher: Tensor, channels: Sequence[int], products: torch.dtype
    ) -> Tensor:
        """Returns the distance of two results of `normalise_groups`, (B, C, positions) each.

        Args:
            channels: of each group.
            products: type of the matrix products and of the gradient.
        """
        error = (student - teacher).to(products)
        student, teacher = student.to(products), teacher.to(products)
        gradient = torch.zeros_like(student)
        distance, end = 0.0, student.shape[1]
        for count in reversed(channels[1:]):
            first = end - count
            rows, before = slice(first, end), slice(first)
            # s s' - t t' = s (s - t)' + (s - t) t', whose rounding error is relative to s - t.
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
