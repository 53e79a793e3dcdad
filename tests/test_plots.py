"""The figures' arrangement: panels, colours, boxes; and the file they are saved to."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from PIL import Image

from wsol_utils import plots

matplotlib.use("agg")  # no window

IMAGE = np.full((20, 30, 3), 128, dtype=np.uint8)
HEAT = np.linspace(-1, 1, 12).reshape(3, 4)
POSITIVE = np.maximum(HEAT, 0)  # what is shown of it
GREEN, RED, BLUE = to_hex("limegreen"), to_hex("red"), to_hex("blue")  # the colours of Figs. 3 and 4


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def rectangles(axes):
    """(colour, x0, y0, x1, y1) of every box that is drawn, in half-open pixels."""
    return [
        (to_hex(p.get_edgecolor()), p.get_x() + 0.5, p.get_y() + 0.5, p.get_x() + p.get_width() + 0.5,
         p.get_y() + p.get_height() + 0.5)
        for p in axes.patches
    ]  # fmt: skip


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def heats(figure):
    """The map over each panel's image, None where there is none."""
    return [axis.images[1].get_array() if len(axis.images) > 1 else None for axis in figure.axes]


def test_show():
    axes = plt.figure().add_subplot()
    nothing = [(0, 0, 0, 0), (3, 3, 3, 9), (3, 3, 9, 3), (9, 9, 3, 3)]
    plots.show(axes, IMAGE, HEAT, "title", truth=[(2, 3, 10, 7), *nothing], found=(0.5, 0, 4, 2))
    photograph, heat = axes.images
    np.testing.assert_array_equal(heat.get_array(), POSITIVE)
    assert tuple(photograph.get_extent()) == tuple(heat.get_extent()) == (-0.5, 29.5, 19.5, -0.5)
    assert rectangles(axes) == [(RED, 2, 3, 10, 7), (GREEN, 0.5, 0, 4, 2)]  # none of no area
    assert axes.get_title() == "title" and not axes.axison


def test_gallery():
    figure = plots.gallery([IMAGE] * 7, [[(0, 0, 5, 5), (6, 6, 9, 9)], *[[]] * 6], list("abcdefg"))
    assert titles(figure) == [*"abcdefg", *[""] * 5] and not any(axis.axison for axis in figure.axes)
    assert [len(axis.images) for axis in figure.axes] == [1] * 7 + [0] * 5
    assert rectangles(figure.axes[0]) == [(RED, 0, 0, 5, 5), (RED, 6, 6, 9, 9)]


@pytest.mark.filterwarnings("error")
def test_history():
    epochs = [{"epoch": 1, "loss": 2.0, "accuracy": 10.0}, {"epoch": 2, "loss": 1.0, "accuracy": 30.0}]
    figure = plots.history({"gap, seed 0": epochs, "as it stands": []})  # the latter was not trained
    for axis, column in zip(figure.axes, ("loss", "accuracy"), strict=True):
        line, empty = axis.lines
        assert line.get_label() == "gap, seed 0" and line.get_xdata().tolist() == [1, 2]
        assert line.get_ydata().tolist() == [epoch[column] for epoch in epochs] and not len(empty.get_xdata())
        assert column in axis.get_ylabel()


def test_threshold_curves():
    (axes,) = plots.threshold_curves((0, 0.5, 1), {"signed": [10, 20, 0], "absolute": [30, 40, 0]}).axes
    signed, absolute, fixed = axes.lines
    assert signed.get_label() == "signed" and absolute.get_ydata().tolist() == [30, 40, 0]
    assert list(fixed.get_xdata()) == [0.2, 0.2]


def test_chosen_thresholds():
    chosen = {"otsu": np.array([0.5, 0.5, 0.1]), "argmax": np.array([0.0, 1.0, 0.95])}
    figure = plots.chosen_thresholds(chosen | dict.fromkeys("abc", np.zeros(1)))
    assert titles(figure) == ["otsu", "argmax", "a", "b", "c", "", "", ""]
    assert [axis.axison for axis in figure.axes] == [True] * 5 + [False] * 3
    assert [axis.get_xlabel() != "" for axis in figure.axes] == [False] * 4 + [True] * 4
    otsu, argmax = ([bar.get_height() for bar in axis.patches] for axis in figure.axes[:2])
    assert sum(otsu) == sum(argmax) == 3  # none falls beside the bars, 0 and 1 included
    assert otsu[10] == 2 and otsu[2] == 1  # a bar for each candidate, 0.05 apart
    assert argmax[0] == argmax[-1] == argmax[-2] == 1


def test_localized():
    figure = plots.localized([IMAGE] * 2, [HEAT, -HEAT], [(0, 0, 4, 4), (1, 1, 5, 5)], [[(2, 2, 6, 6)], []], "ab")
    assert titles(figure) == ["a", "b"] and [heat.max() for heat in heats(figure)] == [1, 1]
    left, right = map(rectangles, figure.axes)
    assert left == [(RED, 2, 2, 6, 6), (GREEN, 0, 0, 4, 4)] and right == [(GREEN, 1, 1, 5, 5)]


def test_fig2():
    kinds = ["strongest_positive", "strongest_negative", "signed", "absolute"]
    row = {"image": IMAGE} | {kind: np.full((3, 4), i + 1.0) for i, kind in enumerate(kinds)}
    figure = plots.fig2([row, row])
    assert [title[:3] for title in titles(figure)] == ["ima", "(a)", "(a)", "(b)", "(c)", *[""] * 5]
    assert [heat if heat is None else heat.max() for heat in heats(figure)] == [None, 1, 2, 3, 4] * 2


