"""One's own pictures: what is a picture, maps and boxes by hand, and the files that are written."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from layouts_on_disk import table
from PIL import Image
from torch import nn

from wsol_utils import cam, datasets, models, plots
from wsol_utils.own_pictures.locate import (
    activation,
    draw,
    locate,
    look,
    output_names,
    pictures,
    row,
    view_of,
    write_coco,
    write_csv,
)  # fmt: skip
from wsol_utils.own_pictures.networks import Network

pytestmark = pytest.mark.usefixtures("one_thread")
BLACK = np.zeros((20, 60, 3), np.uint8)


def photograph(path, size=(90, 60), seed=0):
    """Noise, (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = models.build("small_vgg", 3, "wgap").eval()
    nn.init.normal_(model.head.weight, std=5)
    return Network(model, ["robin", "class 1", "wren"], 48, "small_vgg, wgap")


@pytest.fixture
def hill():
    """A map of 4×4 whose box can be seen."""
    scores = np.zeros((4, 4), np.float32)
    scores[1:3, 1:4] = [[2, 4, 2], [2, 2, 2]]
    scores[3, 0] = 1.9
    return scores


# The box.


def test_box_by_hand_on_a_picture_that_is_not_square(hill):
    view = view_of(BLACK, hill, image_size=4)  # 15 pixels wide and 5 high for each of the map's
    assert locate(view, eta=0.49).box == (15, 5, 60, 15)  # 2/4 is above; 1.9/4 is not, but touches it
    assert locate(view, eta=0.45).box == (0, 5, 60, 20)
    assert locate(view, eta=0.5).box == (30, 5, 45, 10)  # strictly above
    nothing = locate(view, eta=1.0)
    assert nothing.box == (0, 0, 0, 0) and nothing.eta == 1.0 and nothing.rule == "slider"
    spot = np.zeros((3, 3))
    spot[1, 2] = 1
    located = locate(view_of(np.zeros((10, 7, 3), np.uint8), spot, image_size=3), eta=0.2)
    assert located.box == pytest.approx((14 / 3, 10 / 3, 7, 20 / 3))  # not rounded


def test_differences_by_hand():
    """A peak of 1 within a square of 0.5 on 0: the boundary of the mask is worth 0.5 below η = 0.5, and 1 above."""
    scores = np.zeros((5, 5), np.float32)
    scores[1:4, 1:4], scores[2, 2] = 0.5, 1
    located = locate(view_of(np.zeros((5, 5, 3), np.uint8), 3 * scores, image_size=5))
    assert located.map == pytest.approx(scores) and located.map.dtype == np.float32
    assert np.isnan(located.differences[[0, 20]]).all()
    assert located.differences[1:20] == pytest.approx([0.5 if k == 10 else 0 for k in range(1, 20)])
    assert (located.eta, located.rule, located.box) == (0.5, "first_above_mean", (2, 2, 3, 3))


@pytest.mark.parametrize("scores", [-np.ones((3, 3)), np.full((3, 3), -0.0)])
def test_a_map_that_is_nowhere_above_0(scores, tmp_path, recwarn):
    view = view_of(np.zeros((6, 9, 3), np.uint8), scores, "cat")
    located = locate(view)
    assert located.box == (0, 0, 0, 0) and located.eta == 0 and not located.map.any()
    plots.save(draw(view, located), tmp_path / "drawn.png")
    write_coco(tmp_path / "boxes.json", [row(view, located)])
    content = json.loads((tmp_path / "boxes.json").read_text())
    assert len(content["images"]) == 1 and content["annotations"] == [] and not recwarn.list


@pytest.mark.parametrize(
    "values, message",
    [
        ({"rule": "first"}, r"unknown threshold rule 'first'; choose one of fixed, first_above_mean"),
        ({"eta": 1.5}, "from 0 to 1, got 1.5"),
        ({"eta": float("nan")}, "from 0 to 1, got nan"),
    ],
)
def test_a_threshold_that_cannot_be(hill, values, message):
    with pytest.raises(ValueError, match=message):
        locate(view_of(BLACK, hill), **values)


# Maps from elsewhere.


def test_a_given_map_is_kept_as_it_is(hill):
    of_torch = torch.tensor(7 * hill, dtype=torch.float64, requires_grad=True)
    for scores in (7 * hill, (7 * hill).astype(np.float64), of_torch):
        view = view_of(BLACK, scores, "cat")
        np.testing.assert_array_equal(activation(view, "signed"), 7 * hill)
        assert view.given_map.dtype == np.float32 and view.class_name == "cat" and view.probability is None
        assert locate(view).map.shape == (224, 224)


@pytest.mark.parametrize(
    "image, scores, message",
    [
        (BLACK, np.zeros((1, 4, 4)), r"a map is \(h, w\), .*got float64 \(1, 4, 4\)"),
        (BLACK, torch.zeros(4, 4, dtype=torch.int64), "floating point without NaN or infinity, got int64"),
        (BLACK, np.full((4, 4), np.inf), "floating point without NaN or infinity"),
        (BLACK[..., 0], np.zeros((4, 4)), r"\(H, W, 3\) uint8 .*, got ndarray \(20, 60\): give PIL\.Image\.open"),
        (np.zeros((8, 8, 3)), np.zeros((4, 4)), "a picture is"),
        ("cat.jpg", np.zeros((4, 4)), "got str"),
    ],
)
def test_what_is_no_map_or_no_picture(image, scores, message):
    with pytest.raises(ValueError, match=message):
        view_of(image, scores)


def test_pillows_image_beside_a_given_map(hill):
    """Of any mode, as photographs are converted: 16 bits scaled, alpha dropped. It stays as it is."""
    clear = Image.fromarray(np.full((6, 8), 90, np.uint8)).convert("RGBA")
    clear.putalpha(0)
    for image in (clear, clear.convert("L"), Image.fromarray(np.full((6, 8), 90 * 257, np.uint16))):
        mode = image.mode
        view = view_of(image, hill)
        assert view.image.shape == (6, 8, 3) and view.image.dtype == np.uint8 and (view.image == 90).all()
        assert image.mode == mode


# A network's.


def test_a_picture_is_seen_as_in_the_evaluation(network, tmp_path):
    pixels, model = photograph(tmp_path / "0.png"), network.model
    images, _, _ = datasets.collate([datasets.ImageDataset(table(1), tmp_path, datasets.test_transform(48))[0]])
    with torch.inference_mode():
        logits, features, _ = model(images)
    probabilities = logits.softmax(1)[0]
    for index in (None, 0, 1, 2):
        view = look(network, tmp_path / "0.png", index)
        expected = int(logits.argmax()) if index is None else index
        assert (view.class_index, view.class_name) == (expected, network.class_names[expected])
        assert view.probability == pytest.approx(float(probabilities[expected])) and view.path == str(
            tmp_path / "0.png"
        )
        np.testing.assert_array_equal(view.image, pixels)
        torch.testing.assert_close(torch.from_numpy(view.features), features[0])
        np.testing.assert_array_equal(view.class_weights, model.class_weights[expected].detach())
        for recombination in cam.RECOMBINATIONS:
            scores = cam.activation_map(features, model.class_weights[[expected]].detach(), recombination)[0]
            np.testing.assert_allclose(activation(view, recombination), scores, rtol=1e-4, atol=1e-5)
    x0, y0, x1, y1 = locate(view).box
    assert 0 <= x0 < x1 <= 90 and 0 <= y0 < y1 <= 60
    with pytest.raises(ValueError, match="unknown recombination 'sum'"):
        locate(view, "sum")
    for index in (-1, 3):
        with pytest.raises(ValueError, match=rf"no class {index}: small_vgg, wgap has 3 classes, counted from 0"):
            look(network, tmp_path / "0.png", index)


def test_a_turned_photograph_is_seen_upright(network, tmp_path):
    """As a telephone writes it: the file lies on its side, and says so."""
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:10, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(look(network, tmp_path / "turned.png").image, upright)


# Pictures.


def test_pictures_in_folders(tmp_path):
    """All files but those that systems put there, whatever they are called; folders below only if asked for."""
    litter = (".hidden.png", "Thumbs.db", ".DS_Store", ".ipynb_checkpoints/b.JPG", "more.png/thumbs.DB")
    for name in ("b.JPG", "a.jfif", "c", "more.png/d.heic", "more.png/deep/a.jfif", *litter):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(tmp_path / name, (9, 8))
    os.mkfifo(tmp_path / "pipe.png")
    there = ["a.jfif", "b.JPG", "c"]
    for folder in (tmp_path, str(tmp_path), [tmp_path, str(tmp_path / "c")]):  # each once
        found, problems = pictures(folder)
        assert [path.name for path in found] == there and not problems
    found, _ = pictures(tmp_path, recursive=True)
    assert output_names(found) == [*there, "more.png/d.heic", "more.png/deep/a.jfif"]
    assert pictures(tmp_path / ".hidden.png") == ([tmp_path / ".hidden.png"], [])  # a file is taken at its word


def test_names_for_what_is_written(tmp_path, monkeypatch):
    """Below the folder that all share, and nowhere else."""
    monkeypatch.chdir(tmp_path)
    assert output_names(["a.png"]) == ["a.png"]
    assert output_names(["../x/a.png", tmp_path / "a.png"]) == ["x/a.png", f"{tmp_path.name}/a.png"]


def test_what_is_no_picture(network, tmp_path):
    """A text, an empty file, one that is cut off and one that is not there are named; the others are found."""
    (tmp_path / "deep").mkdir()
    with pytest.raises(ValueError, match=f"no picture was found: {tmp_path} has no picture in it: .*--recursive"):
        pictures(tmp_path)
    photograph(tmp_path / "deep" / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "deep" / "a.png").read_bytes()[:500])
    (tmp_path / "README.txt").write_text("beside the pictures")
    (tmp_path / "empty.jpg").write_bytes(b"")
    found, problems = pictures([tmp_path, tmp_path / "gone.png", tmp_path / "deep"])
    assert found == [tmp_path / "deep" / "a.png"]
    for name, problem in zip(("README.txt", "cut.png", "empty.jpg", "gone.png"), problems, strict=True):
        assert problem.startswith(f"{tmp_path / name}: no picture that can be read (") and "\n" not in problem
        assert problem.endswith("; save it again as JPEG or PNG, smaller if it is huge, or leave it out")
        with pytest.raises(datasets.DatasetError, match=name):
            look(network, tmp_path / name)


