"""Measures a training's time, on a CPU without what other processes or interruptions took."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from training.state import Progress

READING_S = 20.0  # shorter readings are merged
RECENT_S = 300.0  # the last minutes, whose pace the plan uses
DISTURBED = 0.8  # readings below this part of the highest CPU time per second are disturbed


@dataclass
class Reading:
    """The time of some pieces of work: steps, or validations."""

    pieces: int
    passed: float  # seconds
    worked: float  # CPU seconds of all threads together


class Work:
    """The readings of one kind of work, whose pieces are alike."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []

    def add(self, pieces: int, passed: float, worked: float) -> None:
        if not self._readings or self._readings[-1].passed >= READING_S:
            self._readings.append(Reading(0, 0.0, 0.0))
        last = self._readings[-1]
        last.pieces += pieces
        last.passed += passed
        last.worked += worked

    def count(self, before: float | None) -> tuple[float, float | None, float | None]:
        """Returns the seconds that count, recent seconds per piece, and the most per piece.

        A disturbed reading counts the time that its pieces take undisturbed. Its CPU time is no
        measure, because threads also spend it waiting for a suspended one. Later readings may show
        that an earlier one was disturbed.

        Args:
            before: seconds per piece before the first reading, if known.
        """
        if not self._readings:
            return 0.0, before, None
        most = max(r.worked / r.passed for r in self._readings)
        undisturbed, disturbed = [], []
        for r in self._readings:
            (disturbed if r.worked < DISTURBED * most * r.passed else undisturbed).append(r)
        pieces = passed = 0.0
        for r in reversed(undisturbed):
            pieces, passed = pieces + r.pieces, passed + r.passed
            if passed >= RECENT_S:
                break
        if before and passed < RECENT_S:
            pieces, passed = pieces + (RECENT_S - passed) / before, RECENT_S
        pace = passed / pieces
        counted = sum(r.passed for r in undisturbed)
        counted += sum(min(r.passed, pace * r.pieces) for r in disturbed)
        return counted, pace, max(r.passed / r.pieces for r in undisturbed)


class Clock:
    """Updates the times of `progress`, which may be those of a resumed training.

    Args:
        shared: whether CPU time shows what other processes took. It does not where the CPU waits
            for a GPU: there all time counts.
    """

    def __init__(self, progress: Progress, shared: bool):
        self.progress, self._before, self._shared = progress, replace(progress), shared
        self._worked: Callable[[], float] = time.process_time if shared else time.perf_counter
        self._steps, self._validations = Work(), Work()
        self._passed = self._rest = 0.0
        self._started = False
        self._read_at = time.perf_counter(), self._worked()

    def count_steps(self, steps: int) -> float:
        """Counts the time since the last reading as that of `steps`, and returns it.

        The first step comes alone. A resumed run's counts at most as much as the very first one.
        """
        passed, worked = self._read()
        if self._started:
            self._steps.add(steps, passed, worked)
        elif self.progress.steps == 1:
            self.progress.first = passed
        else:  # a resumed run's, of which nothing tells how much was disturbed
            self._rest += min(passed, self.progress.first or passed) if self._shared else passed
        self._started = True
        self._update()
        return passed

    def count_validation(self) -> None:
        self._validations.add(1, *self._read())
        self._update()

    def count_rest(self) -> None:
        """Counts the time since the last reading as other work, such as checkpoints."""
        self._rest += self._read()[0]

    def _read(self) -> tuple[float, float]:
        (passed, worked), self._read_at = self._read_at, (time.perf_counter(), self._worked())
        passed, worked = self._read_at[0] - passed, self._read_at[1] - worked
        self._passed += passed
        return passed, worked

    def _update(self) -> None:
        before, progress = self._before, self.progress
        steps, progress.pace, _ = self._steps.count(before.pace)
        validations, _, longest = self._validations.count(None)
        between = validations + self._rest
        counted = progress.first - before.first + steps + between
        progress.seconds = before.seconds + counted
        progress.uncounted = before.uncounted + self._passed - counted
        progress.between = before.between + between
        progress.validation = longest or before.validation
