"""Backbones, poolings and heads: shapes, the CAM identity, and weights files good and bad."""

import argparse
import dataclasses
import hashlib
import io
import pickle
import re
import shlex

import numpy as np
import pytest
import torch
import torchvision
from layouts_on_disk import Trap
from safetensors.torch import load_file, save_file
from torch import nn

from wsol_utils import cam, models, networks, pooling, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def squeezenet():
    """Torchvision's own, with random weights."""
    torch.manual_seed(5)
    return torchvision.models.squeezenet1_1().eval()


@pytest.fixture(scope="module")
def weights_file(squeezenet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    save_file(squeezenet.state_dict(), path)
    return path


def pictures(n, side, seed=0):
    return torch.randn((n, 3, side, side), generator=torch.Generator().manual_seed(seed))


def small(classes=4, pool="gap", seed=0):
    torch.manual_seed(seed)
    return models.build("small_vgg", classes, pool)


# Networks.


@pytest.mark.parametrize(
    "backbone, side, channels, cells",
    [
        ("vgg16", 64, 512, 4),  # pool5 is dropped: with it there would be 2 cells
        ("vgg16_conv6", 64, 1024, 4),
        ("squeezenet1_1", 224, 512, 13),
        ("resnet50", 64, 2048, 2),
        ("small_vgg", 96, 128, 12),
    ],
)
def test_every_backbone(backbone, side, channels, cells, tmp_path):
    """Shapes; and its convolutions are weights to start from, but for conv6, which is always new."""
    first, path = models.build(backbone, 5, "wgap").eval(), tmp_path / "backbone.safetensors"
    with torch.inference_mode():
        logits, features, _ = first(pictures(2, side))
    assert logits.shape == (2, 5) and features.shape == (2, channels, cells, cells)
    assert first.class_weights.shape == (5, channels)
    assert features.min() >= 0 and features.max() > 0  # after a ReLU, as Eqs. 2 and 3 take them
    torch.testing.assert_close(logits, first.pool(features) @ first.class_weights.T + first.head.bias)

    models.save_backbone(first, backbone, path, "things")
    assert models.read_metadata(path) == {"trained_on": "things"}
    assert all(key.startswith(models.BACKBONES[backbone].prefixes) for key in load_file(path))
    second = models.build(backbone, 10, "gap", path)
    assert len(second.class_weights) == 10
    for (key, a), (_, b) in zip(first.backbone.state_dict().items(), second.backbone.state_dict().items(), strict=True):
        assert torch.equal(a, b) != key.startswith("conv6.weight"), key


def test_what_is_new_is_as_the_reference_code_bases_have_it():
    model = models.build("vgg16_conv6", 400, "gap")
    head, conv6 = model.head, model.backbone.conv6
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02) and head.weight.mean().abs() < 3e-4
    assert conv6.weight.std().item() == pytest.approx((2 / (1024 * 9)) ** 0.5, rel=0.01)  # fan-out: 1024 maps of 3×3
    assert not head.bias.any() and not conv6.bias.any()
    new = {name for name, p in model.named_parameters() if any(p is q for q in model.new_parameters())}
    assert new == {"head.weight", "head.bias", "backbone.conv6.weight", "backbone.conv6.bias"}


def test_pooling_by_name_or_module():
    hot = pooling.WeightedGlobalAveragePool(temperature=0.5)
    assert small(pool=hot).pool is hot
    assert small(pool="wgap").pool.divide_by_area and not small(pool="wgap_sum").pool.divide_by_area


def test_with_gap_the_mean_of_the_map_and_the_bias_are_the_logit():
    model = small(classes=4).eval()
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.head.bias)
    with torch.inference_mode():
        logits, features, _ = model(pictures(3, 96))
        for k in range(4):
            weights = model.class_weights[k].expand(3, -1)
            maps = cam.activation_map(features, weights, "signed")  # (3, 12, 12)
            torch.testing.assert_close(maps.mean(dim=(1, 2)) + model.head.bias[k], logits[:, k])
            absolute = cam.activation_map(features, weights, "absolute").mean(dim=(1, 2)) + model.head.bias[k]
            assert (absolute > logits[:, k] + 0.01).all()


