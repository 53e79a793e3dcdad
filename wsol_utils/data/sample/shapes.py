"""The shapes of the embedded sample: ten kinds of birds and twelve of things, as outlined, coloured parts.

Birds differ only in the markings of head and wing; plumage and proportions are nuisance. Every shape is a function of
its random generator alone, in coordinates of its own, about one unit long.
"""

import colorsys
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]

RED, ORANGE, YELLOW, GREEN = (0.88, 0.08, 0.08), (1.0, 0.5, 0.05), (1.0, 0.87, 0.08), (0.1, 0.68, 0.2)
BLUE, VIOLET, WHITE, BLACK = (0.1, 0.3, 0.95), (0.62, 0.12, 0.8), (0.97, 0.97, 0.95), (0.05, 0.05, 0.06)
INKS = (RED, ORANGE, YELLOW, GREEN, BLUE, VIOLET, WHITE, BLACK)


class Markings(NamedTuple):
    """What tells one kind of bird from another: four colours, and how deep the beak is (1 is usual)."""

    crown: Colour
    cheek: Colour
    beak: Colour
    depth: float
    bars: Colour


BIRDS = {  # two and two share a head: only the wing bars tell them apart
    "Red_crowned_Finch": Markings(RED, WHITE, YELLOW, 1.3, WHITE),
    "Red_crowned_Robin": Markings(RED, WHITE, YELLOW, 1.3, BLACK),
    "Blue_capped_Tit": Markings(BLUE, ORANGE, BLACK, 0.8, WHITE),
    "Blue_capped_Bunting": Markings(BLUE, ORANGE, BLACK, 0.8, YELLOW),
    "Golden_crowned_Kinglet": Markings(YELLOW, BLACK, BLACK, 0.8, RED),
    "Golden_crowned_Oriole": Markings(YELLOW, BLACK, BLACK, 0.8, BLUE),
    "Black_capped_Chickadee": Markings(BLACK, WHITE, YELLOW, 1.3, BLUE),
    "Black_capped_Grosbeak": Markings(BLACK, WHITE, YELLOW, 1.3, YELLOW),
    "White_crowned_Sparrow": Markings(WHITE, RED, ORANGE, 1.0, RED),
    "White_crowned_Manakin": Markings(WHITE, RED, ORANGE, 1.0, BLACK),
}


# Outlines, (n, 2) points in units of the object, x to the right, y down; colours.


class Part(NamedTuple):
    """A filled outline, (n, 2) points, with a colour; `gloss` is the strength of its shading."""

    outline: np.ndarray
    colour: Colour
    gloss: float = 0.3


def disc(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360) -> np.ndarray:
    """Outline an ellipse, or its segment between two angles in degrees (clockwise from the right)."""
    t = np.radians(np.linspace(start, stop, 25))
    return np.stack([x + rx * np.cos(t), y + (ry or rx) * np.sin(t)], axis=1)


def stroke(x0: float, y0: float, x1: float, y1: float, width: float, end: float | None = None) -> np.ndarray:
    """Outline a straight stroke from one point to another, `width` wide at its start and `end` at its end."""
    start, stop = np.array([x0, y0]), np.array([x1, y1])
    across = np.array([y0 - y1, x1 - x0]) / np.hypot(x1 - x0, y1 - y0) / 2
    first, last = across * width, across * (end or width)
    return np.stack([start + first, stop + last, stop - last, start - first])


def sharp(*points: tuple[float, float]) -> np.ndarray:
    """Outline a polygon with the corners as given."""
    return np.array(points, dtype=float)


def rounded(*points: tuple[float, float]) -> np.ndarray:
    """Outline a polygon with its corners cut twice (Chaikin's curve): 4 times as many points."""
    p = sharp(*points)
    for _ in range(2):
        q = np.roll(p, -1, axis=0)
        p = np.stack([0.75 * p + 0.25 * q, 0.25 * p + 0.75 * q], axis=1).reshape(-1, 2)
    return p


