"""The explorer without a browser: values are changed, and what it shows is compared with `locate`; and notebook 07."""

import base64
import io
import sys

import numpy as np
import pytest
import torch
from layouts_on_disk import ROOT, drawn, run_notebook, weights_file
from PIL import Image
from torchvision.models import squeezenet1_1

from wsol_utils import locate, networks
from wsol_utils.own_pictures.explorer import PREDICTED, Explorer, in_words

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    """The one that is committed."""
    return networks.load_network(ROOT / "results/reference/sample/birds/wgap.safetensors")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Three pictures of different shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    for label in range(3):
        drawn(folder / f"{label}.jpg", label, 0)
    return locate.pictures(folder)[0]


@pytest.fixture
def explorer(network, paths):
    return Explorer(network, paths)


def test_it_opens_as_the_notebook_computes(explorer, network, paths):
    view = locate.look(network, paths[0])
    located = locate.locate(view)
    x0, y0, x1, y1 = located.box
    height, width = view.image.shape[:2]
    assert explorer.box.value == (
        f"η = {located.eta:.2f} (first_above_mean): box x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f} of "
        f"{width} × {height} pixels; {view.class_name}, {view.probability:.0%}"
    )
    assert explorer.eta.value == pytest.approx(located.eta, abs=0.005) and explorer.rule.value == "first_above_mean"
    assert "wsol-box" in explorer.box._dom_classes  # what the browser's test looks for
    bundle = explorer._repr_mimebundle_()  # on a page without widgets
    still = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert still.width > 400 and bundle["text/plain"] == explorer.box.value
    assert any("widget" in kind for kind in bundle)
    assert network.class_names[4] in Explorer(network, paths, class_index=4).box.value


def test_what_is_chosen_is_shown_at_once(explorer, network, paths):
    """Each control in turn, and what follows from those before it; the slider is a rule of its own."""
    kind, recombination, rule, eta = None, "absolute", "first_above_mean", None
    for name, value in (
        ("eta", 0.6), ("eta", 0.7), ("rule", "otsu"), ("recombination", "signed"), ("kind", 7), ("kind", PREDICTED),
    ):  # fmt: skip
        before = explorer.shown.value
        getattr(explorer, name).value = value
        if name == "kind":
            kind = None if value == PREDICTED else value
        elif name == "recombination":
            recombination = value
        else:
            rule, eta = (value, None) if name == "rule" else ("slider", value)
        located = locate.locate(view := locate.look(network, paths[0], kind), recombination, rule, eta)
        assert explorer.box.value == in_words(view, located) and explorer.rule.value == rule
        assert explorer.eta.value == pytest.approx(located.eta, abs=0.005)
        assert explorer.shown.value != before


def test_the_network_is_asked_once_for_each_picture_and_class(network, paths):
    asked = []
    counter = network.model.register_forward_hook(lambda *_: asked.append(1))
    try:
        explorer = Explorer(network, paths)
        for index in (1, 0):
            explorer.picture.value = index
        explorer.recombination.value, explorer.eta.value = "signed", 0.5
        assert len(asked) == 2
        for kind in (3, PREDICTED):
            explorer.kind.value = kind
    finally:
        counter.remove()
    assert len(asked) == 3


def test_pairs_are_as_they_were_left(explorer, paths):
    explorer.eta.value = 0.7
    explorer.picture.value = 2
    explorer.rule.value, explorer.kind.value = "otsu", 5
    found = [(located.rule, view.path) for view, located in explorer.pairs()]
    assert found == list(zip(("slider", "first_above_mean", "otsu"), map(str, paths), strict=True))
    pairs = list(explorer.pairs())
    assert pairs[0][1].eta == 0.7 and pairs[2][0].class_index == 5


def test_a_map_from_elsewhere(network, paths):
    scores = np.zeros((8, 8), np.float32)
    scores[2:4, 4:8] = 1
    view = locate.view_of(np.zeros((80, 160, 3), np.uint8), scores, "<b>theirs", 64)
    both = Explorer(network, [paths[0], view, locate.view_of(view.image, 0 * scores)], rule="fixed")
    assert not both.kind.disabled and not both.recombination.disabled
    both.picture.value = 1
    assert both.kind.disabled and both.recombination.disabled
    assert both.box.value == in_words(view, locate.locate(view, rule="fixed")) and "<b>theirs" in both.box.value
    both.picture.value = 2
    assert "no box of 160 × 80 pixels" in both.box.value
    both.picture.value = 0
    assert not both.kind.disabled


# The notebook.


def test_the_notebook_on_other_pictures(paths, tmp_path, monkeypatch, capsys):
    """Without the packages of the last section."""
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)  # not installed
    (paths[0].parent / "README.txt").write_text("beside the pictures")
    network = "results/reference/sample/birds/wgap.safetensors"
    given = {"pictures": str(paths[0].parent), "checkpoint": network, "rule": "otsu", "class_index": 2}
    variables = run_notebook("07_your_own_images", **given, results=str(tmp_path))
    folder = tmp_path / "own_images"
    written = ["0.jpg.png", "1.jpg.png", "2.jpg.png", "boxes.csv", "boxes.json"]
    assert sorted(file.name for file in folder.iterdir()) == written
    rows = (folder / "boxes.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert all(",2,Blue capped Tit," in row and ",otsu," in row for row in rows[1:])
    said = capsys.readouterr().out
    assert "not installed" in said and "README.txt: no picture" in said and list(variables["found"]) == ["ours"]


def test_the_notebook_with_a_backbone_of_torchvision(paths, tmp_path):
    torch.manual_seed(0)
    weights = weights_file(tmp_path / "w.safetensors", squeezenet1_1(num_classes=5))
    given = {"backbone": "squeezenet1_1", "weights": str(weights), "pictures": str(paths[0])}
    variables = run_notebook("07_your_own_images", **given, results=str(tmp_path))
    assert [row["class_name"].startswith("class ") for row in variables["rows"]] == [True]
    assert len(variables["found"]) == 3  # ours, and the maps of two other packages
