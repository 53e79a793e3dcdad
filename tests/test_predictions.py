"""One pass over a split: what is kept equals the modules' own answers, image by image."""

import os
import shutil
import subprocess
import sys
import textwrap
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from wsol_utils import cam, datasets, extract, files, models, pooling
from wsol_utils.maps.extract import predict
from wsol_utils.maps.predictions import FEATURES, FILES, Predictions, kind, made_from
from wsol_utils.network.method import Output

BOXES = [  # of images of 40×20 pixels: none, one, three, one
    [],
    [(10.0, 5.0, 30.0, 15.0)],
    [(0.0, 0.0, 40.0, 20.0), (0.0, 0.0, 10.0, 10.0), (20.0, 10.0, 40.0, 20.0)],
    [(39.0, 19.0, 40.0, 20.0)],
]
LABELS = [2, 0, 1, 1]
SIZES = np.array([[40, 20], [41, 20], [40, 21], [42, 22]])  # told apart, though all are 40×20: nothing looks at them
GAP = pooling.build("gap")
STRONGEST = ["strongest_positive", "strongest_negative"]
OF_FEATURES = ["signed", "positive", "absolute", "weighted_signed", "weighted_positive", "weighted_absolute"]
BEFORE_RELU = [f"unrectified_{name}" for name in ("signed", "positive", "absolute", "absolute_maps")]
OF_PREDICTED = ["predicted_signed", "predicted_positive", "predicted_absolute"]
KINDS = [*OF_FEATURES[:3], *OF_PREDICTED, *OF_FEATURES[3:], *BEFORE_RELU, *STRONGEST]
WITHOUT_RELU = [name for name in KINDS if name not in BEFORE_RELU]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("split")
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 40, 3), dtype=np.uint8)).save(root / f"{i}.png")
    return datasets.ImageDataset(table_of(4), root, datasets.test_transform(32))


def table_of(n):
    table = pd.DataFrame({"image_id": list("abcd"), "path": [f"{i}.png" for i in range(4)], "label": LABELS})
    return table.assign(boxes=BOXES)[:n]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = models.build("small_vgg", 3, "gap").eval()
    nn.init.normal_(network.head.weight)
    return network


@pytest.fixture(scope="module")
def found(model, split):
    return predict(model, split, SIZES, batch_size=3)


def test_shapes_and_kinds(found):
    assert found.kinds.tolist() == KINDS
    assert found.scaled_maps.shape == (4, 15, 4, 4) and found.scaled_maps.dtype == np.float16
    assert found.scales.shape == (4, 15) and found.logits.shape == (4, 3)
    assert np.abs(found.scaled_maps).max(axis=(2, 3)) == pytest.approx(1)  # divided by the largest magnitude
    assert found.image_id.tolist() == list("abcd")
    assert found.label.tolist() == LABELS
    assert found.size.tolist() == [32, 32] and found.image_size.tolist() == SIZES.tolist()


def softmax_weighted(features):
    """S⊙P at temperature 1, times H·W (P's scale): (B, C, H, W) -> the same."""
    return features * features.flatten(2).softmax(2).view_as(features) * features[0, 0].numel()


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("recombination", cam.RECOMBINATIONS)
def test_maps_are_those_of_the_true_class(model, split, found, recombination, features):
    name = kind(recombination, features)
    for i, label in enumerate(LABELS):
        with torch.inference_mode():
            last = model.backbone[:-1](split[i][0][None])  # what goes into the last ReLU
            made_of = {"plain": last.relu(), "weighted": softmax_weighted(last.relu()), "unrectified": last}[features]
            expected = cam.activation_map(made_of, model.class_weights[[label]], recombination)[0].numpy()
        # float16 keeps 11 bits of each value, of a map whose largest magnitude is 1
        np.testing.assert_allclose(found.maps(name)[i], expected, rtol=0, atol=np.abs(expected).max() * 2**-11)
        assert found.maps(name).dtype == np.float32


@pytest.mark.parametrize("recombination", cam.RECOMBINATIONS)
def test_maps_of_the_predicted_class(model, split, found, recombination):
    right = found.predicted == found.label
    assert 0 < right.sum() < 4  # both are there
    name = kind(recombination)
    for i, guess in enumerate(found.predicted):
        with torch.inference_mode():
            features = model(split[i][0][None]).features
            expected = cam.activation_map(features, model.class_weights[[guess]], recombination)[0].numpy()
        ours = found.maps(f"predicted_{name}")[i]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=np.abs(expected).max() * 2**-11)
        assert np.array_equal(ours, found.maps(name)[i]) == right[i]


