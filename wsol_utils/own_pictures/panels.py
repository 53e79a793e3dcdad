"""Draw what the explorer shows: the picture under its map with the box, the D curve beside it, both in words.

Drawn for speed: pixels where pixels do, and of the figure no more than has changed.
"""

import io
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from wsol_utils.figures import plots
from wsol_utils.own_pictures.views import Located, View

WIDTH, HEIGHT = 400, 330  # pixels of the frame that a picture is shown in
JET = (255 * matplotlib.colormaps["jet"](range(256))[:, :3]).astype(np.uint8)


class Curve:
    """D against η, its mean and the chosen η, on a background that is drawn once."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(4.5, HEIGHT / 100), dpi=100)
        self.canvas, self.axes = FigureCanvasAgg(self.figure), self.figure.subplots()
        (self.steps,) = self.axes.plot([], [], color="red", marker=".", label="D")
        self.mean = self.axes.axhline(color="blue", label="mean of D")
        self.line = self.axes.axvline(color="grey", linestyle="--")
        self.axes.set(xlabel="η, share of the map's maximum", ylabel="D", xlim=(0, 1))
        self.axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False)
        self.axes.locator_params(axis="y", nbins=4)
        self.figure.subplots_adjust(0.16, 0.15, 0.97, 0.91)
        self.changing = (self.axes.yaxis, self.steps, self.mean, self.line)
        for artist in self.changing:
            artist.set_animated(True)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)

    def pixels(self, located: Located) -> np.ndarray:
        """(H, W, 3) uint8."""
        steps = located.differences[np.isfinite(located.differences)]
        mean, largest = (steps.mean(), steps.max()) if len(steps) else (0, 0)
        self.steps.set_data(located.candidates, located.differences)
        self.mean.set_ydata([mean, mean])
        self.line.set_xdata([located.eta, located.eta])
        self.axes.set_ylim(0, 1.1 * largest or 1)
        self.canvas.restore_region(self.background)
        for artist in self.changing:
            self.axes.draw_artist(artist)
        return np.array(self.canvas.buffer_rgba())[..., :3]


def under_map(view: View, located: Located) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: the picture, in the middle, under the map and with the box."""
    height, width = view.image.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    w, h = max(round(width * scale), 1), max(round(height * scale), 1)
    small = cv2.resize(view.image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    heat = JET[np.uint8(255 * np.clip(cv2.resize(located.map, (w, h)), 0, 1))]  # (h, w, 3)
    small = cv2.addWeighted(small, 0.5, heat, 0.5, 0)
    x0, y0, x1, y1 = (round(side * scale) for side in located.box)
    if x1 > x0 and y1 > y0:
        colour = [round(255 * part) for part in to_rgb(plots.PREDICTION)]
        cv2.rectangle(small, (x0, y0), (x1 - 1, y1 - 1), colour, 2)
    frame, top, left = np.full((HEIGHT, WIDTH, 3), 255, np.uint8), (HEIGHT - h) // 2, (WIDTH - w) // 2
    frame[top : top + h, left : left + w] = small
    return frame


def in_words(view: View, located: Located) -> str:
    """Threshold, rule, box and class."""
    (x0, y0, x1, y1), (height, width) = located.box, view.image.shape[:2]
    box = f"box x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}" if x1 > x0 and y1 > y0 else "no box"
    share = "" if view.probability is None else f", {view.probability:.0%}"
    return f"η = {located.eta:.2f} ({located.rule}): {box} of {width} × {height} pixels; {view.class_name}{share}"


def png(image: Image.Image, **options: Any) -> bytes:
    """The bytes of a PNG."""
    written = io.BytesIO()
    image.save(written, "PNG", **options)
    return written.getvalue()
