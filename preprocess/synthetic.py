"""Draws demonstration crowds, in ShanghaiTech's folder layout, for work without a data set."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image

from preprocess.annotations import write_shanghaitech_points  # noqa: E402
from preprocess.commands import run  # noqa: E402
from preprocess.figures import BODY, PAINT, Figure, palette  # noqa: E402
from preprocess.processes import raise_failed, run_in_processes  # noqa: E402
from utils.files import UNFINISHED, write_whole, written_whole  # noqa: E402
from utils.options import Parser, checked, parse_size, whole_number  # noqa: E402

VERSION = 1  # raise it when the same seed draws other pictures
SPLITS = ("train_data", "test_data")
SHORTEST = 10  # pixels of a side
OVERSAMPLING = 2  # the canvas is this much larger than the picture
METRE = 7.5  # in head radii

SCENES = {  # colours of the ground and of its pattern; figures at its far end; figures on it
    "street": ("6c6c70 54565c 7c7670", "b0aaa0 98928c c8beb0", "house", "car car lamp tree"),
    "square": ("b4a894 c8b8a8 847c78", "8c7c6c b8aca0 a48878", "house", "lamp balloon bush"),
    "park": ("6c9446 84a04c 567c44", "c8b48c b4a48c a08c70", "tree", "tree bush bush balloon lamp"),
    "beach": ("e2cc9c d6bc8c ecdcb8", "d0b888 c8ac7c", "", "parasol parasol balloon board"),
    "hall": ("a87c50 707880 54464c", "98704a 646c74 6c4448", "panel", "board balloon bush"),
}
SKIES = palette("70a2d8 a6aeb8 606ea0 d0dce8"), palette("cee0ee d6d8d8 f6c89e e8ecec")
LIGHTS = ((1.1, 1.1, 1.06), (0.8, 0.82, 0.86), (0.9, 0.78, 0.63), (0.4, 0.44, 0.54))  # RGB


class Camera:
    """A camera over flat ground, aimed at random; lengths in canvas pixels."""

    def __init__(self, rng: Generator, size: tuple[int, int]):
        self.height, self.width = (OVERSAMPLING * side for side in size)
        share = rng.choice([rng.uniform(0.02, 0.3), rng.uniform(-0.8, 0)])
        self.horizon, self.centre = share * self.height, rng.uniform(0.2, 0.8) * self.width
        growth = rng.uniform(6.5, 12) / 256 / (1 - share)  # of a head, per row of the picture
        self.slope = growth / (1 + BODY * growth)  # the same, per row of ground under the feet
        self.far = self.horizon + 2.1 / 256 * self.height / self.slope  # where the crowd begins
        self.near = self.horizon + (self.height - self.horizon) * growth / self.slope

    def unit(self, foot: float | np.ndarray) -> float | np.ndarray:
        """Returns the head radius of somebody standing at row `foot`."""
        return self.slope * (foot - self.horizon)


def _place_heads(rng: Generator, camera: Camera, count: int, things: list[Figure]) -> np.ndarray:
    """Returns up to `count` rows of head centre x, y and radius in canvas pixels."""
    heads, crowding, sociable = np.zeros((0, 3)), rng.uniform(0.8, 2.5), rng.uniform(1, 15)
    taken = np.array([(thing.x, thing.foot, 5 * thing.unit) for thing in things]).reshape(-1, 3)
    lowest, highest = (0, 0, 0, camera.far), (camera.width, camera.height, np.inf, np.inf)
    for _ in range(9 * count):  # groups, from single walkers to queues and crowds
        x = rng.uniform(-0.05, 1.05) * camera.width - camera.centre
        unit = camera.unit(camera.far + (camera.near - camera.far) * rng.random() ** crowding)
        length, breadth = rng.exponential((sociable, sociable / 3)) + 0.5
        spread = rng.normal(0, 1, (1 + int(length * (breadth + 1) / 6), 2)) * (length, breadth)
        spread = spread @ (1, 1j) * np.exp(1j * rng.uniform(0, np.pi))  # right, and i times depth
        radius = camera.width / np.maximum(camera.width / unit + spread.imag, 1)
        column = camera.centre + (x / unit + spread.real) * radius
        foot = camera.horizon + radius / camera.slope
        radius *= rng.choice([0.7, 0.94, 1, 1.06], len(spread), p=[0.06, 0.3, 0.34, 0.3])
        spots = np.stack([column, foot - BODY * radius, radius, foot], axis=1)
        for at in spots[((spots >= lowest) & (spots < highest)).all(axis=1)]:
            gaps = np.hypot(*(heads[:, :2] - at[:2]).T) / np.maximum(heads[:, 2], at[2])
            free = np.hypot(taken[:, 0] - at[0], 3 * (taken[:, 1] - at[3])) > taken[:, 2]
            if free.all() and (gaps > 1.4).all():
                heads = np.vstack([heads, at[:3]])
        if len(heads) >= count:
            break
    return heads[:count]


def _people(rng: Generator, heads: np.ndarray, look: dict) -> list[Figure]:
    frontal, cheering, hats = rng.choice([0.15, 0.5, 0.9]), rng.choice([0, 0.3]), rng.random() / 3
    umbrellas, people = rng.choice([0, 0.02, 0.35], p=[0.6, 0.3, 0.1]), []
    for head in heads:
        names = "legs body wear " + ("cheer " if rng.random() < cheering else "arms ")
        names += "front " if rng.random() < frontal else rng.choice(["back ", "back ", "side "])
        names += "hat " * int(rng.random() < hats) + "umbrella" * int(rng.random() < umbrellas)
        people.append(Figure(rng, names, head, True, look))
    return people


def _draw_backdrop(rng: Generator, camera: Camera, scene: str) -> np.ndarray:
    height, width, first = camera.height, camera.width, int(np.clip(camera.far, 0, camera.height))
    rough = cv2.resize(rng.normal(0, 1, (40, 12)), (width, height), interpolation=cv2.INTER_CUBIC)
    canvas = np.linspace(*map(rng.choice, SKIES), height)[:, None] + 9 * rough[..., None]
    if scene == "beach":
        canvas[max(int(camera.horizon), 0) :] = rng.choice(SKIES[0]) * 0.75  # the sea
    unit = camera.unit(np.arange(first, height))[:, None] * METRE  # pixels per metre
    across, away = (np.arange(width) - camera.centre) / unit, width / unit
    if scene in ("square", "hall"):
        across, away = (across + away * rng.uniform(-1, 1)) / rng.uniform(0.8, 2), away / 1.5
        pattern = (across % 1 < 0.05) | (away % 1 < 0.05) | ((across // 1 + away // 1) % 3 == 0)
    elif scene == "street":
        pattern = (abs(across) > rng.uniform(4, 9)) | ((away % 20 < 4) & (across % 1 < 0.5))
    else:
        pattern = abs(across - 2 - 2 * np.sin(away / 5)) < 1.3  # a path
    base, second = (rng.choice(palette(codes)) for codes in SCENES[scene][:2])
    grain = (rng.normal(1, rng.uniform(0.02, 0.1), rough.shape) + 0.05 * rough)[..., None]
    canvas[first:] = np.where(pattern[..., None], second, base) * grain[first:]
    return canvas


def _paint(canvas: np.ndarray, figures: list[Figure]) -> tuple[np.ndarray, list[Figure]]:
    """Returns the painted canvas and the figures on it: all but people with hidden heads."""
    owner, shade = np.zeros(canvas.shape[:2], np.int32), np.ones(canvas.shape[:2], np.float32)
    for number, figure in enumerate(figures, 1):
        for corners, _, is_head in figure.shapes:
            cv2.fillPoly(owner, [corners], number * is_head, shift=4)
    seen = np.bincount(owner.ravel(), minlength=len(figures) + 1)[1:]
    figures = [f for f, n in zip(figures, seen, strict=True) if n >= f.least_visible]
    for f in figures:
        cv2.ellipse(shade, ((f.x, f.foot), (7 * f.unit, 1.6 * f.unit), 0), 0.6, cv2.FILLED)
    canvas = (canvas * cv2.GaussianBlur(shade, (0, 0), 2)[..., None]).clip(0, 255).astype(np.uint8)
    for figure in figures:
        for corners, rgb, _ in figure.shapes:
            cv2.fillPoly(canvas, [corners], rgb, cv2.LINE_AA, 4)
    return canvas, figures


def _photograph(rng: Generator, canvas: np.ndarray, far: float) -> np.ndarray:
    height, width = (side // OVERSAMPLING for side in canvas.shape[:2])
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[:height, :width][..., None] / height
    haze = rng.uniform(0, 0.4) * np.exp(-5 * np.maximum(y - far, 0))
    light = rng.choice(LIGHTS) * rng.uniform(0.85, 1.1)
    slant = 1 + rng.uniform(-0.3, 0.3) * (x - 0.75) + rng.uniform(-0.3, 0.3) * (y - 0.5)
    lamp = np.exp(-np.hypot(x - rng.uniform(0, 1.5), y - rng.random()) * rng.uniform(3, 8))
    image = (image * (1 - haze) + 200 * haze) * (light * slant + lamp * (1.2 - light.max()))
    image = (image - image.mean()) * rng.uniform(0.8, 1.1) + image.mean()
    image = cv2.GaussianBlur(image, (0, 0), max(0.1, rng.uniform(0.2, 0.8) * height / 256))
    if rng.random() < 0.04:
        image = image.mean(axis=2, keepdims=True) * np.ones(3)
    grain = rng.normal(0, rng.uniform(0, 7), (height, width, 1))  # one channel: grey stays grey
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def draw_scene(
    rng: Generator, size: tuple[int, int], most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a crowd of `most` people at most, and its head centres inside.

    Returns:
        (H, W, 3) uint8 RGB, and (N, 2) float32 x, y.
    """
    scene, camera = str(rng.choice(list(SCENES))), Camera(rng, size)
    look = {"sun": rng.choice([-1, 1]), "wardrobe": rng.dirichlet(np.full(len(PAINT), 0.5))}
    *_, edge, about = SCENES[scene]
    step = camera.unit(camera.far) * (20 if edge == "tree" else 46)
    spots = [(edge, x, camera.far) for x in np.arange(0, camera.width + step, step) if edge]
    for foot in rng.uniform(camera.far, camera.height * 1.15, rng.integers(2, 16)):
        spots.append((rng.choice(about.split()), rng.uniform(0, camera.width), foot))
    things = [Figure(rng, name, (x, y, camera.unit(y)), False, look) for name, x, y in spots]
    count = 5 * 78 ** rng.random() ** 0.63 * size[1] / size[0] / 1.5 * (rng.random() > 0.06)
    count = int(count) if most is None else min(int(count), most)
    people = _people(rng, _place_heads(rng, camera, count, things), look)
    figures = sorted(things + people, key=lambda figure: figure.foot)
    canvas, figures = _paint(_draw_backdrop(rng, camera, scene), figures)
    points = np.array([(f.x, f.y) for f in figures if f.is_person], np.float32).reshape(-1, 2)
    points = np.clip((points + 0.5) / OVERSAMPLING - 0.5, 0, np.float32(size[::-1]) - 1)
    return _photograph(rng, canvas, camera.far / camera.height), points


