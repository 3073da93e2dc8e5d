"""Times predict.py --ray local, with 1 and 2 actors of one thread, against plain predict.py.

`python report/benchmarks/scale.py FOLDER` counts some of the folder's pictures and then all of them
in every way. The difference is the steady state, and what remains of the first time is the start.
It checks that all counts are the same, bit for bit, and estimates what 10 million pictures cost.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from utils.start import PROJECT

import numpy as np  # noqa: E402

from datasets.pictures import list_pictures  # noqa: E402
from utils.markdown import format_table  # noqa: E402
from utils.options import Parser, number, whole_number  # noqa: E402

MANY = 10_000_000  # pictures, of the estimate
WAYS = (("plain", 1, 0), ("1 actor", 1, 1), ("2 x plain", 2, 0), ("2 actors", 1, 2))
HEADS = ("all (s)", "start (s)", "then, pictures a second", "CPU ms a picture", "load before")


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path, help="pictures")
    add("--few", type=whole_number(2), default=20, help="pictures of the short runs")
    add("--price", type=number(0), default=0.04, help="of a core-hour")
    return parser.parse_args()


def count(folder: Path, names: list[str], processes: int, actors: int) -> tuple[float, dict]:
    """Counts with `actors`, or in `processes` without Ray.

    Returns:
        CPU seconds of all processes, and the counts by name.
    """
    running = []
    for process in range(processes):
        pictures = folder / f"{process}.txt"
        pictures.write_text("\n".join(names[process::processes]))
        output = ["--json", folder / f"{process}.json"]
        if actors:
            output = ["--ray", "local", "--actors", actors, "--parquet", folder / "parts"]
        command = [sys.executable, PROJECT / "predict.py", pictures, "--cpu", *output]
        log = (folder / "log.txt").open("w")
        running.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=log))
    used: dict[int, float] = {}
    while any(process.poll() is None for process in running):
        used |= measure_tree()
        time.sleep(0.2)
    if any(process.returncode for process in running):
        sys.exit(f"error: predict.py failed: {(folder / 'log.txt').read_text()}")
    if actors:
        from pyarrow import parquet

        rows = parquet.read_table(folder / "parts").to_pylist()
    else:
        lines = [path.read_text().splitlines() for path in folder.glob("*.json")]
        rows = [json.loads(line) for part in lines for line in part]
    return sum(used.values()), {row["name"]: row["count"] for row in rows}


def measure_tree() -> dict[int, float]:
    """Returns the CPU seconds so far of every process that descends from this one, by number."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        used = int(fields[11]) + int(fields[12])  # in user mode and in the system
        seconds[int(path.parent.name)] = used / os.sysconf("SC_CLK_TCK")
    ours = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {process: seconds[process] for process in ours - {os.getpid()}}


def time_count(names: list[str], processes: int, actors: int) -> tuple[np.ndarray, dict]:
    """Returns wall and CPU seconds, (2,), and the counts."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        used, counts = count(Path(folder), names, processes, actors)
        return np.array([time.perf_counter() - began, used]), counts


def main(args: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_worker_niceness"] = "0"  # not 15, so that other programs hold up all alike
    names = [str(path.absolute()) for path in list_pictures(args.folder, False).files]
    if len(names) <= args.few:
        sys.exit(f"error: {args.folder} holds {len(names)} pictures; more than --few are needed")
    few = [names[i * len(names) // args.few] for i in range(args.few)]
    expected, rows, steady = None, [], {}
    for label, processes, actors in WAYS:
        load = os.getloadavg()[0]
        short, _ = time_count(few, processes, actors)
        whole, counts = time_count(names, processes, actors)
        expected = expected or counts
        if counts != expected or len(counts) != len(names):
            sys.exit(f"error: {label} counts otherwise")
        each = steady[label] = (whole - short) / (len(names) - len(few))
        start = short - each * len(few)
        numbers = [whole[0], start[0], 1 / each[0], 1000 * each[1], load]
        rows.append([label, *map(float, numbers)])
        print(label, *numbers, flush=True)
    print(format_table(["", *HEADS], rows))
    for label, base in (("1 actor", "plain"), ("2 actors", "2 x plain")):
        wall, used = 100 * (steady[label] / steady[base] - 1)
        print(f"{label}: overhead {wall:+.1f} % in time, {used:+.1f} % in CPU time")
    hours = MANY * steady["2 actors"][1] / 3600
    print(f"{MANY:,} pictures: {hours:,.0f} core-hours, {hours * args.price:,.2f} at {args.price}")


if __name__ == "__main__":
    main(parse_args())
