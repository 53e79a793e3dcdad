"""Draw Figures 2, 3 and 4 in the paper's arrangement, and the curves beside them.

Every function takes plain arrays and returns a matplotlib Figure. Images are uint8 (H, W, 3), maps are (h, w) of any
size and scale, boxes are half-open pixels.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image as Picture
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from wsol_utils.boxes import thresholds
from wsol_utils.common import files

PREDICTION, TRUTH = "limegreen", "red"  # the colours of Fig. 4
DPI = 72  # of the pictures in notebooks and results: small files, still clear in a browser
Box = Sequence[float] | np.ndarray


def draw_box(axes: Axes, box: Box, colour: str) -> None:
    """Draw a box (x0, y0, x1, y1) as a rectangle; draw nothing if its area is 0."""
    x0, y0, x1, y1 = (float(v) for v in box)
    if x1 > x0 and y1 > y0:
        corner = (x0 - 0.5, y0 - 0.5)  # a pixel's centre is its index
        axes.add_patch(
            plt.Rectangle(corner, x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=2, clip_on=False)
        )


def show(
    axes: Axes, image: np.ndarray, heat: np.ndarray | None = None, title: str = "", *,
    truth: Sequence[Box] | np.ndarray = (), found: Box | None = None,
) -> None:  # fmt: skip
    """Show an image, and over it a map, the true boxes in red and the predicted box in green.

    Args:
        heat: (h, w), stretched over the image; negative scores count as 0.
        truth: n boxes.
        found: one box.
    """
    axes.imshow(image)
    if heat is not None:
        frame = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
        axes.imshow(np.maximum(heat, 0), cmap="jet", alpha=0.5, extent=frame, interpolation="bilinear")
    for box in truth:
        draw_box(axes, box, TRUTH)
    if found is not None:
        draw_box(axes, found, PREDICTION)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def gallery(images: Sequence[np.ndarray], boxes: Sequence, titles: Sequence[str]) -> Figure:
    """Draw images with their true boxes, six in a row."""
    columns = 6
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.7 * columns, 1.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, truth, title in zip(axes.flat, images, boxes, titles, strict=False):
        show(axis, image, title=title, truth=truth)
    return _tight(figure)


def history(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw loss and accuracy over the epochs, with a line for each training run."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for axis, column, label in zip(axes, ("loss", "accuracy"), ("train loss", "train accuracy, %"), strict=True):
        for name, epochs in runs.items():
            axis.plot([row["epoch"] for row in epochs], [row[column] for row in epochs], marker=".", label=name)
        axis.set(xlabel="epoch", ylabel=label)
    axes[1].legend()
    return _tight(figure)


def threshold_curves(candidates: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw GT-known in percent against one fixed threshold for all images, with a line for each kind of map."""
    figure, axis = plt.subplots(figsize=(6, 3.2))
    for name, values in curves.items():
        axis.plot(candidates, values, marker=".", label=name)
    axis.axvline(thresholds.FIXED, color="grey", linestyle=":", linewidth=1)
    axis.set(xlabel="threshold, share of the map's maximum", ylabel="GT-known, %", xlim=(0, 1))
    axis.legend(fontsize=8)
    return _tight(figure)


def chosen_thresholds(chosen: Mapping[str, np.ndarray]) -> Figure:
    """Draw how often each threshold is chosen, with a histogram for each rule."""
    columns = 4
    rows = -(-len(chosen) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 1.7 * rows), sharex=True, squeeze=False)
    for axis, (rule, values) in zip(axes.flat, chosen.items(), strict=False):
        axis.hist(values, bins=np.arange(-0.025, 1.05, 0.05))
        axis.set(xlim=(-0.025, 1.025), yticks=[])
        axis.set_title(rule, fontsize=9)
    for axis in axes.flat[len(chosen) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("chosen η")
    return _tight(figure)


def localized(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], boxes: Sequence, truth: Sequence, titles: Sequence[str]
) -> Figure:
    """Draw images under their maps, each with its predicted box and its true ones."""
    figure, axes = plt.subplots(1, len(images), figsize=(2.4 * len(images), 2.6), squeeze=False)
    for axis, image, heat, box, others, title in zip(axes[0], images, maps, boxes, truth, titles, strict=True):
        show(axis, image, heat, title, truth=others, found=box)
    return _tight(figure)


