"""Kills programs at random and at aimed moments, starts them again, and looks for what was lost.

`python tests/kills.py --kills 100` ends with a table, and with 1 if anything was lost: if the next
start fails or ends otherwise than without the kill, if a file is half written, or if a training
loses more than the epoch under way.
"""

import argparse
import builtins
import io
import math
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # children are forked: no threads before
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from children import PROJECT, Child, Ended, preload, run_program  # noqa: E402
from kill_cases import Case, cases, compare, prepare, read_all, read_progress  # noqa: E402

import calibrate  # noqa: E402, F401  # so that children need not import what these do
import export  # noqa: E402, F401
import SKT_distill  # noqa: E402, F401
import test  # noqa: E402, F401
import training.loop  # noqa: E402
from utils.markdown import format_table  # noqa: E402

LIMIT_S = 180  # of a program
AGAIN = 0.3  # part of random kills after which the next start is killed, too
SIGNALS = (signal.SIGKILL,) * 6 + (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WRITING = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate")


COLUMNS = ("program", "random kills", "aimed kills", "resumed the same", "started again the same")
COLUMNS += ("steps lost at most, of an epoch's", "lost")


@dataclass(frozen=True)
class Moment:
    """When a program is killed: after some seconds, or at its n-th change of a file."""

    seconds: float = math.inf
    number: int = signal.SIGKILL  # the signal
    event: int = 0  # from 1 on
    after: bool = False  # a file is open then, and empty; else just before the change

    def __str__(self) -> str:
        if self.event:
            return f"SIGKILL {'after' if self.after else 'before'} change {self.event}"
        return f"{signal.Signals(self.number).name} after {self.seconds:.2f} s"


NEVER = Moment()


class Watch:
    """Counts, across processes, the changes of files in a folder and the steps of a training."""

    MOST = 4096  # changes

    def __init__(self, folder: Path):
        self._folder = f"{os.path.realpath(folder)}/"
        self._counts = np.frombuffer(mmap.mmap(-1, 16), np.int64)  # shared with children
        self._emptied = np.frombuffer(mmap.mmap(-1, self.MOST), bool)

    @property
    def changes(self) -> int:
        return int(self._counts[0])

    @property
    def steps(self) -> int:
        return int(self._counts[1])

    def emptied(self, change: int) -> bool:
        """Returns whether a change, from 1 on, opened a file that is empty then."""
        return bool(self._emptied[change])

    def begin(self, moment: Moment) -> None:
        """In the program's process: counts from now on, and kills it at the moment."""
        program, step, real_open, due = os.getpid(), training.loop.take_step, io.open, []

        def take_step(*arguments: Any) -> Any:
            losses = step(*arguments)
            self._counts[1] += 1
            return losses

        def audit(event: str, arguments: tuple) -> None:
            flags = self._change(event, arguments)
            if flags is None:
                return
            self._counts[0] += 1
            self._emptied[self.changes] = flags & os.O_TRUNC
            if self.changes == moment.event:
                due.append(moment)
                if not moment.after:
                    os.kill(program, signal.SIGKILL)

        def opening(*arguments: Any, **options: Any) -> Any:
            file = real_open(*arguments, **options)
            if due:
                os.kill(program, signal.SIGKILL)
            return file

        training.loop.take_step = take_step
        io.open = builtins.open = opening
        sys.addaudithook(audit)

    def _change(self, event: str, arguments: tuple) -> int | None:
        """Returns the flags of a file that is opened for writing, 0 for other changes, or None."""
        if event != "open" and event not in CHANGES:
            return None
        path, flags = arguments[0], arguments[2] if event == "open" else 0
        if not isinstance(path, str | bytes | os.PathLike) or (
            event == "open" and not flags & WRITING
        ):
            return None
        path = os.path.abspath(os.fsdecode(path))
        there = os.path.lexists(path)
        idle = there if event == "os.mkdir" else event in ("os.remove", "os.rmdir") and not there
        return None if idle or not path.startswith(self._folder) else flags


@dataclass
class Result:
    """What became of the kills of a program."""

    kinds: Counter = field(default_factory=Counter)  # "kills", and what the last start did
    losses: list[str] = field(default_factory=list)
    aimed: int = 0  # of the kills
    steps: int = 0  # the most that a kill took from a training


def start(case: Case, folder: Path, moment: Moment = NEVER) -> tuple[Ended, Watch]:
    """Runs a program until its end or the moment."""
    watch = Watch(folder)
    arguments = case.arguments(folder)

    def work() -> None:
        watch.begin(moment)
        run_program(PROJECT / case.program, arguments)

    child = Child(work, folder.with_name(f"{folder.name}-output"))
    if moment.seconds < math.inf:
        time.sleep(moment.seconds)
        child.signal(moment.number)
    return child.wait(LIMIT_S), watch


def kill(
    case: Case, folder: Path, moments: Sequence[Moment], reference: dict, result: Result
) -> None:
    """Kills a program at every moment of a row, lets it end, and adds what was lost to `result`."""
    shutil.rmtree(folder, ignore_errors=True)
    case.prepare(folder)
    lost: list[str] = []
    old = read_all(folder)
    for moment in moments:
        before = read_progress(folder)
        ended, watch = start(case, folder, moment)
        result.kinds["kills"] += 1
        if ended.fault in ("hang", "traceback"):
            lost.append(f"{ended.fault}: {ended.last_line}")
        lost += look(case, folder, old, reference)
        steps = before + watch.steps - read_progress(folder)
        if case.steps:
            allowed = 0 if "--resume continues" in ended.out else case.steps
            result.steps = max(result.steps, steps)
            if steps > allowed:
                lost.append(f"{steps} steps were lost, {allowed} may be")
    resumed = "--resume" in case.arguments(folder)
    ended, _ = start(case, folder)
    if ended.code or ended.fault:
        lost.append(f"the next start: exit code {ended.code}, {ended.last_line}")
    else:
        lost += compare(read_all(folder), reference)
    result.kinds["lost" if lost else "resumed" if resumed else "restarted"] += 1
    if lost:
        result.losses.append(
            f"{case.name}: {', then '.join(map(str, moments))}: {'; '.join(lost)[:600]}"
        )
        print(f"lost: {result.losses[-1]}", flush=True)


def look(case: Case, folder: Path, old: dict, reference: dict) -> list[str]:
    """Returns which files a kill left half written: neither as they were nor as they will be."""
    try:
        found = read_all(folder, unfinished=True)
    except Exception as error:
        return [f"a half file: {error!r:.300}"]
    if case.steps:  # files change all the time
        return []
    return [
        f"{name} is neither old nor new"
        for name, content in found.items()
        if name != case.mark
        and content not in (old.get(name), reference.get(name))
        and not (isinstance(content, tuple) and content == reference.get(name, ())[: len(content)])
    ]


def moments_of(watch: Watch) -> list[Moment]:
    """Returns all aimed moments: before every change, and after one that leaves an empty file."""
    moments = []
    for n in range(1, watch.changes + 1):
        moments.append(Moment(event=n))
        if watch.emptied(n):
            moments.append(Moment(event=n, after=True))
    return moments


def random_moments(rng: random.Random, seconds: float) -> list[Moment]:
    """Returns a kill at a random moment of a program's life, and maybe more of the next starts."""
    moments = [Moment(rng.uniform(0, seconds), rng.choice(SIGNALS))]
    while rng.random() < AGAIN:
        moments.append(Moment(rng.uniform(0, seconds), rng.choice(SIGNALS)))
    return moments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--kills", type=int, default=100, help="at random moments, in all (default: 100)")
    add("--aimed", type=int, help="aimed ones of each program at most (default: all)")
    add("--seed", type=int, default=0, help="of the random moments (default: 0)")
    add("--programs", help="with commas, such as SKT_distill.py,export.py (default: all)")
    return parser.parse_args()


def kill_all(case: Case, folder: Path, aimed: int | None, rng: random.Random, kills: int) -> Result:
    """Kills a program at its aimed moments, `aimed` at most, and at `kills` random ones.

    Raises:
        RuntimeError: it does not work even if it is left alone.
    """
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    case.prepare(folder)
    first, watch = start(case, folder)
    if first.code or first.fault:
        raise RuntimeError(f"{case.name} does not work: {first.err}")
    reference, result = read_all(folder), Result()
    moments = moments_of(watch)
    most = len(moments) if aimed is None else aimed
    for moment in moments[:: math.ceil(len(moments) / most)] if most else ():
        kill(case, folder, [moment], reference, result)
    result.aimed = result.kinds["kills"]
    while result.kinds["kills"] < result.aimed + kills:
        left = result.aimed + kills - result.kinds["kills"]
        kill(case, folder, random_moments(rng, first.seconds)[:left], reference, result)
    seconds = time.monotonic() - began
    print(f"{case.name}: {first.seconds:.1f} s long, {watch.changes} changes; {seconds:.0f} s")
    sys.stdout.flush()
    return result


def tabulate(results: Mapping[str, Result], steps: Mapping[str, int]) -> str:
    """Returns the table of all programs' kills.

    Args:
        steps: of an epoch, by the trainings' names.
    """
    rows = []
    for name, result in results.items():
        kinds, aimed = result.kinds, result.aimed
        lost = f"{result.steps} of {steps[name]}" if steps[name] else ""
        counts = [kinds["kills"] - aimed, aimed, kinds["resumed"], kinds["restarted"]]
        rows.append([name, *counts, lost, kinds["lost"]])
    sums = [sum(row[column] for row in rows) for column in (1, 2, 3, 4, 6)]
    rows.append(["all", *sums[:4], "", sums[4]])
    return format_table(COLUMNS, [list(map(str, row)) for row in rows])


def main(args: argparse.Namespace) -> int:
    root = Path(tempfile.mkdtemp(prefix="skt-kills-"))
    preload()
    made = Child(partial(prepare, root / "data"), root / "making").wait(LIMIT_S)
    if made.code:
        sys.exit(f"error: nothing to work with could be made: {made.err}")
    rng, results, chosen = random.Random(args.seed), {}, cases(root / "data")
    if args.programs:
        chosen = [case for case in chosen if case.name.startswith(tuple(args.programs.split(",")))]
    weights = list(accumulate(case.weight for case in chosen))
    shares = [round(args.kills * weight / weights[-1]) for weight in weights]
    for case, end, begin in zip(chosen, shares, [0, *shares], strict=False):
        results[case.name] = kill_all(case, root / "work", args.aimed, rng, end - begin)
    shutil.rmtree(root)
    print(f"\n{tabulate(results, {case.name: case.steps for case in chosen})}")
    return int(any(result.losses for result in results.values()))


if __name__ == "__main__":
    sys.exit(main(parse_args()))
