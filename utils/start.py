"""Imported by every program before anything that may be missing: it needs nothing but Python."""

import ctypes
import io
import os
import sys
from pathlib import Path
from types import TracebackType

PROJECT = Path(__file__).resolve().parents[1]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_BLOCK = 2**31 - 1  # bytes


def prepare_outputs() -> None:
    """Lets anything be printed, whatever the outputs are.

    One that is closed, as by 2>&- in a shell, becomes the null device: else the next file to be
    opened gets its number, and what libraries print is written into it.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a notebook has in its place
            stream.reconfigure(errors="backslashreplace")  # names in letters that it lacks


def keep_memory() -> bool:
    """Lets glibc keep large blocks that are freed; returns whether it does.

    Steps on the CPU then meet fewer page faults: counting takes a tenth less time. Other C
    libraries are left alone, and so is one that the environment tells what to do.
    """
    if sys.platform != "linux" or os.environ.keys() & {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)
    return mallopt is not None and all(mallopt(setting, LARGEST_BLOCK) for setting in settings)


def end_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Handles an exception that nobody caught: a missing package is looked for in .venv.

    The program starts again there. Where the scripts have made no .venv, or the package is missing
    there as well, it ends with a line that says how to get it. Ctrl-C takes one word instead of a
    traceback; Python then ends as by that signal. A killed worker, of which PyTorch tells wherever
    the program may be, takes a line.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return
    if issubclass(kind, RuntimeError) and str(error).startswith("DataLoader worker"):
        print(
            "error: a process that reads pictures was killed, as systems do where memory ends; "
            "fewer --workers need less",
            file=sys.stderr,
        )
        return
    if not issubclass(kind, ModuleNotFoundError):
        sys.__excepthook__(kind, error, traceback)
        return
    venv = PROJECT / ".venv"
    if (venv / "bin/python").exists() and Path(sys.prefix).resolve() != venv.resolve():
        python = str(venv / "bin/python")
        os.execv(python, [python, *sys.argv])
    print(
        f"error: {sys.executable} has no package {error.name}. `bash {PROJECT / 'predict.sh'} "
        f"--help` makes .venv, which every program then uses; `{sys.executable} -m pip install -r "
        f"{PROJECT / 'requirements.txt'}` does without",
        file=sys.stderr,
    )


prepare_outputs()
KEEPS_MEMORY = keep_memory()
if PROJECT in Path(sys.argv[0]).resolve().parents:  # one of our programs is run, not imported
    sys.excepthook = end_uncaught
