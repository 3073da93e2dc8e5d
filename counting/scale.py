"""Counts pictures in actors of Ray Data, on this machine or on the machines of a cluster."""

from utils.start import PROJECT

import importlib
import logging
import os
import pickle
import platform
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from counting.begun import Begun
from counting.parts import Failure, Outcome
from counting.predictor import Predictor
from counting.sources import Source, read_picture
from utils.inputs import DataError
from utils.precision import allow_tf32

LOCAL = "local"  # the address that starts Ray on this machine
PACKAGES = ("counting", "datasets", "deploy", "models", "utils")  # what actors import of ours
CHUNK = 64  # pictures at most that an actor gets at a time
CHUNKS = 32  # at least, that every actor gets, so that all end at the same time
REACH_S = 10  # seconds that a cluster has to answer
TRIES = 3  # of a picture whose actor dies

Build = Callable[[torch.device], Predictor]


class ScaleError(RuntimeError):
    """Ray is missing, cannot be reached or has failed; the message is for the user."""


def name_pictures(sources: Iterable[Source]) -> list[str]:
    """Returns the names of pictures, each once.

    Raises:
        ScaleError: a source is something else, such as a video.
    """
    names: dict[str, None] = {}
    for source in sources:
        if source.is_video:
            raise ScaleError(f"{source.name} is no picture, and --ray counts pictures alone")
        names[source.name] = None
    return list(names)


@contextmanager
def running_ray(address: str, actors: int | None) -> Iterator[None]:
    """Starts Ray on this machine, or connects to a cluster; leaves it at the end.

    Args:
        address: LOCAL or a cluster's, as `ray.init` takes it.
        actors: how many this machine is to run; None leaves it to Ray.

    Raises:
        ScaleError: Ray is missing, or cannot be started or reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no report leaves the machine
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ModuleNotFoundError as error:
        raise ScaleError(
            f"--ray: package {error.name} is missing: pip install -r requirements-scale.txt"
        ) from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options |= {"num_cpus": actors}
    else:
        options["runtime_env"] = {"py_modules": [str(PROJECT / name) for name in PACKAGES]}
    try:
        _knock(address)
        with _silence():
            ray.init(address=address, **options)
    except (RuntimeError, ValueError, OverflowError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ScaleError(f"--ray {address} cannot be reached: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


def count_pictures(
    names: Sequence[str],
    build: Build,
    actors: int | None,
    use_gpus: bool,
    tell: Callable[[str], None],
) -> Iterator[Outcome]:
    """Yields a reading or a failure of every picture, in the order in which they are counted.

    Ray must run. Every actor builds its predictor once, for a GPU, or a share of one if there are
    more actors than GPUs; or for the CPU, with one thread. An actor that dies is started again, and
    counts its chunk again; a picture at which that happens TRIES times is a failure.

    Args:
        names: paths, relative ones from the current folder.
        actors: how many; by default one for each GPU or else each core.
        use_gpus: whether to use the GPUs that there are.
        tell: takes lines about pictures, such as those of several pages, once each.

    Raises:
        ScaleError: an actor cannot begin, or Ray fails.
    """
    if not names:
        return
    import ray

    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0) if use_gpus else 0
    actors = actors or int(gpus or resources.get("CPU", 1))
    device = torch.device("cuda" if gpus else "cpu")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    begun = ray.remote(num_cpus=0)(Begun).remote()
    chunk = min(CHUNK, max(1, len(names) // (actors * CHUNKS)))
    # As bytes, since a file's name may be no valid text.
    pictures = ray.data.from_items(
        [os.fsencode(name) for name in names], override_num_blocks=-(-len(names) // chunk)
    )
    counted = pictures.map_batches(
        PictureCounter,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=actors),
        fn_constructor_args=(build, device, os.getcwd(), begun),
        num_cpus=1,
        num_gpus=1 / -(-actors // int(gpus)) if gpus else None,  # a share is of one GPU
    )
    said: set[str] = set()
    try:
        for row in counted.iter_rows():
            outcomes, lines, problem = pickle.loads(row["counted"])
            if problem:
                raise ScaleError(problem)
            for line in lines:
                if line not in said:
                    tell(line)
            said.update(lines)
            yield from outcomes
    except ray.exceptions.RayError as error:
        raise ScaleError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from None


class PictureCounter:
    """An actor, which counts chunks of pictures with one predictor."""

    def __init__(self, build: Build, device: torch.device, folder: str, begun: Any):
        allow_tf32(False)
        torch.set_num_threads(1)
        with suppress(OSError):  # another machine need not have it if all paths are absolute
            os.chdir(folder)
        self.begun, self.problem = begun, ""
        try:
            self.predictor = build(device)
        except Exception as error:  # raised here, it would reach the user in Ray's hundred lines
            reason = " ".join(str(error).split()) or type(error).__name__
            self.problem = f"an actor on {platform.node()} cannot begin: {reason}"

    def __call__(self, chunk: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the pickled outcomes of the paths under "item", and the lines they printed."""
        printed, outcomes = StringIO(), []
        if not self.problem:
            with redirect_stderr(printed):
                outcomes = self._count(chunk["item"])
        counted = pickle.dumps((outcomes, printed.getvalue().splitlines(), self.problem))
        return {"counted": np.array([counted], dtype=object)}

    def _count(self, names: Sequence[bytes]) -> list[Outcome]:
        """Counts a chunk; if an actor died of it before, looks which picture that was."""
        import ray

        if not ray.get(self.begun.begin.remote(b"chunk " + names[0])):
            return [count_picture(self.predictor, os.fsdecode(name)) for name in names]
        outcomes: list[Outcome] = []
        for name in names:
            text = os.fsdecode(name)
            if ray.get(self.begun.begin.remote(name)) < TRIES - 1:
                outcomes.append(count_picture(self.predictor, text))
                self.begun.end.remote(name)
            else:
                outcomes.append(Failure(text, f"{text}: {TRIES} processes died counting it"))
        return outcomes


def count_picture(predictor: Predictor, name: str) -> Outcome:
    """Returns the reading of a picture, or what kept it from being counted, whatever that is.

    A run of days must not end at one picture.
    """
    try:
        return predictor.read(read_picture(Path(name)), name)[0]
    except DataError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{name}: {str(error) or type(error).__name__}"
    return Failure(name, " ".join(reason.split()))


def _knock(address: str) -> None:
    """Raises OSError if nobody answers at HOST:PORT: Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=REACH_S).close()


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps what Ray's C++ writes from the screen, which no setting does."""
    kept = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
