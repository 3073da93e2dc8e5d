"""What is killed: programs with their arguments, what they need, and how their files compare."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch
from children import run_program
from conftest import save_student, write_qnrf, write_shanghaitech
from PIL import Image

from counting.video import VideoWriter
from utils.checkpoint import read_checkpoint, read_deployed, save_checkpoint
from utils.files import UNFINISHED

TIMES = {"seconds", "minutes", "uncounted", "first", "between", "pace", "cpu_s", "gpu_ms"}
TIMES |= {"cpu_latency", "gpu_latency"}
STREAMED = (".csv", ".jsonl")  # written line by line
IGNORED = (".lock",)
SIZE = 64, 96
FAST = ["--workers", 0, "--cpu", "--precision", "float32", "--width", "1/16", "--seed", 3]


@dataclass(frozen=True)
class Case:
    """A program that is killed.

    Args:
        arguments: of the program, by the folder in which it writes.
        prepare: makes the folder, with what the program finds there.
        again: more arguments, by what a kill left in the folder.
        weight: its part of the random kills.
        steps: of a training, those that a kill may take.
    """

    name: str
    program: str
    arguments: Callable[[Path], list]
    prepare: Callable[[Path], object] = field(default=Path.mkdir)
    again: Callable[[Path], list] = lambda folder: []
    weight: int = 3
    steps: int = 0

    def command(self, folder: Path) -> list:
        """Returns the arguments of the next start in a folder."""
        return [*self.arguments(folder), *self.again(folder)]


def run(program: str, *arguments: object) -> None:
    """Runs a program to its end, which must be good."""
    try:
        run_program(program, list(arguments))
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{program} ended with {stop.code}") from None


def prepare(data: Path) -> None:
    """Writes data sets, networks, pictures and a video."""
    write_shanghaitech(data, {"train_data": [5, 0, 12, 3, 7], "test_data": [4, 1]}, SIZE)
    shutil.copytree(data / "part_A_final", data / "raw" / "part_A_final")
    run("preprocess/ShanghaiTech_GT_generation.py", "--root", data, "--workers", 1)
    run("preprocess/make_json.py", "--root", data, "--out", data)
    for split, count in (("Train", 2), ("Test", 1)):
        write_qnrf(data / "ucf", split, [[[3, 4], [50, 60]]] * count)
    save_student(data / "bl.safetensors")
    save_student(data / "csrnet.safetensors", "csrnet")
    save_checkpoint(
        data / "teacher.pth", {"state_dict": read_deployed(data / "csrnet.safetensors")[0]}
    )
    pictures = data / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(1)
    for number in range(24):
        noise = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{number:02}.png")
        shutil.copyfile(
            data / "part_A_final/train_data/ground_truth/IMG_1.h5", pictures / f"{number:02}.h5"
        )
    rows = "\n".join(f"{number:02}.png,{x},{x / 2}" for number in range(3) for x in (10, 40, 70))
    own = data / "own"
    own.mkdir()
    for number in range(3):
        shutil.copyfile(pictures / f"{number:02}.png", own / f"{number:02}.png")
    (data / "own.csv").write_text(rows)
    for name, numbers in (("seen", range(20)), ("others", range(20, 24))):
        (data / f"{name}.json").write_text(
            json.dumps([str(pictures / f"{n:02}.png") for n in numbers])
        )
    writer = VideoWriter(data / "video.mp4", 10)
    for number in range(6):
        writer.write(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), number / 10)
    writer.close()
    lists = [data / f"A_{split}.json" for split in ("train", "val", "test")]
    for name in ("run", "other"):
        out = data / "runs" / name
        options = ["--terms", "hard", "--epochs", 1, "--out", out, *FAST]
        run("SKT_distill.py", *lists, *options, *(["--lr", 1e-3] if name == "other" else []))
        shown = ["-c", out / "best_mae.pth", "--cpu", "--size", "32x32", "--workers", 0]
        run(
            "test.py",
            lists[2],
            *shown,
            "--json",
            out / "test.json",
            "--per-image",
            out / "test.csv",
        )


def cases(data: Path) -> list[Case]:
    """Returns all programs that are killed."""
    lists = [data / f"A_{split}.json" for split in ("train", "val", "test")]
    best, other = (data / "runs" / name / "best_mae.pth" for name in ("run", "other"))

    def resume(folder: Path) -> list:
        return ["--resume"] if (folder / "run" / "last.pth").exists() else []

    def training(name: str, program: str, weight: int, steps: int, *options: object) -> Case:
        def arguments(folder: Path) -> list:
            return [*lists, "--out", folder / "run", *FAST, *options]

        return Case(name, program, arguments, again=resume, weight=weight, steps=steps)

    def copying(*sources: Path) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            folder.mkdir()
            for source in sources:
                copy = shutil.copytree if source.is_dir() else shutil.copyfile
                copy(source, folder / source.name)

        return prepare

    shown = ["-c", data / "bl.safetensors", "--cpu"]
    outputs = {
        "--csv": "counts.csv", "--json": "counts.jsonl", "--npy": "maps", "--out": "overlays"
    }  # fmt: skip
    tested = {
        "--json": "test.json", "--per-image": "table/counts.csv", "--save-maps": "maps",
        "--worst": "worst.png",
    }  # fmt: skip

    def into(folder: Path, named: Mapping[str, str]) -> list:
        return [part for option, name in named.items() for part in (option, folder / name)]

    def imported(folder: Path) -> list:
        made = (folder / "made").exists()
        return [] if made else ["--images", data / "own", "--annotations", data / "own.csv"]

    # An epoch has 2 crops of each of 4 images.
    found = [
        training("SKT_distill", "SKT_distill.py", 25, 8, "-tc", data / "teacher.pth", "--epochs", 2, "--crops-per-image", 2),
        training("SKT_distill, workers", "SKT_distill.py", 15, 4, "-tc", data / "teacher.pth", "--epochs", 3,
                 "--workers", 2, "--terms", "hard,soft", "--teacher-cache", data / "cache", "--crop", "32x32",
                 "--batch-size", 2, "--crops-per-image", 2, "--ema", 0.9, "--eval-every", 2),
        training("train_teacher", "train_teacher.py", 20, 8, "--init", "kaiming", "--epochs", 2, "--crops-per-image", 2),
        Case("predict", "predict.py", lambda f: [data / "own", *shown, *into(f, outputs)], weight=6),
        Case("predict, video", "predict.py", lambda f: [data / "video.mp4", *shown, *into(f, outputs)]),
        Case("test", "test.py", lambda f: [lists[2], *shown, "--workers", 0, "--size", "32x32", *into(f, tested)]),
        Case("calibrate", "calibrate.py", lambda f: [data / "seen.json", data / "others.json", "--false-alarms", 0.05, "-c", f / "bl.safetensors"], copying(data / "bl.safetensors")),
        Case("release", "report/release.py", lambda f: [best, other, f / "csrnet.safetensors"], copying(data / "csrnet.safetensors")),
        Case("accuracy", "report/accuracy.py", lambda f: [best.parent, "--out", f / "page.md", "--title", "a"]),
        Case("ablation", "report/ablation.py", lambda f: [f / "runs"], copying(data / "runs")),
        Case("ShanghaiTech_GT_generation", "preprocess/ShanghaiTech_GT_generation.py",
             lambda f: ["--root", data / "raw", "--out", f / "maps", "--workers", 2], weight=6),
        Case("UCF_GT_generation", "preprocess/UCF_GT_generation.py",
             lambda f: ["--root", data / "ucf", "--out", f / "small", "--short-side", "32:48", "--workers", 1]),
        Case("make_json", "preprocess/make_json.py", lambda f: ["--root", data, "--out", f]),
        Case("make_dataset", "preprocess/make_dataset.py", lambda f: ["--root", f / "made", "--workers", 1], again=imported, weight=6),
        Case("make_empty", "preprocess/make_empty.py", lambda f: ["--out", f / "empty", "--pictures", 4, "--size", "64x96", "--workers", 1]),
        Case("synthetic", "preprocess/synthetic.py", lambda f: ["--out", f, "--train", 3, "--test", 1, "--size", "64x96", "--workers", 1]),
    ]  # fmt: skip
    for ending, package in ((".onnx", "onnxscript"), (".xml", "openvino")):
        if find_spec(package):
            found.append(Case(f"export {ending}", "export.py", lambda f, e=ending: [data / "bl.safetensors", f / f"bl{e}"], weight=2))  # fmt: skip
    return found


def read_all(folder: Path, unfinished: bool = False) -> dict[str, Any]:
    """Returns the content of every file in a folder, without times, by which it can be compared.

    Args:
        unfinished: leave out what killed programs leave and the next ones remove.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.name in IGNORED or "tensorboard" in path.parts:
            continue
        if unfinished and UNFINISHED in name:
            continue
        found[name] = READERS.get(path.suffix, Path.read_bytes)(path)
    return found