@pytest.mark.parametrize("backbone, channels", [("squeezenet1_1", 512), ("resnet50", 2048)])
def test_as_it_stands_a_network_classifies_as_torchvisions_does(backbone, channels):
    torch.manual_seed(3)
    network = getattr(torchvision.models, backbone)().eval()
    torch.manual_seed(3)
    model = models.build_as_it_stands(backbone).eval()
    with torch.inference_mode():
        expected = network(pictures(2, 96))
        logits, features, _ = model(pictures(2, 96))
    torch.testing.assert_close(logits, expected)
    assert model.class_weights.shape == (1000, channels) and features.shape[1] == channels
    assert (expected == 0).any() == (backbone == "squeezenet1_1")  # its ReLU before the pooling cuts classes off


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: models.build_as_it_stands("vgg16"), r"vgg16.*without a train split choose one of squeezenet1_1, res"),
        (lambda: models.build_as_it_stands("small_vgg"), r"small_vgg.*without a train split choose one of squeezenet"),
        (lambda: models.build_as_it_stands("vgg61"), r"unknown backbone 'vgg61'.*vgg16, vgg16_conv6, squeezenet1_1"),
        (lambda: models.build("vgg61", 3, "gap"), r"unknown backbone 'vgg61'.*vgg16, vgg16_conv6, squeezenet1_1"),
        (lambda: models.build("small_vgg", 3, "max"), r"unknown pooling 'max'.*gap, wgap, wgap_sum, tap"),
        (lambda: models.build("small_vgg", 3, "gap", "imagenet"), "small_vgg has no ImageNet weights"),
    ],
)
def test_what_there_is_not(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Weights.


@pytest.mark.fault(
    "torchvision's weights hold a pickled object, or differ from their checksum", "refused: it is not run"
)
@pytest.mark.parametrize("content", ["weights", "weights, in the older format", "a trap", "other bytes"])
def test_imagenet_weights_are_checked_and_not_unpickled(tmp_path, monkeypatch, squeezenet, content):
    """torchvision's own download, from a file that lies where it would put it; its name bears the checksum."""
    sprung, saved = tmp_path / "sprung", io.BytesIO()
    torch.save(
        squeezenet.state_dict() | ({"trap": Trap(sprung)} if content == "a trap" else {}), saved,
        _use_new_zipfile_serialization=content != "weights, in the older format",
    )  # fmt: skip
    digest = hashlib.sha256(saved.getvalue()).hexdigest()
    served = tmp_path / f"squeezenet1_1-{digest[:8]}.pth"
    served.write_bytes(saved.getvalue() + (b"one more" if content == "other bytes" else b""))
    weights = torchvision.models.get_model_weights("squeezenet1_1")["IMAGENET1K_V1"]
    monkeypatch.setattr(weights, "_value_", dataclasses.replace(weights.value, url=served.as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    if content.startswith("weights"):
        built = models.build("squeezenet1_1", 3, "gap", "imagenet")
        whole = models.build_as_it_stands("squeezenet1_1", "imagenet")
        assert torch.equal(built.backbone[0].weight, squeezenet.features[0].weight)
        assert torch.equal(whole.class_weights, squeezenet.classifier[1].weight.flatten(1))
    else:
        with pytest.raises((RuntimeError, pickle.UnpicklingError), match=r"invalid hash|Weights only load failed"):
            models.build("squeezenet1_1", 3, "gap", "imagenet")
    assert not sprung.exists()


def test_every_torchvision_backbone_has_imagenet_weights():
    for name, backbone in models.BACKBONES.items():
        if name != "small_vgg" and backbone.published is None:
            assert "IMAGENET1K_V1" in torchvision.models.get_model_weights(backbone.build).__members__


def test_a_new_head_needs_the_features_alone(squeezenet, weights_file, tmp_path):
    own, path = squeezenet.state_dict(), tmp_path / "x.safetensors"
    alone = {key: value for key, value in own.items() if key.startswith("features.")}
    for state in (own, alone, own | {"classifier.1.weight": torch.zeros(7, 512, 1, 1)}):
        save_file(state, path)
        model = models.build("squeezenet1_1", 3, "gap", str(path))
        assert all(torch.equal(value, own[f"features.{key}"]) for key, value in model.backbone.state_dict().items())
        if state is not own:
            with pytest.raises(ValueError, match=r"x\.safetensors.*'classifier\.1\.weight'"):
                models.build_as_it_stands("squeezenet1_1", path)
    whole = models.build_as_it_stands("squeezenet1_1", weights_file)
    assert torch.equal(whole.class_weights, squeezenet.classifier[1].weight[:, :, 0, 0])


@pytest.mark.parametrize(
    "backbone, other, message",
    [
        ("small_vgg", {}, "than small_vgg: .*change BACKBONE"),
        ("squeezenet1_1", {"features.13.bias": torch.zeros(3)}, r"'features\.13\.bias'.*1 such tensors"),
        ("squeezenet1_1", {"features.0.weight": torch.zeros(96, 3, 7, 7)}, r"'features\.0\.weight'.*another shape"),
        ("squeezenet1_1", {"features.0.bias": torch.zeros(64).int()}, r"'features\.0\.bias'"),
    ],
)
def test_weights_of_another_network(squeezenet, tmp_path, backbone, other, message):
    save_file(squeezenet.state_dict() | other, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"x\.safetensors holds the weights of another network.*{message}"):
        models.build(backbone, 3, "gap", tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", ["half", "empty", "text", "the start of a pickle"])
def test_a_file_that_is_cut_off_or_no_safetensors(weights_file, tmp_path, content):
    """A safetensors file may start as a pickle does, with the length of its header."""
    half = weights_file.read_bytes()[:100_000]
    bad = {"half": half, "empty": b"", "text": b"<html>404 Not Found</html>" * 20}.get(content, b"\x80\x02" + half[2:])
    (tmp_path / "bad.safetensors").write_bytes(bad)
    for read in (lambda path: models.build("squeezenet1_1", 3, "gap", path), models.read_metadata):
        with pytest.raises(ValueError, match=r"bad\.safetensors is not a whole safetensors file .*: copy it again"):
            read(tmp_path / "bad.safetensors")


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(f"{path} does not exist; give a safetensors state dict")):
            models.build("squeezenet1_1", 3, "gap", path)


def test_wrappers_prefixes_are_left_out_and_that_is_said(squeezenet, tmp_path, capsys):
    own, path = squeezenet.state_dict(), tmp_path / "wrapped.safetensors"
    for prefix in ("module.", "module._orig_mod."):
        save_file({prefix + key: value for key, value in own.items()}, path)
        whole = models.build_as_it_stands("squeezenet1_1", path)
        assert torch.equal(whole.class_weights, squeezenet.classifier[1].weight.flatten(1))
        assert capsys.readouterr().err == f"{path}: the prefix {prefix!r} of all keys is left out\n"
        with pytest.raises(ValueError, match="another network than resnet50"):
            models.build("resnet50", 3, "gap", path)
    save_file({key.replace("features.", "module.features."): value for key, value in own.items()}, path)
    with pytest.raises(ValueError, match="holds the weights of another network"):  # it is not before all of them
        models.build_as_it_stands("squeezenet1_1", path)
    assert capsys.readouterr() == ("", "")


def test_counters_of_batches_need_not_be_there(tmp_path):
    """As torch has it: weights from before version 0.4.1 have none."""
    saved = {f"features.{key}": value for key, value in small(seed=3).backbone.state_dict().items()}
    save_file({key: value for key, value in saved.items() if not key.endswith("num_batches_tracked")}, tmp_path / "x")
    model = models.build("small_vgg", 3, "gap", tmp_path / "x")
    assert all(torch.equal(value, saved[f"features.{key}"]) for key, value in model.backbone.state_dict().items())
    save_file({key: value for key, value in saved.items() if not key.endswith("running_mean")}, tmp_path / "x")
    with pytest.raises(ValueError, match=r"'features\.1\.running_mean' is missing.*6 such tensors"):
        models.build("small_vgg", 3, "gap", tmp_path / "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision(dtype, tmp_path):
    saved = {f"features.{key}": value.to(dtype) for key, value in small(seed=3).backbone.state_dict().items()}
    save_file(saved, tmp_path / "x.safetensors")  # the counters of batches, too
    for key, value in models.build("small_vgg", 3, "gap", tmp_path / "x.safetensors").backbone.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64) and torch.equal(value.to(dtype), saved[f"features.{key}"])


@pytest.mark.fault("weights that hold NaN or infinity", "file and tensor are named, before anything is computed")
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 1e300])  # the last is too much for float32
def test_weights_that_are_not_finite(tmp_path, wrong):
    path, state = tmp_path / "x.safetensors", small().double().state_dict()
    state["head.bias"][1] = wrong
    save_file(state, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: 'head\.bias' holds NaN or infinity: give weights"):
        models.load_into(small(), path)
    body = {key.replace("backbone", "features"): value for key, value in state.items() if "head" not in key}
    save_file(body, path)
    models.build("small_vgg", 3, "gap", path)  # without the head all is well
    body["features.1.running_var"][1] = wrong
    save_file(body, path)
    with pytest.raises(ValueError, match=r"x\.safetensors: 'features\.1\.running_var' holds NaN or infinity"):
        models.build("small_vgg", 3, "gap", path)


# Pickles.


def pickled(path, content, new=True):
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return path


@pytest.mark.fault("weights in a PyTorch pickle, whatever its name", "not read; the command that converts it is named")
@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_is_named_with_the_way_to_convert_it(tmp_path, new):
    path = pickled(tmp_path / "my net.pth", small().state_dict(), new)
    out = tmp_path / "my net.safetensors"
    command = f"convert {shlex.quote(str(path))} {shlex.quote(str(out))}, and give the new file"
    for read in (
        lambda: models.build("small_vgg", 3, "gap", path),
        lambda: models.load_into(small(), path),
        lambda: models.read_metadata(path),
        lambda: networks.load_network(path),
        lambda: networks.load_network(backbone="squeezenet1_1", weights=path),
    ):
        with pytest.raises(ValueError, match="is a PyTorch pickle, .*" + re.escape(command)):
            read()


@pytest.mark.parametrize("new", [True, False])
def test_what_is_converted(tmp_path, new):
    """A state dict, alone or under some key; tensors that share memory or lie otherwise are written as all others."""
    state = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "h": torch.ones(2).half()}
    state |= {"tied": state["a"], "turned": state["a"].T, "part": state["a"][1], "p": nn.Parameter(torch.zeros(2))}
    for content, key in (
        (state, ""),
        ({"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}, "state_dict"),
        ({"ema": {"a": torch.zeros(1)}, "model": state}, "model"),
        ({"net_g": state, "arch": "x", "args": argparse.Namespace(lr=0.1)}, "net_g"),
    ):
        found, tensors = weights.unpickle(pickled(tmp_path / "x.bin", content, new))
        assert found == key and list(tensors) == list(state)
        models.write(tensors, tmp_path / "x.safetensors", {})
        read = load_file(tmp_path / "x.safetensors")
        assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items())


NOT_CONVERTED = {
    "a list": ([torch.zeros(1)], "holds no state dict, or several; its keys are none"),
    "other things": ({"epoch": 3, "opt": {"lr": 0.1}}, r"or several; its keys are 'epoch' \(int\), 'opt' \(dict\)"),
    "two": ({"g": {"a": torch.zeros(1)}, "d": {"a": torch.zeros(1)}}, r"or several; .* 'g' \(dict\), 'd' \(dict\)"),
    "a network": (nn.Sequential(), r"\(holds torch\.nn\.modules\.container\.Sequential, which is no tensor\)"),
    "an array": ({"a": np.zeros(1)}, r"\(holds numpy\S+, which is no tensor\)"),
    "bytes": (b"PK\x03\x04 and more", r"cannot be read \(\S"),
    "another pickle": (pickle.dumps({"a": 1}, protocol=4), r"cannot be read \(\S"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NOT_CONVERTED)
def test_what_is_not_converted(tmp_path, name):
    (content, message), path = NOT_CONVERTED[name], tmp_path / "x.pth"
    for new in (True, False):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pickled(path, content, new)
        with pytest.raises(ValueError, match=rf"x\.pth .*{message}") as caught:
            weights.unpickle(path)
        assert "\n" not in str(caught.value) and str(caught.value).endswith("alone, torch.save(model.state_dict(), …)")


def test_a_pickle_that_is_cut_off_or_none(tmp_path):
    for new in (True, False):
        whole = pickled(tmp_path / "x.pth", small().state_dict(), new).read_bytes()
        (tmp_path / "x.pth").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"x\.pth cannot be read \(.*: copy it again from where it came"):
            weights.unpickle(tmp_path / "x.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is no PyTorch pickle: nothing is converted"):
        weights.unpickle(tmp_path / "x.pth")


# Files of our own.


def test_save_and_load_into(tmp_path):
    model, other = small(seed=1), small(seed=2)
    path = tmp_path / "deep" / "four.safetensors"
    models.save(model, path, {"history": "[1, 2]", "identity": "x"})
    assert models.read_metadata(path) == {"history": "[1, 2]", "identity": "x"}
    assert [p.name for p in path.parent.iterdir()] == ["four.safetensors"]
    assert models.load_into(other, path) is other
    for (key, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), key
    with pytest.raises(ValueError, match=r"four\.safetensors.*'head\.weight'"):
        models.load_into(small(classes=5), path)
