"""Draw the pictures of the embedded sample: shapes on photographic textures, with clutter, shadow and noise.

A picture is a function of its random generator alone: pose, size, place, background and clutter are nuisance. Boxes
are (x0, y0, x1, y1) in pixels, half-open.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import skimage
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import gaussian_filter

from wsol_utils.data.sample.shapes import INKS, Markings, Part, bird, disc, hue

SIZE = 96  # pixels, width and height of every image
FINE = 2  # objects are drawn FINE times larger, then averaged: anti-aliasing
SEVERAL = 0.15  # share of the images of things that show two or three of them

Box = tuple[int, int, int, int]


# From parts to pixels.


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Load the photographs of surfaces that scikit-image ships, grey, 512×512."""
    return tuple(Image.fromarray(photo()) for photo in (skimage.data.grass, skimage.data.gravel, skimage.data.brick))


def texture(rng: Generator, narrowest: float, widest: float) -> np.ndarray:
    """Crop a random square of `narrowest` to `widest` pixels from a photograph: (SIZE, SIZE) with mean 0."""
    photo, width = photographs()[rng.integers(3)], rng.uniform(narrowest, widest)
    x, y = rng.uniform(0, 512 - width, size=2)
    small = photo.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (x, y, x + width, y + width))
    crop = np.asarray(small, np.float32) / 255
    return crop[:, :: rng.choice([-1, 1])] - crop.mean()


def background(rng: Generator) -> np.ndarray:
    """Draw a textured surface under a gradient of two colours, (SIZE, SIZE, 3) in about [0, 1]."""
    first, last = (np.array(hue(rng, (0.05, 0.3), (0.65, 0.9)), np.float32) for _ in range(2))
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    angle, mix = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5)
    ramp = (0.5 + mix * (np.cos(angle) * x + np.sin(angle) * y)).clip(0, 1)[..., None]
    light = 1 + rng.uniform(0.8, 1.6) * texture(rng, 100, 320)
    return (first * ramp + last * (1 - ramp)) * light[..., None]


def place(parts: list[Part], rng: Generator, shortest: float, longest: float) -> list[Part]:
    """Mirror the parts or not, turn them by up to 35 degrees, scale them to a length in pixels, move them into view."""
    points = np.concatenate([part.outline for part in parts])
    angle, mirror = np.radians(rng.uniform(-35, 35)), rng.choice([-1, 1])
    turn = np.array([[mirror * np.cos(angle), np.sin(angle)], [-mirror * np.sin(angle), np.cos(angle)]])
    turn *= rng.uniform(shortest, longest) / np.ptp(points, axis=0).max()
    low, high = (points @ turn).min(axis=0), (points @ turn).max(axis=0)
    shift = rng.uniform(1 - low, np.maximum(SIZE - 1 - high, 1.5 - low))
    return [part._replace(outline=part.outline @ turn + shift) for part in parts]


