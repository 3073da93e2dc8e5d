"""What is fuzzed: valid files of every format, and the programs that damaged ones are given to."""

import json
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch
from children import PROJECT, run_program
from conftest import plain_guard, save_student, write_shanghaitech
from damage import damage_bytes, damage_json, damage_png, damage_safetensors, damage_table
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from datasets.answers import FEATURES, MAP, Answers
from datasets.crowd import CrowdDataset
from datasets.files import open_map, read_density, read_map_heads
from datasets.loaders import build_evaluation_loader
from datasets.points import BOX_RULES
from datasets.splits import DataError, Sample
from datasets.transforms import Augmentation, Draw, FixedCrop
from preprocess.annotations import write_shanghaitech_points, write_ucf_points
from preprocess.matching import Source, match
from utils.checkpoint import CheckpointError, read_deployed

SIZE = 64, 96  # height and width of all pictures
HEADS = 5  # in each
PICTURES = ("a", "b", "c", "d")  # of the valid data set; d is for testing
RUN_FILES = {  # of a run that are damaged, by the ending and the name of the valid file
    (".json", "run_result"): "result.json",
    (".json", "run_test"): "test.json",
    (".json", "run_log"): "log.jsonl",
    (".csv", "run_test"): "test.csv",
    (".pth", "run_last"): "last.pth",
}
TRAINING = ["--workers", 0, "--cpu", "--width", "1/16", "--terms", "hard", "--crop", "32x32"]
TRAINING += ["--batch-size", 2, "--precision", "float32", "--epochs", 1]


@dataclass(frozen=True)
class Outcome:
    """What became of a damaged file: "read", "refused", or one of FAULTS."""

    kind: str
    detail: str = ""


READ = Outcome("read")
FAULTS = ("crash", "hang", "traceback", "wrong")


@dataclass(frozen=True)
class Trial:
    """A use of damaged files, in a child process.

    Args:
        use: takes files and an empty folder, and returns every file's outcome.
        batch: files of one call.
        every: only every so many files are tried.
    """

    name: str
    use: Callable[[Sequence[Path], Path], Mapping[Path, Outcome]]
    batch: int = 50
    every: int = 1


@dataclass(frozen=True)
class Format:
    """A format: its ending, how it is damaged, what reads it, and which valid files there are."""

    ending: str
    damage: Callable[[bytes, random.Random], bytes]
    trials: Sequence[Trial]
    names: str  # of the valid files

    @property
    def bases(self) -> list[str]:
        return self.names.split()


def refused(lines: Iterable[str], *names: object) -> Outcome:
    """Returns that a file was refused, or, if the error is not one line with its name, "wrong"."""
    found = [line for line in lines if "error: " in line]
    if len(found) != 1:
        return Outcome("wrong", f"{len(found)} lines of error: {' / '.join(found)[:300]}")
    named = any(str(name) in found[0] for name in names)
    return Outcome("refused" if named else "wrong", found[0][:500])


def call(program: str, *arguments: object) -> tuple[int, list[str]]:
    """Runs a program in this process; returns its exit code and its lines of error."""
    with redirect_stderr(StringIO()) as error:
        try:
            run_program(PROJECT / program, list(arguments))
            code: Any = 0
        except SystemExit as stop:
            code = stop.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
    return code or 0, error.getvalue().splitlines()


def judge(called: tuple[int, list[str]], *names: object) -> Outcome:
    """Returns the outcome of a call that is about one file, which an error must name."""
    code, lines = called
    return refused(lines, *names) if code else READ


def each(use: Callable[[Path, Path], Outcome]) -> Callable:
    """Returns a trial's `use` of files one by one; whatever is raised is a traceback."""

    def use_all(files: Sequence[Path], folder: Path) -> dict[Path, Outcome]:
        outcomes = {}
        for file in files:
            own = folder / file.stem
            own.mkdir()
            try:
                outcomes[file] = use(file, own)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                outcomes[file] = Outcome("traceback", f"{error!r:.300} at {place}")
            shutil.rmtree(own)
        return outcomes

    return use_all


def base_of(file: Path) -> str:
    """Returns the name of the valid file that a damaged one, FORMAT-NUMBER-BASE.*, was made of."""
    return file.stem.split("-", 2)[2]