def test_logits_and_classes(model, split, found):
    with torch.inference_mode():
        logits = torch.cat([model(split[i][0][None]).logits for i in range(4)]).numpy()
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)
    assert found.predicted.tolist() == logits.argmax(axis=1).tolist()


def test_the_class_is_that_of_the_unrounded_logits(split):
    class Close(nn.Module):  # float16 makes the two logits equal
        backbone = nn.Identity()
        class_weights = torch.ones(3, 1)

        def forward(self, images):
            return Output(torch.tensor([1.0, 1.0001, 0.0]).expand(len(images), 3), images[:, :1].abs())

    close = predict(Close(), split, SIZES)
    assert close.logits[0, 0] == close.logits[0, 1]
    assert close.predicted.tolist() == [1, 1, 1, 1]


def test_boxes_follow_the_image_into_the_input_frame(found):
    none, one, three, corner = found.true_boxes()  # 40×20 -> 32×32: x times 0.8, y times 1.6
    assert none.shape == (0, 4)
    np.testing.assert_allclose(one, [[8, 8, 24, 24]])
    np.testing.assert_allclose(three, [[0, 0, 32, 32], [0, 0, 8, 16], [16, 16, 32, 32]])
    np.testing.assert_allclose(corner, [[31.2, 30.4, 32, 32]], rtol=1e-6)
    assert found.box_image.tolist() == [1, 2, 2, 2, 3]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_batch_size_does_not_matter(model, split, found, batch_size):
    other = predict(model, split, SIZES, batch_size=batch_size)
    for name in ("image_id", "label", "predicted", "box", "box_image", "size", "image_size", "kinds"):
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name), err_msg=name)
    for name in ("scales", "logits", "scaled_maps"):
        np.testing.assert_allclose(getattr(other, name), getattr(found, name), rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("few", [1, 3])
def test_a_cpu_takes_a_few_images_at_a_time(model, split, found, few, monkeypatch):
    taken = []
    hook = model.register_forward_pre_hook(lambda _, inputs: taken.append(len(inputs[0])))
    monkeypatch.setattr(extract, "FEW", few)
    other = predict(model, split, SIZES)
    hook.remove()
    assert taken == {1: [1, 1, 1, 1], 3: [3, 1]}[few]
    for name in ("image_id", "predicted", "box", "kinds"):
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name), err_msg=name)
    for name in ("scales", "logits", "scaled_maps"):
        np.testing.assert_allclose(getattr(other, name), getattr(found, name), rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_network_is_not_trained_by_it(model, split):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    predict(model.train(), split, SIZES)
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["gap", "wgap", "wgap_sum", "tap"])
def test_the_strongest_channel_is_that_of_the_networks_own_score(model, split, name):
    network = models.Localizer(model.backbone, pooling.build(name), model.head)
    found = predict(network, split, SIZES)
    images, labels, _ = datasets.collate([split[i] for i in range(4)])
    with torch.inference_mode():
        logits, features, _ = network(images)
        share = network.class_weights[labels] * network.pool(features)  # (4, C)
    of_label = (share.sum(dim=1) + network.head.bias.detach()[labels]).numpy()
    np.testing.assert_allclose(logits[range(4), labels], of_label, rtol=1e-4, atol=1e-5)  # the shares are all of it
    for kind_, channel in (("strongest_positive", share.argmax(dim=1)), ("strongest_negative", share.argmin(dim=1))):
        expected = features[range(4), channel].numpy()
        np.testing.assert_allclose(found.maps(kind_), expected, atol=expected.max() * 2**-11)


# What a map is made of.


def test_the_features_are_pooled_once(split, model):
    class Counted(pooling.WeightedGlobalAveragePool):
        calls = 0

        def forward(self, features):
            self.calls += 1
            return super().forward(features)

    network = models.Localizer(model.backbone, Counted(), model.head)
    predict(network, split, SIZES, batch_size=2)
    assert network.pool.calls == 2  # once for each batch, though the strongest channels need it too


