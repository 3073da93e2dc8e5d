"""Draws pictures that show nobody: skies, walls, leaves, stones, text. For training's --empty."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import utils.start  # noqa: F401

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image

from preprocess.commands import run  # noqa: E402
from preprocess.figures import palette  # noqa: E402
from preprocess.processes import raise_failed, run_in_processes  # noqa: E402
from preprocess.synthetic import draw_scene  # noqa: E402
from utils.files import unfinished_folder  # noqa: E402
from utils.options import Parser, checked, parse_size, whole_number  # noqa: E402

Size = tuple[int, int]  # height, width

SKY, CLOUD = palette("3468b0 70a2d8 a6aeb8 606ea0 f0a868"), palette("ffffff d8dce0 8c929c fadcb4")
BRICK, MORTAR = palette("9c4c38 b46a4c 8c8478 c8b090 585450"), palette("c8c0b0 a09a90 6c6860")
LEAF = palette("35501e 4a6b2a 6c9446 82803a 8a6a30 2c3c2c")
STONE = palette("8c8680 a49c90 6c6a6a b8ab98 7a6c5c")
PAPER, INK = palette("ffffff f4eedc e4e4e0 20242c"), palette("101010 2c2c40 5a2020 f0f0e8")


def _noise(rng: Generator, size: Size, coarsest: float, finest: float = 1) -> np.ndarray:
    """Returns (H, W) cloudy noise of deviation 1, whose spots are `finest` to `coarsest` pixels."""
    total, spot = np.zeros(size), coarsest
    while spot >= finest:
        grid = rng.normal(0, 1, [2 + int(side / spot) for side in size])
        total += spot**0.5 * cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)
        spot /= 2
    return total / (total.std() + 1e-9)


def _blend(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    return first + (second - first) * share.clip(0, 1)[..., None]


def _sky(rng: Generator, size: Size) -> np.ndarray:
    above, below = rng.choice(SKY, 2)
    clear = _blend(above, below, np.broadcast_to(np.linspace(0, 1, size[0])[:, None], size))
    clouds = _noise(rng, size, size[1] / rng.uniform(1, 6), 4) + rng.uniform(-3, 1)
    return _blend(clear, rng.choice(CLOUD), clouds * rng.uniform(0.3, 1.5))


def _wall(rng: Generator, size: Size) -> np.ndarray:
    """Bricks, tiles or panels."""
    height = rng.uniform(8, 80)
    width, gap = height * rng.uniform(1, 4), max(1, height * rng.uniform(0.03, 0.15))
    y, x = np.mgrid[: size[0], : size[1]] + rng.uniform(0, 99, (2, 1, 1))
    row = (y // height).astype(int)
    x = x + row % 2 * width * rng.choice([0, 0.5])
    bricks = rng.normal(1, rng.uniform(0, 0.2), (row.max() + 1, int(x.max() / width) + 1))
    shade = bricks[row, (x // width).astype(int)] + 0.06 * _noise(rng, size, height)
    joints = np.minimum(y % height, x % width) < gap
    return np.where(joints[..., None], rng.choice(MORTAR), rng.choice(BRICK) * shade[..., None])


def _leaves(rng: Generator, size: Size) -> np.ndarray:
    """Leaves, in bushes or on the ground."""
    length = rng.uniform(3, 25)
    bright = 1 + 0.35 * _noise(rng, size, size[1] / 4, 8)
    return _strew(rng, size, length, rng.uniform(0.3, 0.7), rng.choice(LEAF, 3), bright)


def _grass(rng: Generator, size: Size) -> np.ndarray:
    bright = 1 + 0.2 * _noise(rng, size, size[1] / 2, 8)
    length, slimness = rng.uniform(4, 20), rng.uniform(0.06, 0.2)
    return _strew(rng, size, length, slimness, rng.choice(LEAF, 3), bright)


def _stones(rng: Generator, size: Size) -> np.ndarray:
    """Gravel, cobbles or sand."""
    bright = 1 + 0.1 * _noise(rng, size, size[1] / 2, 8)
    length = rng.uniform(2, 30)
    return _strew(rng, size, length, rng.uniform(0.6, 1), rng.choice(STONE, 4), bright)


def _strew(
    rng: Generator,
    size: Size,
    length: float,
    slimness: float,
    colours: np.ndarray,
    bright: np.ndarray,
) -> np.ndarray:
    """Covers a picture with overlapping ovals, each lit from one side."""
    canvas = np.ones((*size, 3)) * colours.mean(0) * rng.uniform(0.2, 0.8)
    light = rng.uniform(0, 2 * np.pi)
    lit = length * rng.uniform(0.1, 0.35) * np.array([np.cos(light), np.sin(light)])
    area = np.pi / 4 * length**2 * slimness
    count = min(30_000, int(rng.uniform(1.5, 3) * size[0] * size[1] / area))
    spots = rng.uniform(0, size[::-1], (count, 2))
    sizes = length * rng.lognormal(0, 0.3, count)
    turns = rng.normal(rng.uniform(0, 180), rng.choice([20, 90]), count)
    tones = rng.lognormal(0, rng.uniform(0.05, 0.35), count)
    for spot, long, turn, tone in zip(spots, sizes, turns, tones, strict=True):
        colour, axes = rng.choice(colours) * tone, (long, max(1, long * slimness))
        cv2.ellipse(canvas, (spot, axes, turn), (colour * 0.6).tolist(), cv2.FILLED)
        inner = (0.75 * axes[0], 0.75 * axes[1])
        cv2.ellipse(canvas, (spot + lit * long / length, inner, turn), colour.tolist(), cv2.FILLED)
    return canvas * bright[..., None]


def _text(rng: Generator, size: Size) -> np.ndarray:
    """Lines of letters on paper, straight or askew."""
    paper, ink = rng.choice(PAPER), rng.choice(INK)
    canvas = np.full((*size, 3), paper, np.uint8)
    letters, height = [chr(c) for c in range(33, 127)], rng.uniform(8, 50)
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX]))
    for line in np.arange(height, size[0] + height, height * rng.uniform(1.3, 2.2)):
        words = "".join(rng.choice([*letters, *" " * 15], 3 + int(1.8 * size[1] / height)))
        at, scale = (int(rng.uniform(0, 2 * height)), int(line)), height / 30
        cv2.putText(canvas, words, at, font, scale, ink.tolist(), 1 + int(height / 18), cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D(
        (size[1] / 2, size[0] / 2), rng.choice([0, rng.normal(0, 20)]), 1
    )
    return cv2.warpAffine(canvas, turn, size[::-1], borderValue=paper.tolist()).astype(float)


def _stripes(rng: Generator, size: Size) -> np.ndarray:
    """Fences, blinds, fields, water: waves of one direction."""
    y, x = np.mgrid[: size[0], : size[1]]
    turn, bend = rng.uniform(0, np.pi), rng.choice([0, rng.uniform(0, 3)])
    along = x * np.cos(turn) + y * np.sin(turn) + bend * 8 * _noise(rng, size, size[1] / 3, 16)
    waves = np.sin(2 * np.pi * along / rng.uniform(4, 90)) * rng.uniform(0.5, 5)
    return _blend(*rng.choice(np.concatenate([SKY, BRICK, LEAF]), 2), 0.5 + 0.5 * waves)


def _grain(rng: Generator, size: Size) -> np.ndarray:
    """Noise, from one colour to pixels at random."""
    colours = rng.uniform(0, 255, (2, 3))
    return _blend(*colours, 0.5 + _noise(rng, size, rng.choice([1, 4, 16, 64, 256])) / 3)


def _scene(rng: Generator, size: Size) -> np.ndarray:
    """A place of the demonstration crowd without the crowd."""
    return draw_scene(rng, size, most=0)[0].astype(float)


KINDS = (_sky, _wall, _leaves, _grass, _stones, _text, _stripes, _grain, _scene)


def draw_empty(rng: Generator, size: Size, number: int) -> np.ndarray:
    """Returns a picture without people, (H, W, 3) uint8 RGB; the kinds take turns by number."""
    image = KINDS[number % len(KINDS)](rng, size)
    image = (image - image.mean()) * rng.uniform(0.5, 2) + image.mean() * rng.uniform(0.6, 1.2)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.3:
        image = image.mean(axis=2, keepdims=True) * np.ones(3)
    grain = rng.normal(0, rng.uniform(0, 8), (*size, 1))
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _draw(args: argparse.Namespace, folder: Path, number: int) -> None:
    image = draw_empty(np.random.default_rng((args.seed, number)), args.size, number)
    Image.fromarray(image).save(folder / f"empty_{number + 1}.jpg", quality=85 + number % 11)


def parse_sides(text: str) -> Size:
    sides = parse_size(text)
    if not 32 <= min(sides) <= max(sides) <= 9999:
        raise ValueError(f"must be HEIGHTxWIDTH, both from 32 to 9999, got {text!r}")
    return sides


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder, new or empty")
    parser.add_argument("--pictures", type=whole_number(1), default=90, help="how many")
    parser.add_argument("--size", type=checked(parse_sides), default="512x768", help="HEIGHTxWIDTH")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="other pictures")
    parser.add_argument("--workers", type=whole_number(1), help="processes (default: one per core)")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise FileExistsError(f"{args.out} is not empty; choose another --out")
    workers, numbers = args.workers or os.cpu_count() or 1, list(range(args.pictures))
    out = args.out.resolve()
    with unfinished_folder(out) as begun:  # a half folder would be refused by the next start
        draw = partial(_draw, args, begun)
        raise_failed(run_in_processes(draw, numbers, workers, "empty pictures", name=str))
        os.replace(begun, out)
    print(f"{args.out}: {args.pictures} pictures that show nobody")


if __name__ == "__main__":
    run(parse_args, main)