# What is written.


def test_coco_and_csv(network, tmp_path, hill):
    """Two pictures of a class, one of another, and maps from elsewhere with and without a box."""
    seen = []
    for number, (size, index) in enumerate((((90, 60), 2), ((40, 70), 0), ((33, 21), 2))):
        photograph(tmp_path / f"{number}.png", size, number)
        seen.append(look(network, tmp_path / f"{number}.png", index))
    pairs = [(view, locate(view)) for view in (*seen, view_of(BLACK, -hill, "cat"), view_of(BLACK, hill, "cat"))]
    rows = [row(*pair) for pair in pairs]
    write_coco(tmp_path / "boxes.json", rows)
    write_csv(tmp_path / "boxes.csv", rows)

    content = json.loads((tmp_path / "boxes.json").read_text(), parse_constant=pytest.fail)  # no NaN
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    assert [(i["file_name"], i["width"], i["height"]) for i in images.values()] == [
        *((str(tmp_path / f"{k}.png"), *size) for k, size in enumerate([(90, 60), (40, 70), (33, 21)])),
        ("", 60, 20), ("", 60, 20),
    ]  # fmt: skip
    assert sorted(categories.values()) == ["cat", "robin", "wren"]
    assert [(a["id"], a["image_id"]) for a in content["annotations"]] == [(1, 1), (2, 2), (3, 3), (4, 5)]
    for annotation in content["annotations"]:
        view, located = pairs[annotation["image_id"] - 1]
        x, y, width, height = annotation["bbox"]
        assert categories[annotation["category_id"]] == view.class_name
        assert (x, y, x + width, y + height) == pytest.approx(located.box)
        assert annotation["area"] == width * height > 0 == annotation["iscrowd"]
        assert annotation.get("score") == view.probability

    with open(tmp_path / "boxes.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "class_index", "class_name", "probability", "rule", "eta", "x0", "y0", "x1", "y1"]
    for written, (view, located) in zip(table, pairs, strict=True):
        probability = "" if view.probability is None else str(view.probability)
        known = [view.path, str(view.class_index), view.class_name, probability, "first_above_mean"]
        assert list(written.values())[:5] == known and float(written["eta"]) == located.eta
        assert tuple(float(written[name]) for name in ("x0", "y0", "x1", "y1")) == located.box


@pytest.mark.parametrize("width", [60, 1801])
def test_drawing(hill, width):
    """Of a large picture every third pixel, and the box where it belongs."""
    view = view_of(np.zeros((20, width, 3), np.uint8), hill, "cat", image_size=4)
    located, step = locate(view, eta=0.49), 1 if width == 60 else 3
    picture, curve = draw(replace(view, probability=0.123), located).axes
    assert picture.images[0].get_array().shape == (-(-20 // step), -(-width // step), 3)
    [rectangle] = picture.patches
    x0, y0, x1, y1 = np.array(located.box) / step
    assert rectangle.get_xy() == pytest.approx((x0 - 0.5, y0 - 0.5))
    assert (rectangle.get_width(), rectangle.get_height()) == pytest.approx((x1 - x0, y1 - y0))
    assert picture.get_title() == "cat, 12.3 %"
    np.testing.assert_array_equal(curve.get_lines()[0].get_ydata(), located.differences)
    assert curve.get_lines()[2].get_xdata() == [located.eta, located.eta]
