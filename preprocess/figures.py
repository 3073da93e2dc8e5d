"""People and things of the demonstration crowd, as drawings of coloured polygons."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

BODY = 10.5  # from the head's centre to the ground, in head radii
LEAST_VISIBLE = 0.3  # share of a head that must show, or its person is left out

# Lines with one name are variants, and commas separate shapes. A shape is a kind, a colour, a tone
# and four numbers in head radii, right and down from the head's centre or a thing's foot. Kinds:
# o oval (centre, half axes), h its upper half, e the oval and its mirror image, b box (foot, width,
# height); a capital letter marks a part of the head.
DRAWINGS = """
legs: b bottom .75 -.7 10.3 1.2 5.5, b bottom .95 .7 10.3 1.2 5.5, e dark 1 .8 10.3 .7 .35
legs: e skin .9 .6 8 .4 2.4, e dark 1 .6 10.3 .5 .3, h bottom .9 0 8 1.8 4
body: o top .7 0 2.2 1.9 1, b top .7 0 5.7 2.9 3.6, b top 1 .35 5.7 2.2 4, b skin .7 0 1.5 .9 1
wear: b second 1 .1 2.9 3 .6, b second 1 .1 4.3 2.8 .6
wear: b second .9 0 5.7 .9 4.3
wear: o second 1 .2 3 .7 .7
wear: b top .5 0 5.7 2.9 .4
arms: e sleeve .9 1.75 3.6 .5 2.1, e skin 1 1.75 5.5 .4 .4
cheer: e sleeve .9 1.9 .5 .5 2.2, e skin 1 1.95 -1.8 .45 .5
front: O skin .75 0 0 .92 1.08, O skin 1 .14 0 .76 .98, H hair 1 0 -.15 .98 1.05,
  O hair 1 .1 -.25 .85 .3, E dark .7 .34 .25 .11 .14, O skin .6 0 .65 .26 .08
front: o hair .8 0 .7 1.25 1.5, O skin .75 0 .05 .9 1.05, O skin 1 .14 .05 .72 .95,
  H hair 1 0 0 1.02 1.15, O skin 1 .1 0 .6 .35, E dark .7 .34 .25 .11 .14, O skin .6 0 .65 .2 .08
side: O hair .85 -.1 0 .95 1.08, O skin .95 .35 .15 .6 .88, O skin .95 .95 .2 .15 .15
back: O hair .8 0 0 .98 1.1, O hair 1.2 .3 -.3 .55 .6, o hair .9 0 1 .5 1.1
back: o hat .8 0 3.6 1.3 1.7, o hat 1 .2 4.2 .8 .8, O hair .8 0 0 1 1.1, O hair 1.2 .3 -.3 .5 .6
hat: H hat 1 0 -.2 1 .95, O hat .7 .3 -.2 1 .22
hat: H hat 1 0 -.3 .95 .9, O hat .8 0 -.35 1.7 .4
hat: H hat .9 0 .1 1.15 1.35, H skin 1 .1 .3 .75 1.1, E dark .7 .34 .2 .11 .14
umbrella: h hat .7 .3 -1.2 3.9 2.3, h hat 1 .4 -1.2 2.6 2.3, h hat .8 .4 -1.2 .9 2.3
tree: b wood 1 0 0 2.4 26, e leaf .7 5 -24 6 6, o leaf .8 0 -29 9 8, o leaf 1.05 3 -31 5 4
tree: b wood .8 0 0 1.6 9, h leaf .7 0 -4 7 14, h leaf .85 .6 -12 5.5 12, h leaf 1 1 -20 4 11
bush: e leaf .7 1.7 -2 2.8 2.6, o leaf 1 1 -3 2 1.8, o leaf 1.1 -1.6 -3 1.4 1.2
lamp: b dark 1.5 0 0 .8 24, b dark 1.5 1.2 -24 3 .6, o light 1 2.6 -24 1.3 .9
car: h paint .8 0 -4.6 9.5 5.6, b dark 2 0 -5 14 3.6, b paint .8 0 -5 1 4, b paint 1 0 -1.5 27 4,
  h paint 1 0 -5 13.5 2, e dark 1 8.5 -1.6 2.3 2.3, e light .6 8.5 -1.6 1 1, o light 1 13 -4 .6 .8
