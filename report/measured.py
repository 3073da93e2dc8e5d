"""What test.py measured: read, and printed beside the paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.splits import DataError
from report.paper import PAPER, print_table
from utils.inputs import NUMBER, OPTIONAL_NUMBER, check_fields, read_json_file


def read_measured(path: Path) -> dict[str, Any]:
    """Reads what --json wrote.

    Raises:
        DataError: the file is something else.
    """
    kinds = dict.fromkeys(("mae", "rmse", "params", "flops_g"), NUMBER) | {"model": (str,)}
    kinds |= dict.fromkeys(("gpu_ms", "cpu_s"), OPTIONAL_NUMBER)
    try:
        result = check_fields(read_json_file(path), kinds, path)
        check_fields({"engine": "eager"} | result, {"engine": (str,)}, path)  # older ones have none
    except DataError as error:
        raise DataError(f"{path} is no result that --json wrote ({error})") from None
    return result


def print_measured(measured: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> None:
    """Prints the table (the paper's rows, earlier ones, this one), and how things were measured.

    Original: errors against map sums, not against annotated heads.
    """
    paper = PAPER.get(measured["dataset"], ())
    print_table([*paper, *map(_row, [*earlier, measured])])
    height, width = measured["size"]
    side = measured["max_side"]
    shrunk = "" if side is None else f", shrunk to {side} pixels"
    print(
        f"MAE and RMSE of {measured['model']} ({measured['checkpoint']}) over {measured['images']} "
        f"images ({measured['protocol']}{shrunk}), against annotated heads; against map sums "
        f"{measured['mae_map']:.2f} and {measured['rmse_map']:.2f}"
    )
    if measured["count_difference"] is not None:
        print(
            f"counts by {measured['engine']} and by eager float32 differ by at most "
            f"{measured['count_difference']:.2g} over these images"
        )
    for latency in (measured["gpu_latency"], measured["cpu_latency"]):
        if latency:
            median, low, high = (1000 * latency[name] for name in ("median", "low", "high"))
            print(
                f"{height}x{width} by {measured['engine']} on {latency['device']}: {median:.1f}, "
                f"{low:.1f} to {high:.1f} ms (median and deciles of {latency['passes']} passes)"
            )
    if paper:
        print("paper's rows: Liu et al., ACM MM 2020, latency on a GTX 1080 and the authors' CPU")


def _row(measured: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("mae", "rmse", "params", "flops_g", "gpu_ms", "cpu_s")
    values = [measured[key] for key in keys]
    values[2] /= 1e6
    engine = Path(measured.get("engine", "eager")).name
    return (f"ours: {measured['model']}{'' if engine == 'eager' else f', {engine}'}", *values)