def compare(found: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Returns in what the files of a folder differ from those of an uninterrupted program."""
    differences = [f"{name} is missing" for name in reference.keys() - found.keys()]
    differences += [f"{name} is left over" for name in found.keys() - reference.keys()]
    both = found.keys() & reference.keys()
    return differences + [f"{name} differs" for name in both if found[name] != reference[name]]


def read_progress(folder: Path) -> int:
    """Returns the steps that a training in a folder has saved."""
    last = folder / "run" / "last.pth"
    return read_checkpoint(last)["progress"]["steps"] if last.exists() else 0


def _plain(value: Any) -> Any:
    """Returns a value that == compares, without times."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return (
            str(value.dtype),
            value.shape,
            value.tobytes() if value.dtype != object else repr(value),
        )
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if k not in TIMES and not _is_time(k, v)}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _is_time(key: Any, value: Any) -> bool:
    return key == "validation" and isinstance(value, float)  # in a result, it is a word


def _read_lines(path: Path) -> tuple[Any, ...]:
    text = path.read_text()
    return tuple(_plain(json.loads(line)) for line in text.splitlines())


def _read_rows(path: Path) -> tuple[Any, ...]:
    with path.open(newline="") as file:
        rows = tuple(map(tuple, csv.reader(file)))
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{path.name} has a row that was cut off")
    return rows


def _read_pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return _plain(np.array(image))


def _read_map(path: Path) -> Any:
    with h5py.File(path) as file:
        return {n: _plain(file[n][()]) for n in file} | {
            n: str(v) for n, v in file.attrs.items() if n != "source"
        }


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: _plain(json.loads(path.read_text())),
    ".jsonl": _read_lines,
    ".csv": _read_rows,
    ".png": _read_pixels,
    ".jpg": _read_pixels,
    ".h5": _read_map,
    ".npy": lambda path: _plain(np.load(path)),
    ".mat": lambda path: {k: _plain(v) for k, v in scipy.io.loadmat(path).items() if k[0] != "_"},
    ".pth": lambda path: _plain(read_checkpoint(path)),
    ".safetensors": lambda path: _plain(dict(enumerate(read_deployed(path)))),
}
