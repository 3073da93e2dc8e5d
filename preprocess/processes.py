"""Runs jobs in worker processes: one that fails, or kills its process, ends no other."""

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn, TypeVar

import cv2

from datasets.splits import DataError
from utils.interrupt import STOPPING
from utils.progress import Bar

GRACE_S = 5  # for a worker to remove what it has begun to write
NAMED = 20  # failures that are named
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failed:
    """Stands in the place of a job's result."""

    message: str  # a line that names the file


def run_in_processes(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    description: str,
    name: Callable[[Job], object],
    unit: str = "image",
) -> list[Result | Failed]:
    """Returns every job's result, in order, and shows progress.

    A job that raises DataError, OSError or MemoryError has failed, and so has one that ends its
    process, as damaged files end some readers; the next job gets a new process.
    No worker outlives the call.

    Args:
        name: of the file that a job reads, for the message if its process ends.

    Raises:
        RuntimeError: a job raised something else; the message is its traceback.
    """
    outcomes: list = [None] * len(jobs)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes share the cores, and a fork would wait for lost threads
    waiting, free = deque(range(len(jobs))), []
    busy: dict[Connection, tuple[_Worker, int]] = {}
    try:
        with Bar(total=len(jobs), desc=description, unit=unit, disable=len(jobs) < 2) as bar:
            while waiting or busy:
                while waiting and len(busy) < workers:
                    worker = free.pop() if free else _Worker(work)
                    number = waiting.popleft()
                    busy[worker.connection] = worker, number
                    with suppress(OSError):  # a dead worker's outcome says so
                        worker.connection.send(jobs[number])
                for connection in wait(list(busy)):
                    worker, number = busy[connection]
                    outcome = worker.take_outcome()
                    del busy[connection]
                    free += [worker] if worker.is_alive() else []
                    bar.update()
                    if isinstance(outcome, _Bug):
                        raise RuntimeError(f"{name(jobs[number])}:\n{outcome.traceback}")
                    if isinstance(outcome, _Ended):
                        outcome = Failed(f"{name(jobs[number])}: {outcome.reason}")
                    outcomes[number] = outcome
    finally:
        for worker in [*free, *(worker for worker, _ in busy.values())]:
            worker.stop()
        cv2.setNumThreads(threads)
    return outcomes


def raise_failed(outcomes: Iterable[object]) -> None:
    """Raises one DataError about all jobs that failed, if any did, with a line for each."""
    messages = [outcome.message for outcome in outcomes if isinstance(outcome, Failed)]
    if len(messages) > NAMED:
        messages[NAMED:] = [f"{len(messages) - NAMED} more files failed"]
    if messages:
        raise DataError("\n".join(messages))


@dataclass(frozen=True)
class _Bug:
    traceback: str


@dataclass(frozen=True)
class _Ended:
    reason: str


class _Worker:
    """A process, and the connection that brings it jobs and takes their outcomes."""

    def __init__(self, work: Callable[[Any], Any]):
        self.connection, theirs = multiprocessing.Pipe()
        ends = theirs, self.connection
        self._process = multiprocessing.Process(target=_serve, args=(work, *ends), daemon=True)
        with _signals_held_back():
            self._process.start()
        theirs.close()

    def take_outcome(self) -> object:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.stop()
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return _Ended("reading it took too much memory (SIGKILL); try fewer --workers")
        by = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _Ended(f"reading it ended the process ({by}); the file is damaged")

    def is_alive(self) -> bool:
        return not self.connection.closed

    def stop(self) -> None:
        self.connection.close()
        self._process.terminate()
        self._process.join(GRACE_S)
        self._process.kill()
        self._process.join()


def _serve(work: Callable[[Any], Any], connection: Connection, parents: Connection) -> None:
    parents.close()  # else this process would not notice when its parent is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    while True:
        try:
            connection.send(_try(work, connection.recv()))
        except (EOFError, OSError):  # the parent is gone, maybe killed while this one worked
            return


def _try(work: Callable[[Any], Any], job: Any) -> object:
    try:
        return work(job)
    except (DataError, OSError) as error:
        return Failed(" ".join(str(error).splitlines()))
    except MemoryError:
        return _Ended("memory does not suffice")
    except Exception:
        return _Bug(traceback.format_exc())


def ignore_signals() -> None:
    """Lets what has begun be tidied up.

    SIG_IGN would not do: Python complains where a signal came just before it was set.
    """
    for number in STOPPING:
        signal.signal(number, lambda *_: None)


def _leave(number: int, _: object) -> NoReturn:
    ignore_signals()
    raise SystemExit(128 + number)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Until a new process has its own handlers, it would answer a signal by a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
