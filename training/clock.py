"""A training's time. On a CPU, what other work took of it, or a stop, does not count."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from training.state import Progress

READING_S = 20.0  # shorter readings are joined
RECENT_S = 300.0  # the last minutes, whose pace is planned with
DISTURBED = 0.8  # below this part of the most processor time a second that was seen


@dataclass
class Reading:
    """Some pieces of work: steps, or validations."""

    pieces: int
    passed: float  # seconds
    worked: float  # seconds of the processor, of all threads together


class Work:
    """The readings of one kind of work, each piece of which is alike."""

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
        """Returns the seconds that count, those of a piece lately, and the most of a piece.

        A disturbed reading counts what its pieces take undisturbed. Its processor time would not
        say it: threads that wait for one that was put aside spend it, too. Which readings were
        disturbed may show afterwards.

        Args:
            before: seconds a piece before the first reading, if known.
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
    """Keeps the times of `progress`, from wherever that stands.

    Args:
        shared: whether processor time tells what other work took. A training on a GPU waits for
            it by right: there all that passes counts.
    """

    def __init__(self, progress: Progress, shared: bool):
        self.progress, self._before = progress, replace(progress)
        self._worked: Callable[[], float] = time.process_time if shared else time.perf_counter
        self._steps, self._validations = Work(), Work()
        self._passed = self._rest = 0.0
        self._started = False
        self._read_at = time.perf_counter(), self._worked()

    def count_steps(self, steps: int) -> float:
        """Takes what has passed as that of `steps`, and returns it. The first comes alone."""
        passed, worked = self._read()
        if self._started:
            self._steps.add(steps, passed, worked)
        elif self.progress.steps == 1:
            self.progress.first = passed
        else:
            self._rest += passed
        self._started = True
        self._update()
        return passed

    def count_validation(self) -> None:
        self._validations.add(1, *self._read())
        self._update()

    def count_rest(self) -> None:
        """Takes what has passed as that of other work of the training, such as checkpoints."""
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
