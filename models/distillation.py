"""Structured Knowledge Transfer (Liu et al., ACM MM 2020): the loss and its terms.

Every term is summed over positions and averaged over the batch. All are computed in float32, or in
the networks' type if that is more precise, even under autocast; only the matrix products of L_inter
take autocast's bfloat16. Functions take the student first.
Original: one image per batch; L_inter reads only the first image of a batch.
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
    """Returns the squared error of two (B, 1, h, w) maps, summed over cells.

    It is L_hard against the ground truth, and L_soft against the teacher's map.
    """
    error = F.mse_loss(precise(predicted), precise(density), reduction="sum")
    return error / len(predicted)


def density_loss(predicted: Tensor, batch: Batch) -> Tensor:
    """Returns CSRNet's L_hard: `squared_error` against the batch's ground truth, `density`."""
    return squared_error(predicted, batch["density"])


def count_error(predicted: Tensor, batch: Batch) -> Tensor:
    """L_count: absolute difference of a crop's count, mean over the batch.

    The truth is the sum of the map, or of what the heads count, where the batch has those.
    """
    truth = batch["density"].flatten(1) if "density" in batch else batch["targets"]
    return (precise(predicted).flatten(1).sum(1) - truth.sum(1)).abs().mean()


def intra_layer_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    adapters: Sequence[nn.Conv2d],
    pools: Sequence[int],
    distance: str = "cos",
) -> tuple[Tensor, list[Tensor]]:
    """Returns L_intra, the distance summed over taps and positions, and the adapted feature maps.

    Args:
        student: (B, C_student, H_i, W_i) of every tap.
        teacher: (B, C_i, H_i, W_i) of every tap.
        adapters: 1x1 convolutions from the student's channels to the teacher's; ReLU follows.
        pools: of every tap, see `pool_sides`.
        distance: name of INTRA_DISTANCES; "cos" is SKT's.

    Returns:
        The loss, and the adapted feature maps, max-pooled by `pools`, which L_inter reuses.
    """
    compared = [
        compare(s, t, adapter, INTRA_DISTANCES[distance], pool)
        for s, t, adapter, pool in zip(student, teacher, adapters, pools, strict=True)
    ]
    return torch.stack([loss for loss, _ in compared]).sum(), [group for _, group in compared]


@dataclass(frozen=True)
class Compared:
    """What the terms compare: the student's and the teacher's outputs for a batch."""

    predicted: Tensor  # (B, 1, h, w), the student's map
    taught: Tensor | None  # the teacher's map; None if no term needs a teacher
    taught_features: Sequence[Tensor]  # the teacher's at the taps, (B, C_i, H_i, W_i) each
    taps: Sequence[Tap]
    adapted: tuple[Tensor, list[Tensor]] | None  # of `intra_layer_loss`, if a term needs features
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
        weight: by default; the paper's for its terms.
        options: names of the weight's command-line option, the long one first.
        meaning: what the term compares, for the help.
        features: whether it needs features, not only maps.
        taught: whether it needs a teacher.
        truth: whether it needs the ground truth.
        published: whether the paper's loss has it.
        belongs: other options that only this term uses, or others that list them, too.
    """

    compute: Callable[[Compared], Tensor]
    weight: float
    options: tuple[str, ...]
    meaning: str
    features: bool = False
    taught: bool = True
    truth: bool = False
    published: bool = True
    belongs: tuple[str, ...] = ()

    @property
    def destination(self) -> str:
        """The name of the weight among a program's options."""
        return self.options[0].lstrip("-").replace("-", "_")


# Original: L_hard and L_soft have no weights; a weight of 0 turns L_intra or L_inter off.
TERMS = {
    "hard": Term(
        lambda seen: seen.hard_loss(seen.predicted, seen.batch),
        weight=1.0,
        options=("--lamb_hard",),
        meaning="the ground truth",
        taught=False,
        truth=True,
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
        belongs=("--more-teachers",),
    ),
    "count": Term(
        lambda seen: count_error(seen.predicted, seen.batch),
        weight=0.3,
        options=("--lamb_count",),
        meaning="the number of people in a crop",
        taught=False,
        truth=True,
        published=False,
        belongs=("--hard", "--boxes"),
    ),
}

PUBLISHED_TERMS = ",".join(name for name, term in TERMS.items() if term.published)


def need_features(terms: Collection[str]) -> bool:
    """Returns whether any of `terms`, names of TERMS, needs features."""
    return any(TERMS[name].features for name in terms)


def need_truth(terms: Collection[str]) -> bool:
    """Whether any of `terms`, names of TERMS, compares the student with the ground truth."""
    return any(TERMS[name].truth for name in terms)


def need_teacher(terms: Collection[str]) -> bool:
    """Returns whether any of `terms`, names of TERMS, needs a teacher."""
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
    """Returns the requested loss terms by name, unweighted scalars.

    Args:
        terms: names of TERMS.
        student: (B, 1, h, w) map and the taps' features, (B, C_student, H_i, W_i) each.
        teacher: the same of the teacher. Features whose grid differs by rounding are resized.
        adapters: 1x1 convolutions from the student's features to the teacher's.
        hard_loss: the student's map and `batch` -> its loss against the ground truth.
        taps: the student's.
        intra: name of INTRA_DISTANCES.

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

    Its submodules are what is trained; the teacher is not among them.

    Args:
        terms: names of TERMS.
        model: the network that is trained.
        hard_loss: the model's map and a batch -> its loss against the ground truth.
        ask: from `ask_live` or `ask_kept`; None if no term needs a teacher.
        taps: the model's, if a term needs features.
        adapters: one for every tap, if there are any.
        intra: name of INTRA_DISTANCES.
        precision: autocast's, for operations that need no float32.
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
        """The trained modules, under their names in checkpoints."""
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
                    if "empty" in batch:  # the teacher may see people there
                        nobody = batch["empty"].view(-1, 1, 1, 1)
                        taught = taught[0].masked_fill(nobody, 0), taught[1]
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
