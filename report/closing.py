"""Says what the student of a finished distillation is good for, and how to count with it."""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from datasets.catalogue import DATASETS
from datasets.splits import DataError, read_list
from utils.inputs import NUMBER, check_fields, read_json_file
from utils.options import Parser, fail  # noqa: E402


def recommend(run: Path, test_json: Path) -> str:
    """Returns the advice on a run's student: it counts if it beats the mean training count.

    Args:
        run: the run's folder.
        test_json: list of the test images, one of which is an example of drawings.

    Raises:
        DataError: the result or the list cannot be read, or the list is empty.
    """
    path, baseline = run / "result.json", "test_mae_of_mean_training_count"
    kinds = {"test": (dict,), "settings": (dict,), baseline: NUMBER}
    result = check_fields(read_json_file(path), kinds, path)
    mae, mean = check_fields(result["test"], {"mae": NUMBER}, path)["mae"], result[baseline]
    dataset = check_fields(result["settings"], {"dataset": (str,)}, path)["dataset"]
    if dataset not in DATASETS:
        raise DataError(f"{path}: there is no data set {dataset:.40}")
    if not mae < mean:
        return (
            f"This student is not fit to count: its test MAE of {mae:,.2f} is not below the "
            f"{mean:,.2f} of always answering the mean training count."
        )
    drawn = DATASETS[dataset].demonstration
    picture = read_list(test_json)[0].image if drawn else "photo.jpg"
    named = f"{shlex.quote(str(picture))} -c {shlex.quote(str(run / 'model.safetensors'))}"
    command = f"bash predict.sh {named} --out overlays"
    if not drawn:
        return f"To count people: {command}"
    return (
        f"This student counts in drawings like these alone: {command}\n"
        "The one that comes with the project counts in photographs: bash predict.sh photo.jpg"
    )


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("test_json", type=Path, help="list of its test images")
    options = parser.parse_args()
    try:
        print(recommend(options.run, options.test_json))
    except (DataError, OSError) as error:
        fail(error)
