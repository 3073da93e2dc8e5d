"""Runs work in child processes, whose crash, hang or hunger for memory is noticed and ends no more.

A child is forked from this process, which has imported the packages: that takes milliseconds where
a new interpreter takes seconds. All else is a program's: its arguments, outputs, signals and end.
"""

import atexit
import ctypes
import os
import resource
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parents[1]
TRACEBACK = "Traceback (most recent call last)"
SUBREAPER = 36  # of prctl: what a dead child leaves behind becomes ours, and can be waited for
POLL_S = 0.002


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int  # exit code; below 0, the signal that ended it
    out: str
    err: str
    hung: bool  # it was killed for taking too long
    left: int  # processes that it left behind, and that had to be killed
    seconds: float

    @property
    def fault(self) -> str:
        """Returns what no input and no moment may cause: "hang", "crash", "traceback"; or ""."""
        if self.hung or self.left:
            return "hang"
        if TRACEBACK in self.err or TRACEBACK in self.out:
            return "traceback"
        return "crash" if self.code < 0 else ""

    @property
    def last_line(self) -> str:
        return (self.err.strip() or self.out.strip() or "no output").splitlines()[-1]


class Child:
    """A process that does `work`; its output goes to files in `folder`.

    Args:
        memory: bytes that it may take beyond what this process has.
    """

    def __init__(self, work: Callable[[], object], folder: Path, memory: int | None = None):
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
        folder.mkdir(parents=True, exist_ok=True)
        self._files = folder / "stdout", folder / "stderr"
        self._began = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            _run(work, self._files, memory)

    def signal(self, number: int) -> None:
        """Sends a signal to the process alone, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, limit: float, grace: float = 20) -> Ended:
        """Waits `limit` seconds for the process, and then `grace` for those that it started."""
        hung, code = False, None
        while code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
            elif not hung and time.monotonic() > self._began + limit:
                hung = True
                os.killpg(self.pid, signal.SIGKILL)
            else:
                time.sleep(POLL_S)
        seconds = time.monotonic() - self._began
        left = self._wait_for_others(grace)
        out, err = (file.read_text(errors="backslashreplace") for file in self._files)
        return Ended(code, out, err, hung, left, seconds)

    def _wait_for_others(self, grace: float) -> int:
        end, killed = time.monotonic() + grace, 0
        while True:
            with suppress(ChildProcessError):
                while os.waitpid(-self.pid, os.WNOHANG)[0]:
                    pass
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return killed
            if time.monotonic() > end and not killed:
                killed = 1
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(POLL_S)


def preload() -> None:
    """Imports what programs import late, so that their children need not: it takes seconds."""
    for name in ("torchvision.models", "onnxscript", "torch.onnx._internal.exporter._core"):
        with suppress(ImportError):  # the last two are needed for exporting alone
            import_module(name)


def run_program(program: Path, arguments: list[Any]) -> None:
    """Runs a program of the project in this process, as `python PROGRAM ARGUMENTS` does."""
    sys.argv = [str(program), *map(str, arguments)]
    sys.path[0] = str(program.parent)
    sys.modules.pop("utils.start", None)  # which prepares outputs and exceptions for a program
    runpy.run_path(str(program), run_name="__main__")


def end_like_python(work: Callable[[], object]) -> NoReturn:
    """Does the work of a forked process, and ends it as Python does.

    Only what is held in memory is not taken apart, for which all pages would have to be copied.
    """
    code: Any = 0
    sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
    sys.excepthook = sys.__excepthook__
    try:
        work()
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    for finish in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        with suppress(Exception):
            finish()
    if code and code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code or 0)


def _run(work: Callable[[], object], files: tuple[Path, Path], memory: int | None) -> NoReturn:
    """Prepares a new process, and does the work in it."""
    os.setsid()
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever ours are
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        limit = _address_space() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    np.random.seed()  # a new interpreter's random numbers are others, too
    torch.seed()
    os.chdir("/")
    end_like_python(work)


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