def test_the_networks_own_temperature_counts(model, split):
    hot = models.Localizer(model.backbone, pooling.WeightedGlobalAveragePool(0.1), model.head)
    usual, other = predict(model, split, SIZES), predict(hot, split, SIZES)
    np.testing.assert_array_equal(other.maps("signed"), usual.maps("signed"))
    assert not np.allclose(other.maps("weighted_signed"), usual.maps("weighted_signed"), rtol=0.01)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_goes_into_the_last_relu(split, inplace):
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(inplace), nn.Conv2d(4, 5, 3))
    head = nn.Linear(5, 3)
    network = models.Localizer(nn.Sequential(*convolutions, nn.ReLU(inplace)), pooling.build("gap"), head)
    images, weights = torch.stack([split[i][0] for i in range(4)]), head.weight[LABELS]
    with torch.inference_mode():
        logits, features, _ = network(images)  # without the hook
        before = convolutions(images)
        expected = cam.activation_map(before, weights, "signed").numpy()
    found = predict(network, split, SIZES)
    assert (before < 0).any() and torch.equal(before.relu(), features)
    np.testing.assert_allclose(found.maps("unrectified_signed"), expected, atol=np.abs(expected).max() * 2**-10)
    np.testing.assert_array_equal(found.logits, logits.numpy().astype(np.float16))
    assert not network.backbone[-1]._forward_pre_hooks  # it is gone
    assert network.backbone[-1].inplace is inplace  # as before


@pytest.mark.parametrize(
    "backbone, has_one", [("vgg16", True), ("vgg16_conv6", True), ("squeezenet1_1", True), ("resnet50", False)]
)
def test_networks_with_a_last_relu(split, backbone, has_one):
    torch.manual_seed(0)
    network = models.build(backbone, 3, "wgap")
    found = predict(network, datasets.ImageDataset(table_of(1), split.root, split.transform), SIZES[:1])
    assert found.kinds.tolist() == (KINDS if has_one else WITHOUT_RELU)
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    if has_one:
        assert not np.allclose(found.maps("unrectified_signed"), found.maps("signed"), rtol=0.01)
    else:  # what ends a residual block is no ReLU of its own
        with pytest.raises(
            ValueError, match=r"no map 'unrectified_signed'; choose one of signed, .*strongest_negative"
        ):
            found.maps("unrectified_signed")


def test_squeezenets_unrectified_maps(split):
    """Of the expansions of its last layer, computed here by hand."""
    torch.manual_seed(0)
    network = models.build("squeezenet1_1", 3, "gap").eval()
    found, fire = predict(network, split, SIZES), network.backbone[-1]
    with torch.inference_mode():
        images = torch.stack([split[i][0] for i in range(4)])
        squeezed = fire.squeeze(network.backbone[:-1](images)).relu()
        before = torch.cat([fire.expand1x1(squeezed), fire.expand3x3(squeezed)], dim=1)
        for how in cam.RECOMBINATIONS:
            expected = cam.activation_map(before, network.class_weights[LABELS], how).numpy()
            ours = found.maps(kind(how, "unrectified"))
            np.testing.assert_allclose(ours, expected, atol=np.abs(expected).max() * 2**-10)


def test_the_hook_goes_where_the_pass_is_cut_off(model, split):
    class Torn(nn.Module):
        backbone, head, class_weights = model.backbone, model.head, model.class_weights

        def forward(self, images):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(Torn(), split, SIZES)
    assert not model.backbone[-1]._forward_pre_hooks


def test_a_map_of_zeros_and_one_beyond_float16(split):
    class Extreme(nn.Module):
        backbone = nn.Identity()
        class_weights = torch.tensor([[0.0], [1e6], [1e6]])

        def forward(self, images):
            return Output(torch.zeros(len(images), 3), torch.full((len(images), 1, 2, 2), 3.0))

    found = predict(Extreme(), split, SIZES)
    assert not found.maps("signed")[1].any()  # the class with the weight 0
    assert found.maps("signed")[0].tolist() == [[3e6, 3e6], [3e6, 3e6]]  # float16 ends at 65504


