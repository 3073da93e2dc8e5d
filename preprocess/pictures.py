"""Draws the distributions of a data set's sizes and counts, and a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: servers have no screen
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

from datasets.pictures import read_image  # noqa: E402
from datasets.sizes import lie_inside  # noqa: E402
from preprocess.annotations import read_points  # noqa: E402
from preprocess.checks import Checked  # noqa: E402
from utils.files import written_whole  # noqa: E402
from utils.plots import save_figure  # noqa: E402

TILES, COLUMNS = 20, 5  # of a contact sheet
TILE, CAPTION = (240, 320), 34  # height and width of a tile's picture; height of its caption


def draw_distributions(images: Sequence[Checked], path: Path) -> None:
    """Draws the distributions of heads per image and of image sizes, for each split."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    known = [i for i in images if i.size and i.heads is not None]
    edges = space_bins([1 + i.heads for i in known])
    for split in dict.fromkeys(i.job.split for i in known):
        of_split = [i for i in known if i.job.split == split]
        heads = [1 + i.heads for i in of_split]
        left.hist(heads, edges, alpha=0.5, label=split, weights=[1 / len(heads)] * len(heads))
        heights, widths = zip(*(i.size for i in of_split), strict=True)
        right.plot(widths, heights, ".", alpha=0.5, label=f"{split}, {len(of_split)} images")
    left.set(xlabel="1 + heads in an image", ylabel="share of the split's images", xscale="log")
    right.set(xlabel="width (pixels)", ylabel="height (pixels)", xlim=(0, None), ylim=(0, None))
    left.legend(loc="upper left")
    right.legend()
    save_figure(figure, path, dpi=120)


def space_bins(values: Sequence[float], count: int = 20) -> np.ndarray:
    """Returns edges of bins that are equally wide on a logarithmic axis and hold all values."""
    low, high = min(values), max(values)
    return np.geomspace(low, max(high, low + 1), count + 1)


def draw_contact_sheet(images: Sequence[Checked], path: Path) -> None:
    """Draws pictures with their heads, defective ones first, the others from empty to fullest."""
    chosen = choose_images([i for i in images if i.size and i.heads is not None])
    rows = -(-len(chosen) // COLUMNS)
    height, width = TILE[0] + CAPTION, TILE[1]
    sheet = Image.new("RGB", (width * min(COLUMNS, len(chosen)), height * rows), "white")
    for number, image in enumerate(chosen):
        corner = number % COLUMNS * width, number // COLUMNS * height
        sheet.paste(_draw_tile(image), corner)
    with written_whole(path) as begun:
        sheet.save(begun, quality=80)


def choose_images(images: Sequence[Checked]) -> list[Checked]:
    """Returns at most TILES images: up to half of them defective, the rest evenly by count."""
    images = sorted(images, key=lambda image: image.heads)
    defective = _spread([i for i in images if i.defects], TILES // 2)
    others = [image for image in images if not image.defects]
    return defective + _spread(others, TILES - len(defective))


def _spread(images: Sequence[Checked], count: int) -> list[Checked]:
    numbers = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return [images[number] for number in numbers]


def _draw_tile(image: Checked) -> Image.Image:
    picture = Image.fromarray(read_image(image.job.pair.image))
    size = picture.height, picture.width
    scale = min(tile / side for tile, side in zip(TILE, size, strict=True))
    height, width = (max(1, round(scale * side)) for side in size)
    picture = picture.resize((width, height), Image.Resampling.BOX)
    points = read_points(image.job.pair.annotation)
    draw, radius = ImageDraw.Draw(picture), 2 if len(points) < 500 else 1
    for (x, y), inside in zip(points * scale, lie_inside(points, size), strict=True):
        x, y = np.clip((x, y), 0, (width - 1, height - 1))
        dot = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(dot, fill="yellow" if inside else "red", outline="black")
    tile = Image.new("RGB", (TILE[1], TILE[0] + CAPTION), "white")
    tile.paste(picture, ((TILE[1] - width) // 2, 0))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    kinds = ", ".join(defect.kind for defect in image.defects)
    draw.text((4, height + 2), f"{image.job.name[-40:]}: {image.heads}", "black", font)
    while draw.textlength(kinds, font) > TILE[1] - 8:
        kinds = f"{kinds.rstrip('.')[:-1]}..."
    draw.text((4, height + 17), kinds, "red", font)
    return tile
