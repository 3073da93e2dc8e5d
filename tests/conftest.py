"""Small data sets and networks that the tests make themselves."""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from matplotlib.figure import Figure
from PIL import Image

import predict
from deploy.deployed import Deployed
from deploy.exported import FORMATS
from models.build import build_network
from models.counter import GUARD
from models.guard import Guard, judged_layers
from models.initial import init_kaiming
from preprocess.annotations import write_shanghaitech_points
from utils.checkpoint import save_checkpoint, save_weights
from utils.interrupt import STOPPING

PROJECT = Path(__file__).resolve().parents[1]

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # else programs under test inherit what nohup set


def run_program(
    program: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess:
    """Runs a program of the project from elsewhere, as a user would, and returns its result.

    It gets a process of its own only with an `environment` of its own: importing PyTorch takes
    seconds.
    """
    command = [str(PROJECT / program), *map(str, arguments)]
    if environment:
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=240,
            cwd="/",
            env=os.environ | environment,
        )
    printed, errors = io.StringIO(), io.StringIO()
    with restored_process(), redirect_stdout(printed), redirect_stderr(errors):
        sys.argv = command
        os.chdir("/")
        code = run_as_main(command[0])
    return subprocess.CompletedProcess(command, code, printed.getvalue(), errors.getvalue())


def run_as_main(path: str) -> int:
    """Returns the exit code; what Python prints at the end of such a process is printed here."""
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


@contextmanager
def restored_process() -> Iterator[None]:
    """Restores what a program changes in its process."""
    folder, arguments, hook = Path.cwd(), sys.argv, sys.excepthook
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        os.chdir(folder)
        sys.argv, sys.excepthook = arguments, hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def assert_one_line_error(result: subprocess.CompletedProcess, *words: str) -> None:
    """Asserts that a program ended with an error in one line that names the `words`."""
    assert result.returncode != 0, result.stdout
    assert result.stderr.count("\n") == 1, result.stderr
    for word in ("error: ", *words):
        assert word in result.stderr


def write_shanghaitech(
    root: Path,
    heads: dict[str, Sequence[int]],
    size: tuple[int, int] = (64, 96),
    part: str = "part_A_final",
    gt_folder: str = "ground_truth",
    ending: str = ".jpg",
) -> Path:
    """Writes noise pictures with these numbers of random heads, and returns `root`."""
    rng = np.random.default_rng(0)
    for split, counts in heads.items():
        images, annotations = (root / part / split / f for f in ("images", gt_folder))
        images.mkdir(parents=True)
        annotations.mkdir()
        for number, count in enumerate(counts, start=1):
            picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(picture).save(images / f"IMG_{number}{ending}", "JPEG")
            points = rng.random((count, 2)) * [size[1], size[0]]
            write_shanghaitech_points(annotations / f"GT_IMG_{number}.mat", points)
    return root


