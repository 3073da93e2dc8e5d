"""Structured Knowledge Transfer (Liu et al., ACM MM 2020): the loss and its terms. Student first.

Every term is summed over positions, as published for single images, and averaged over the batch,
so that a batch of two gives the mean of its two singles. All are computed in float32, or in the
networks' type where that is more precise, under autocast too.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.comparison import (
    INTRA_DISTANCES,
    compare,
    inter_layer_loss,
    pool_sides,
    precise,
    relation_groups,
)
from models.taps import Adapters, Ask, Batch, FeatureReader, Tap
from utils.pixels import normalise

HardLoss = Callable[[Tensor, Batch], Tensor]  # the student's map, a batch -> scalar


def squared_error(predicted: Tensor, density: Tensor) -> Tensor:
    """Sum of squared differences of two (B, 1, h, w) maps.

    L_hard against the ground truth, L_soft against the teacher's map.
    """
    error = F.mse_loss(precise(predicted), precise(density), reduction="sum")
    return error / len(predicted)


def density_loss(predicted: Tensor, batch: Batch) -> Tensor:
    """L_hard of CSRNet: `squared_error` against the batch's ground-truth map, `density`."""
    return squared_error(predicted, batch["density"])


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


@dataclass(frozen=True)
class Compared:
    """What the terms compare of a batch: the student's answers beside the teacher's."""

    predicted: Tensor  # (B, 1, h, w), the student's map
    taught: Tensor | None  # the teacher's map; None where no term asks a teacher
    taught_features: Sequence[Tensor]  # the teacher's at the taps, (B, C_i, H_i, W_i) each
    taps: Sequence[Tap]
    adapted: tuple[Tensor, list[Tensor]] | None  # of `intra_layer_loss`, where a term needs it
    hard_loss: HardLoss
    batch: Batch

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
        taught: whether it needs a teacher.
        published: whether the paper's loss has it.
        belongs: more options that mean nothing without it.
    """

    compute: Callable[[Compared], Tensor]
    weight: float
    options: tuple[str, ...]
    meaning: str
    features: bool = False
    taught: bool = True
    published: bool = True
    belongs: tuple[str, ...] = ()

    @property
    def destination(self) -> str:
        """The name of the weight among a program's options."""
        return self.options[0].lstrip("-").replace("-", "_")


TERMS = {
    "hard": Term(
        lambda seen: seen.hard_loss(seen.predicted, seen.batch),
        weight=1.0,
        options=("--lamb_hard",),
        meaning="the ground truth",
        taught=False,
        belongs=("--hard", "--boxes", "--background", "--sigma"),
    ),
    "soft": Term(
        lambda seen: squared_error(seen.predicted, seen.taught),
        weight=1.0,
        options=("--lamb_soft",),
        meaning="the teacher's map",
        belongs=("--more-teachers",),
    ),
    "intra": Term(
        lambda seen: seen.adapted[0],
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


def need_teacher(terms: Collection[str]) -> bool:
    """Whether any of `terms`, names of TERMS, compares the student with a teacher."""
    return any(TERMS[name].taught for name in terms)


def distillation_terms(
    terms: Sequence[str],
    student: tuple[Tensor, Sequence[Tensor]],
    teacher: tuple[Tensor | None, Sequence[Tensor]],
    adapters: Sequence[nn.Conv2d],
    hard_loss: HardLoss,
    taps: Sequence[Tap],
    intra: str = "cos",
    batch: Batch = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Returns the unweighted loss terms that are asked for, each a scalar, by name.

    Args:
        terms: of TERMS.
        student: (B, 1, h, w) map and the taps' features, (B, C_student, H_i, W_i) each.
        teacher: the same of the teacher. Features whose grid differs by rounding are resized.
        adapters: 1x1 convolutions from the student's features to the teacher's.
        hard_loss: the student's map and `batch` -> its loss against the ground truth.
        taps: the student's.
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
        taught_features = [
            t if t.shape[2:] == f.shape[2:] else F.interpolate(t, f.shape[2:], mode="bilinear")
            for t, f in zip(taught_features, features, strict=True)
        ]
        _, *pools = pool_sides(taps)
        adapted = intra_layer_loss(features, taught_features, adapters, pools, intra)
    seen = Compared(predicted, taught, taught_features, taps, adapted, hard_loss, batch)
    losses = {}
    for name in terms:
        losses[name] = TERMS[name].compute(seen)
    return losses


class Criterion(nn.Module):
    """Maps a batch to its unweighted loss terms, by name.

    What is trained is a submodule, the teacher is not.

    Args:
        terms: names of TERMS.
        model: the network that is trained.
        hard_loss: the model's map and a batch -> its loss against the ground truth.
        ask: `ask_live` or `ask_kept`, of the teacher; needless where no term compares with it.
        taps: the model's, where a term needs features; with an adapter for each.
        intra: of INTRA_DISTANCES.
        precision: what autocast computes in, where less than float32 will do.
    """

    def __init__(
        self,
        terms: Sequence[str],
        model: nn.Module,
        hard_loss: HardLoss,
        ask: Ask | None = None,
        taps: Sequence[Tap] = (),
        adapters: Adapters | None = None,
        intra: str = "cos",
        precision: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.model, self.adapters = model, adapters
        self._terms, self._hard_loss, self._ask = terms, hard_loss, ask
        self._taps, self._intra, self._precision = taps, intra, precision
        self._read = FeatureReader(model, taps)

    @property
    def trained(self) -> dict[str, nn.Module]:
        """What is trained, under the names that checkpoints have for it."""
        return {name: module for name, module in self.named_children()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        device = batch["image"].device.type
        reduced = self._precision != torch.float32
        with torch.autocast(device, self._precision, enabled=reduced):
            images = normalise(batch["image"], batch.get("colour"))
            seen, taught = self._read(images), (None, [])
            if self._ask:
                with torch.no_grad():
                    taught = self._ask(images, batch)
            adapters = list(self.adapters.values()) if self.adapters else []
            return distillation_terms(
                self._terms,
                seen,
                taught,
                adapters,
                self._hard_loss,
                self._taps,
                self._intra,
                batch,
            )