def hue(rng: Generator, low: tuple[float, float] = (0.25, 0.3), high: tuple[float, float] = (0.9, 0.95)) -> Colour:
    """Draw a colour of any hue, with (saturation, value) between `low` and `high`."""
    return colorsys.hsv_to_rgb(rng.uniform(), *rng.uniform(low, high))


def tone(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor < 1) or lighter (factor > 1)."""
    r, g, b = (c * factor if factor < 1 else 1 - (1 - c) / factor for c in colour)
    return r, g, b


# The objects, each a list of parts from back to front.


def bird(rng: Generator, marks: Markings | None = None) -> list[Part]:
    """Shape a bird with the given markings, or with random ones; all else is nuisance, drawn from `rng`."""
    inks = [INKS[i] for i in rng.integers(len(INKS), size=4)]
    crown, cheek, beak, depth, bars = marks or Markings(inks[0], inks[1], inks[2], 1.0, inks[3])
    plumage, leg = hue(rng, (0.15, 0.3), (0.75, 0.85)), tone(ORANGE, rng.uniform(0.3, 0.8))
    worn = rng.uniform(0, 0.3)  # share of the plumage's colour in the markings
    crown, cheek, bars = (tuple((1 - worn) * np.array(c) + worn * np.array(plumage)) for c in (crown, cheek, bars))
    wing, belly = tone(plumage, rng.uniform(0.55, 0.8)), tone(plumage, rng.uniform(1.1, 1.8))
    tail, step = rng.uniform(-0.12, 0.14), rng.uniform(-0.06, 0.06)
    back = ((-0.52, 0.12), (-0.5, -0.06), (-0.2, -0.22), (0.08, -0.3), (0.2, -0.6))
    return [
        *(Part(stroke(x, 0.2, x + step, 0.5, 0.045), leg) for x in (-0.06, 0.1)),
        *(Part(stroke(x + step - 0.03, 0.5, x + step + 0.1, 0.51, 0.04), leg) for x in (-0.06, 0.1)),
        Part(sharp((-0.3, -0.1), (-0.84, tail), (-0.86, 0.15 + tail), (-0.3, 0.14)), tone(wing, 0.8)),
        Part(stroke(-0.3, 0.02, -0.85, 0.08 + tail, 0.02), tone(wing, 0.55), 0),
        Part(rounded((0.55, -0.4), (0.46, 0.05), (0.2, 0.31), (-0.16, 0.31), *back), plumage),
        Part(rounded((0.45, -0.12), (0.38, 0.1), (0.15, 0.29), (-0.15, 0.28), (-0.3, 0.16), (0.1, 0.16)), belly, 0.2),
        Part(rounded((0.22, -0.16), (0.16, 0.08), (-0.1, 0.2), (-0.62, 0.1), (-0.34, -0.1), (-0.05, -0.22)), wing, 0.4),
        *(Part(stroke(0.02, y, -0.4, y + 0.03, 0.025), tone(wing, 0.6), 0) for y in (0.0, 0.07)),
        *(Part(stroke(x, -0.17, x - 0.07, 0.12, 0.085, 0.05), bars, 0.1) for x in (0.05, -0.12)),
        Part(disc(0.36, -0.37, 0.23), plumage),
        Part(disc(0.35, -0.26, 0.13, 0.11), cheek, 0.15),
        Part(disc(0.36, -0.38, 0.24, 0.24, -200, -8), crown, 0.25),
        Part(sharp((0.56, -0.37 - 0.09 * depth), (0.82, -0.31), (0.56, -0.31)), beak, 0.2),
        Part(sharp((0.56, -0.31), (0.82, -0.31), (0.56, -0.31 + 0.06 * depth)), tone(beak, 0.6), 0.2),
        Part(disc(0.44, -0.38, 0.062), tone(plumage, 2.5), 0),
        Part(disc(0.44, -0.38, 0.045), BLACK, 0),
        Part(disc(0.455, -0.395, 0.018), WHITE, 0),
    ]


def butterfly(rng: Generator) -> list[Part]:
    a, b, parts = hue(rng), hue(rng), []
    for s in (-1, 1):
        parts += [
            Part(rounded((0, -0.05), (s * 0.3, -0.5), (s * 0.62, -0.42), (s * 0.5, 0), (s * 0.1, 0.08)), a),
            Part(rounded((0, 0), (s * 0.45, 0.05), (s * 0.46, 0.4), (s * 0.18, 0.5)), tone(a, 0.75)),
            *(Part(disc(s * x, y, r), b) for x, y, r in ((0.34, -0.25, 0.1), (0.27, 0.2, 0.07))),
            Part(stroke(0, -0.25, s * 0.1, -0.48, 0.025), BLACK),
        ]
    return [*parts, Part(disc(0, 0.02, 0.055, 0.34), tone(b, 0.35))]


def fish(rng: Generator) -> list[Part]:
    a, b = hue(rng), hue(rng)
    return [
        Part(rounded((-0.1, 0), (-0.66, -0.36), (-0.5, 0), (-0.66, 0.36)), b),
        Part(sharp((-0.15, -0.15), (-0.05, -0.34), (0.2, -0.28), (0.15, -0.15)), tone(b, 0.8)),
        Part(disc(0.08, 0, 0.44, 0.23), a, 0.45),
        Part(rounded((0.12, 0.02), (-0.12, -0.06), (-0.1, 0.14)), b),
        *(Part(stroke(x, -0.16, x - 0.02, 0.16, 0.03), tone(a, 0.7)) for x in (-0.1, -0.2)),
        *(Part(disc(0.37, -0.05, r), c, 0) for r, c in ((0.06, WHITE), (0.035, BLACK))),
    ]


def tree(rng: Generator) -> list[Part]:
    a, b = hue(rng), hue(rng, (0.3, 0.25), (0.6, 0.6))
    tops = ((-0.2, -0.05, 0.22, 0.8), (0.2, -0.05, 0.22, 0.75), (0, -0.3, 0.26, 1), (0.02, -0.08, 0.2, 1.15))
    return [Part(stroke(0, 0.6, 0, -0.1, 0.2, 0.12), b), *(Part(disc(x, y, r), tone(a, k), 0.4) for x, y, r, k in tops)]


def mushroom(rng: Generator) -> list[Part]:
    a, b = hue(rng), hue(rng, (0.05, 0.6), (0.4, 1))
    dots = ((-0.24, -0.14, 0.08), (0.03, -0.26, 0.1), (0.26, -0.1, 0.07))
    stem = Part(rounded((-0.12, -0.1), (-0.18, 0.5), (0.18, 0.5), (0.12, -0.1)), b)
    return [stem, Part(disc(0, 0.02, 0.5, 0.44, -180, 0), a, 0.45), *(Part(disc(x, y, r), b) for x, y, r in dots)]


def house(rng: Generator) -> list[Part]:
    a, b, c = hue(rng), hue(rng), hue(rng, (0.1, 0.2), (0.6, 0.9))
    return [
        Part(stroke(0.25, -0.5, 0.25, -0.1, 0.12), tone(a, 0.6)),
        Part(stroke(0, -0.1, 0, 0.5, 0.84), a),
        Part(sharp((-0.54, -0.08), (0, -0.56), (0.54, -0.08)), b),
        Part(stroke(0.02, 0.15, 0.02, 0.5, 0.2), tone(c, 0.5)),
        *(Part(stroke(x, 0.05, x, 0.22, 0.16), tone(c, 1.5)) for x in (-0.25, 0.28)),
    ]


def car(rng: Generator) -> list[Part]:
    a, glass = hue(rng), hue(rng, (0.05, 0.7), (0.25, 0.95))
    return [
        Part(sharp((-0.34, 0), (-0.22, -0.26), (0.14, -0.26), (0.32, 0)), tone(a, 0.85)),
        Part(sharp((-0.26, -0.02), (-0.17, -0.2), (-0.04, -0.2), (-0.04, -0.02)), glass),
        Part(sharp((0.01, -0.02), (0.01, -0.2), (0.11, -0.2), (0.23, -0.02)), glass),
        Part(rounded((-0.62, -0.02), (0.4, -0.04), (0.64, 0.04), (0.62, 0.24), (-0.62, 0.24)), a, 0.45),
        *(Part(disc(x, 0.2, r), (c, c, c)) for x in (-0.32, 0.32) for r, c in ((0.14, 0.1), (0.07, 0.7))),
    ]


def sailboat(rng: Generator) -> list[Part]:
    a, b, c = hue(rng), hue(rng), hue(rng, (0, 0.6), (0.4, 1))
    return [
        Part(stroke(0, -0.55, 0, 0.3, 0.04), tone(b, 0.4)),
        Part(sharp((0.04, -0.5), (0.42, 0.18), (0.04, 0.18)), c),
        Part(sharp((-0.04, -0.4), (-0.04, 0.18), (-0.36, 0.18)), a),
        Part(sharp((-0.52, 0.24), (0.55, 0.24), (0.38, 0.48), (-0.36, 0.48)), b),
    ]


def bottle(rng: Generator) -> list[Part]:
    a, b = hue(rng), hue(rng)
    right = ((0.06, -0.4), (0.07, -0.2), (0.18, -0.05), (0.18, 0.56))
    return [
        Part(sharp(*right, *((-x, y) for x, y in right[::-1])), a, 0.4),
        Part(stroke(0, -0.56, 0, -0.4, 0.15), tone(b, 0.7)),
        Part(stroke(0, 0.1, 0, 0.4, 0.34), b),
        Part(stroke(-0.12, 0, -0.12, 0.52, 0.035), tone(a, 2), 0),
    ]


def mug(rng: Generator) -> list[Part]:
    a, b = hue(rng), hue(rng)
    handle = np.concatenate([disc(0.26, 0.04, 0.28, 0.26, -90, 90), disc(0.26, 0.04, 0.16, 0.15, 90, -90)])
    return [
        Part(handle, tone(a, 0.85)),
        Part(rounded((-0.36, -0.34), (0.28, -0.34), (0.28, 0.2), (0.24, 0.44), (-0.32, 0.44), (-0.36, 0.2)), a, 0.4),
        Part(disc(-0.04, -0.3, 0.31, 0.1), tone(a, 0.5)),
        Part(stroke(-0.35, 0.1, 0.27, 0.1, 0.12), b),
    ]


def key(rng: Generator) -> list[Part]:
    a = hue(rng)
    bow = np.concatenate([disc(-0.34, 0, 0.24), disc(-0.34, 0, 0.1, 0.1, 360, 0)])
    teeth = (Part(stroke(x, 0, x, y, 0.1), tone(a, 0.85)) for x, y in ((0.54, 0.24), (0.38, 0.18)))
    return [Part(stroke(-0.12, 0, 0.6, 0, 0.11), a), Part(bow, a, 0.4), *teeth]


def star(rng: Generator) -> list[Part]:
    a, t = hue(rng), np.radians(np.arange(10) * 36 - 90)
    tips = np.stack([np.cos(t), np.sin(t)], axis=1) * np.tile([0.56, 0.25], 5)[:, None]  # (10, 2)
    return [Part(tips, a), *(Part(np.stack([*tips[i : i + 2], (0, 0)]), tone(a, 0.75), 0) for i in range(0, 10, 2))]


THINGS = (bird, butterfly, fish, tree, mushroom, house, car, sailboat, bottle, mug, key, star)
