"""Structured Knowledge Transfer (Liu et al., ACM MM 2020): the losses. Student first.

Every loss is summed over positions, as published for single images, and averaged over the batch,
so that a batch of two gives the mean of its two singles.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.taps import Tap

TERMS = ("hard", "soft", "intra", "inter")
FEATURE_TERMS = frozenset({"intra", "inter"})  # which read more of a network than its map


def squared_error(predicted: Tensor, density: Tensor) -> Tensor:
    """Sum of squared differences of two (B, 1, h, w) maps.

    L_hard against the ground truth, L_soft against the teacher's map.
    """
    return (predicted - density).square().sum() / len(predicted)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine similarity along channels at every position: (B, C, h, w) to (B, h, w)."""
    return 1 - F.cosine_similarity(student, teacher, dim=1)


def squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over channels at every position, the ablation's "L2".

    The mean, where the paper leaves it open, keeps wide layers from outweighing narrow ones.
    """
    return (student - teacher).square().mean(1)


INTRA_DISTANCES = {"cos": cosine_distance, "l2": squared_distance}


def intra_layer_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], distance: str = "cos"
) -> Tensor:
    """L_intra: over all taps, the sum over positions of one of INTRA_DISTANCES; "cos" is SKT's.

    Both are lists of (B, C, h, w), the student's already adapted to the teacher's channels.
    """
    measure = INTRA_DISTANCES[distance]
    distances = [measure(s, t).sum() for s, t in zip(student, teacher, strict=True)]
    return torch.stack(distances).sum() / len(student[0])


def inter_layer_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """L_inter: over all pairs of groups, the squared difference of the two relation matrices.

    Both are lists of groups (B, C_i, h, w) on one grid, see `relation_groups`.
    """
    differences = [
        (s - t).square().sum()
        for s, t in zip(relation_matrices(student), relation_matrices(teacher), strict=True)
    ]
    return torch.stack(differences).sum() / len(student[0])


def relation_groups(
    features: Sequence[Tensor], density: Tensor, taps: Sequence[Tap], density_stride: int = 8
) -> list[Tensor]:
    """Brings the taps' features and the map onto the coarsest of their grids by max-pooling.

    Args:
        features: one (B, C, ceil(H/stride), ceil(W/stride)) for every tap.
        density: the (B, 1, h, w) output map.

    Returns:
        One (B, C, h, w) for every tap, then the map.
    """
    strides = [*(tap.stride for tap in taps), density_stride]
    coarsest = max(strides)
    return [
        F.max_pool2d(group, coarsest // stride, ceil_mode=True) if stride < coarsest else group
        for group, stride in zip([*features, density], strides, strict=True)
    ]


def relation_matrices(groups: Sequence[Tensor]) -> list[Tensor]:
    """Flow between layers (Yim et al., CVPR 2017): mean over positions of channel products.

    The groups (B, C_i, h, w) are normalised per image and channel. Matrix j of the result holds
    the relations of group j to all the groups before it, side by side: (B, C_j, C_0 + ... + C_j-1).
    Together they are the relation matrices of every pair.
    """
    channels = [group.shape[1] for group in groups]
    positions = groups[0].shape[-2:].numel()
    stack = torch.cat([F.instance_norm(group) for group in groups], 1).flatten(2)
    matrices, before = [], channels[0]
    for count in channels[1:]:
        group = stack[:, before : before + count]
        matrices.append(group @ stack[:, :before].transpose(1, 2) / positions)
        before += count
    return matrices


def distillation_terms(
    terms: Sequence[str],
    student: tuple[Tensor, list[Tensor]],
    teacher: tuple[Tensor, list[Tensor]],
    hard_loss: Callable[[Tensor], Tensor],
    taps: Sequence[Tap],
    intra: str = "cos",
) -> dict[str, Tensor]:
    """Returns the unweighted loss terms that are asked for, each a scalar, by name.

    Args:
        terms: of TERMS.
        student: (B, 1, h, w) map and the adapted features, (B, C_teacher, h_i, w_i) each.
        teacher: the same of the teacher.
        hard_loss: the student's map -> its loss against the ground truth.
        intra: of INTRA_DISTANCES.

    Raises:
        ValueError: a term is unknown.
    """
    (predicted, features), (taught, taught_features) = student, teacher
    losses: dict[str, Callable[[], Tensor]] = {
        "hard": lambda: hard_loss(predicted),
        "soft": lambda: squared_error(predicted, taught),
        "intra": lambda: intra_layer_loss(features, taught_features, intra),
        "inter": lambda: inter_layer_loss(
            relation_groups(features, predicted, taps),
            relation_groups(taught_features, taught, taps),
        ),
    }
    unknown = set(terms) - losses.keys()
    if unknown:
        raise ValueError(f"unknown loss term {min(unknown)!r}; there are {', '.join(TERMS)}")
    return {name: losses[name]() for name in terms}
