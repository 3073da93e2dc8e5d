"""Prints what the shell scripts need to know about a data set and an architecture, in bash."""

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

from counting.protocols import SHORT_SIDE  # noqa: E402
from datasets.catalogue import find_dataset  # noqa: E402
from models.build import find_architecture  # noqa: E402
from models.distillation import TERMS  # noqa: E402
from training.recipes import choose_protocol  # noqa: E402
from utils.options import Parser, fail  # noqa: E402


def describe(arch: str, dataset: str) -> dict[str, str]:
    """Returns the scripts' variables, of the data set and of the networks.

    Raises:
        ValueError: there is no such architecture or data set.
    """
    entry, network = find_dataset(dataset), find_architecture(arch)
    rescaled = choose_protocol(arch, dataset) == "rescaled"
    short_side = ":".join(map(str, SHORT_SIDE)) if rescaled else ""
    return {
        "prefix": entry.prefix,
        "default_root": entry.root,
        "short_side": short_side,
        "teacher_arch": network.teacher or arch,
        "student_width": network.student_width,
        "untaught": " ".join(name for name, term in TERMS.items() if not term.taught),
    }


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--dataset", required=True)
    options = parser.parse_args()
    try:
        variables = describe(options.arch, options.dataset)
    except ValueError as error:
        fail(error)
    print("\n".join(f"{name}={shlex.quote(value)}" for name, value in variables.items()))
