"""One's own pictures: networks of ours and of torchvision's, maps and boxes by hand, and the files that are written."""

import copy
import csv
import dataclasses
import hashlib
import json
import os
import re
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from layouts_on_disk import table
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from wsol_utils import boxes, cam, datasets, evaluation, models, networks, own_images, pooling, protocols, thresholds
from wsol_utils.own_pictures.networks import Network
from wsol_utils.own_pictures.own_images import activation, load_network, locate, look, pictures, view_of

pytestmark = pytest.mark.usefixtures("one_thread")

ABOUT = {
    "backbone": "small_vgg", "pooling": "wgap", "temperature": 0.5, "own_head": False, "image_size": 48,
    "class_names": ["robin", "", "wren"],
}  # fmt: skip


def photograph(path, size=(90, 60), seed=0):
    """Noise, (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """(model, file) of a network such as notebook 02 writes."""
    torch.manual_seed(0)
    pool = pooling.build("wgap", 0.5)
    model = models.build("small_vgg", 3, pool).eval()
    nn.init.normal_(model.head.weight, std=5)
    path = tmp_path_factory.mktemp("ours") / "wgap.safetensors"
    models.save(model, path, {"identity": "a run", "history": "[]"}, ABOUT)
    return model, path


@pytest.fixture(scope="module")
def torchvisions(tmp_path_factory):
    """A function: name -> (torchvision's network with random weights, a file of them)."""
    folder = tmp_path_factory.mktemp("torchvision")

    def make(name, **values):
        torch.manual_seed(1)
        network = torchvision.models.get_model(name, **values).eval()
        path = folder / f"{name}{len(list(folder.iterdir()))}.safetensors"
        save_file(network.state_dict(), path)
        return network, path

    return make


@pytest.fixture
def hill():
    """A map of 4×4 whose box can be seen."""
    scores = np.zeros((4, 4), np.float32)
    scores[1:3, 1:4] = [[2, 4, 2], [2, 2, 2]]
    scores[3, 0] = 1.9
    return scores


# The box.


def test_box_by_hand_on_a_picture_that_is_not_square(hill):
    image = np.zeros((20, 60, 3), np.uint8)  # 15 pixels wide and 5 high for each of the map's
    view = view_of(image, hill, image_size=4)
    assert locate(view, eta=0.49).box == (15, 5, 60, 15)  # 2/4 is above; 1.9/4 is not, but touches it
    assert locate(view, eta=0.45).box == (0, 5, 60, 20)
    assert locate(view, eta=0.5).box == (30, 5, 45, 10)  # strictly above
    nothing = locate(view, eta=1.0)
    assert nothing.box == (0, 0, 0, 0) and nothing.eta == 1.0 and nothing.rule == "slider"


def test_box_is_not_rounded():
    view = view_of(np.zeros((10, 7, 3), np.uint8), np.eye(3, dtype=np.float32), image_size=3)
    assert locate(view, eta=0.2).box == pytest.approx((0, 0, 7, 10))
    spot = np.zeros((3, 3), np.float32)
    spot[1, 2] = 1
    assert locate(view_of(np.zeros((10, 7, 3), np.uint8), spot, image_size=3), eta=0.2).box == pytest.approx(
        (14 / 3, 10 / 3, 7, 20 / 3)
    )


def test_means_and_differences_by_hand():
    """A peak of 1 within a square of 0.5 on 0: the boundary of the mask is worth 0.5 below η = 0.5, and 1 above."""
    scores = np.zeros((5, 5), np.float32)
    scores[1:4, 1:4], scores[2, 2] = 0.5, 1
    located = locate(view_of(np.zeros((5, 5, 3), np.uint8), 3 * scores, image_size=5))
    assert located.map == pytest.approx(scores) and located.map.dtype == np.float32
    assert located.candidates.tolist() == list(thresholds.PAPER_GRID)
    assert located.means[:10] == pytest.approx(0.5) and located.means[10:20] == pytest.approx(1)
    assert np.isnan(located.means[20])
    assert np.isnan(located.differences[[0, 20]]).all()
    assert located.differences[1:20] == pytest.approx([0.5 if k == 10 else 0 for k in range(1, 20)])
    assert (located.eta, located.rule, located.recombination) == (0.5, "first_above_mean", "given")
    assert located.box == (2, 2, 3, 3)


@pytest.mark.parametrize("rule", ["first_above_mean", "argmax", "otsu", "fixed"])
@pytest.mark.parametrize("side", [5, 40])
def test_as_the_evaluation_has_it(rule, side):
    """The same map, threshold and box as of the functions that the tables are made with."""
    maps = cam.upsample(np.random.default_rng(side).random((1, 5, 5), dtype=np.float32), side)
    located = locate(view_of(np.zeros((40, 40, 3), np.uint8), maps[0], image_size=40), rule=rule)
    [prepared] = evaluation.prepared(maps, (40, 40), protocols.get("paper"))
    chosen = thresholds.select(prepared, rule)
    np.testing.assert_array_equal(located.map, prepared[0])
    assert np.float32(located.eta) == chosen[0] > 0
    assert list(located.box) == boxes.largest_boxes(prepared, chosen)[0, 0].tolist()


@pytest.mark.parametrize("scores", [np.zeros((3, 3)), -np.ones((3, 3)), np.full((3, 3), -0.0)])
def test_a_map_that_is_nowhere_above_0(scores, tmp_path):
    view = view_of(np.zeros((6, 9, 3), np.uint8), scores)
    located = locate(view)
    assert located.box == (0, 0, 0, 0) and located.eta == 0 and not located.map.any()
    assert np.isnan(located.means).all()
    own_images.save_drawing(view, located, tmp_path / "drawn.png")
    own_images.write_coco(tmp_path / "boxes.json", [(view, located)])
    content = json.loads((tmp_path / "boxes.json").read_text())
    assert len(content["images"]) == 1 and content["annotations"] == []


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
        locate(view_of(np.zeros((4, 4, 3), np.uint8), hill), **values)


# Maps from elsewhere.


def test_a_given_map_is_kept_as_it_is(hill):
    image = np.zeros((8, 8, 3), np.uint8)
    of_torch = torch.tensor(7 * hill, dtype=torch.float64, requires_grad=True)
    for scores in (7 * hill, (7 * hill).astype(np.float64), of_torch):
        view = view_of(image, scores, "cat")
        np.testing.assert_array_equal(activation(view), 7 * hill)
        assert view.given_map.dtype == np.float32 and view.class_name == "cat" and view.probability is None
        assert locate(view, "signed").recombination == "given"
        assert locate(view).map.shape == (224, 224)


@pytest.mark.parametrize(
    "image, scores, message",
    [
        (np.zeros((8, 8, 3), np.uint8), np.zeros((1, 4, 4)), r"a map is \(h, w\), got \(1, 4, 4\)"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)), r"a map is \(h, w\), got \(0, 4\)"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.uint8), "floating point"),
        (np.zeros((8, 8, 3), np.uint8), torch.zeros(4, 4, dtype=torch.int64), "floating point"),
        (np.zeros((8, 8, 3), np.uint8), np.full((4, 4), np.inf), "without NaN or infinity"),
        (np.zeros((8, 8), np.uint8), np.zeros((4, 4)), r"a picture is \(H, W, 3\) uint8, got \(8, 8\) uint8"),
        (np.zeros((8, 8, 3)), np.zeros((4, 4)), "float64"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), np.zeros((4, 4)), r"got Tensor: give np\.asarray\(PIL\.Image\.open"),
        ("cat.jpg", np.zeros((4, 4)), r"got str: give np\.asarray\(PIL\.Image\.open\(file\)\)"),
    ],
)
def test_what_is_no_map_or_no_picture(image, scores, message):
    with pytest.raises(ValueError, match=message):
        view_of(image, scores)


