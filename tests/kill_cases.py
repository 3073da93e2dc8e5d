"""What is killed: programs with their arguments, what they need, and how their files compare."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch
from children import PROJECT, run_program
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
        text: its command; DATA stands for what `prepare` made, OUT for the folder it writes in.
        found: of DATA, copied to OUT before.
        again: more of the command, by what a kill left in OUT.
        weight: its part of the random kills.
        mark: a file that says meanwhile that the others are unfinished.
        steps: of a training, those of an epoch, which a kill may take.
    """

    name: str
    text: str
    found: str = ""
    again: Callable[[Path], str] = lambda out: ""
    weight: int = 3
    mark: str = ""
    steps: int = 0
    data: Path = Path()

    @property
    def program(self) -> str:
        return self.text.split()[0]

    def arguments(self, out: Path) -> list[str]:
        """Returns the arguments of the next start in a folder."""
        words = f"{self.text} {self.again(out)}".split()[1:]
        return [word.replace("DATA", str(self.data)).replace("OUT", str(out)) for word in words]

    def prepare(self, out: Path) -> None:
        """Makes the folder, with what the program finds there."""
        out.mkdir()
        source = self.data / self.found
        if self.found:
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, out / source.name)


def resume(out: Path) -> str:
    return "--resume" if (out / "run" / "last.pth").exists() else ""


def import_first(out: Path) -> str:
    return "" if (out / "made").exists() else "--images DATA/own --annotations DATA/own.csv"


TRAIN = "DATA/A_train.json DATA/A_val.json DATA/A_test.json --out OUT/run --cpu --width 1/16"
TRAIN += " --seed 3 --precision float32 --crops-per-image 2"  # of each of 4 images
COUNT = "-c DATA/bl.safetensors --cpu"
KEEP = "--csv OUT/counts.csv --json OUT/counts.jsonl --npy OUT/maps --out OUT/overlays"
GENERATE = "preprocess/ShanghaiTech_GT_generation.py --root DATA/raw --out OUT/maps --workers 2"
RESCALE = "preprocess/UCF_GT_generation.py --root DATA/ucf --out OUT/small --short-side 32:48"
CASES = [
    Case(
        "SKT_distill.py",
        f"SKT_distill.py {TRAIN} --workers 0 -tc DATA/teacher.pth --epochs 2",
        again=resume,
        weight=25,
        steps=8,
    ),
    Case(
        "SKT_distill.py with workers and kept answers",
        f"SKT_distill.py {TRAIN} --workers 2 -tc DATA/teacher.pth --epochs 3 --terms hard,soft "
        "--crop 32x32 --batch-size 2 --ema 0.9 --eval-every 2 --teacher-cache OUT/cache",
        again=resume,
        weight=15,
        steps=4,
    ),
    Case(
        "train_teacher.py",
        f"train_teacher.py {TRAIN} --workers 0 --init kaiming --epochs 2",
        again=resume,
        weight=20,
        steps=8,
    ),
    Case("predict.py", f"predict.py DATA/own {COUNT} {KEEP}", weight=6),
    Case("predict.py of a video", f"predict.py DATA/video.mp4 {COUNT} {KEEP}"),
    Case(
        "test.py",
        f"test.py DATA/A_test.json {COUNT} --workers 0 --size 32x32 --json OUT/test.json "
        "--per-image OUT/table/counts.csv --save-maps OUT/maps --worst OUT/worst.png",
    ),
    Case(
        "calibrate.py",
        "calibrate.py DATA/seen.json DATA/others.json --false-alarms 0.05 -c OUT/bl.safetensors",
        found="bl.safetensors",
    ),
    Case("export.py to ONNX", "export.py DATA/bl.safetensors OUT/bl.onnx", weight=2),
    Case("export.py to OpenVINO", "export.py DATA/bl.safetensors OUT/bl.xml", weight=2),
    Case(
        "release.py",
        "report/release.py DATA/runs/run/best_mae.pth DATA/runs/other/best_mae.pth "
        "OUT/csrnet.safetensors",
        found="csrnet.safetensors",
    ),
    Case("accuracy.py", "report/accuracy.py DATA/runs/run --out OUT/page.md --title a"),
    Case("ablation.py", "report/ablation.py OUT/runs", found="runs"),
    Case("ShanghaiTech_GT_generation.py", GENERATE, weight=6),
    Case("UCF_GT_generation.py with rescaling", f"{RESCALE} --workers 1"),
    Case("make_json.py", "preprocess/make_json.py --root DATA --out OUT"),
    Case(
        "make_dataset.py",
        "preprocess/make_dataset.py --root OUT/made --workers 1",
        again=import_first,
        weight=6,
    ),
    Case(
        "make_empty.py",
        "preprocess/make_empty.py --out OUT/empty --pictures 4 --size 64x96 --workers 1",
    ),
    Case(
        "synthetic.py",
        "preprocess/synthetic.py --out OUT --train 3 --test 1 --size 64x96 --workers 1",
        mark="part_A/demo.json",
    ),
]
NEEDED = {"export.py to ONNX": "onnxscript", "export.py to OpenVINO": "openvino"}  # packages


def cases(data: Path) -> list[Case]:
    """Returns all programs that can be killed here, with what `prepare` made in `data`."""
    return [replace(case, data=data) for case in CASES if find_spec(NEEDED.get(case.name, "torch"))]


def run(program: str, *arguments: object) -> None:
    """Runs a program to its end, which must be good."""
    try:
        run_program(PROJECT / program, list(arguments))
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