def test_fig3():
    candidates, differences = (0, 0.05, 0.1, 0.15), np.array([np.nan, 0.1, 0.3, 0.05])
    truth = [(1, 1, 9, 9), (10, 10, 20, 20)]
    figure = plots.fig3(IMAGE, HEAT, candidates, differences, (0.05, (0, 0, 8, 8)), (0.1, (3, 3, 5, 5)), truth)
    image, heat, curve, left, right = figure.axes
    assert [len(axis.images) for axis in (image, heat, left, right)] == [1, 2, 1, 1]
    red, blue, chosen, peak = curve.lines
    assert to_hex(red.get_color()) == RED and to_hex(blue.get_color()) == BLUE
    np.testing.assert_array_equal(red.get_xydata().T, [candidates, differences])
    assert list(blue.get_ydata()) == pytest.approx([0.15, 0.15])  # the mean of the three that are defined
    assert list(chosen.get_xdata()) == [0.05, 0.05] and "first above the mean: η = 0.05" in chosen.get_label()
    assert list(peak.get_xdata()) == [0.1, 0.1] and "largest D: η = 0.10" in peak.get_label()
    boxes = [(RED, 1, 1, 9, 9), (RED, 10, 10, 20, 20)]
    assert rectangles(left) == [*boxes, (GREEN, 3, 3, 5, 5)] and left.get_title() == "largest D, η = 0.10"
    assert rectangles(right) == [*boxes, (GREEN, 0, 0, 8, 8)]
    assert right.get_title() == "first above the mean, η = 0.05"


def column(left):
    return {
        "image": IMAGE, "truth": np.array([[left, 0, left + 5, 5]]),
        "cam_map": HEAT, "cam_box": np.array([left, 1, left + 2, 3]),
        "ours_map": HEAT + 1, "ours_box": np.array([0, 0, 0, 0] if left == 2 else [left, 1, left + 4, 4]),
    }  # fmt: skip


def test_fig4_has_the_baseline_above_ours_and_three_columns_a_data_set():
    figure = plots.fig4({"birds": [column(0), column(1), column(2)], "things": [column(3)]})
    assert titles(figure) == [*["birds"] * 3, "things", *[""] * 4]
    above, below = figure.axes[:4], figure.axes[4:]
    assert above[0].texts[0].get_text() == "CAM" and below[0].texts[0].get_text() == "ours"
    for left, (top, bottom) in enumerate(zip(above, below, strict=True)):
        truth = (RED, left, 0, left + 5, 5)
        assert rectangles(top) == [truth, (GREEN, left, 1, left + 2, 3)]
        assert rectangles(bottom) == [truth, *([] if left == 2 else [(GREEN, left, 1, left + 4, 4)])]
        np.testing.assert_array_equal(top.images[1].get_array(), POSITIVE)
        np.testing.assert_array_equal(bottom.images[1].get_array(), HEAT + 1)


def test_the_same_figure_is_saved_to_the_same_bytes(tmp_path):
    figure, (first, second) = plots.fig4({"birds": [column(0)]}), (tmp_path / "deep" / name for name in "ab")
    for path in (first, second):
        plots.save(figure, path)
    assert first.read_bytes() == second.read_bytes() and len(list(first.parent.iterdir())) == 2
    with Image.open(first) as image:
        assert image.format == "PNG" and "Software" not in image.info  # it would name the version
        whole = [inches * plots.DPI for inches in figure.get_size_inches()]  # less its empty margins
        assert all(0.6 * size < side <= size + 0.1 * plots.DPI for side, size in zip(image.size, whole, strict=True))


def test_pipeline():
    """Image, four channels, two maps, the curve with its threshold, and the boxes."""
    curve = {"candidates": (0, 0.5, 1), "differences": np.array([np.nan, 0.25, 0.75]), "eta": 0.5}
    channels = [(weight, HEAT) for weight in (2.0, 1.5, -1.0, -2.25)]
    figure = plots.pipeline(IMAGE, channels, HEAT, np.abs(HEAT), **curve, box=(2, 3, 10, 7), truth=(1, 2, 8, 9))
    assert titles(figure)[1:5] == ["w = +2.00", "w = +1.50", "w = −1.00", "w = −2.25"]
    assert [len(axis.images) for axis in figure.axes] == [1, 2, 2, 2, 2, 2, 2, 0, 1]
    assert [heat.mean() > 0.4 for heat in heats(figure)[5:7]] == [False, True]  # the signed and the absolute map
    line, mean, chosen = figure.axes[7].get_lines()
    assert line.get_ydata()[1:].tolist() == [0.25, 0.75] and set(mean.get_ydata()) == {0.5}
    assert set(chosen.get_xdata()) == {0.5} and "0.50" in figure.axes[7].get_title()
    assert rectangles(figure.axes[8]) == [(RED, 1, 2, 8, 9), (GREEN, 2, 3, 10, 7)]


def test_contributions():
    rows = pd.DataFrame(
        {"step": ["WGAP alone", "all three"], "points": [1.0, -2.0], "low": [0.5, None], "high": [3.0, None]}
    )
    figure = plots.contributions({"CUB, 20 classes": rows, "ILSVRC": rows[1:]})
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["WGAP alone", "all three"]
    (points, _, (bars,)) = left.containers[0]
    assert points.get_xydata().tolist() == [[1, 0], [-2, -1]]
    assert bars.get_segments()[0].tolist() == [[0.5, 0], [3, 0]]  # low to high
    assert right.containers[0][0].get_xydata().tolist() == [[-2, -1]] and left.get_title() == "CUB\n20 classes"
