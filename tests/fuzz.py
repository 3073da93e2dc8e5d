"""Gives damaged files to the programs: each must be read, or refused in one line that names it.

`python tests/fuzz.py --files 1000` ends with a table, and with 1 if there was a crash, a hang, a
traceback or a wrong answer. Such files are kept; `python tests/fuzz.py --repeat FILE` tries one
again.
"""

import argparse
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # children are forked: no threads before
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from children import Child, preload  # noqa: E402
from fuzz_formats import FAULTS, FORMATS, Bases, Format, Outcome, Trial, formats  # noqa: E402

import SKT_distill  # noqa: E402, F401  # so that children need not import what it does
import test  # noqa: E402, F401
from utils.markdown import format_table  # noqa: E402

LIMIT_S = 120  # of a batch; one takes seconds
LIMIT_ALONE_S = 30  # of a single file
MEMORY = 6 * 2**30  # bytes that a batch may take
COLUMNS = ("format", "files", "read", "refused", *FAULTS)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--files", type=int, default=1000, help="of each format (default: 1000)")
    add("--seed", type=int, default=0, help="of the damage (default: 0)")
    add("--formats", default=",".join(FORMATS), help="with commas (default: all)")
    add("--repeat", type=Path, nargs="+", default=[], help="damaged files to try again")
    return parser.parse_args()


def write_damaged(bases: Bases, form: str, number: int, seed: int, folder: Path) -> Path:
    """Writes the damaged file of a number: FORMAT-NUMBER-BASE, always the same one."""
    rng, kind = random.Random(f"{form} {seed} {number}"), FORMATS[form]
    base = kind.bases[number % len(kind.bases)]
    path = folder / f"{form}-{number:04}-{base}{kind.ending}"
    whole = damaged = bases.file(form, base).read_bytes()
    while damaged == whole:
        damaged = kind.damage(whole, rng)
    path.write_bytes(damaged)
    return path


def try_files(trial: Trial, files: Sequence[Path], folder: Path) -> dict[Path, Outcome]:
    """Returns the outcome of every file; a batch that ends badly is tried again in halves."""
    shutil.rmtree(folder, ignore_errors=True)
    results, inner = folder / "results", folder / "files"

    def work() -> None:
        inner.mkdir()
        results.write_bytes(pickle.dumps(trial.use(files, inner)))

    limit = LIMIT_S if len(files) > 1 else LIMIT_ALONE_S
    ended = Child(work, folder, MEMORY).wait(limit)
    fault = ended.fault or ("" if results.exists() else "wrong")
    if not fault:
        return dict(pickle.loads(results.read_bytes()))
    if len(files) == 1:
        return {files[0]: Outcome(fault, f"exit code {ended.code}: {ended.last_line[:300]}")}
    middle = len(files) // 2
    outcomes = try_files(trial, files[:middle], folder) | try_files(trial, files[middle:], folder)
    if not any(outcome.kind in FAULTS for outcome in outcomes.values()):
        outcomes[files[0]] = Outcome(fault, f"with the next {len(files)}: {ended.last_line[:300]}")
    return outcomes


def fuzz(kind: Format, files: Sequence[Path], folder: Path, kept: Path) -> Counter:
    """Tries files of a format, and returns how many had each outcome, the worst of all trials.

    Those with a fault are kept, and named in a line each.
    """
    worst: dict[Path, Outcome] = {}
    order = ("read", "refused", *FAULTS)
    for trial in kind.trials:
        chosen = files[:: trial.every]
        for start in range(0, len(chosen), trial.batch):
            batch = chosen[start : start + trial.batch]
            for file, outcome in try_files(trial, batch, folder).items():
                before = worst.get(file, Outcome("read"))
                worst[file] = max(before, outcome, key=lambda one: order.index(one.kind))
                if outcome.kind in FAULTS:
                    kept.mkdir(exist_ok=True)
                    shutil.copy(file, kept)
                    print(
                        f"{outcome.kind}: {trial.name}: {kept / file.name}: {outcome.detail}",
                        flush=True,
                    )
    return Counter(outcome.kind for outcome in worst.values())


def tabulate(counts: Mapping[str, Counter]) -> str:
    """Returns the table of all formats' outcomes."""
    rows = [
        [form, str(n.total()), *(str(n[kind]) for kind in COLUMNS[2:])]
        for form, n in counts.items()
    ]
    return format_table(COLUMNS, rows)


def main(args: argparse.Namespace) -> int:
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="skt-fuzz-"))
    kept = folder.with_name(f"{folder.name}-kept")
    bases = Bases(folder / "bases")
    preload()
    made = Child(bases.make, folder / "making").wait(300)
    if made.code:
        sys.exit(f"error: no valid files could be made: {made.err}")
    damaged, counts = folder / "damaged", {}
    damaged.mkdir()
    for form, kind in formats(bases).items():
        if args.repeat:
            files = [file.resolve() for file in args.repeat if file.name.startswith(f"{form}-")]
        elif form in args.formats.split(","):
            files = [write_damaged(bases, form, n, args.seed, damaged) for n in range(args.files)]
        else:
            continue
        if files:
            counts[form] = fuzz(kind, files, folder / "trial", kept)
            print(f"{form}: {dict(counts[form])}, {time.monotonic() - began:.0f} s", flush=True)
    shutil.rmtree(folder)
    print(f"\n{tabulate(counts)}")
    failed = sum(n[kind] for n in counts.values() for kind in FAULTS)
    if failed:
        print(
            f"\n{failed} files failed. `python tests/fuzz.py --repeat {kept}/FILE` tries one again"
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(parse_args()))