@pytest.mark.fault("a network gives NaN or infinity", "prediction stops and names the batch and the images; no file")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_network_that_is_not_finite(split, tmp_path, part, value):
    """1e30 is a number, but no float16, in which logits are kept."""
    broken = models.build("small_vgg", 3, "gap")
    with torch.no_grad():
        getattr(broken.head, part).fill_(value)
    message = (
        r"features, class weights or logits are not finite in the batch of images 1 to 4 \(.+, .+, .+, .+\): lower lr"
    )
    with pytest.raises(FloatingPointError, match=message):
        predict(broken, split, SIZES, path=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_the_images_whose_maps_are_not_finite_are_named(split):
    class Spoilt(nn.Module):
        backbone, class_weights = nn.Identity(), torch.ones(3, 1)

        def forward(self, images):
            features = images[:, :1, :2, :2].clone()
            features[1, 0, 0, 1] = torch.inf
            return Output(torch.zeros(len(images), 3), features)

    with pytest.raises(FloatingPointError, match=r"in the batch of images 1 to 2 \(b\): lower lr"):
        predict(Spoilt(), split, SIZES, batch_size=2)


def test_unknown_kind(found):
    with pytest.raises(ValueError, match=r"these predictions hold no map 'abs'; choose one of signed, positive, abs"):
        found.maps("abs")


@pytest.mark.parametrize("images", [[2, 0], [0], [3, 1, 2, 0], [1, 1]])
def test_subset(found, images):
    part = found.subset(np.array(images))
    assert part.image_id.tolist() == [list("abcd")[i] for i in images]
    assert part.label.tolist() == [LABELS[i] for i in images]
    np.testing.assert_array_equal(part.maps("absolute"), found.maps("absolute")[images])
    np.testing.assert_array_equal(part.logits, found.logits[images])
    np.testing.assert_array_equal(part.predicted, found.predicted[images])
    true = found.true_boxes()
    assert [boxes.tolist() for boxes in part.true_boxes()] == [true[i].tolist() for i in images]
    assert part.size is found.size and part.image_size.tolist() == SIZES[images].tolist()


def test_save_and_load(found, tmp_path):
    path = tmp_path / "seed0" / "predictions_gap"
    found.save(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name] and {p.name for p in path.iterdir()} == {*FILES}
    again = Predictions.load(path)
    assert_same(again, found)
    assert isinstance(again.scaled_maps, np.memmap) and not isinstance(found.scaled_maps, np.memmap)


def assert_same(some, other):
    for name in other.__dataclass_fields__:
        kept, read = np.asarray(getattr(other, name)), np.asarray(getattr(some, name))
        assert kept.dtype == read.dtype, name
        np.testing.assert_array_equal(read, kept, err_msg=name)


@pytest.mark.parametrize(
    "where", ["_to_disk", "remove", "replace"], ids=["half written", "half cleared away", "half renamed"]
)
def test_an_interrupted_save_leaves_one_whole_folder(found, tmp_path, monkeypatch, where):
    """What a killed process of the same number left is no part of it."""
    path, module = tmp_path / "predictions_gap", files.os if where == "replace" else files
    real = getattr(module, where)
    found.save(path)
    files.beside(path).mkdir()
    (files.beside(path) / "label.npy").write_bytes(b"of another run")

    def cut_off(some, to=None):
        if {"_to_disk": True, "remove": ".old." in some.name and some.exists(), "replace": to == path}[where]:
            patch.undo()
            raise KeyboardInterrupt
        real(*filter(None, (some, to)))

    with monkeypatch.context() as patch:
        patch.setattr(module, where, cut_off)
        with pytest.raises(KeyboardInterrupt):
            found.subset(np.array([0])).save(path)
    assert Predictions.load(path).image_id.tolist() == (list("a") if where == "remove" else list("abcd"))
    found.save(path)
    assert_same(Predictions.load(path), found)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


SPOILT = {  # what is done to `scales.npy`, or to the folder, and what is said of it
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"scales\.npy is missing, cut off"),
    "empty": (lambda path: path.write_bytes(b""), r"scales\.npy"),
    "text": (lambda path: path.write_bytes(b"no array" * 100), r"scales\.npy"),
    "objects": (lambda path: np.save(path, np.array([None])), r"scales\.npy"),
    "gone": (lambda path: path.unlink(), r"scales\.npy"),
    "of others": (lambda path: np.save(path, np.zeros((5, 15))), "they do not go together"),
    "a number": (lambda path: np.save(path, 1.0), "they do not go together"),
    "a file": (lambda path: shutil.rmtree(path.parent) or path.parent.touch(), r"image_id\.npy"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_folder_that_is_none(found, tmp_path, how):
    (spoil, problem), path = SPOILT[how], tmp_path / "predictions_gap"
    replace(found, identity="made of").save(path)
    assert made_from(path) == "made of"
    spoil(path / "scales.npy")
    with pytest.raises(
        ValueError, match=rf"predictions_gap holds no whole predictions \({problem}.*: delete it and run"
    ):
        Predictions.load(path)
    assert made_from(path) == ""


def test_no_folder(tmp_path):
    assert made_from(tmp_path / "nothing") == made_from(tmp_path) == ""
    with pytest.raises(FileNotFoundError, match="nothing"):
        Predictions.load(tmp_path / "nothing")


TWO = """
    import sys
    from pathlib import Path
    import numpy as np
    from wsol_utils.maps.predictions import Predictions

    one = Predictions.load(Path(sys.argv[1]) / sys.argv[2])
    for _ in range(40):
        one.save(Path(sys.argv[1]) / "both")
"""


def test_two_processes_at_once_leave_one_whole_folder(found, tmp_path):
    """Who reads meanwhile gets the arrays of one of them, or is told that there is none for an instant."""
    for letter, image in (("a", 0), ("b", 2)):
        replace(found.subset(np.array([image])), identity=letter).save(tmp_path / letter)
    start = [sys.executable, "-c", textwrap.dedent(TWO), str(tmp_path)]
    run, seen = [subprocess.Popen([*start, letter]) for letter in "ab"], set()
    while any(process.poll() is None for process in run):
        with suppress(FileNotFoundError):
            read = Predictions.load(tmp_path / "both")
            assert (read.image_id[0], len(read.box)) == {"a": ("a", 0), "b": ("c", 3)}[read.identity]
            seen.add(read.identity)
    assert [process.returncode for process in run] == [0, 0] and seen == {"a", "b"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "both"]


# Written as it goes.


def test_a_folder_holds_what_memory_would(model, split, found, tmp_path):
    path = tmp_path / "seed0" / "predictions"
    kept = predict(model, split, SIZES, batch_size=3, path=path, identity="weights a3f, images 7b1")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert kept.identity == made_from(path) == "weights a3f, images 7b1" and found.identity == ""
    assert isinstance(kept.scaled_maps, np.memmap) and not kept.scaled_maps.flags.writeable
    assert found.scaled_maps.flags.writeable  # of their own
    for some in (kept, Predictions.load(path)):
        assert_same(replace(some, identity=""), found)
    arrays = {p.stem: np.load(p, allow_pickle=False) for p in path.iterdir()}  # any other program reads them
    assert set(arrays) == set(found.__dataclass_fields__)
    np.testing.assert_array_equal(arrays["scaled_maps"], found.scaled_maps)
    assert arrays["identity"] == kept.identity and arrays["identity"].shape == ()


def test_rows_of_maps(found):
    for rows in (slice(1, 3), slice(3, 9), slice(0, 0)):
        np.testing.assert_array_equal(found.maps("signed", rows), found.maps("signed")[rows])


def test_a_pass_that_is_cut_off_leaves_the_old_folder(model, split, tmp_path):
    path = tmp_path / "predictions"
    predict(model, split, SIZES, path=path, identity="old")

    class Second(nn.Module):  # stops at its second batch
        backbone, pool, head, class_weights, batches = model.backbone, model.pool, model.head, model.class_weights, 0

        def forward(self, images):
            self.batches += 1
            if self.batches == 2:
                assert [p.name for p in tmp_path.iterdir()] != [path.name]  # the first one is on disk by now
                raise KeyboardInterrupt
            return model(images)

    with pytest.raises(KeyboardInterrupt):
        predict(Second(), split, SIZES, batch_size=1, path=path, identity="new")
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and made_from(path) == "old"


@pytest.mark.parametrize("part", ["a batch", "a batch twice", "a box", "a size", "another type"])
def test_rows_that_are_not_those_of_the_split_get_no_name(model, split, tmp_path, monkeypatch, part):
    computed = extract._computed

    def spoilt(*arguments):
        batches = list(computed(*arguments))
        if part == "a box":
            batches[1]["box"] = batches[1]["box"][:-1]
        if part == "another type":
            batches[1]["scales"] = batches[1]["scales"].astype(np.float64)
        return {"a batch": batches[1:], "a batch twice": [*batches, batches[0]]}.get(part, batches)

    monkeypatch.setattr(extract, "_computed", spoilt)
    sizes = SIZES[:-1] if part == "a size" else SIZES
    with pytest.raises((ValueError, TypeError), match=r"lacks rows of '\w+': \d of \d|broadcast|[Cc]annot cast"):
        predict(model, split, sizes, batch_size=2, path=tmp_path / "predictions")
    assert not list(tmp_path.iterdir())


def test_an_empty_split(model, split, tmp_path):
    nothing = datasets.ImageDataset(table_of(0), split.root, split.transform)
    with pytest.raises(ValueError, match="there is no image to predict"):
        predict(model, nothing, SIZES[:0], path=tmp_path / "predictions")
    assert not list(tmp_path.iterdir())


def test_the_decoder_is_the_loaders(model, split, found):
    assert_same(predict(model, split, SIZES, batch_size=3, decoder="torchvision"), found)  # PNG: Pillow reads it
    with pytest.raises(ValueError, match="unknown decoder 'opencv'"):
        predict(model, split, SIZES, decoder="opencv")


PEAK = """
    import sys
    from pathlib import Path
    import numpy as np, pandas as pd, torch
    from torch import nn
    from wsol_utils import datasets, models, pooling
    from wsol_utils.maps.extract import predict

    class Generated(datasets.ImageDataset):
        def frame(self, index):
            return torch.full((3, 32, 32), index % 256, dtype=torch.uint8), self.true_boxes(index)

    def peak(count):  # kB of this process so far
        ids = [f"{i:05}" for i in range(count)]
        table = pd.DataFrame({"image_id": ids, "path": ids, "label": 0, "boxes": [[(1.0, 2.0, 8.0, 9.0)]] * count})
        images = Generated(table, ".", datasets.test_transform(32))
        path = Path(sys.argv[1]) / f"{count}"
        found = predict(network, images, np.full((count, 2), 32), path=path, batch_size=50)
        assert found.scaled_maps.shape == (count, 15, 32, 32), found.scaled_maps.shape
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    torch.set_num_threads(1)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    network = models.Localizer(backbone, pooling.build("gap"), nn.Linear(4, 3))
    print(peak(200), peak(2000))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process is read from Linux's /proc")
def test_memory_is_flat_in_the_number_of_images(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path)]
    root = Path(extract.__file__).parents[2]
    output = subprocess.run(command, cwd=root, env={**os.environ, "TQDM_DISABLE": "1"}, check=True, capture_output=True)
    few, many = (int(number) for number in output.stdout.split())
    held = 1800 * 15 * 32 * 32 * 2 / 1024  # kB that the maps of the other images take, 55,296 of them
    assert many - few < held / 2, (few, many)


def test_a_map_takes_two_bytes_a_position(tmp_path):
    n, kinds, side = 500, len(KINDS), 13
    many = Predictions(
        image_id=np.array([f"{i:05}" for i in range(n)]), label=np.zeros(n, int), predicted=np.zeros(n, int),
        logits=np.zeros((n, 10), np.float16), kinds=np.array(KINDS),
        scaled_maps=np.zeros((n, kinds, side, side), np.float16), scales=np.zeros((n, kinds), np.float32),
        box=np.zeros((n, 4), np.float32), box_image=np.arange(n), size=np.array([224, 224]),
        image_size=np.zeros((n, 2), int),
    )  # fmt: skip
    many.save(tmp_path / "many")
    size = sum(p.stat().st_size for p in (tmp_path / "many").iterdir())
    assert size / n == pytest.approx((2 * 169 + 4) * kinds + 96, abs=20)


def test_wgap_is_not_gap(split, model):
    """The pooling decides logits and strongest channels, and no other map of a network with the same weights."""
    weighted = models.Localizer(model.backbone, pooling.WeightedGlobalAveragePool(), model.head)
    a, b = predict(model, split, SIZES), predict(weighted, split, SIZES)
    of_class = [name not in STRONGEST for name in KINDS]  # the pooling decides which channel is strongest
    np.testing.assert_array_equal(a.scaled_maps[:, of_class], b.scaled_maps[:, of_class])
    assert not np.allclose(a.logits, b.logits, rtol=0.01)