def tight_box(mask: np.ndarray) -> Box:
    """Find the smallest half-open box around the true pixels of a mask, (SIZE, SIZE)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def finer(image: np.ndarray) -> np.ndarray:
    """Repeat every pixel FINE×FINE times, (SIZE, SIZE, ...) → (FINE·SIZE, FINE·SIZE, ...)."""
    return image.repeat(FINE, axis=0).repeat(FINE, axis=1)


def coarser(image: np.ndarray) -> np.ndarray:
    """Average squares of FINE×FINE pixels, (FINE·SIZE, FINE·SIZE, ...) → (SIZE, SIZE, ...)."""
    return np.asarray(sum(image[i::FINE, j::FINE] for i in range(FINE) for j in range(FINE))) / FINE**2


def paint(canvas: np.ndarray, parts: list[Part], grain: np.ndarray) -> np.ndarray:
    """Paint placed parts on a canvas, lit from above on the left.

    Args:
        canvas: (FINE·SIZE, FINE·SIZE, 3), changed in place.
        parts: from back to front, outlines in pixels of the image.
        grain: (SIZE, SIZE), what the surface's roughness adds to the light.
    Returns:
        The share of each pixel that the parts cover, (SIZE, SIZE) in [0, 1].
    """
    covered = np.zeros(canvas.shape[:2], dtype=np.float32)
    for outline, colour, gloss in parts:
        fine = FINE * outline - 0.5
        rows, columns = skimage.draw.polygon(fine[:, 1], fine[:, 0], covered.shape)
        (x0, y0), (x1, y1) = fine.min(axis=0), fine.max(axis=0)
        u, v = (2 * columns - x0 - x1) / (x1 - x0), (2 * rows - y0 - y1) / (y1 - y0)  # in [-1, 1] across the part
        light = 1 + grain[rows // FINE, columns // FINE] - gloss * (0.4 * (u + u * u + v * v) + 0.8 * v - 0.3)
        glint = 0.5 * gloss * np.exp(-((u + 0.35) ** 2 + (v + 0.45) ** 2) / 0.15)
        canvas[rows, columns] = light[:, None] * np.array(colour) + glint[:, None]
        covered[rows, columns] = 1
    return coarser(covered)


def clutter(rng: Generator, count: int) -> list[Part]:
    """Scatter pebbles and leaves over the frame, half of them in the inks of the birds' markings."""
    parts = []
    for _ in range(count):
        x, y, length, slim, angle = rng.uniform((0, 0, 2, 0.3, 0), (SIZE, SIZE, 6.5, 1, np.pi))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        colour = INKS[rng.integers(len(INKS))] if rng.uniform() < 0.5 else hue(rng)
        parts.append(Part(disc(0, 0, length, slim * length) @ turn + (x, y), colour, 0.35))
    return parts


def picture(rng: Generator, objects: list[list[Part]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw a photograph-like picture of placed objects.

    Returns:
        The picture, (SIZE, SIZE, 3) uint8, and the mask of each object, (SIZE, SIZE) bool: where the object covers
        half of a pixel or more, clutter in front of it or not.
    """
    canvas, grain = finer(background(rng)), 0.5 * texture(rng, 200, 400)
    paint(canvas, clutter(rng, int(rng.integers(3, 7))), grain)
    covers = [paint(canvas, parts, grain) for parts in objects]
    cover = np.max(covers, axis=0)
    shadow = 0.45 * gaussian_filter(np.roll(cover, (2, 1), axis=(0, 1)), 1.5) * (1 - cover)
    canvas *= 1 - finer(shadow)[..., None]
    paint(canvas, clutter(rng, 2), grain)
    exposure, noise = rng.uniform(0.7, 1.05), rng.uniform(2, 7)
    pixels = 255 * exposure * coarser(canvas) + rng.normal(0, noise, (SIZE, SIZE, 3))
    return pixels.clip(0, 255).astype(np.uint8), [cover >= 0.5 for cover in covers]


def picture_of_bird(rng: Generator, marks: Markings) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one image of *birds*: the picture and the bird's mask, as `picture` gives them."""
    return picture(rng, [place(bird(rng, marks), rng, 42, 76)])


def picture_of_things(rng: Generator, thing: Callable[[Generator], list[Part]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw one image of *things*: one thing, or sometimes two or three side by side, as `picture` gives them."""
    if rng.uniform() >= SEVERAL:
        return picture(rng, [place(thing(rng), rng, 38, 76)])
    objects: list[list[Part]] = []
    taken, wanted = np.zeros((SIZE, SIZE), dtype=bool), rng.integers(2, 4)
    for _ in range(40):
        parts = place(thing(rng), rng, 26, 40)
        points = np.concatenate([part.outline for part in parts])
        (x0, y0), (x1, y1) = points.min(axis=0).astype(int), points.max(axis=0).astype(int) + 1
        if len(objects) < wanted and not taken[y0:y1, x0:x1].any():
            taken[y0:y1, x0:x1] = True
            objects.append(parts)
    return picture(rng, objects)
