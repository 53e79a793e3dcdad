"""The explorer without a browser: values are changed, and what it shows is compared with `own_images`."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from layouts_on_disk import ROOT, drawn, run_notebook
from PIL import Image

from wsol_utils import own_images, panels, plots
from wsol_utils.own_pictures.explorer import PREDICTED, Explorer

pytestmark = pytest.mark.usefixtures("one_thread")
GREEN = np.array([50, 205, 50])  # plots.PREDICTION


@pytest.fixture(scope="module")
def network():
    """The one that is committed."""
    return own_images.load_network(ROOT / "results/reference/sample/birds/wgap.safetensors")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Three pictures of different shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    for label in range(3):
        drawn(folder / f"{label}.jpg", label, 0)
    return own_images.pictures(folder)


@pytest.fixture
def explorer(network, paths):
    return Explorer(network, paths)


def pixels(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.shown.value)))


def said(view, located):
    return panels.in_words(view, located)


def test_it_opens_as_the_notebook_computes(explorer, network, paths):
    view = own_images.look(network, paths[0])
    located = own_images.locate(view)
    assert explorer.box.value == said(view, located)
    x0, y0, x1, _ = located.box
    height, width = view.image.shape[:2]
    assert f"η = {located.eta:.2f} (first_above_mean): box x {x0:.0f} to {x1:.0f}, y {y0:.0f} to" in explorer.box.value
    assert f"{width} × {height} pixels; {view.class_name}, {view.probability:.0%}" in explorer.box.value
    assert explorer.eta.value == pytest.approx(located.eta, abs=0.005) and explorer.rule.value == "first_above_mean"
    assert "wsol-box" in explorer.box._dom_classes  # what the browser's test looks for


def test_the_slider_is_a_rule_of_its_own(explorer, network, paths):
    view, before, picture = own_images.look(network, paths[0]), explorer.box.value, pixels(explorer)
    explorer.eta.value = 0.6
    assert explorer.rule.value == "slider"
    assert explorer.box.value == said(view, own_images.locate(view, eta=0.6)) != before
    changed = (pixels(explorer) != picture).any(axis=(0, 2))
    assert changed[: panels.WIDTH].any() and changed[panels.WIDTH :].any()  # the box, the line of the curve


def test_the_slider_follows_a_rule(explorer, network, paths):
    view = own_images.look(network, paths[0])
    explorer.eta.value = 0.9
    for rule in ("otsu", "fixed", "first_above_mean"):
        explorer.rule.value = rule
        located = own_images.locate(view, rule=rule)
        assert explorer.rule.value == rule and explorer.box.value == said(view, located)
        assert explorer.eta.value == pytest.approx(located.eta, abs=0.005)


def test_another_map(explorer, network, paths):
    view = own_images.look(network, paths[0])
    for name in ("signed", "positive", "absolute"):
        explorer.recombination.value = name
        located = own_images.locate(view, name)
        assert explorer.box.value == said(view, located)
        np.testing.assert_array_equal(pixels(explorer)[:, : panels.WIDTH], panels.under_map(view, located))


def test_another_class(explorer, network, paths):
    for kind in (7, 0, 3):
        explorer.kind.value = kind
        view = own_images.look(network, paths[0], kind)
        assert explorer.box.value == said(view, own_images.locate(view))
    explorer.kind.value = PREDICTED
    view = own_images.look(network, paths[0])
    assert explorer.box.value == said(view, own_images.locate(view))


def test_a_class_to_begin_with(network, paths):
    assert network.class_names[4] in Explorer(network, paths, class_index=4).box.value


def test_the_network_is_asked_once_for_each_picture(network, paths):
    asked = []
    counter = network.model.register_forward_hook(lambda *_: asked.append(1))
    try:
        explorer = Explorer(network, paths)
        for index in (1, 2, 0, 1):
            explorer.picture.value = index
            explorer.kind.value, explorer.recombination.value, explorer.rule.value = index, "signed", "otsu"
            explorer.eta.value = 0.5
    finally:
        counter.remove()
    assert len(asked) == len(paths)


def test_pairs_are_as_they_were_left(explorer, network, paths):
    explorer.eta.value = 0.7
    explorer.picture.value = 2
    explorer.rule.value, explorer.recombination.value = "otsu", "signed"
    found = [(located.rule, located.recombination, view.path) for view, located in explorer.pairs()]
    untouched = ("first_above_mean", "absolute", str(paths[1]))
    assert found == [("slider", "absolute", str(paths[0])), untouched, ("otsu", "signed", str(paths[2]))]
    assert next(explorer.pairs())[1].eta == 0.7


def test_a_map_from_elsewhere(explorer, network):
    scores = np.zeros((8, 8), np.float32)
    scores[2:4, 4:8] = 1
    view = own_images.view_of(np.zeros((80, 160, 3), np.uint8), scores, "theirs", 64)
    both = Explorer(network, [explorer.pictures[0], view], rule="fixed")
    assert not both.kind.disabled and not both.recombination.disabled
    both.picture.value = 1
    assert both.kind.disabled and both.recombination.disabled
    assert both.box.value == said(view, own_images.locate(view, rule="fixed"))
    both.picture.value = 0
    assert not both.kind.disabled


def test_a_file_that_is_no_picture(network, paths, tmp_path):
    broken = tmp_path / "broken<b>.jpg"
    broken.write_bytes(b"no picture")
    explorer = Explorer(network, [paths[0], broken])
    before = explorer.box.value
    explorer.picture.value = 1
    assert "broken&lt;b&gt;.jpg" in explorer.box.value and not explorer.shown.value
    explorer.picture.value = 0
    assert explorer.box.value == before and explorer.shown.value


def test_a_name_is_text(network, paths):
    names = ["<script>", *network.class_names[1:]]
    explorer = Explorer(replace(network, class_names=names), paths[:1], class_index=0)
    assert "&lt;script&gt;" in explorer.box.value and "<" not in explorer.box.value


def test_a_page_without_widgets_has_the_picture(explorer):
    bundle = explorer._repr_mimebundle_()
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert still.size == explorer.image.size and bundle["text/plain"] == explorer.box.value
    assert any("widget" in kind for kind in bundle)


def test_the_committed_network_is_that_of_the_committed_example(network, tmp_path):
    """Both are of the network that `results/reference` measures: seed 0 with WGAP; it is kept in half precision."""
    with np.load(ROOT / "results/reference/sample/birds/example.npz") as example:
        image, features, label = example["image"], example["features"].astype(np.float32), int(example["label"])
        weights = example["class_weights"][label]
    Image.fromarray(image).save(tmp_path / "example.png")
    view = own_images.look(network, tmp_path / "example.png")
    assert view.class_index == label
    np.testing.assert_allclose(view.features, features, atol=0.01 * features.max())
    np.testing.assert_allclose(view.class_weights, weights, atol=1e-3 * np.abs(weights).max())


# What is drawn.


def located_at(box, eta=0.5, differences=(np.nan, 0.1, 0.3, 0.2)):
    steps = np.array(differences)
    grid = np.linspace(0, 1, len(steps))
    return own_images.Located(np.zeros((8, 8), np.float32), eta, box, grid, steps, steps, "absolute", "slider")


def test_the_box_is_drawn_where_it_is():
    view = own_images.view_of(np.zeros((66, 40, 3), np.uint8), np.ones((8, 8), np.float32))  # five times larger
    green = (panels.under_map(view, located_at((10, 20, 30, 50))) == GREEN).all(axis=2)
    rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    left = (panels.WIDTH - 5 * 40) // 2
    assert abs(rows[0] - 100) <= 1 and abs(rows[-1] - 249) <= 1
    assert abs(columns[0] - left - 50) <= 1 and abs(columns[-1] - left - 149) <= 1
    assert not (panels.under_map(view, located_at((0, 0, 0, 0))) == GREEN).all(axis=2).any()
    assert plots.PREDICTION == "limegreen"


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_pictures_of_any_shape(shape):
    view = own_images.view_of(np.zeros((*shape, 3), np.uint8), np.ones((8, 8), np.float32))
    assert panels.under_map(view, located_at((0, 0, 1, 1))).shape == (panels.HEIGHT, panels.WIDTH, 3)


def test_the_line_moves_and_the_curve_stays():
    curve = panels.Curve()
    low, high = (curve.pixels(located_at((0, 0, 1, 1), eta)).astype(int) for eta in (0.2, 0.8))
    changed = np.flatnonzero((low != high).any(axis=(0, 2)))
    width = low.shape[1] * 0.81  # of the axes
    assert changed[-1] - changed[0] == pytest.approx(0.6 * width, abs=4)
    assert np.diff(changed).max() > 0.5 * width  # nothing between the two
    fresh = panels.Curve().pixels(located_at((0, 0, 1, 1), 0.8))
    np.testing.assert_array_equal(high, fresh)


def test_another_map_has_another_curve():
    curve, other = panels.Curve(), located_at((0, 0, 1, 1), differences=(np.nan, 0.2, 0.05, np.nan))
    first = curve.pixels(located_at((0, 0, 1, 1)))
    second = curve.pixels(other)
    assert (first != second).any()
    np.testing.assert_array_equal(second, panels.Curve().pixels(other))


def test_a_map_of_zeros(recwarn):
    view = own_images.view_of(np.zeros((40, 40, 3), np.uint8), np.zeros((8, 8), np.float32), "nothing", 32)
    located = own_images.locate(view)
    assert re.search("no box of 40 × 40 pixels; nothing$", said(view, located))
    assert panels.Curve().pixels(located).shape[0] == panels.HEIGHT
    assert not recwarn.list


# The notebook.


def test_the_notebook_on_other_pictures(paths, tmp_path):
    given = {"pictures": str(paths[0].parent), "rule": "otsu", "class_index": 2, "results": str(tmp_path)}
    variables = run_notebook("07_your_own_images", **given)
    folder = tmp_path / "own_images"
    written = ["0.jpg.png", "1.jpg.png", "2.jpg.png", "boxes.csv", "boxes.json"]
    assert sorted(file.name for file in folder.iterdir()) == written
    rows = (folder / "boxes.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert all(",2,Blue capped Tit," in row and ",otsu," in row for row in rows[1:])
    assert len(variables["found"]) == 3  # ours, and the maps of two other packages


def test_the_notebook_with_a_backbone_of_torchvision(paths, tmp_path):
    from layouts_on_disk import weights_file
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    weights = weights_file(tmp_path / "w.safetensors", squeezenet1_1(num_classes=5))
    given = {"backbone": "squeezenet1_1", "weights": str(weights), "pictures": str(paths[0])}
    variables = run_notebook("07_your_own_images", **given, results=str(tmp_path))
    assert [view.class_name.startswith("class ") for view, _ in variables["pairs"]] == [True]
    assert len(variables["found"]) == 3


def test_the_notebook_without_the_other_packages(paths, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)  # not installed
    variables = run_notebook("07_your_own_images", pictures=str(paths[0]), results=str(tmp_path))
    assert "not installed" in capsys.readouterr().out and list(variables["found"]) == ["ours"]
