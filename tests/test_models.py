"""Backbones, poolings and heads: shapes, the CAM identity, and weights files good and bad."""

import argparse
import dataclasses
import hashlib
import io
import pickle
import re
import shlex
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision
from layouts_on_disk import Trap
from safetensors.torch import load_file, save_file
from safetensors.torch import save as as_bytes
from torch import nn

from wsol_utils import cam, checkpoints, files, models, networks, pooling, weights

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


# Shapes.


@pytest.mark.parametrize(
    "backbone, side, channels, cells",
    [
        ("vgg16", 224, 512, 14),
        ("vgg16_conv6", 64, 1024, 4),
        ("squeezenet1_1", 224, 512, 13),
        ("resnet50", 64, 2048, 2),
        ("small_vgg", 96, 128, 12),
    ],
)  # pool5 of VGG-16 is dropped: with it there would be 7 cells
def test_shapes(backbone, side, channels, cells):
    model = models.build(backbone, 5, "wgap").eval()
    with torch.inference_mode():
        logits, features, _ = model(pictures(2, side))
    assert logits.shape == (2, 5)
    assert features.shape == (2, channels, cells, cells)
    assert model.class_weights.shape == (5, channels)
    assert features.min() >= 0 and features.max() > 0  # after a ReLU, as Eqs. 2 and 3 take them


def test_new_head_is_as_the_reference_code_bases_have_it():
    head = small(classes=400).head
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)  # 51,200 numbers: deviation 0.3 %
    assert head.weight.mean().abs() < 3e-4
    assert not head.bias.any()


def test_conv6_is_new_he_initialised_and_learns_with_the_head():
    model = models.build("vgg16_conv6", 5, "gap")
    conv6 = model.backbone.conv6
    assert conv6.weight.std().item() == pytest.approx((2 / (1024 * 9)) ** 0.5, rel=0.01)  # fan-out: 1024 maps of 3×3
    assert not conv6.bias.any()
    new = {name for name, p in model.named_parameters() if any(p is q for q in model.new_parameters())}
    assert new == {"head.weight", "head.bias", "backbone.conv6.weight", "backbone.conv6.bias"}
    assert [name for name, _ in models.build("vgg16", 5, "gap").head.named_parameters()] == ["weight", "bias"]


def test_logits_are_the_head_on_the_pooled_features():
    images = pictures(3, 32)
    for pool in ("gap", "wgap", "wgap_sum", "tap"):
        model = small(pool=pool).eval()
        logits, features, _ = model(images)
        pooled = pooling.build(pool)(features)
        torch.testing.assert_close(logits, pooled @ model.class_weights.T + model.head.bias)


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


# The networks as they stand.


def test_squeezenet_as_it_stands_classifies_as_torchvision_does(squeezenet, weights_file):
    model = models.build_as_it_stands("squeezenet1_1", weights_file).eval()
    with torch.inference_mode():
        expected = squeezenet(pictures(2, 96))
        logits, features, _ = model(pictures(2, 96))
    torch.testing.assert_close(logits, expected)
    assert (expected == 0).any() and (expected > 0).any()  # the ReLU before the pooling cuts some classes off
    assert model.class_weights.shape == (1000, 512)
    assert torch.equal(model.class_weights, squeezenet.classifier[1].weight[:, :, 0, 0])
    assert features.shape[1] == 512


def test_resnet_as_it_stands_classifies_as_torchvision_does():
    torch.manual_seed(3)
    network = torchvision.models.resnet50().eval()
    torch.manual_seed(3)
    model = models.build_as_it_stands("resnet50").eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(pictures(2, 64)).logits, network(pictures(2, 64)))
    assert model.class_weights.shape == (1000, 2048)


@pytest.mark.parametrize("backbone", ["vgg16", "small_vgg"])
def test_a_network_without_a_map_of_its_own_is_refused(backbone):
    with pytest.raises(ValueError, match=rf"{backbone}.*without a train split choose one of squeezenet1_1, resnet50"):
        models.build_as_it_stands(backbone)