def test_pillows_image_beside_a_given_map(hill):
    """Of any mode, as photographs are converted: 16 bits scaled, alpha dropped. It stays as it is."""
    grey = Image.fromarray(np.full((6, 8), 90, np.uint8))
    clear = grey.convert("RGBA")
    clear.putalpha(0)
    palette = grey.convert("P")
    palette.info["transparency"] = 90
    deep = Image.fromarray(np.full((6, 8), 90 * 257, np.uint16))
    for image in (grey, grey.convert("RGB"), grey.convert("CMYK"), clear, palette, deep):
        mode, info = image.mode, dict(image.info)
        view = view_of(image, hill)
        assert view.image.shape == (6, 8, 3) and view.image.dtype == np.uint8 and (view.image == 90).all()
        assert (image.mode, image.info) == (mode, info)
    with pytest.raises(ValueError, match="pixels of 32 bits"):
        view_of(grey.convert("F"), hill)


# Our own networks.


def test_a_network_of_notebook_02_needs_its_file_alone(ours, tmp_path):
    """And sees a picture as the evaluation does."""
    model, path = ours
    network = load_network(path)
    assert (network.class_names, network.image_size) == (["robin", "class 1", "wren"], 48)
    assert network.name == "small_vgg, wgap" and not network.model.training
    assert network.model.pool.temperature == 0.5
    pixels = photograph(tmp_path / "0.png")
    view = look(network, tmp_path / "0.png")
    np.testing.assert_array_equal(view.image, pixels)
    images, _, _ = datasets.collate([datasets.ImageDataset(table(1), tmp_path, datasets.test_transform(48))[0]])
    with torch.inference_mode():
        logits, features, _ = model(images)
    torch.testing.assert_close(torch.from_numpy(view.probabilities), logits.softmax(1)[0])
    torch.testing.assert_close(torch.from_numpy(view.features), features[0])
    assert view.class_index == int(logits.argmax()) and view.class_name == network.class_names[view.class_index]
    assert view.probability == view.probabilities.max() < 1
    assert view.path == str(tmp_path / "0.png")
    for recombination in cam.RECOMBINATIONS:
        expected = cam.activation_map(features, model.class_weights[[view.class_index]].detach(), recombination)[0]
        np.testing.assert_allclose(activation(view, recombination), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(activation(view, "signed"), activation(view, "absolute"))
    x0, y0, x1, y1 = locate(view).box
    assert 0 <= x0 < x1 <= 90 and 0 <= y0 < y1 <= 60
    with pytest.raises(ValueError, match="unknown recombination 'sum'"):
        locate(view, "sum")


def test_a_class_of_ones_own_choice(ours, tmp_path):
    model, path = ours
    photograph(tmp_path / "0.png")
    for index in range(3):
        view = look(load_network(path), tmp_path / "0.png", index)
        assert view.class_index == index and view.probability == view.probabilities[index]
        np.testing.assert_array_equal(view.class_weights, model.class_weights[index].detach())
    for index in (-1, 3):
        with pytest.raises(
            ValueError, match=rf"there is no class {index}: small_vgg, wgap has 3 classes, counted from 0"
        ):
            look(load_network(path), tmp_path / "0.png", index)


def test_a_network_that_stood_as_it_is(tmp_path):
    torch.manual_seed(0)
    own, about = models.build_as_it_stands("squeezenet1_1"), ABOUT | {"backbone": "squeezenet1_1", "own_head": True}
    models.save(own, tmp_path / "gap.safetensors", {}, about | {"class_names": ["tench"] + [""] * 999})
    network = load_network(tmp_path / "gap.safetensors")
    assert torch.equal(network.model.class_weights, own.class_weights)
    assert network.class_names[0] == "tench" and network.class_names[999] == "class 999"


def test_a_file_that_does_not_say_what_it_holds(ours, tmp_path):
    models.save(ours[0], tmp_path / "old.safetensors", {"identity": "x", "history": "[]"})
    with pytest.raises(
        ValueError, match=r"old\.safetensors does not say which network it holds: run notebook 02 again"
    ):
        load_network(tmp_path / "old.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist: notebook 02 writes"):
        load_network(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "header",
    ["", "[]", "{}", "null", *(json.dumps(ABOUT | change) for change in (
        {"class_names": 3}, {"image_size": "large"}, {"temperature": -1}, {"pooling": "max"}, {"temperature": None},
    ))],
)  # fmt: skip
def test_a_header_that_is_damaged(ours, tmp_path, header):
    models.write(ours[0].state_dict(), tmp_path / "odd.safetensors", {"network": header})
    with pytest.raises(ValueError, match=r"odd\.safetensors does not say rightly which network it holds"):
        load_network(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("values", [{}, {"checkpoint": "a", "backbone": "resnet18"}])
def test_a_checkpoint_or_a_backbone(values):
    with pytest.raises(ValueError, match="one of the two"):
        load_network(**values)


# Torchvision's networks.


@pytest.mark.parametrize(
    "name, values, channels",
    [
        ("resnet18", {}, 512),
        ("mobilenet_v2", {}, 1280),
        ("squeezenet1_1", {}, 512),
        ("mnasnet0_5", {}, 1280),
        ("googlenet", {"aux_logits": False, "transform_input": True, "init_weights": False}, 1024),
    ],
)
def test_a_network_of_torchvisions_classifies_as_it_does(torchvisions, tmp_path, name, values, channels):
    own, path = torchvisions(name, **values)
    network = load_network(backbone=name, weights=path)
    assert network.image_size == 224 and network.name == name
    assert len(network.class_names) == 1000 and network.class_names[1] == "goldfish"
    images = torch.randn((2, 3, 96, 96), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = own(images)
        logits, features, _ = network.model(images)
        assert features.shape[:2] == (2, channels) and features.shape[2] > 1
        assert network.model.class_weights.shape == (1000, channels)
        maps = cam.activation_map(features, network.model.class_weights[[7, 8]], "signed")  # (2, h, w)
    spread = expected.std()
    torch.testing.assert_close(logits / spread, expected / spread, rtol=1e-4, atol=1e-4)
    if name != "squeezenet1_1":  # whose ReLU lies in between
        bias = dict(own.named_parameters())["classifier.1.bias" if name.startswith("m") else "fc.bias"]
        score = maps.mean(dim=(1, 2)) + bias[[7, 8]]
        torch.testing.assert_close(score / spread, expected[[0, 1], [7, 8]] / spread, rtol=1e-3, atol=1e-3)


def test_weights_of_another_number_of_classes(torchvisions, tmp_path):
    own, path = torchvisions("resnet18", num_classes=5)
    network = load_network(backbone="resnet18", weights=str(path))
    assert network.class_names == [f"class {i}" for i in range(5)]
    assert torch.equal(network.model.class_weights, own.fc.weight)
    photograph(tmp_path / "a.png")
    view = look(network, tmp_path / "a.png", 3)
    assert view.features.shape == (512, 7, 7) and view.probabilities.sum() == pytest.approx(1, abs=1e-5)


def toy(*after):
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *after).eval()


def test_a_network_without_a_map_is_refused(torchvisions):
    """MobileNetV3 has two linear layers with a Hardswish between; the others something after the mean, or no mean.

    The message names the ways round.
    """
    _, path = torchvisions("mobilenet_v3_small")
    ways = r"choose resnet….* own_images\.view_of, .* python -m wsol_utils evaluate$"
    with pytest.raises(ValueError, match=rf"mobilenet_v3_small has no class activation map: .* {ways}"):
        load_network(backbone="mobilenet_v3_small", weights=path)
    mean, flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    imagenet = (networks.IMAGENET_MEAN, networks.IMAGENET_STD)
    networks._with_features(toy(mean, flat, nn.Linear(6, 4)), "toy", 16, imagenet)
    for layers in (
        (mean, flat, nn.LayerNorm(6), nn.Linear(6, 4)),
        (mean, flat, nn.Hardswish(), nn.Linear(6, 4)),
        (mean, flat, nn.Linear(6, 4), nn.ReLU()),
        (nn.AdaptiveMaxPool2d(1), flat, nn.Linear(6, 4)),
        (flat, nn.Linear(6 * 14 * 14, 4)),
    ):
        with pytest.raises(ValueError, match="toy has no class activation map"):
            networks._with_features(toy(*layers), "toy", 16, imagenet)


def test_a_network_with_a_normalisation_of_its_own():
    torch.manual_seed(0)
    network = toy(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    wrapped = networks._with_features(network, "toy", 16, ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7)))
    pixels = torch.rand(2, 3, 16, 16)
    normalize = torchvision.transforms.v2.functional.normalize
    seen = wrapped(normalize(pixels, list(networks.IMAGENET_MEAN), list(networks.IMAGENET_STD)))
    expected = network(normalize(pixels, [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]))
    torch.testing.assert_close(seen.logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, message", [("resnet81", r"'resnet81' \(did you mean 'resnet\d+'\?\); choose"), ("fcn", r"'fcn'; choose")]
)
def test_unknown_backbone(name, message):
    with pytest.raises(ValueError, match=f"unknown backbone {message} one of torchvision's, resnet…"):
        load_network(backbone=name)


def test_weights_that_are_none(torchvisions, tmp_path):
    _, path = torchvisions("squeezenet1_1")
    with pytest.raises(ValueError, match=rf"{path.name} holds the weights of another network"):
        load_network(backbone="resnet18", weights=path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist; give a safetensors state"):
        load_network(backbone="resnet18", weights=tmp_path / "none.safetensors")
    (tmp_path / "half.safetensors").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"half\.safetensors is not a whole safetensors file"):
        load_network(backbone="squeezenet1_1", weights=tmp_path / "half.safetensors")


def served(monkeypatch, tmp_path, name, file):
    """Torchvision's weights of a network come from a file, from where they are "downloaded"."""
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=file.as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def test_weights_as_torchvision_offers_them(tmp_path, monkeypatch):
    """DenseNet's have the names of an earlier day, and those of batch normalisation lack a counter."""
    torch.manual_seed(0)
    own = torchvision.models.densenet121().eval()
    state = {
        re.sub(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.", key): value
        for key, value in own.state_dict().items()
        if "num_batches" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "saved.pth")
    digest = hashlib.sha256((tmp_path / "saved.pth").read_bytes()).hexdigest()
    file = (tmp_path / "saved.pth").rename(tmp_path / f"densenet121-{digest[:8]}.pth")
    served(monkeypatch, tmp_path, "densenet121", file)
    network = load_network(backbone="densenet121")
    images = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        logits, features, _ = network.model(images)
        torch.testing.assert_close(logits, own(images))
    assert features.min() == 0  # after the ReLU, which DenseNet applies in place


def test_a_download_that_cannot_be_made(tmp_path, monkeypatch):
    served(monkeypatch, tmp_path, "resnet18", tmp_path / "none" / "resnet18-01234567.pth")
    with pytest.raises(
        OSError, match=r"the weights of resnet18 could not be downloaded .* as a safetensors file"
    ) as info:
        load_network(backbone="resnet18")
    assert isinstance(info.value.__cause__, urllib.error.URLError)


def test_a_file_of_weights_under_other_names(torchvisions, tmp_path, capsys):
    """A wrapper's prefix, DenseNet's names of an earlier day, no counters, half precision: all at once."""
    own, _ = torchvisions("densenet121", num_classes=3)
    state = {
        "module." + re.sub(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.", key): value.half()
        for key, value in own.state_dict().items()
        if "num_batches" not in key
    }
    assert "module.features.denseblock1.denselayer1.norm.1.weight" in state
    save_file(state, tmp_path / "w.safetensors")
    network = load_network(backbone="densenet121", weights=tmp_path / "w.safetensors")
    assert capsys.readouterr().err.endswith("w.safetensors: the prefix 'module.' of all keys is left out\n")
    for key, value in network.model.network.state_dict().items():
        assert "num_batches" in key or torch.equal(value, own.state_dict()[key].half().float()), key


def test_side_heads_behind_a_prefix(torchvisions, tmp_path):
    own, _ = torchvisions("googlenet", aux_logits=True, transform_input=True, init_weights=False)
    save_file({f"_orig_mod.{key}": value for key, value in own.state_dict().items()}, tmp_path / "w.safetensors")
    network = load_network(backbone="googlenet", weights=tmp_path / "w.safetensors")
    assert torch.equal(network.model.network.aux1.fc1.weight, own.aux1.fc1.weight)


def test_weights_that_are_not_finite_are_named(ours, tmp_path, torchvisions):
    own, path = torchvisions("resnet18", num_classes=2)
    state = own.state_dict()
    state["layer1.0.bn1.running_var"][3] = float("inf")
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"{path.name}: 'layer1\.0\.bn1\.running_var' holds NaN or infinity"):
        load_network(backbone="resnet18", weights=path)
    state = {key: value.clone() for key, value in ours[0].state_dict().items()}
    state["head.bias"][1] = float("nan")
    models.write(state, tmp_path / "wgap.safetensors", {"network": json.dumps(ABOUT)})
    with pytest.raises(ValueError, match=r"wgap\.safetensors: 'head\.bias' holds NaN or infinity"):
        load_network(tmp_path / "wgap.safetensors")


# A network that somebody made.


@pytest.mark.parametrize("names", [[], ["a", "b"], ["a", "b", "c", "d"]])
def test_a_name_for_each_class(ours, names):
    with pytest.raises(ValueError, match=rf"^mine has 3 classes and {len(names)} class names: give a name for each"):
        Network(ours[0], names, 48, "mine")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_in_another_precision(ours, torchvisions, tmp_path, dtype):
    """It computes in float32, and stays as it is; so does one with the features of torchvision's."""
    photograph(tmp_path / "0.png")
    _, path = torchvisions("resnet18", num_classes=3)
    for make in (lambda: copy.deepcopy(ours[0]), lambda: load_network(backbone="resnet18", weights=path).model):
        given = make().to(dtype)
        view = look(Network(given, ["a", "b", "c"], 48, "mine"), tmp_path / "0.png")
        expected = look(Network(make().to(dtype).float(), ["a", "b", "c"], 48, "mine"), tmp_path / "0.png")
        np.testing.assert_array_equal(view.features, expected.features)
        np.testing.assert_array_equal(view.probabilities, expected.probabilities)
        assert given.class_weights.dtype == dtype


# Pictures.


def test_pictures_of_a_folder(tmp_path):
    """All files but those that systems put there, whatever they are called; folders below only if asked for."""
    for name in ("b.JPG", "a.jfif", ".hidden.png", "notes.txt", "c", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("more.png/d.heic", "more.png/deep/a.jfif", ".ipynb_checkpoints/b.JPG", "more.png/thumbs.DB"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    there = ["a.jfif", "b.JPG", "c", "lost.png", "notes.txt"]
    for folder in (tmp_path, str(tmp_path)):
        assert [path.name for path in pictures(folder)] == there
    below = [path.relative_to(tmp_path).as_posix() for path in pictures(tmp_path, recursive=True)]
    assert below == [*there[:4], "more.png/d.heic", "more.png/deep/a.jfif", "notes.txt"]
    both = pictures([tmp_path / ".hidden.png", tmp_path, str(tmp_path / "c")])  # a file is taken at its word, and once
    assert [path.name for path in both] == [".hidden.png", *there]


def test_no_pictures(tmp_path):
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a.png").write_bytes(b"x")
    for recursive in (False, True):
        with pytest.raises(ValueError, match="has no picture: there is no file in it that could be one"):
            pictures(tmp_path, recursive)
    (tmp_path / "deep" / "below").mkdir(parents=True)
    (tmp_path / "deep" / "below" / "a.png").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"has files only in its sub-folders: --recursive \(recursive=True\) takes them"
    ):
        pictures(tmp_path)
    with pytest.raises(ValueError, match=r"none\.png does not exist"):
        pictures(tmp_path / "none.png")
    with pytest.raises(ValueError, match="no picture is given"):
        pictures([])


def test_pictures_are_sorted_out(tmp_path):
    photograph(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.heic")
    (tmp_path / "README.txt").write_text("beside the pictures")
    found, [problem] = own_images.readable(pictures(tmp_path))
    assert found == [tmp_path / "b.heic"]
    assert problem.startswith(f"{tmp_path / 'README.txt'}: no picture that can be read (no image of a known format)")
    with pytest.raises(ValueError, match=r"no picture among 1 files: .*README\.txt: no picture that can be read"):
        own_images.readable([tmp_path / "README.txt"])


@pytest.mark.parametrize("name, write", [("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.heic", "JPEG"), ("a.pgm", "PPM"),
                                         ("a", "PNG"), ("a.txt", "WEBP")])  # fmt: skip
def test_what_decodes_is_a_picture_whatever_its_ending(ours, tmp_path, name, write):
    Image.fromarray(np.full((5, 7), 90, np.uint8)).save(tmp_path / name, format=write)
    assert look(load_network(ours[1]), pictures(tmp_path)[0]).image == pytest.approx(90, abs=1)


def test_large_pictures(ours, tmp_path, monkeypatch, recwarn):
    """Pillow's own rule, without its warning: twice MAX_IMAGE_PIXELS at most; above, the remedy is not to save it."""
    photograph(tmp_path / "0.png", (20, 10))
    for limit in (199, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert look(load_network(ours[1]), tmp_path / "0.png").image.shape == (10, 20, 3)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    with pytest.raises(ValueError, match=r"0\.png: .*200 pixels.* limit of 198 .*; scale the picture down$"):
        look(load_network(ours[1]), tmp_path / "0.png")


def test_a_grey_picture_has_three_channels(ours, tmp_path):
    Image.fromarray(np.full((5, 7), 9, np.uint8)).save(tmp_path / "grey.png")
    view = look(load_network(ours[1]), tmp_path / "grey.png")
    assert view.image.shape == (5, 7, 3) and (view.image == 9).all()


@pytest.mark.parametrize("content", [b"", b"no picture at all", None])
def test_what_is_no_picture(ours, tmp_path, content):
    if content is not None:
        (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"bad\.jpg: no picture that can be read .*; save it again as JPEG or PNG"
    ) as info:
        look(load_network(ours[1]), tmp_path / "bad.jpg")
    assert "\n" not in str(info.value) and "data set" not in str(info.value)


# What is written.


@pytest.fixture
def pairs(ours, tmp_path, hill):
    """Two pictures of a class, one of another, and a map from elsewhere without a box."""
    network, found = load_network(ours[1]), []
    for number, (size, index) in enumerate((((90, 60), 2), ((40, 70), 0), ((33, 21), 2))):
        photograph(tmp_path / f"{number}.png", size, number)
        view = look(network, tmp_path / f"{number}.png", index)
        found.append((view, locate(view)))
    nothing = view_of(np.zeros((9, 8, 3), np.uint8), -hill, "cat")
    return [*found, (nothing, locate(nothing))]


def test_coco(pairs, tmp_path):
    own_images.write_coco(tmp_path / "boxes.json", pairs)
    content = json.loads((tmp_path / "boxes.json").read_text(), parse_constant=pytest.fail)  # no NaN
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    assert [(i["file_name"], i["width"], i["height"]) for i in images.values()] == [
        (str(tmp_path / "0.png"), 90, 60), (str(tmp_path / "1.png"), 40, 70), (str(tmp_path / "2.png"), 33, 21),
        ("", 8, 9),
    ]  # fmt: skip
    assert sorted(categories.values()) == ["cat", "robin", "wren"] and len(categories) == 3
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    for annotation, (view, located) in zip(content["annotations"], pairs, strict=False):
        image = images[annotation["image_id"]]
        assert image["file_name"] == view.path
        assert categories[annotation["category_id"]] == view.class_name
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == pytest.approx(located.box)
        assert x + width <= image["width"] + 1e-6 and y + height <= image["height"] + 1e-6
        assert annotation["area"] == width * height > 0 == annotation["iscrowd"]
        assert annotation["score"] == view.probability


def test_a_box_of_a_map_from_elsewhere_has_no_score(hill, tmp_path):
    view = view_of(np.zeros((4, 4, 3), np.uint8), hill, "cat", image_size=4)
    own_images.write_coco(tmp_path / "boxes.json", [(view, locate(view, eta=0.49))])
    [annotation] = json.loads((tmp_path / "boxes.json").read_text())["annotations"]
    assert annotation["bbox"] == [1, 1, 3, 2] and "score" not in annotation


def test_csv(pairs, tmp_path):
    own_images.write_csv(tmp_path / "boxes.csv", pairs)
    with open(tmp_path / "boxes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class_index", "class_name", "probability", "rule", "eta", "x0", "y0", "x1", "y1"]
    for row, (view, located) in zip(rows, pairs, strict=True):
        assert (row["path"], row["class_index"], row["class_name"]) == (
            view.path,
            str(view.class_index),
            view.class_name,
        )
        assert tuple(float(row[name]) for name in ("x0", "y0", "x1", "y1")) == located.box
        assert (row["rule"], float(row["eta"])) == ("first_above_mean", located.eta)
        assert row["probability"] == ("" if view.probability is None else str(view.probability))
    assert rows[3]["probability"] == "" and rows[3]["class_index"] == "-1"


def test_light_pairs_write_the_same(pairs, tmp_path):
    few = [own_images.light(*pair) for pair in pairs]
    for name, write in (("coco", own_images.write_coco), ("csv", own_images.write_csv)):
        write(tmp_path / name, pairs)
        write(tmp_path / f"light {name}", few)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"light {name}").read_bytes()
    view, located = few[0]
    assert view.features is None and located.map.size == 0 and view.image.strides == (0, 0, 0)


def test_drawing(pairs, tmp_path):
    view, located = pairs[1]
    figure = own_images.draw(view, located)
    picture, curve = figure.axes
    [rectangle] = picture.patches
    x0, y0, x1, y1 = located.box
    assert rectangle.get_xy() == pytest.approx((x0 - 0.5, y0 - 0.5))
    assert (rectangle.get_width(), rectangle.get_height()) == pytest.approx((x1 - x0, y1 - y0))
    assert picture.get_title() == f"robin, {100 * view.probability:.1f} %"
    np.testing.assert_array_equal(curve.get_lines()[0].get_ydata(), located.differences)
    assert curve.get_lines()[2].get_xdata() == [located.eta, located.eta]
    own_images.save_drawing(view, located, tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").width > 400


def test_a_large_picture_is_drawn_smaller(hill):
    """Every third of 6003 pixels, and the box where it belongs."""
    view = view_of(np.zeros((20, 6003, 3), np.uint8), hill, image_size=4)
    located = locate(view, eta=0.49)
    picture = own_images.draw(view, located).axes[0]
    assert picture.images[0].get_array().shape == (7, 2001, 3)
    [rectangle] = picture.patches
    assert rectangle.get_x() + rectangle.get_width() + 0.5 == pytest.approx(2001)


def test_a_turned_photograph_is_seen_upright(ours, tmp_path):
    """As a telephone writes it: the file lies on its side, and says so."""
    network, upright = load_network(checkpoint=str(ours[1])), np.zeros((40, 60, 3), np.uint8)
    upright[:10, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "upright.png")
    turned, plain = (look(network, tmp_path / f"{name}.png") for name in ("turned", "upright"))
    np.testing.assert_array_equal(turned.image, upright)
    assert locate(turned).box == locate(plain).box
