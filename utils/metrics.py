"""Errors of counts over a set of images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


class CountError(ValueError):
    """A picture cannot be counted, or its count is not finite; the message says why."""


@dataclass(frozen=True)
class CountResult:
    """One image's counts."""

    name: str
    heads: int  # annotated
    map_sum: float  # of the ground-truth density map
    predicted: float


@dataclass(frozen=True)
class Scores:
    images: int
    mae: float  # mean absolute error against annotated heads
    rmse: float  # root of the mean squared error, which papers print under "MSE"
    mae_map: float  # both against map sums
    rmse_map: float


def score(results: Sequence[CountResult]) -> Scores:
    """Returns the errors over at least one image.

    Original: errors against map sums alone.

    Raises:
        CountError: a count is not finite.
    """
    if failed := [r for r in results if not math.isfinite(r.predicted)]:
        raise CountError(
            f"{len(failed)} of {len(results)} counts are not finite, such as that of "
            f"{failed[0].name}; the weights overflow"
        )
    against_heads = [r.predicted - r.heads for r in results]
    against_maps = [r.predicted - r.map_sum for r in results]
    return Scores(
        len(results),
        _mae(against_heads),
        _rmse(against_heads),
        _mae(against_maps),
        _rmse(against_maps),
    )


def _mae(errors: Sequence[float]) -> float:
    return sum(map(abs, errors)) / len(errors)


def _rmse(errors: Sequence[float]) -> float:
    return math.sqrt(sum(e * e for e in errors) / len(errors))
