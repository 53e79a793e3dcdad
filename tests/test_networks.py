"""Networks for one's own pictures: those of notebook 02, and torchvision's with a class activation map."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest
import torch
import torchvision
from layouts_on_disk import ROOT
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.v2 import functional

from wsol_utils import cam, locate, models
from wsol_utils.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from wsol_utils.own_pictures.networks import FAMILIES, Family, WithFeatures, load_network

pytestmark = pytest.mark.usefixtures("one_thread")

ABOUT = {
    "backbone": "small_vgg", "pooling": "wgap", "temperature": 0.5, "own_head": False, "image_size": 48,
    "class_names": ["robin", "", "wren"],
}  # fmt: skip
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
SMALLEST = {
    "densenet": "densenet121", "efficientnet": "efficientnet_b0", "googlenet": "googlenet",
    "inception_v3": "inception_v3", "mnasnet": "mnasnet0_5", "mobilenet_v2": "mobilenet_v2",
    "regnet": "regnet_x_400mf", "resnet": "resnet18", "resnext": "resnext50_32x4d",
    "shufflenet_v2": "shufflenet_v2_x0_5", "squeezenet": "squeezenet1_1", "swin": "swin_t",
    "wide_resnet": "wide_resnet50_2",
}  # fmt: skip


def images(number=2, side=80):
    return torch.randn((number, 3, side, side), generator=torch.Generator().manual_seed(3))


def saved(state, path):
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def ours():
    torch.manual_seed(0)
    return models.build("small_vgg", 3, "wgap").eval()


# Our own networks.


def test_a_network_of_notebook_02_needs_its_file_alone(ours, tmp_path):
    models.save(ours, tmp_path / "wgap.safetensors", {"identity": "a run", "history": "[]"}, ABOUT)
    network = load_network(tmp_path / "wgap.safetensors")
    assert (network.class_names, network.image_size) == (["robin", "class 1", "wren"], 48)
    assert network.name == "small_vgg, wgap" and not network.model.training
    assert network.model.pool.temperature == 0.5 and not network.warning
    models.save(ours, tmp_path / "drawn.safetensors", {}, ABOUT | {"profile": "sample"})
    assert "drawn.safetensors was trained on drawn pictures" in load_network(tmp_path / "drawn.safetensors").warning
    assert torch.equal(network.model.class_weights, ours.class_weights)

    own, about = models.build_as_it_stands("squeezenet1_1"), ABOUT | {"backbone": "squeezenet1_1", "own_head": True}
    models.save(own, tmp_path / "gap.safetensors", {}, about | {"class_names": ["tench"] + [""] * 999})
    network = load_network(str(tmp_path / "gap.safetensors"))
    assert torch.equal(network.model.class_weights, own.class_weights)
    assert network.class_names[0] == "tench" and network.class_names[999] == "class 999"


@pytest.mark.parametrize(
    "header",
    [None, "", "[]", "{}", "null", *(json.dumps(ABOUT | change) for change in (
        {"class_names": 3}, {"image_size": "large"}, {"temperature": -1}, {"pooling": "max"}, {"temperature": None},
    ))],
)  # fmt: skip
def test_a_file_that_does_not_say_what_it_holds(ours, tmp_path, header):
    models.write(ours.state_dict(), tmp_path / "odd.safetensors", {} if header is None else {"network": header})
    with pytest.raises(ValueError, match=r"odd\.safetensors does not say which network .*: run notebook 02 again"):
        load_network(tmp_path / "odd.safetensors")


def test_the_committed_network_is_that_of_the_committed_example(tmp_path):
    """Both are of the network that `results/reference` measures: seed 0 with WGAP; it is kept in half precision."""
    folder = ROOT / "results/reference/sample/birds"
    with np.load(folder / "example.npz") as example:
        image, features, label = example["image"], example["features"].astype(np.float32), int(example["label"])
        weights = example["class_weights"][label]
    Image.fromarray(image).save(tmp_path / "example.png")
    view = locate.look(load_network(folder / "wgap.safetensors"), tmp_path / "example.png")
    assert view.class_index == label
    np.testing.assert_allclose(view.features, features, atol=0.01 * features.max())
    np.testing.assert_allclose(view.class_weights, weights, atol=1e-3 * np.abs(weights).max())


# Torchvision's networks.


@pytest.mark.parametrize("start", FAMILIES)
def test_a_network_of_each_family_classifies_by_its_map(start):
    """The logits are the network's own, and those of the head on the mean of the features, or of its map's."""
    torch.manual_seed(1)
    own = torchvision.models.get_model(SMALLEST[start], num_classes=5, **FAMILIES[start].options).eval()
    network = WithFeatures(own, FAMILIES[start], IMAGENET).eval()
    nn.init.zeros_(network.head.bias)  # beside which a map of random weights is small
    with torch.inference_mode():
        expected = own(images())  # (2, 5)
        logits, features, _ = network(images())
        maps = torch.stack([cam.activation_map(features, network.class_weights[[k, k]], "signed") for k in range(5)], 1)
    maps = maps.relu() if start == "squeezenet" else maps  # (2, 5, h, w)
    spread = expected.std()
    torch.testing.assert_close(logits / spread, expected / spread, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) / spread, expected / spread, rtol=1e-3, atol=1e-3)


def test_a_network_with_a_normalisation_of_its_own():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    wrapped = WithFeatures(network, Family("0", "3"), ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7)))
    pixels = torch.rand(2, 3, 16, 16)
    seen = wrapped(functional.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD)))
    expected = network(functional.normalize(pixels, [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]))
    torch.testing.assert_close(seen.logits, expected, rtol=1e-4, atol=1e-5)


def test_a_file_of_weights_under_other_names(tmp_path, capsys):
    """A wrapper's prefix, DenseNet's older names, no counters, half precision, other classes: all at once."""
    own = torchvision.models.densenet121(num_classes=3).state_dict()
    state = {
        "module." + re.sub(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.", key): value.half()
        for key, value in own.items()
        if "num_batches" not in key
    }
    assert "module.features.denseblock1.denselayer1.norm.1.weight" in state
    network = load_network(backbone="densenet121", weights=saved(state, tmp_path / "w.safetensors"))
    assert capsys.readouterr().err.endswith("w.safetensors: the prefix 'module.' of all keys is left out\n")
    for key, value in network.model.network.state_dict().items():
        assert "num_batches" in key or torch.equal(value, own[key].half().float()), key
    assert network.class_names == ["class 0", "class 1", "class 2"] and network.image_size == 224


def test_side_heads_are_left_out(tmp_path):
    own = torchvision.models.googlenet(aux_logits=True, transform_input=True, init_weights=False).eval()
    state = {f"_orig_mod.{key}": value for key, value in own.state_dict().items()}
    network = load_network(backbone="googlenet", weights=str(saved(state, tmp_path / "w.safetensors")))
    with torch.inference_mode():
        features = WithFeatures(own, FAMILIES["googlenet"], IMAGENET)(images()).features
        assert torch.equal(network.model(images()).features, features) and features.std() > 0
    assert len(network.class_names) == 1000 and network.class_names[1] == "goldfish"


def test_weights_as_torchvision_offers_them(tmp_path, monkeypatch):
    own, name = torchvision.models.shufflenet_v2_x0_5().eval(), "shufflenet_v2_x0_5"
    torch.save(own.state_dict(), tmp_path / "saved.pth")
    digest = hashlib.sha256((tmp_path / "saved.pth").read_bytes()).hexdigest()
    file = (tmp_path / "saved.pth").rename(tmp_path / f"{name}-{digest[:8]}.pth")
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=file.as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    network = load_network(backbone=name)
    with torch.inference_mode():
        torch.testing.assert_close(network.model(images()).logits, own(images()))
    message = rf"the weights of {name} could not be downloaded .* as a safetensors file"
    [kept] = (tmp_path / "hub").rglob("*.pth")
    kept.write_bytes(kept.read_bytes()[:5000])  # cut off since
    with pytest.raises(OSError, match=message):
        load_network(backbone=name)
    kept.unlink()
    file.write_bytes(file.read_bytes()[:-1] + b"x")  # not what was promised
    with pytest.raises(OSError, match=message):
        load_network(backbone=name)
    file.unlink()
    with pytest.raises(OSError, match=message):
        load_network(backbone=name)


# What is refused.


def test_a_checkpoint_or_a_backbone():
    with pytest.raises(ValueError, match="one of the two"):
        load_network("a", "resnet18")


@pytest.mark.parametrize(
    "name, meant", [("resnet81", r" \(did you mean 'resnet\d+'\?\)"), ("fcn", ""), ("vit_b_16", ""), ("vgg16", "")]
)
def test_a_network_without_a_map(name, meant):
    """Nothing is downloaded; the message names the ways round."""
    ways = r"choose one of densenet…, .*, or make .*: locate\.view_of .*, python -m wsol_utils evaluate takes a folder"
    with pytest.raises(ValueError, match=f"unknown backbone '{name}'{meant}: .* with a class activation map; {ways}"):
        load_network(backbone=name)


def test_files_that_are_no_such_network(ours, tmp_path):
    other = saved(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors holds the weights of another network than resnet18"):
        load_network(backbone="resnet18", weights=other)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist: notebook 02 writes"):
        load_network(tmp_path / "none.safetensors")
    state = torchvision.models.resnet18(num_classes=2).state_dict()
    state["layer1.0.bn1.running_var"][3] = float("inf")
    with pytest.raises(ValueError, match=r"w\.safetensors: 'layer1\.0\.bn1\.running_var' holds NaN or infinity"):
        load_network(backbone="resnet18", weights=saved(state, tmp_path / "w.safetensors"))
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    state["head.bias"][1] = float("nan")
    models.write(state, tmp_path / "wgap.safetensors", {"network": json.dumps(ABOUT)})
    with pytest.raises(ValueError, match=r"wgap\.safetensors: 'head\.bias' holds NaN or infinity"):
        load_network(tmp_path / "wgap.safetensors")
