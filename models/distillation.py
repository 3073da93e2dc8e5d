"""Structured Knowledge Transfer (Liu et al., ACM MM 2020): the losses. Student first.

Every loss is summed over positions, as published for single images, and averaged over the batch,
so that a batch of two gives the mean of its two singles. All are computed in float32, or in the
networks' type where that is more precise, under autocast too.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.comparison import Measure, compare, precise
from models.taps import Tap

LEAST_LENGTH = 1e-8  # of a vector that is divided by its length, as in F.cosine_similarity


def squared_error(predicted: Tensor, density: Tensor) -> Tensor:
    """Sum of squared differences of two (B, 1, h, w) maps.

    L_hard against the ground truth, L_soft against the teacher's map.
    """
    error = F.mse_loss(precise(predicted), precise(density), reduction="sum")
    return error / len(predicted)


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


def intra_layer_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    adapters: Sequence[nn.Conv2d],
    pools: Sequence[int],
    distance: str = "cos",
) -> tuple[Tensor, list[Tensor]]:
    """L_intra: over all taps, the sum over positions of one of INTRA_DISTANCES; "cos" is SKT's.

    Args:
        student: (B, C_student, H_i, W_i) of every tap.
        teacher: (B, C_i, H_i, W_i) of every tap.
        adapters: 1x1 convolutions from the student's channels to the teacher's; ReLU follows.
        pools: of every tap, see `pool_sides`.

    Returns:
        The loss, and the adapted features' groups for L_inter, max-pooled by `pools`, because a
        feature is adapted once for both.
    """
    compared = [
        compare(s, t, adapter, INTRA_DISTANCES[distance], pool)
        for s, t, adapter, pool in zip(student, teacher, adapters, pools, strict=True)
    ]
    return torch.stack([loss for loss, _ in compared]).sum(), [group for _, group in compared]


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


@dataclass(frozen=True)
class Compared:
    """A batch as student and teacher see it: what the terms compare."""

    predicted: Tensor  # (B, 1, h, w), the student's map
    taught: Tensor  # the teacher's map
    taught_features: Sequence[Tensor]  # the teacher's at the taps, (B, C_i, H_i, W_i) each
    taps: Sequence[Tap]
    hard_loss: Callable[[Tensor], Tensor]  # the student's map -> its loss against the ground truth
    adapted: tuple[Tensor, list[Tensor]] | None  # of `intra_layer_loss`, where a term needs it

    def relations(self) -> Tensor:
        map_pool, *pools = pool_sides(self.taps)
        return inter_layer_loss(
            [*relation_groups([self.predicted], [map_pool]), *self.adapted[1]],
            relation_groups([self.taught, *self.taught_features], [map_pool, *pools]),
        )


@dataclass(frozen=True)
class Term:
    """A term of the loss.

    Args:
        compute: what is compared -> the unweighted term, a scalar.
        weight: published, or what to begin with.
        options: of the command line, the weight's first.
        meaning: what the weight weighs, for the help.
        features: whether it reads more of the networks than their maps.
        published: whether the paper's loss has it.
        belongs: more options that mean nothing without it.
    """

    compute: Callable[[Compared], Tensor]
    weight: float
    options: tuple[str, ...]
    meaning: str
    features: bool = False
    published: bool = True
    belongs: tuple[str, ...] = ()


TERMS = {
    "hard": Term(
        lambda batch: batch.hard_loss(batch.predicted),
        weight=1.0,
        options=("--lamb_hard",),
        meaning="the ground truth",
        belongs=("--hard", "--boxes", "--background", "--sigma"),
    ),
    "soft": Term(
        lambda batch: squared_error(batch.predicted, batch.taught),
        weight=1.0,
        options=("--lamb_soft",),
        meaning="the teacher's map",
        belongs=("--more-teachers",),
    ),
    "intra": Term(
        lambda batch: batch.adapted[0],
        weight=0.5,
        options=("--lamb_cos", "-lac"),
        meaning="intra-layer patterns",
        features=True,
        belongs=("--intra",),
    ),
    "inter": Term(
        Compared.relations,
        weight=0.5,
        options=("--lamb_fsp", "-laf"),
        meaning="inter-layer relations",
        features=True,
    ),
}

PUBLISHED_TERMS = ",".join(name for name, term in TERMS.items() if term.published)


def need_features(terms: Collection[str]) -> bool:
    """Whether any of `terms`, names of TERMS, reads more of the networks than their maps."""
    return any(TERMS[name].features for name in terms)


def distillation_terms(
    terms: Sequence[str],
    student: tuple[Tensor, Sequence[Tensor]],
    teacher: tuple[Tensor, Sequence[Tensor]],
    adapters: Sequence[nn.Conv2d],
    hard_loss: Callable[[Tensor], Tensor],
    taps: Sequence[Tap],
    intra: str = "cos",
) -> dict[str, Tensor]:
    """Returns the unweighted loss terms that are asked for, each a scalar, by name.

    Args:
        terms: of TERMS.
        student: (B, 1, h, w) map and the taps' features, (B, C_student, H_i, W_i) each.
        teacher: the same of the teacher.
        adapters: 1x1 convolutions from the student's features to the teacher's.
        hard_loss: the student's map -> its loss against the ground truth.
        intra: of INTRA_DISTANCES.

    Raises:
        ValueError: a term is unknown.
    """
    unknown = set(terms) - set(TERMS)
    if unknown:
        raise ValueError(f"unknown loss term {min(unknown)!r}; there are {', '.join(TERMS)}")
    (predicted, features), (taught, taught_features) = student, teacher
    adapted = None
    if need_features(terms):
        _, *pools = pool_sides(taps)
        adapted = intra_layer_loss(features, taught_features, adapters, pools, intra)
    batch = Compared(predicted, taught, taught_features, taps, hard_loss, adapted)
    return {name: TERMS[name].compute(batch) for name in terms}
