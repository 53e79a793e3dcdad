"""The figures' arrangement: panels, colours, boxes; and the file they are saved to."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from wsol_utils import plots

matplotlib.use("agg")  # no window

IMAGE = np.full((20, 30, 3), 128, dtype=np.uint8)
HEAT = np.linspace(-1, 1, 12).reshape(3, 4)


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


GREEN, RED, BLUE = to_hex("limegreen"), to_hex("red"), to_hex("blue")


def test_the_colours_are_fig_4s():
    assert (plots.PREDICTION, plots.TRUTH) == ("limegreen", "red")


def test_draw_box():
    axes = plt.figure().add_subplot()
    plots.draw_box(axes, (2, 3, 10, 7), "red", "truth")
    assert rectangles(axes) == [(RED, 2, 3, 10, 7)]
    assert not axes.patches[0].get_fill() and axes.patches[0].get_label() == "truth"


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (3, 3, 3, 9), (3, 3, 9, 3), (9, 9, 3, 3)])
def test_a_box_of_no_area_draws_nothing(box):
    axes = plt.figure().add_subplot()
    plots.draw_box(axes, box, "red")
    assert not axes.patches


def test_show_stretches_the_map_to_the_images_frame():
    axes = plt.figure().add_subplot()
    plots.show(axes, IMAGE, HEAT, "title")
    photograph, heat = axes.images
    assert photograph.get_array().shape == (20, 30, 3) and heat.get_array().shape == (3, 4)
    assert tuple(photograph.get_extent()) == tuple(heat.get_extent()) == (-0.5, 29.5, 19.5, -0.5)
    assert 0 < heat.get_alpha() < 1 and axes.get_title() == "title"
    bare = plt.figure().add_subplot()
    plots.show(bare, IMAGE)
    assert len(bare.images) == 1


def test_gallery():
    boxes = [[(0, 0, 5, 5), (6, 6, 9, 9)], [], [(1, 1, 2, 2)]]
    figure = plots.gallery([IMAGE] * 3, boxes, ["a", "b", "c"], columns=2)
    assert isinstance(figure, Figure) and len(figure.axes) == 4
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 0]
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", ""]
    assert [rectangles(axis) for axis in figure.axes] == [
        [(RED, 0, 0, 5, 5), (RED, 6, 6, 9, 9)], [], [(RED, 1, 1, 2, 2)], [],
    ]  # fmt: skip
    assert not any(axis.axison for axis in figure.axes)


def test_history():
    epochs = [{"epoch": 1, "loss": 2.0, "accuracy": 10.0}, {"epoch": 2, "loss": 1.0, "accuracy": 30.0}]
    figure = plots.history({"gap, seed 0": epochs, "wgap, seed 0": epochs[:1]})
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["gap, seed 0", "wgap, seed 0"]
    assert loss.lines[0].get_xdata().tolist() == [1, 2] and loss.lines[0].get_ydata().tolist() == [2, 1]
    assert accuracy.lines[0].get_ydata().tolist() == [10, 30]
    assert "loss" in loss.get_ylabel() and "%" in accuracy.get_ylabel()


@pytest.mark.filterwarnings("error")
def test_history_of_a_network_that_was_not_trained():
    figure = plots.history({"gap, seed 0": []})
    assert not figure.axes[0].lines


def test_threshold_curves():
    figure = plots.threshold_curves((0, 0.5, 1), {"signed": [10, 20, 0], "absolute": [30, 40, 0]}, "birds")
    (axes,) = figure.axes
    signed, absolute, fixed = axes.lines
    assert signed.get_label() == "signed" and absolute.get_ydata().tolist() == [30, 40, 0]
    assert list(fixed.get_xdata()) == [0.2, 0.2]
    assert axes.get_title() == "birds"


def test_chosen_thresholds():
    chosen = {"otsu": np.array([0.5, 0.5, 0.1]), "argmax": np.array([0.0, 1.0, 0.95])}
    figure = plots.chosen_thresholds(chosen)
    assert [axis.get_title() for axis in figure.axes] == ["otsu", "argmax", "", ""]
    assert [axis.axison for axis in figure.axes] == [True, True, False, False]
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes[:2]]
    assert [sum(h) for h in heights] == [3, 3]  # none falls beside the bars, 0 and 1 included
    assert heights[0][10] == 2 and heights[0][2] == 1  # a bar for each candidate, 0.05 apart
    assert heights[1][0] == heights[1][-1] == heights[1][-2] == 1
    many = plots.chosen_thresholds(dict.fromkeys("abcde", np.zeros(1)), columns=2)
    assert [axis.get_title() for axis in many.axes] == ["a", "b", "c", "d", "e", ""]
    assert [axis.get_xlabel() != "" for axis in many.axes] == [False] * 4 + [True] * 2


def test_fig2():
    kinds = ["strongest_positive", "strongest_negative", "signed", "absolute"]
    row = {"image": IMAGE} | {kind: np.full((3, 4), i + 1.0) for i, kind in enumerate(kinds)}
    row["signed"] = HEAT
    figure = plots.fig2([row, row])
    assert isinstance(figure, Figure) and len(figure.axes) == 10
    first = figure.axes[:5]
    assert [len(axis.images) for axis in first] == [1, 2, 2, 2, 2]
    assert [axis.get_title()[:3] for axis in first] == ["ima", "(a)", "(a)", "(b)", "(c)"]
    assert [axis.images[1].get_array().max() for axis in first[1:]] == [1, 2, 1, 4]  # each map in its column
    np.testing.assert_array_equal(first[3].images[1].get_array(), np.maximum(HEAT, 0))
    assert not any(axis.get_title() for axis in figure.axes[5:])


def test_fig3():
    candidates = (0, 0.05, 0.1, 0.15)
    differences = np.array([np.nan, 0.1, 0.3, 0.05])
    truth = [(1, 1, 9, 9), (10, 10, 20, 20)]
    figure = plots.fig3(IMAGE, HEAT, candidates, differences, (0.05, (0, 0, 8, 8)), (0.1, (3, 3, 5, 5)), truth)
    image, heat, curve, left, right = figure.axes
    assert [len(axis.images) for axis in (image, heat, left, right)] == [1, 2, 1, 1]
    red, blue, chosen, peak = curve.lines
    assert to_hex(red.get_color()) == RED and to_hex(blue.get_color()) == BLUE
    np.testing.assert_array_equal(red.get_ydata(), differences)
    np.testing.assert_array_equal(red.get_xdata(), candidates)
    assert list(blue.get_ydata()) == pytest.approx([0.15, 0.15])  # the mean of the three that are defined
    assert list(chosen.get_xdata()) == [0.05, 0.05] and "first above the mean: η = 0.05" in chosen.get_label()
    assert list(peak.get_xdata()) == [0.1, 0.1] and "largest D: η = 0.10" in peak.get_label()
    boxes = [(RED, 1, 1, 9, 9), (RED, 10, 10, 20, 20)]
    assert rectangles(left) == [*boxes, (GREEN, 3, 3, 5, 5)] and left.get_title() == "largest D, η = 0.10"
    assert rectangles(right) == [*boxes, (GREEN, 0, 0, 8, 8)]
    assert right.get_title() == "first above the mean, η = 0.05"
    assert not image.patches and not heat.patches


def column(left):
    return {
        "image": IMAGE, "truth": np.array([[left, 0, left + 5, 5], [left, 6, left + 5, 9]]),
        "cam_map": HEAT, "cam_box": np.array([left, 1, left + 2, 3]),
        "ours_map": HEAT + 1, "ours_box": np.array([0, 0, 0, 0] if left == 2 else [left, 1, left + 4, 4]),
    }  # fmt: skip


def test_fig4_has_the_baseline_above_ours_and_three_columns_a_data_set():
    figure = plots.fig4({"birds": [column(0), column(1), column(2)], "things": [column(3), column(4), column(5)]})
    assert isinstance(figure, Figure) and len(figure.axes) == 12
    above, below = figure.axes[:6], figure.axes[6:]
    assert [axis.get_title() for axis in above] == ["birds"] * 3 + ["things"] * 3
    assert not any(axis.get_title() for axis in below)
    assert above[0].texts[0].get_text() == "CAM" and below[0].texts[0].get_text() == "ours"
    for left, (top, bottom) in enumerate(zip(above, below, strict=True)):
        truth = [(RED, left, 0, left + 5, 5), (RED, left, 6, left + 5, 9)]
        assert rectangles(top) == [*truth, (GREEN, left, 1, left + 2, 3)]
        ours = [] if left == 2 else [(GREEN, left, 1, left + 4, 4)]  # nothing found: nothing drawn
        assert rectangles(bottom) == truth + ours
        np.testing.assert_array_equal(top.images[1].get_array(), np.maximum(HEAT, 0))
        np.testing.assert_array_equal(bottom.images[1].get_array(), HEAT + 1)


def test_fig4_of_one_data_set():
    assert len(plots.fig4({"cub": [column(0), column(1), column(2)]}).axes) == 6


def test_save(tmp_path):
    figure = plots.fig4({"birds": [column(0)]})
    for name in ("a.png", "b.png"):
        plots.save(figure, tmp_path / "deep" / name)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a.png", "b.png"]
    assert (tmp_path / "deep" / "a.png").read_bytes() == (tmp_path / "deep" / "b.png").read_bytes()
    with Image.open(tmp_path / "deep" / "a.png") as image:
        assert image.format == "PNG"
        whole = [inches * plots.DPI for inches in figure.get_size_inches()]  # less its empty margins
        assert all(0.6 * size < side <= size + 0.1 * plots.DPI for side, size in zip(image.size, whole, strict=True))
        assert "Software" not in image.info  # it would name the version


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    figure = plots.fig4({"birds": [column(0)]})
    plots.save(figure, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def cut_off(path, _):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(plots.Path, "write_bytes", cut_off)
    with pytest.raises(KeyboardInterrupt):
        plots.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before


def test_pipeline():
    """Image, four channels, two maps, the curve with its threshold, and the boxes."""
    channels = [(weight, HEAT) for weight in (2.0, 1.5, -1.0, -2.25)]
    figure = plots.pipeline(
        IMAGE,
        channels,
        HEAT,
        np.abs(HEAT),
        (0, 0.5, 1),
        np.array([np.nan, 0.25, 0.75]),
        0.5,
        (2, 3, 10, 7),
        (1, 2, 8, 9),
    )
    axes = figure.axes
    assert [a.get_title() for a in axes[1:5]] == ["w = +2.00", "w = +1.50", "w = −1.00", "w = −2.25"]
    assert [len(a.images) for a in axes] == [1, 2, 2, 2, 2, 2, 2, 0, 1]
    assert axes[5].images[1].get_array().min() == 0 and axes[6].images[1].get_array().max() == 1
    curve, mean, chosen = axes[7].get_lines()
    assert curve.get_ydata()[1:].tolist() == [0.25, 0.75] and set(mean.get_ydata()) == {0.5}
    assert set(chosen.get_xdata()) == {0.5} and "0.50" in axes[7].get_title()
    assert rectangles(axes[8]) == [(RED, 1, 2, 8, 9), (GREEN, 2, 3, 10, 7)]


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
