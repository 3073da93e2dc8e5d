"""Post-training quantisation to INT8 that keeps a counter's error within a budget."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from deploy.exported import ExportError

MOST_FLOAT = 0.5  # of the layers; with more of them a model is hardly INT8


@dataclass(frozen=True)
class Quantised:
    """A quantised model, the names of the layers that stayed in float32, and its MAE."""

    model: Any
    floats: tuple[str, ...]
    mae: float


def quantise_within(
    quantise: Callable[[Collection[str]], Any],
    measure: Callable[[Any], float],
    rank: Callable[[], Sequence[str]],
    layers: Sequence[str],
    always: Collection[str],
    baseline: float,
    rise: float,
) -> Quantised:
    """Quantises with as many of the worst layers in float32 as the budget needs.

    Args:
        quantise: the names of the layers that stay in float32 -> model.
        measure: model -> MAE.
        rank: returns the names of the layers that may be in INT8, the worst first; called only if
            the budget does not allow all of them.
        layers: names of all layers.
        always: names of those that always stay in float32.
        baseline: MAE of the model in float32.
        rise: the budget, by how much INT8 may raise the MAE.

    Raises:
        ExportError: the budget is exceeded even with MOST_FLOAT of the layers in float32.
    """
    rank, rises = cache(rank), []
    for added in range(int(MOST_FLOAT * (len(layers) - len(always))) + 1):
        chosen = {*always, *(rank()[:added] if added else ())}
        floats = tuple(name for name in layers if name in chosen)
        model = quantise(floats)
        mae = measure(model)
        kept = f"{len(floats)} of {len(layers)} layers in float32"
        print(f"INT8 with {kept}: MAE {mae:.2f}", flush=True)
        if mae <= baseline + rise:
            return Quantised(model, floats, mae)
        rises.append(mae - baseline)
    raise ExportError(
        f"INT8 raises the MAE of {baseline:.2f} by {rises[0]:.2f}, at least by {min(rises):.2f} "
        f"with up to {kept}; --max-mae-rise allows {rise:g}"
    )