def _draw_picture(job: tuple[argparse.Namespace, int, int]) -> None:
    args, split, number = job
    image, points = draw_scene(np.random.default_rng((args.seed, split, number)), args.size)
    folder = args.out / "part_A" / SPLITS[split]
    pixels = image[..., 0] if (image == image[..., :1]).all() else image
    with written_whole(folder / f"images/IMG_{number}.jpg") as path:
        Image.fromarray(pixels).save(path, quality=85 + number % 11)
    with written_whole(folder / f"ground_truth/GT_IMG_{number}.mat") as path:
        write_shanghaitech_points(path, points)


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder that gets part_A")
    add("--train", type=whole_number(0), default=120, help="training pictures")
    add("--test", type=whole_number(0), default=30, help="test pictures")
    add("--size", type=checked(parse_size), default="256x384", help="HEIGHTxWIDTH")
    add("--seed", type=whole_number(0), default=0, help="of what is drawn")
    add("--workers", type=whole_number(1), default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    if min(args.size) < SHORTEST:
        parser.error(f"--size must have {SHORTEST} pixels a side, not {min(args.size)}")
    return args


def main(args: argparse.Namespace) -> None:
    demo = args.out / "part_A/demo.json"
    wanted = {k: getattr(args, k) for k in ("train", "test", "size", "seed")} | {"version": VERSION}
    if demo.exists() and demo.read_bytes() == json.dumps(wanted).encode():
        print(f"{demo.parent}: the demo crowd is up to date")
        return
    others = (p for p in demo.parent.rglob("*") if not p.name.startswith(UNFINISHED))
    if not demo.exists() and any(path.is_file() for path in others):
        sys.exit(
            f"error: {demo.parent} holds files that this command did not make; choose another --out"
        )
    for sub in (demo.parent / s / kind for s in SPLITS for kind in ("images", "ground_truth")):
        sub.mkdir(parents=True, exist_ok=True)
        for path in sub.iterdir():
            if re.fullmatch(r"(GT_)?IMG_\d+\.(jpg|mat|h5)", path.name):
                path.unlink()
    write_whole(demo, '"unfinished"')
    jobs = [(args, s, n + 1) for s in (0, 1) for n in range((args.train, args.test)[s])]
    outcomes = run_in_processes(
        _draw_picture, jobs, args.workers, "demo crowd", lambda job: job[1:]
    )
    raise_failed(outcomes)
    write_whole(demo, json.dumps(wanted))


if __name__ == "__main__":
    run(parse_args, main)