def write_qnrf(root: Path, split: str, points: Sequence, size: tuple[int, int] = (70, 90)) -> None:
    """Adds black pictures of `size` with these heads to a split."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    for number, heads in enumerate(points, start=1 + len(list(folder.glob("*.jpg")))):
        Image.new("RGB", size[::-1]).save(folder / f"img_{number:04}.jpg")
        heads = np.array(heads, float).reshape(-1, 2)
        scipy.io.savemat(folder / f"img_{number:04}_ann.mat", {"annPoints": heads})


@pytest.fixture(scope="session", autouse=True)
def traced_once() -> Iterator[None]:
    """PyTorch's ONNX exporter, seconds a call, is asked once for networks of the same weights."""
    traced = {}

    def export(network: Deployed, *arguments: object, **options: object) -> object:
        weights = tuple((k, v.numpy().tobytes()) for k, v in network.state_dict().items())
        key = (type(network.network), network.preprocess, network.guard, weights)
        if key not in traced:
            traced[key] = real(network, *arguments, **options)
        return traced[key]

    with pytest.MonkeyPatch.context() as patch:
        real = torch.onnx.export
        patch.setattr(torch.onnx, "export", export)
        yield


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """Curves, half a second a figure, are drawn once for each kind, and then written again."""
    drawn = {}

    def save(figure: Figure, file: Path, **options: object) -> None:
        kind = tuple((axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes)
        if not all(map(all, kind)):  # there are pictures
            return real(figure, file, **options)
        if kind not in drawn:
            real(figure, file, **options)
            drawn[kind] = Path(file).read_bytes()
        Path(file).write_bytes(drawn[kind])

    with pytest.MonkeyPatch.context() as patch:
        real = Figure.savefig
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="session")
def crowd_lists(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The train, validation and test lists of a tiny data set whose maps are made."""
    root = tmp_path_factory.mktemp("crowd")
    write_shanghaitech(root, {"train_data": [5, 0, 12, 3, 7, 9], "test_data": [4, 1, 2]})
    for program, options in (
        ("preprocess/ShanghaiTech_GT_generation.py", ["--workers", 1]),
        ("preprocess/make_json.py", ["--out", root]),
    ):
        result = run_program(program, "--root", root, *options)
        assert result.returncode == 0, result.stderr
    return [root / f"A_{split}.json" for split in ("train", "val", "test")]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CSRNet of 1/8 in a file."""
    torch.manual_seed(0)
    network = build_network("csrnet", Fraction(1, 8))
    init_kaiming(network)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    save_checkpoint(path, {"state_dict": network.state_dict()})
    return path


def save_student(
    path: Path,
    arch: str = "bl",
    guard: dict[str, torch.Tensor] | None = None,
    bias: float | None = None,
) -> Path:
    """Writes a random student of 1/16, and returns `path`; a BL's maps are positive."""
    torch.manual_seed(0)
    network = build_network(arch, Fraction(1, 16))
    init_kaiming(network)
    if bias is not None:
        torch.nn.init.constant_(network.output_layer.bias, bias)
    save_weights(path, network.state_dict() | (guard or {}), {})
    return path


def plain_guard(threshold: float, arch: str = "bl") -> dict[str, torch.Tensor]:
    """Returns a guard of `save_student`, for features around 0, as a file holds it."""
    layers = judged_layers(build_network(arch, Fraction(1, 16)))
    channels = sum(layer.in_channels for layer in layers)
    guard = Guard(torch.zeros(channels), torch.eye(channels), torch.tensor(threshold))
    return {f"{GUARD}{name}": tensor for name, tensor in guard.state_dict().items()}


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BL student in a file."""
    return save_student(tmp_path_factory.mktemp("student") / "student.safetensors")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, student: Path
) -> Callable[..., tuple[int, list[str], list[str]]]:
    """Runs predict.py in this process: its exit code, what it printed, and its errors."""

    def run(*arguments: object, weights: Path | str = student) -> tuple[int, list[str], list[str]]:
        options = ["predict.py", *arguments, "-c", weights, "--cpu"]
        monkeypatch.setattr(sys, "argv", list(map(str, options)))
        code = predict.main(predict.parse_args())
        printed = capsys.readouterr()
        errors = [line for line in printed.err.splitlines() if "error" in line]
        return code, printed.out.splitlines(), errors

    return run


def collect_lines(monkeypatch: pytest.MonkeyPatch, take: Callable[[str], object]) -> None:
    """Gives what programs print by `utils.progress.say` to a function."""
    monkeypatch.setattr("utils.progress.print", lambda line, file=None: take(line), raising=False)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a program's `main` in this process; its errors are raised."""

    def call(program: ModuleType, *arguments: object) -> Any:
        monkeypatch.setattr(sys, "argv", [program.__file__, *map(str, arguments)])
        return program.main(program.parse_args())

    return call


def need_packages(suffix: str, int8: bool = False) -> None:
    """Skips a test if a package that exporting to such a file needs is missing."""
    form = FORMATS[suffix]
    for package in form.INT8_PACKAGES if int8 else form.PACKAGES:
        pytest.importorskip(package, reason=f"{package} of requirements-deploy.txt is missing")


def read_json(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a file with one per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