# Names.


@pytest.mark.parametrize("make", [lambda: models.build("vgg61", 3, "gap"), lambda: models.build_as_it_stands("vgg61")])
def test_unknown_backbone(make):
    with pytest.raises(
        ValueError, match=r"unknown backbone 'vgg61'.*vgg16, vgg16_conv6, squeezenet1_1, resnet50, small_vgg"
    ):
        make()


def test_unknown_pooling():
    with pytest.raises(ValueError, match=r"unknown pooling 'max'.*gap, wgap, wgap_sum, tap"):
        models.build("small_vgg", 3, "max")


# Weights.


@pytest.mark.fault(
    "torchvision's weights hold a pickled object, or differ from their checksum", "refused: it is not run"
)
@pytest.mark.parametrize("content", ["weights", "weights, in the older format", "a trap", "other bytes"])
def test_imagenet_weights_are_checked_and_not_unpickled(tmp_path, monkeypatch, content):
    """torchvision's own download, from a file that lies where it would put it; its name bears the checksum."""
    network = torchvision.models.squeezenet1_1()
    sprung, saved = tmp_path / "sprung", io.BytesIO()
    torch.save(
        network.state_dict() | ({"trap": Trap(sprung)} if content == "a trap" else {}), saved,
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
        assert torch.equal(built.backbone[0].weight, network.features[0].weight)
        assert torch.equal(whole.class_weights, network.classifier[1].weight.flatten(1))
    else:
        with pytest.raises((RuntimeError, pickle.UnpicklingError), match=r"invalid hash|Weights only load failed"):
            models.build("squeezenet1_1", 3, "gap", "imagenet")
    assert not sprung.exists()


def test_every_torchvision_backbone_has_imagenet_weights():
    for name in set(models.BACKBONES) - {"small_vgg"}:
        assert "IMAGENET1K_V1" in torchvision.models.get_model_weights(models.BACKBONES[name].build).__members__


def test_small_vgg_has_no_imagenet_weights():
    with pytest.raises(ValueError, match="small_vgg has no ImageNet weights"):
        models.build("small_vgg", 3, "gap", "imagenet")


def test_whole_file_and_features_alone(squeezenet, weights_file, tmp_path):
    alone = tmp_path / "features.safetensors"
    save_file({k: v for k, v in squeezenet.state_dict().items() if k.startswith("features.")}, alone)
    for path in (weights_file, str(weights_file), alone):
        model = models.build("squeezenet1_1", 3, "gap", path)
        for key, value in model.backbone.state_dict().items():
            assert torch.equal(value, squeezenet.state_dict()[f"features.{key}"]), key
    assert not torch.equal(models.build("squeezenet1_1", 3, "gap").backbone[0].weight, squeezenet.features[0].weight)
    with pytest.raises(ValueError, match=r"features\.safetensors.*'classifier\.1\.weight'"):  # its own head is needed
        models.build_as_it_stands("squeezenet1_1", alone)


def test_a_classifier_of_other_classes_does_not_matter_for_a_new_head(squeezenet, tmp_path):
    state = squeezenet.state_dict() | {"classifier.1.weight": torch.zeros(7, 512, 1, 1)}
    save_file(state, tmp_path / "seven.safetensors")
    model = models.build("squeezenet1_1", 3, "gap", tmp_path / "seven.safetensors")
    assert torch.equal(model.backbone[0].weight, squeezenet.features[0].weight)
    with pytest.raises(ValueError, match=r"seven\.safetensors.*'classifier\.1\.weight'"):
        models.build_as_it_stands("squeezenet1_1", tmp_path / "seven.safetensors")


def test_weights_of_another_network(weights_file):
    with pytest.raises(ValueError, match=r"squeezenet\.safetensors.*another network than small_vgg.*change BACKBONE"):
        models.build("small_vgg", 3, "gap", weights_file)


def test_a_key_too_many_is_another_network(squeezenet, tmp_path):
    save_file(squeezenet.state_dict() | {"features.13.bias": torch.zeros(3)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=r"more\.safetensors.*'features\.13\.bias'.*1 such tensors"):
        models.build("squeezenet1_1", 3, "gap", tmp_path / "more.safetensors")


def test_a_tensor_of_another_shape(squeezenet, tmp_path):
    save_file(squeezenet.state_dict() | {"features.0.weight": torch.zeros(96, 3, 7, 7)}, tmp_path / "v10.safetensors")
    with pytest.raises(ValueError, match=r"v10\.safetensors.*'features\.0\.weight' is missing, of another shape"):
        models.build("squeezenet1_1", 3, "gap", tmp_path / "v10.safetensors")


@pytest.mark.parametrize("content", ["half", "empty", "text"])
def test_a_file_that_is_cut_off_or_no_safetensors(weights_file, tmp_path, content):
    whole = weights_file.read_bytes()
    bad = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404 Not Found</html>" * 20}[content]
    (tmp_path / "bad.safetensors").write_bytes(bad)
    with pytest.raises(ValueError, match=r"bad\.safetensors is not a whole safetensors file .*: copy it again from"):
        models.build("squeezenet1_1", 3, "gap", tmp_path / "bad.safetensors")


def test_a_missing_file(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(f"{path} does not exist; give a safetensors state dict")):
            models.build("squeezenet1_1", 3, "gap", path)


def test_wrappers_prefixes_are_left_out_and_that_is_said(squeezenet, tmp_path, capsys):
    own, path = squeezenet.state_dict(), tmp_path / "wrapped.safetensors"
    for prefix in ("module.", "_orig_mod.", "model.", "module._orig_mod.", "ema.net."):
        save_file({prefix + key: value for key, value in own.items()}, path)
        whole = models.build_as_it_stands("squeezenet1_1", path)
        assert torch.equal(whole.class_weights, squeezenet.classifier[1].weight.flatten(1))
        alone = models.build("squeezenet1_1", 3, "gap", path)
        assert torch.equal(alone.backbone[0].weight, squeezenet.features[0].weight)
        assert capsys.readouterr().err == 2 * f"{path}: the prefix {prefix!r} of all keys is left out\n"
    save_file({key.replace("features.", "module.features."): value for key, value in own.items()}, path)
    with pytest.raises(ValueError, match="holds the weights of another network"):  # it is not before all of them
        models.build_as_it_stands("squeezenet1_1", path)
    save_file({f"module.{key}": value for key, value in own.items()}, path)
    with pytest.raises(ValueError, match="another network than resnet50"):
        models.build("resnet50", 3, "gap", path)
    save_file({key: value for key, value in own.items() if key.startswith("features.")}, path)
    models.build("squeezenet1_1", 3, "gap", path)
    assert capsys.readouterr() == ("", "")


def test_counters_of_batches_need_not_be_there(tmp_path):
    """As torch has it: weights from before version 0.4.1 have none."""
    saved, path = (
        {f"features.{key}": value for key, value in small(seed=3).backbone.state_dict().items()},
        tmp_path / "x",
    )
    save_file({key: value for key, value in saved.items() if not key.endswith("num_batches_tracked")}, path)
    model = models.build("small_vgg", 3, "gap", path)
    assert all(torch.equal(value, saved[f"features.{key}"]) for key, value in model.backbone.state_dict().items())
    save_file({key: value for key, value in saved.items() if not key.endswith("running_mean")}, path)
    with pytest.raises(ValueError, match=r"'features\.1\.running_mean' is missing.*6 such tensors"):
        models.build("small_vgg", 3, "gap", path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision(dtype, tmp_path):
    saved = {f"features.{key}": value.to(dtype) for key, value in small(seed=3).backbone.state_dict().items()}
    save_file(saved, tmp_path / "x.safetensors")  # the counters of batches, too
    for key, value in models.build("small_vgg", 3, "gap", tmp_path / "x.safetensors").backbone.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64) and torch.equal(value.to(dtype), saved[f"features.{key}"])


@pytest.mark.fault("weights that hold NaN or infinity", "file and tensor are named, before anything is computed")
@pytest.mark.parametrize(
    "wrong", [torch.tensor(float("nan")), torch.tensor(float("inf")), torch.tensor(1e300).double()]
)
def test_weights_that_are_not_finite(squeezenet, tmp_path, wrong):
    state = {key: value.clone().to(wrong.dtype) for key, value in squeezenet.state_dict().items()}
    for key in ("classifier.1.bias", "features.3.squeeze.bias"):
        state[key][1] = wrong if wrong.dtype == torch.float32 else 1e300  # too much for float32
    save_file(state, tmp_path / "x.safetensors")
    for make in (models.build_as_it_stands, lambda name, path: models.build(name, 3, "gap", path)):
        with pytest.raises(ValueError, match=r"x\.safetensors: '\S*features\.3\.squeeze\.bias' holds NaN or infinity"):
            make("squeezenet1_1", tmp_path / "x.safetensors")
    state["features.3.squeeze.bias"][1] = 0
    save_file(state, tmp_path / "x.safetensors")
    models.build("squeezenet1_1", 3, "gap", tmp_path / "x.safetensors")  # without its classifier, all is well


# Pickles.


def pickled(path, content, new=True):
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return path


@pytest.mark.fault("weights in a PyTorch pickle, whatever its name", "not read; the command that converts it is named")
@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_is_named_with_the_way_to_convert_it(tmp_path, new):
    for name, out in (("my net.pth", "my net.safetensors"), ("x.safetensors", "x_converted.safetensors")):
        path = pickled(tmp_path / name, small().state_dict(), new)
        command = f"convert {shlex.quote(str(path))} {shlex.quote(str(tmp_path / out))}, and give the new file"
        for read in (
            lambda path: models.build("small_vgg", 3, "gap", path),
            lambda path: models.load_into(small(), path),
            models.read_metadata,
            lambda path: networks.load_network(path),
            lambda path: networks.load_network(backbone="squeezenet1_1", weights=path),
            lambda path: checkpoints.finished(path, "a run", small()),  # which else would be written anew
        ):
            with pytest.raises(ValueError, match="is a PyTorch pickle, .*" + re.escape(command)) as caught:
                read(path)
            assert not re.search("delete|make it again|run again", str(caught.value))


@pytest.mark.parametrize("new", [True, False])
def test_what_is_converted(tmp_path, new):
    """A state dict, alone or under some key; tensors that share memory or lie otherwise are written as all others."""
    state = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3), "h": torch.ones(2).half()}
    state |= {"tied": state["a"], "turned": state["a"].T, "part": state["a"][1], "p": nn.Parameter(torch.zeros(2))}
    for content, key in (
        (state, ""),
        (OrderedDict(state), ""),
        ({"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}, "state_dict"),
        ({"ema": {"a": torch.zeros(1)}, "model": state}, "model"),
        ({"net_g": state, "arch": "x"}, "net_g"),
        ({"model": state, "best": np.float64(71.5), "args": argparse.Namespace(lr=0.1)}, "model"),
    ):
        found, tensors = weights.unpickle(pickled(tmp_path / "x.bin", content, new))
        assert found == key and list(tensors) == list(state)
        models.write(tensors, tmp_path / "x.safetensors", {})
        read = load_file(tmp_path / "x.safetensors")
        assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items())


NO_STATE_DICT = {
    "a list": ([torch.zeros(1)], "holds a list and no state dict"),
    "other things": (
        {"epoch": 3, "opt": {"lr": 0.1}}, r"no state dict of tensors, .*; its keys are 'epoch' \(int\), 'opt' \(dict\)"
    ),
    "nothing": ({}, "its keys are none"),
    "two": ({"g": {"a": torch.zeros(1)}, "d": {"a": torch.zeros(1)}}, r"several .* 'g' \(dict\), 'd' \(dict\)"),
    "a sparse tensor": ({"a": torch.eye(2).to_sparse()}, r"'a' \(Tensor\)"),
    "a network": (nn.Sequential(), r"holds torch\.nn\.modules\.container\.Sequential, which is no tensor"),
    "an array": ({"a": np.zeros(1)}, r"holds numpy\S+, which is no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_STATE_DICT)
def test_what_is_not_converted(tmp_path, name):
    content, message = NO_STATE_DICT[name]
    for new in (True, False):
        with pytest.raises(ValueError, match=rf"x\.pth holds .*{message.removeprefix('holds ')}") as caught:
            weights.unpickle(pickled(tmp_path / "x.pth", content, new))
        assert "\n" not in str(caught.value) and str(caught.value).endswith("alone, torch.save(model.state_dict(), …)")


@pytest.mark.filterwarnings("error")
def test_files_that_are_no_pickle_of_weights(tmp_path, squeezenet):
    whole = pickled(tmp_path / "x.pth", squeezenet.state_dict()).read_bytes()
    old = pickled(tmp_path / "x.pth", squeezenet.state_dict(), False).read_bytes()
    other = pickle.dumps({"a": 1}, protocol=4)
    for data in (whole[: len(whole) // 2], old[: len(old) // 2], b"PK\x03\x04 and more", other):
        (tmp_path / "x.pth").write_bytes(data)
        with pytest.raises(
            ValueError, match=rf"x\.pth (cannot be read|holds what torch does not read) .*{weights.ALONE[:9]}"
        ):
            weights.unpickle(tmp_path / "x.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is no PyTorch pickle: nothing is converted"):
        weights.unpickle(tmp_path / "x.pth")


def test_a_safetensors_file_that_begins_like_a_pickle(tmp_path):
    """Its first bytes are the length of its header."""
    for filling in range(2000):
        data = as_bytes({"a": torch.zeros(1)}, {"x": "y" * filling})
        if data.startswith(b"\x80\x02"):
            break
    (tmp_path / "x").write_bytes(data[:-1])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        weights.read(tmp_path / "x", "x")


# Checkpoints.


def test_save_and_load_into(tmp_path):
    model, other = small(seed=1), small(seed=2)
    path = tmp_path / "deep" / "model.safetensors"
    models.save(model, path, {"history": "[1, 2]", "identity": "x"})
    assert models.read_metadata(path) == {"history": "[1, 2]", "identity": "x"}
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    assert models.load_into(other, path) is other
    for (key, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), key


def test_load_into_another_number_of_classes(tmp_path):
    models.save(small(classes=4), tmp_path / "four.safetensors", {})
    with pytest.raises(ValueError, match=r"four\.safetensors.*'head\.weight'"):
        models.load_into(small(classes=5), tmp_path / "four.safetensors")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    models.save(small(seed=1), path, {"run": "first"})

    def cut_off(temporary):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_to_disk", cut_off)
    with pytest.raises(KeyboardInterrupt):
        models.save(small(seed=2), path, {"run": "second"})
    assert models.read_metadata(path) == {"run": "first"}
    assert torch.equal(load_file(path)["head.weight"], small(seed=1).head.weight)


def test_metadata_of_a_broken_checkpoint_names_it(tmp_path):
    (tmp_path / "wgap.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"wgap\.safetensors is not a whole safetensors file"):
        models.read_metadata(tmp_path / "wgap.safetensors")


@pytest.mark.parametrize("backbone", models.BACKBONES)
def test_convolutions_are_weights_to_start_from(backbone, tmp_path):
    torch.manual_seed(1)
    things, path = models.build(backbone, 12, "gap"), tmp_path / "backbone.safetensors"
    models.save_backbone(things, backbone, path, "things")
    assert models.read_metadata(path) == {"trained_on": "things"}
    assert all(key.startswith(models.BACKBONES[backbone].prefixes) for key in load_file(path))
    birds = models.build(backbone, 10, "wgap", path)
    assert len(birds.class_weights) == 10
    for (key, a), (_, b) in zip(things.backbone.state_dict().items(), birds.backbone.state_dict().items(), strict=True):
        assert torch.equal(a, b) or key.startswith("conv6."), key  # conv6 is always new