class Bases:
    """A folder of valid files, by which damaged ones are made and used."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.student = folder / "safetensors" / "bl.safetensors"
        self.picture = folder / "pictures" / "a.png"
        self.run = folder / "run"

    def file(self, form: str, base: str) -> Path:
        return self.folder / form / f"{base}{FORMATS[form].ending}"

    def make(self) -> None:
        """Writes them; always the same ones."""
        rng = np.random.default_rng(0)
        for form in FORMATS:
            (self.folder / form).mkdir(parents=True)
        self._write_weights()
        self._write_pictures(rng)
        self._write_points(rng)
        self._write_maps()
        self._write_annotations(rng)
        self._train()

    def _write_weights(self) -> None:
        folder = self.folder / "safetensors"
        save_student(folder / "bl.safetensors")
        save_student(folder / "guard.safetensors", "csrnet", plain_guard(1e6, "csrnet"))
        state, _ = read_deployed(folder / "bl.safetensors")
        save_file(state, folder / "plain.safetensors")
        torch.save(
            {"state_dict": state, "arch": "bl", "width": "1/16"}, self.file("pth", "student")
        )
        torch.save(state, self.file("pth", "legacy"), _use_new_zipfile_serialization=False)
        answers = Answers(self.folder / "answers", {"tap": 8})
        cells = SIZE[0] // 8, SIZE[1] // 8
        answers.keep(("a", False), torch.rand(1, 1, *cells), [torch.rand(1, 3, *cells)])
        answers.keep(("blank", False), torch.rand(1, 1, 1, 1), [torch.rand(1, 3, 1, 1)])
        for part in (MAP, FEATURES):
            file = self.folder / "answers" / f"a-{part}.safetensors"
            shutil.copyfile(file, folder / f"answers_{part}.safetensors")

    def _write_pictures(self, rng: np.random.Generator) -> None:
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        picture, grey = Image.fromarray(pixels), Image.fromarray(pixels).convert("L")
        exif = Image.Exif()
        exif[0x0112] = 6
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "a crowd" * 20, zip=True)
        frames = [Image.fromarray(np.roll(pixels, n)) for n in range(3)]
        deep = rng.integers(0, 2**12, SIZE, dtype=np.uint16)
        written: dict[str, tuple[Image.Image, dict[str, Any]]] = {
            "jpeg/plain": (picture, {}),
            "jpeg/progressive": (picture, {"progressive": True, "quality": 90}),
            "jpeg/grey": (grey, {"optimize": True}),
            "jpeg/cmyk": (picture.convert("CMYK"), {"subsampling": 0}),
            "jpeg/turned": (picture, {"exif": exif, "restart_marker_rows": 1}),
            "png/plain": (picture, {}),
            "png/text": (picture, {"pnginfo": text, "icc_profile": bytes(600), "exif": exif}),
            "png/palette": (picture.quantize(64), {"transparency": 3}),
            "png/alpha": (picture.convert("RGBA"), {}),
            "png/bits": (grey.convert("1"), {}),
            "png/deep": (Image.fromarray(deep), {}),
            "png/frames": (picture, {"save_all": True, "append_images": frames}),
        }
        for name, (image, options) in written.items():
            form, base = name.split("/")
            image.save(self.file(form, base), "JPEG" if form == "jpeg" else "PNG", **options)
        (self.folder / "pictures").mkdir()
        for name in PICTURES:
            noise = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(self.folder / "pictures" / f"{name}.png")

    def _write_points(self, rng: np.random.Generator) -> None:
        points = rng.random((HEADS, 2)) * SIZE[::-1]
        write_shanghaitech_points(self.file("mat", "shanghaitech"), points)
        write_ucf_points(self.file("mat", "ucf"), points, "of somewhere")
        packed = {"annPoints": points, "note": "a crowd"}
        scipy.io.savemat(self.file("mat", "packed"), packed, do_compression=True)
        scipy.io.savemat(self.file("mat", "old"), {"annPoints": points}, format="4")

    def _write_maps(self) -> None:
        """Makes the data set's lists and maps, one of which is also stored in other ways."""
        root = self.folder / "data"
        lay_out(root, {name: self.folder / "pictures" / f"{name}.png" for name in PICTURES}, self)
        assert call("preprocess/UCF_GT_generation.py", "--root", root, "--workers", 1)[0] == 0
        assert (
            call("preprocess/make_json.py", "--dataset", "QNRF", "--root", root, "--out", root)[0]
            == 0
        )
        made = root / "Train" / "a.h5"
        shutil.copyfile(made, self.file("h5", "map"))
        with (
            h5py.File(made) as old,
            h5py.File(self.file("h5", "packed"), "w") as new,
        ):
            for name in old:
                new.create_dataset(name, data=old[name][()], chunks=True, compression="gzip")
            new.attrs.update(old.attrs)

    def _write_annotations(self, rng: np.random.Generator) -> None:
        names = [f"{name}.png" for name in PICTURES]
        heads = {name: (rng.random((HEADS, 2)) * SIZE[::-1]).round(2).tolist() for name in names}
        images = [
            {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for n, name in enumerate(names)
        ]
        boxes = [
            {"id": len(heads) * n + m, "image_id": n, "category_id": 1, "bbox": [x, y, 4, 4],
             "keypoints": [x, y, 2] * 2}
            for n, name in enumerate(names) for m, (x, y) in enumerate(heads[name])
        ]  # fmt: skip
        category = {"id": 1, "name": "person", "keypoints": ["nose", "left_eye"]}
        shapes = [
            {"label": "head", "points": [point], "shape_type": "point"} for point in heads[names[0]]
        ]
        train = self.folder / "data" / "Train"
        written = {
            "coco": {"images": images, "annotations": boxes, "categories": [category]},
            "by_name": heads,
            "entries": [{"image": n, "human_num": HEADS, "points": p} for n, p in heads.items()],
            "labelme": {"shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1]},
            "points": {"points": heads[names[0]]},
            "list": [f"{train}/{n}.png" for n in "abc"],
            "pairs": [{"image": f"{train}/{n}.png", "density": f"{train}/{n}.h5"} for n in "abc"],
        }  # fmt: skip
        for base, value in written.items():
            self.file("json", base).write_text(json.dumps(value))
        rows = [f"{name},{x},{y}" for name, places in heads.items() for x, y in places]
        self.file("csv", "rows").write_text("\n".join(rows))
        self.file("csv", "header").write_text(
            "\n".join(["image,x,y,sure", *(f"{r},0.9" for r in rows)])
        )
        self.file("csv", "points").write_text("\n".join(r.split(",", 1)[1] for r in rows[:HEADS]))

    def _train(self) -> None:
        """Leaves a run that was trained and tested, whose files reports and --resume read."""
        lists = [self.folder / "data" / f"QNRF_{split}.json" for split in ("train", "val", "test")]
        assert call("SKT_distill.py", *lists, *TRAINING, "--out", self.run) == (0, [])
        tested = ["--json", self.run / "test.json", "--per-image", self.run / "test.csv"]
        shown = ["-c", self.run / "best_mae.pth", "--cpu", "--size", "32x32", "--workers", 0]
        assert call("test.py", lists[2], *shown, *tested)[0] == 0
        for (ending, base), name in RUN_FILES.items():
            shutil.copyfile(self.run / name, self.file(ending[1:], base))


def lay_out(
    root: Path, train: Mapping[str, Path], bases: Bases, mats: Mapping[str, Path] | None = None
) -> None:
    """Writes UCF-QNRF's layout of pictures and annotations, with a valid test picture."""
    for split, pictures in (("Train", train), ("Test", {"test": bases.picture.with_name("d.png")})):
        (root / split).mkdir(parents=True)
        for name, picture in pictures.items():
            shutil.copyfile(picture, root / split / f"{name}{picture.suffix}")
            mat = (mats or {}).get(name, bases.file("mat", "ucf"))
            shutil.copyfile(mat, root / split / f"{name}_ann.mat")


def count_pictures(bases: Bases, files: Sequence[Path], folder: Path) -> dict[Path, Outcome]:
    """Counts many pictures with one call: a bad one takes a line, and the others are counted."""
    rows = folder / "counts.jsonl"
    code, lines = call("predict.py", *files, "-c", bases.student, "--cpu", "--json", rows)
    counted: dict[str, list] = {}
    for line in rows.read_text().splitlines() if rows.exists() else []:
        row = json.loads(line)
        counted.setdefault(row["name"], []).append(row["count"])
    outcomes = {}
    for file in files:
        errors, counts = (
            [line for line in lines if "error: " in line and str(file) in line],
            counted.get(str(file), []),
        )
        if len(errors) + len(counts) != 1:
            outcomes[file] = Outcome("wrong", f"{len(counts)} counts and {len(errors)} errors")
        elif errors:
            outcomes[file] = refused(errors, file)
        else:
            finite = counts[0] is not None and np.isfinite(counts[0])
            outcomes[file] = READ if finite else Outcome("wrong", f"counts {counts[0]}")
    failed = any(outcome.kind != "read" for outcome in outcomes.values())
    if code != int(failed):
        outcomes[files[0]] = Outcome("wrong", f"exit code {code}")
    return outcomes


def make_maps(
    bases: Bases, files: Sequence[Path], folder: Path, kind: str = "picture"
) -> dict[Path, Outcome]:
    """Makes the maps of damaged pictures, or with damaged annotations, in worker processes."""
    root, names = folder / "data", {file.stem: file for file in files}
    if kind == "picture":
        lay_out(root, names, bases)
    elif kind == "annotation":
        lay_out(root, dict.fromkeys(names, bases.picture), bases, names)
    else:
        lay_out(root, dict.fromkeys(names, bases.picture), bases)
        for name, file in names.items():
            shutil.copyfile(file, root / "Train" / f"{name}.h5")
    code, lines = call("preprocess/UCF_GT_generation.py", "--root", root, "--workers", 2)
    outcomes = {}
    for name, file in names.items():
        errors, made = (
            [line for line in lines if "error: " in line and name in line],
            root / "Train" / f"{name}.h5",
        )
        if errors:
            outcomes[file] = refused(errors, name)
        elif not made.exists():
            outcomes[file] = Outcome("wrong", "neither a map nor an error")
        else:
            outcomes[file] = _check_map(made)
    if kind == "map" and code:  # it is made again
        outcomes[files[0]] = Outcome("wrong", " / ".join(lines)[:300])
    if code != int(any("error: " in line for line in lines)):
        outcomes[files[0]] = Outcome("wrong", f"exit code {code}")
    return outcomes


def _check_map(path: Path) -> Outcome:
    try:
        with open_map(path) as file:
            points, _, _ = read_map_heads(path, file, SIZE)
        density = read_density(path, (0, 0, *SIZE))
        whole = np.isfinite(points).all() and np.isfinite(density).all()
    except DataError as error:  # the map is up to date by its heads, and damaged elsewhere
        return refused([f"error: {error}"], path)
    return READ if whole else Outcome("wrong", "the map is not finite")


def make_shanghaitech_map(bases: Bases, file: Path, folder: Path) -> Outcome:
    """Gives an annotation to ShanghaiTech's command, and the data set to check_dataset.py."""
    write_shanghaitech(folder, {"train_data": [3], "test_data": [1]}, SIZE)
    annotation = folder / "part_A_final/train_data/ground_truth/GT_IMG_1.mat"
    shutil.copyfile(file, annotation)
    options = ["--root", folder, "--workers", 1]
    made = judge(call("preprocess/ShanghaiTech_GT_generation.py", *options), annotation.name)
    code, lines = call("preprocess/check_dataset.py", *options, "--dataset", "SHA")
    if lines or code > 1 or (made.kind == "refused" and code == 0):
        return Outcome("wrong", f"check_dataset.py: exit code {code}, {' / '.join(lines)[:300]}")
    return made


def read_map(bases: Bases, file: Path, folder: Path) -> Outcome:
    """Reads a map as test.py does, and its crops as training does."""
    sample = Sample(bases.folder / "data" / "Train" / "a.png", file)
    crop = Augmentation(FixedCrop(32, 32), 0.5, (0.5, 2), 0.0, 0.0)
    try:
        batches = list(build_evaluation_loader([sample], workers=0))
        dataset = CrowdDataset([sample], crop, BOX_RULES["SHA"])
        batches += [dataset[[(0, (seed,))]] for seed in range(4)]
    except (DataError, OSError) as error:
        return refused([f"error: {error}"], file)
    for batch in batches:
        for name in ("density", "points", "targets", "side"):
            if name in batch and not torch.isfinite(batch[name]).all():
                return Outcome("wrong", f"{name} is not finite")
    return READ


def test_with(bases: Bases, file: Path, folder: Path) -> Outcome:
    """Tests a network on a list, or on a picture with a map."""
    listed, names = file, [file.name, bases.folder / "data"]  # a list may name others wrongly
    if file.suffix == ".h5":
        listed, names = folder / "list.json", [file]
        picture = str(bases.folder / "data" / "Train" / "a.png")
        listed.write_text(json.dumps([{"image": picture, "density": str(file)}]))
    results = folder / "test.json"
    options = ["-c", bases.student, "--cpu", "--size", "32x32", "--workers", 0, "--json", results]
    outcome = judge(call("test.py", listed, *options), *names)
    if outcome == READ:
        measured = json.loads(results.read_text())
        if None in (measured["mae"], measured["mae_map"]):
            return Outcome("wrong", "the error is not finite")
    return outcome


def annotate(bases: Bases, file: Path, folder: Path, whole: bool) -> Outcome:
    """Matches an annotation with pictures or, if `whole`, makes a data set with it."""
    single = base_of(file) in ("labelme", "points")
    pictures, annotation = folder / "pictures", folder / f"annotations{file.suffix}"
    pictures.mkdir()
    for name in PICTURES[: 1 if single else None]:
        stem = "annotations" if single else name
        (pictures / f"{stem}.png").symlink_to(bases.folder / "pictures" / f"{name}.png")
    shutil.copyfile(file, annotation)
    if whole and not single:
        options = ["--images", pictures, "--annotations", annotation, "--root", folder / "made"]
        return judge(
            call("preprocess/make_dataset.py", *options, "--workers", 1),
            annotation,
            pictures,
            "images",
        )
    try:
        match(Source(pictures, annotation))
    except (DataError, OSError) as error:
        return refused([f"error: {line}" for line in str(error).splitlines()], annotation, "images")
    return READ


def report_run(bases: Bases, file: Path, folder: Path, page: bool) -> Outcome:
    """Gives a run with one damaged file to what reads it: reports, advice, --resume."""
    name = RUN_FILES[file.suffix, base_of(file)]
    run, damaged = folder / "run", folder / "run" / name
    shutil.copytree(bases.run, run, ignore=shutil.ignore_patterns("tensorboard", ".lock"))
    shutil.copyfile(file, damaged)
    lists = [bases.folder / "data" / f"QNRF_{split}.json" for split in ("train", "val", "test")]
    beside = ["-c", bases.student, "--cpu", "--size", "32x32", "--workers", 0, "--beside", damaged]
    calls = {
        "run_result": [("report/closing.py", run, lists[2]), ("report/ablation.py", folder)],
        "run_test": [("test.py", lists[2], *beside)],
        "run_log": [("SKT_distill.py", *lists, *TRAINING, "--resume", "--out", run)],
        "run_last": [("SKT_distill.py", *lists, *TRAINING, "--resume", "--out", run)],
    }.get(base_of(file), [])
    if page:
        calls = [("report/accuracy.py", run, "--title", "a", "--out", folder / "page.md")]
    if base_of(file) == "run_log" and not page:
        (run / "result.json").unlink()  # so that the training goes on
    outcomes = [judge(call(*command), name, run) for command in calls]
    return next((o for o in outcomes if o.kind in FAULTS), outcomes[-1] if outcomes else READ)


def count_with(bases: Bases, file: Path, folder: Path) -> Outcome:
    """Counts with a damaged network."""
    rows = folder / "counts.jsonl"
    called = call("predict.py", bases.picture, "-c", file, "--cpu", "--json", rows)
    outcome = judge(called, file)
    if outcome.kind == "wrong" and "not finite" in outcome.detail:  # weights without checksums
        return Outcome("refused", outcome.detail)
    if outcome == READ and (json.loads(rows.read_text())["count"] is None):
        return Outcome("wrong", "the count is not finite")
    return outcome


def read_weights(bases: Bases, file: Path, folder: Path) -> Outcome:
    """Reads weights; where their hash is in the file, other ones must be noticed."""
    known = bases.file("safetensors", base_of(file))
    try:
        state, _ = read_deployed(file)
    except CheckpointError as error:
        return refused([f"error: {error}"], file)
    expected, facts = read_deployed(known)
    hashed = base_of(file) in ("bl", "guard") and b'"sha256"' in file.read_bytes()
    same = state.keys() == expected.keys() and all(
        torch.equal(state[n], expected[n]) for n in state
    )
    return Outcome("wrong", "other weights were read") if hashed and not same else READ


def read_answers(bases: Bases, file: Path, folder: Path) -> Outcome:
    """Cuts a crop out of a teacher's kept answers, one of which is damaged."""
    kept = folder / "answers"
    shutil.copytree(bases.folder / "answers", kept)
    part = base_of(file).removeprefix("answers_")
    damaged = kept / f"a-{part}.safetensors"
    shutil.copyfile(file, damaged)
    answers = Answers(kept, {"tap": 8})
    draw = Draw.whole(SIZE)
    try:
        cut = [answers.cut_map(("a", False), SIZE, draw)]
        cut += answers.cut_features([("a", False)], [SIZE], [draw])
    except DataError as error:
        return refused([f"error: {error}"], damaged)
    cells = SIZE[0] // 8, SIZE[1] // 8
    shaped = all(tuple(one.shape[-2:]) == cells for one in cut)
    return READ if shaped else Outcome("wrong", f"shapes {[list(one.shape) for one in cut]}")


def by_base(bases: Bases, **uses: Callable[..., Outcome] | None) -> Callable:
    """Returns a trial's `use` by the beginning of the valid file's name, `other` for the rest."""

    def use(file: Path, folder: Path) -> Outcome:
        name = next((name for name in uses if base_of(file).startswith(name)), "other")
        chosen = uses.get(name)
        return chosen(bases, file, folder) if chosen else READ

    return each(use)


def formats(bases: Bases) -> dict[str, Format]:
    """Returns all formats, whose trials use the valid files `bases`."""
    use, page = partial(by_base, bases), partial(report_run, page=True)
    maps, report = partial(make_maps, bases), partial(report_run, page=False)
    matched, made = partial(annotate, whole=False), partial(annotate, whole=True)
    pictures = [
        Trial("predict.py", partial(count_pictures, bases)),
        Trial("UCF_GT_generation.py", maps, batch=20),
    ]
    of_maps = [
        Trial("training and test.py", use(other=read_map)),
        Trial("test.py", use(other=test_with), every=20),
        Trial("UCF_GT_generation.py", partial(maps, kind="map"), batch=20),
    ]
    of_points = [
        Trial("UCF_GT_generation.py", partial(maps, kind="annotation"), batch=20),
        Trial("ShanghaiTech_GT_generation.py", use(shanghaitech=make_shanghaitech_map)),
    ]
    texts = [
        Trial("readers", use(list=test_with, pairs=test_with, run_=report, other=matched)),
        Trial("make_dataset.py", use(list=None, pairs=None, run_=None, other=made), every=3),
        Trial("accuracy.py", use(run_=page)),
    ]
    weights = [
        Trial("readers", use(answers=read_answers, other=read_weights)),
        Trial("predict.py", use(answers=None, other=count_with)),
    ]
    checkpoints = [
        Trial("predict.py", use(other=count_with)),
        Trial("SKT_distill.py --resume", use(run_last=report)),
    ]
    return {
        "jpeg": Format(".jpg", damage_bytes, pictures, "plain progressive grey cmyk turned"),
        "png": Format(".png", damage_png, pictures, "plain text palette alpha bits deep frames"),
        "h5": Format(".h5", damage_bytes, of_maps, "map packed"),
        "mat": Format(".mat", damage_bytes, of_points, "ucf shanghaitech packed old"),
        "json": Format(
            ".json",
            damage_json,
            texts,
            "list pairs coco by_name entries labelme points run_result run_test run_log",
        ),
        "safetensors": Format(
            ".safetensors",
            damage_safetensors,
            weights,
            "bl guard plain answers_map answers_features",
        ),
        "csv": Format(".csv", damage_table, texts, "rows header points run_test"),
        "pth": Format(".pth", damage_bytes, checkpoints, "student legacy run_last"),
    }


FORMATS: dict[str, Format] = formats(Bases(Path()))