board: e dark 2 3 -4 .3 4, b paint 1 0 -4 9 7, b wall 1.2 -1 -9 5 .7, b wall 1.2 0 -7 7 .7
balloon: b light .6 0 0 .15 15, o paint 1 0 -16 1.2 1.4, o light 1 .4 -16.4 .3 .4
parasol: b light .9 0 0 .5 14, h paint 1 0 -11 9 5, h second 1 0 -11 6 5, h paint 1 0 -11 2.5 5
house: b wall 1 0 9 48 70, b wall .6 0 -60 50 2, b wood .8 0 0 5 12, b dark 2 13 -3 10 8,
  b dark 2 -8 -20 6 9, b dark 2 14 -20 6 9, b dark 2 -8 -38 6 9, b light .9 14 -38 6 9
house: b wall .85 0 9 48 48, b paint .8 0 -38 52 5, b dark 2 -12 0 14 12, b light .8 14 -20 6 9
panel: b wall .75 0 9 48 90, b wall 1 -20 9 5 90, b paint .8 8 -14 12 26, b light .9 0 -50 14 1.5
"""


def palette(codes: str) -> np.ndarray:
    """Returns colours written as hexadecimal RGB, (N, 3) from 0 to 255."""
    return np.array([list(bytes.fromhex(code)) for code in codes.split()], float)


PAINT = palette("22242a 74767c f0eee8 1e2c58 3460a8 6eacd8 3c7850 b22428 e2623c f0c442 844888")
FIXED = dict(zip(("wood", "light", "dark"), palette("564232 fffad6 2a2a2e"), strict=True))
COLOURS = {  # every figure gets one of each
    "skin": palette("ffe0c4 f1c29b e0ac7a be845a 8d5838 5c3a28"),
    "hair": palette("1c1818 36261c 624026 a0703a d6b270 a8a6a4 8c3c20"),
    "leaf": palette("3a5c2c 547834 2c4a32 78843a 966830"),
    "wall": palette("c4b096 aa6e58 d6cebe 8c9298 765e52 5c6270"),
}


def _parse_drawings() -> dict[str, list[list[tuple[np.ndarray, str, float, bool]]]]:
    circle = np.exp(1j * np.linspace(np.pi, 3 * np.pi, 24)).view(float).reshape(-1, 2)
    outlines = {"o": circle, "e": circle, "h": circle[:12]}
    outlines["b"] = np.array([(-0.5, 0), (0.5, 0), (0.5, -1), (-0.5, -1)])
    drawings = {}
    for name, text in re.findall(r"(\w+): ([^:]+)(?=\n)", DRAWINGS):
        drawings.setdefault(name, []).append(shapes := [])
        for kind, colour, tone, *numbers in map(str.split, text.split(",")):
            x, y, width, height, tone = map(float, (*numbers, tone))
            corners, is_head = outlines[kind.lower()] * (width, height) + (x, y), kind.isupper()
            for side in (-1, 1) if kind in "eE" else (1,):
                shapes.append((corners * (side, 1), colour, tone * (0.9 + 0.1 * side), is_head))
    return drawings


class Figure:
    """A person, at the head's centre (x, y), or a thing, at its foot, as polygons to fill.

    Args:
        names: of DRAWINGS; later ones cover earlier ones.
        spot: x, y and the radius of a head there, in canvas pixels.
        look: what a scene's figures share: "sun", the side of the light, and "wardrobe", the
            weights of PAINT.
    """

    drawings = _parse_drawings()

    def __init__(
        self, rng: Generator, names: str, spot: Sequence[float], is_person: bool, look: dict
    ):
        self.x, self.y, self.unit = spot
        self.is_person, self.foot = is_person, self.y + BODY * self.unit * is_person
        dyes = FIXED | {name: rng.choice(colours) for name, colours in COLOURS.items()}
        cloths = PAINT[rng.choice(len(PAINT), 5, p=look["wardrobe"])] + rng.normal(0, 15, (5, 3))
        dyes |= dict(zip(("top", "bottom", "second", "hat", "paint"), cloths, strict=True))
        dyes["sleeve"] = dyes["skin" if rng.random() < 0.3 else "top"]
        self.shapes, self.least_visible = [], is_person * LEAST_VISIBLE * np.pi * self.unit**2
        for variants in map(self.drawings.get, names.split()):
            for corners, colour, tone, is_head in variants[rng.integers(len(variants))]:
                pixels = (corners * (look["sun"], 1) * self.unit + (self.x, self.y)) * 16
                rgb = (dyes[colour] * tone).tolist()
                self.shapes.append((np.rint(pixels).astype(int), rgb, is_head))