def fig2(rows: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """Draw Fig. 2: (a) the strongest positive and negative feature maps, (b) the original CAM, (c) the recombined one.

    Args:
        rows: for each image: image, strongest_positive, strongest_negative, signed, absolute.
    """
    columns = {
        "image": "image", "strongest_positive": "(a) positive channel", "strongest_negative": "(a) negative channel",
        "signed": "(b) original CAM, Eq. 2", "absolute": "(c) ours, Eq. 3",
    }  # fmt: skip
    figure, axes = plt.subplots(len(rows), 5, figsize=(10.5, 2.2 * len(rows)), squeeze=False)
    for i, row in enumerate(rows):
        for axis, (name, title) in zip(axes[i], columns.items(), strict=True):
            show(axis, row["image"], None if name == "image" else row[name], title if i == 0 else "")
    return _tight(figure)


def fig3(
    image: np.ndarray, heat: np.ndarray, candidates: Sequence[float], differences: np.ndarray,
    chosen: tuple[float, Box], peak: tuple[float, Box], truth: Sequence,
) -> Figure:  # fmt: skip
    """Draw Fig. 3: image and CAM; D against η with its mean; the boxes of the chosen threshold and of the largest D.

    Args:
        image: (H, W, 3) uint8; heat: (h, w).
        candidates: (K,) η; differences: (K,) D, NaN where undefined.
        chosen, peak: threshold and box of `first_above_mean` and of `argmax`.
        truth: the true boxes.
    """
    figure, axes = plt.subplots(1, 5, figsize=(15, 3), width_ratios=(1, 1, 1.9, 1, 1))
    show(axes[0], image, title="image")
    show(axes[1], image, heat, "CAM, Eq. 3")
    axes[2].plot(candidates, differences, color="red", marker=".", label="D")
    axes[2].axhline(np.nanmean(differences), color="blue", label="mean of D")
    first, largest = "first above the mean", "largest D"
    for name, (eta, box), style, axis in ((first, chosen, "--", axes[4]), (largest, peak, ":", axes[3])):
        axes[2].axvline(eta, color="grey", linestyle=style, label=f"{name}: η = {eta:.2f}")
        show(axis, image, title=f"{name}, η = {eta:.2f}", truth=truth, found=box)
    axes[2].set(xlabel="η", ylabel="D", xlim=(0, 1))
    axes[2].legend(fontsize=8)
    return _tight(figure)


def fig4(panels: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> Figure:
    """Draw Fig. 4: the original CAM above ours, a column for each image.

    Args:
        panels: for each data set, its columns: image, truth (n, 4), and for "cam" and "ours" a map and a box,
            `<name>_map` and `<name>_box`.
    """
    columns = [(dataset, column) for dataset, images in panels.items() for column in images]
    figure, axes = plt.subplots(2, len(columns), figsize=(2.1 * len(columns), 4.7), squeeze=False)
    for row, name, label in zip(axes, ("cam", "ours"), ("CAM", "ours"), strict=True):
        for axis, (dataset, column) in zip(row, columns, strict=True):
            title = dataset if name == "cam" else ""
            heat, box = column[f"{name}_map"], column[f"{name}_box"]
            show(axis, column["image"], heat, title, truth=column["truth"], found=box)
        row[0].text(-0.08, 0.5, label, transform=row[0].transAxes, rotation=90, va="center", ha="right")
    return _tight(figure)


def pipeline(
    image: np.ndarray, channels: Sequence[tuple[float, np.ndarray]], signed: np.ndarray, absolute: np.ndarray,
    candidates: Sequence[float], differences: np.ndarray, eta: float, box: Box, truth: Box,
) -> Figure:  # fmt: skip
    """Draw the method on one image, from left to right.

    Args:
        channels: four (weight, map), the strongest ones of each sign.
        signed, absolute: the original CAM and the recombined one.
        candidates, differences: (K,), η and D.
        eta: the chosen threshold.
    """
    figure = plt.figure(figsize=(12.5, 2.1), layout="constrained")
    grid = figure.add_gridspec(1, 6, width_ratios=[1, 1, 1, 1, 1.2, 1])
    show(figure.add_subplot(grid[0]), image, title="a class label, no box")
    few = grid[1].subgridspec(2, 2)
    for i, (weight, heat) in enumerate(channels):
        axis = figure.add_subplot(few[i])
        show(axis, image, heat, f"w = {weight:+.2f}".replace("-", "−"))
        axis.title.set_fontsize(7)
    show(figure.add_subplot(grid[2]), image, signed, "CAM (Eq. 2)")
    show(figure.add_subplot(grid[3]), image, absolute, "recombined (Eq. 3)")
    axis = figure.add_subplot(grid[4])
    axis.plot(candidates, differences, marker=".", color="tab:blue")
    axis.axhline(np.nanmean(differences), color="grey", linestyle=":", linewidth=1)
    axis.axvline(eta, color=PREDICTION, linewidth=2)
    axis.set_title(f"threshold η = {eta:.2f} (Sec. 4.3)", fontsize=9)
    axis.set_xlabel("η", fontsize=8)
    axis.set_ylabel("D", fontsize=8)
    axis.tick_params(labelsize=7)
    show(figure.add_subplot(grid[5]), image, title="box and truth", truth=[truth], found=box)
    return figure


def walk(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the way from a photograph to its box, a row for each: photograph, two maps at 0.20, D, and the paper's box.

    Args:
        rows: of each photograph its `view` and the true box `truth`; `located`, as of `locate.locate`: by the original
            CAM and by the recombined one at the fixed threshold, and by the paper's method; and the three boxes' `iou`.
    """
    figure, axes = plt.subplots(len(rows), 5, figsize=(12.5, 2.3 * len(rows)), squeeze=False, layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        view, truth, paper = row["view"], [row["truth"]], row["located"][2]
        show(axis[0], view.image, title=f"{view.class_name}, {view.probability:.0%}", truth=truth)
        names = ("CAM (Eq. 2)", "recombined (Eq. 3)")
        for place, name, one, iou in zip(axis[1:3], names, row["located"], row["iou"], strict=False):
            title = f"{name}, η = {one.eta:.2f}\nIoU {iou:.2f}"
            show(place, view.image, one.map, title, truth=truth, found=one.box)
        axis[3].plot(thresholds.PAPER_GRID, paper.differences, marker=".", color="tab:blue")
        axis[3].axhline(np.nanmean(paper.differences), color="grey", linestyle=":")
        axis[3].axvline(paper.eta, color=PREDICTION, linewidth=2)
        axis[3].set(xlabel="η", ylabel="step D", xlim=(0, 1))
        axis[3].set_title(f"threshold (Sec. 4.3)\nη = {paper.eta:.2f}", fontsize=9)
        axis[3].tick_params(labelsize=7)
        show(axis[4], view.image, title=f"the paper's box\nIoU {row['iou'][2]:.2f}", truth=truth, found=paper.box)
    return figure


def contributions(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw what each part of the method adds, with its interval: a panel for each data set.

    Args:
        found: for each title, rows with the columns step, points, low and high, of `tables.contributions`.
    """
    steps = list(dict.fromkeys(step for rows in found.values() for step in rows["step"]))
    size = (3.4 + 1.75 * len(found), 0.6 + 0.24 * len(steps))
    figure, axes = plt.subplots(1, len(found), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, (title, rows) in zip(axes[0], found.items(), strict=True):
        place = [-steps.index(step) for step in rows["step"]]
        reach = [rows["points"] - rows["low"], rows["high"] - rows["points"]]
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.errorbar(rows["points"], place, xerr=reach, fmt="o", markersize=4, capsize=2, color="tab:blue")
        axis.set_title(title.replace(", ", "\n", 1), fontsize=9)
        axis.set_xlabel("points", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", linewidth=0.3)
    axes[0, 0].set_yticks([-i for i in range(len(steps))], steps)
    return _tight(figure)


def save(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write a PNG, whole or not at all."""
    with files.written(path) as temporary:
        temporary.write_bytes(png(figure, colours=256, dpi=dpi))


def picture(figure: Figure) -> Picture:
    """Close a figure and return it as a cell's output, a small PNG; an open one would be shown twice."""
    data = png(figure, colours=128)
    plt.close(figure)
    return Picture(data=data, format="png")


def png(figure: Figure, colours: int, dpi: int = DPI) -> bytes:
    """The bytes of a PNG with a palette of `colours`, a fraction of the size of one in full colour."""
    full, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(full, dpi=dpi, format="png", bbox_inches="tight", pad_inches=0.05)
    image = Image.open(full).convert("RGB")
    ninth = image.resize((image.width // 3, image.height // 3), Image.Resampling.NEAREST)  # is enough for a palette
    palette = ninth.quantize(colours, kmeans=2, dither=Image.Dither.NONE)
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(reduced, "PNG", optimize=True)
    return reduced.getvalue()


def _tight(figure: Figure) -> Figure:
    figure.tight_layout(pad=0.5)
    return figure
