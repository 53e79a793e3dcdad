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

from wsol_utils import cam, datasets, extract, models, pooling
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


class Given(nn.Module):
    """A network that gives what it is told to, (K,) logits and features (1, h, w) of each image."""

    backbone = nn.Identity()

    def __init__(self, logits, features, class_weights=(1.0, 1.0, 1.0)):
        super().__init__()
        self.logits, self.features, self.class_weights = logits, features, torch.tensor(class_weights)[:, None]

    def forward(self, images):
        return Output(torch.tensor(self.logits).expand(len(images), 3), self.features[: len(images), None])


# What is kept.


def test_what_is_kept(model, split, found):
    kinds = len(found.kinds)
    assert kinds == 15 and found.scaled_maps.shape == (4, kinds, 4, 4) and found.scaled_maps.dtype == np.float16
    assert found.scales.shape == (4, kinds)
    assert np.abs(found.scaled_maps).max(axis=(2, 3)) == pytest.approx(1)  # divided by the largest magnitude
    assert found.image_id.tolist() == list("abcd") and found.label.tolist() == LABELS
    assert found.size.tolist() == [32, 32] and found.image_size.tolist() == SIZES.tolist()
    with torch.inference_mode():
        logits = torch.cat([model(split[i][0][None]).logits for i in range(4)]).numpy()
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)
    assert found.predicted.tolist() == logits.argmax(axis=1).tolist()
    none, one, three, corner = found.true_boxes()  # 40×20 -> 32×32: x times 0.8, y times 1.6
    assert none.shape == (0, 4)
    np.testing.assert_allclose(one, [[8, 8, 24, 24]])
    np.testing.assert_allclose(three, [[0, 0, 32, 32], [0, 0, 8, 16], [16, 16, 32, 32]])
    np.testing.assert_allclose(corner, [[31.2, 30.4, 32, 32]], rtol=1e-6)
    assert found.box_image.tolist() == [1, 2, 2, 2, 3]


@pytest.mark.parametrize("recombination", cam.RECOMBINATIONS)
def test_maps_are_those_of_the_true_class(model, split, found, recombination):
    """And of the predicted one, which are the same where the network is right."""
    right = found.predicted == found.label
    assert 0 < right.sum() < 4
    for i, (label, guess) in enumerate(zip(LABELS, found.predicted, strict=True)):
        with torch.inference_mode():
            last = model.backbone[:-1](split[i][0][None])  # what goes into the last ReLU
        plain = last.relu()
        weighted = plain * plain.flatten(2).softmax(2).view_as(plain) * 16  # S⊙P, times H·W
        made_of = {"plain": plain, "weighted": weighted, "unrectified": last, "predicted": plain}
        for features, stack in made_of.items():
            weights = model.class_weights[[guess if features == "predicted" else label]].detach()
            expected = cam.activation_map(stack, weights, recombination)[0].numpy()
            ours = found.maps(kind(recombination, features))
            # float16 keeps 11 bits of each value, of a map whose largest magnitude is 1
            np.testing.assert_allclose(ours[i], expected, rtol=0, atol=np.abs(expected).max() * 2**-11)
            assert ours.dtype == np.float32
            np.testing.assert_array_equal(found.maps(kind(recombination, features), slice(i, 9)), ours[i:])
        of_both = (found.maps(kind(recombination, features))[i] for features in ("plain", "predicted"))
        assert np.array_equal(*of_both) == right[i]
    assert {*FEATURES, "predicted"} == made_of.keys()


def assert_close(some, other):
    """Equal, but for rounding in what the network computes."""
    for name in other.__dataclass_fields__:
        near = 1e-3 if name in ("scales", "logits", "scaled_maps") else 0
        a, b = np.asarray(getattr(some, name)), np.asarray(getattr(other, name))
        assert a.dtype == b.dtype, name
        np.testing.assert_allclose(a, b, near, near, err_msg=name) if near else np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch_size, few, taken", [(1, 8, [1] * 4), (2, 8, [2, 2]), (64, 8, [4]), (64, 3, [3, 1])])
def test_the_batch_size_does_not_matter(model, split, found, batch_size, few, taken, monkeypatch):
    """A CPU takes a few images at a time. The network is left as it was, in evaluation mode."""
    monkeypatch.setattr(extract, "FEW", few)
    sizes, before = [], {key: value.clone() for key, value in model.state_dict().items()}
    hook = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert_close(predict(model.train(), split, SIZES, batch_size=batch_size), found)
    hook.remove()
    assert sizes == taken and not model.training
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
    assert not network.backbone[-1]._forward_pre_hooks and network.backbone[-1].inplace is inplace  # as before


def test_a_network_without_a_last_relu(split):
    """What ends a residual block of ResNet is no ReLU of its own."""
    found = predict(models.build("resnet50", 3, "wgap"), split, SIZES)
    assert len(found.kinds) == 11
    message = "these predictions hold no map 'unrectified_signed'; choose one of signed, .*strongest_negative"
    with pytest.raises(ValueError, match=message):
        found.maps("unrectified_signed")


def test_numbers_beyond_float16(split):
    """The class is that of the unrounded logits, and a map's scale is kept beside it: float16 ends at 65504."""
    given = Given([1.0, 1.0001, 0.0], torch.full((4, 2, 2), 3.0), (0.0, 1e6, 1e6))
    found = predict(given, split, SIZES)
    assert found.logits[0, 0] == found.logits[0, 1] and found.predicted.tolist() == [1, 1, 1, 1]
    assert not found.maps("signed")[1].any()  # the class with the weight 0
    assert found.maps("signed")[0].tolist() == [[3e6, 3e6], [3e6, 3e6]]


@pytest.mark.fault("a network gives NaN or infinity", "prediction stops and names the batch and the images; no file")
@pytest.mark.parametrize("part, value", [("logits", 1e30), ("logits", torch.nan), ("features", torch.inf)])
def test_a_network_that_is_not_finite(split, tmp_path, part, value):
    """1e30 is a number, but no float16, in which logits are kept."""
    given = Given([0.0, 0.0, 0.0], torch.ones(4, 2, 2))
    if part == "logits":
        given.logits[1] = value
    else:
        given.features[1, 0, 1] = value
    images = r"a, b\)" if part == "logits" else r"b\)"
    message = rf"features, class weights or logits are not finite in the batch of images 1 to 2 \({images}: lower lr"
    with pytest.raises(FloatingPointError, match=message):
        predict(given, split, SIZES, batch_size=2, path=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_subset(found):
    for images in ([2, 0], [0], [3, 1, 2, 0], [1, 1]):
        part, true = found.subset(np.array(images)), found.true_boxes()
        assert part.image_id.tolist() == [list("abcd")[i] for i in images]
        for name in ("label", "predicted", "logits", "scaled_maps", "scales", "image_size"):
            np.testing.assert_array_equal(getattr(part, name), getattr(found, name)[images])
        assert [boxes.tolist() for boxes in part.true_boxes()] == [true[i].tolist() for i in images]
        assert part.size is found.size


# Files.


def assert_same(some, other):
    for name in other.__dataclass_fields__:
        kept, read = np.asarray(getattr(other, name)), np.asarray(getattr(some, name))
        assert kept.dtype == read.dtype, name
        np.testing.assert_array_equal(read, kept, err_msg=name)


def test_a_folder_holds_what_memory_would(model, split, found, tmp_path):
    path = tmp_path / "seed0" / "predictions"
    kept = predict(model, split, SIZES, batch_size=3, path=path, identity="weights a3f, images 7b1")
    assert [p.name for p in path.parent.iterdir()] == [path.name] and {p.name for p in path.iterdir()} == {*FILES}
    assert kept.identity == made_from(path) == "weights a3f, images 7b1" and found.identity == ""
    assert isinstance(kept.scaled_maps, np.memmap) and not kept.scaled_maps.flags.writeable
    assert found.scaled_maps.flags.writeable  # of their own
    replace(found, identity=kept.identity).save(tmp_path / "saved")
    for some in (kept, Predictions.load(path), Predictions.load(tmp_path / "saved")):
        assert_same(replace(some, identity=""), found)
    for file in path.iterdir():  # any other program reads them
        np.testing.assert_array_equal(np.load(file, allow_pickle=False), np.asarray(getattr(kept, file.stem)))
        assert file.read_bytes() == (tmp_path / "saved" / file.name).read_bytes()
    assert_same(predict(model, split, SIZES, batch_size=3, decoder="torchvision"), found)  # PNG: Pillow reads it


SPOILT = {  # what is done to `scales.npy`, or to the folder, and what is said of it
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"scales\.npy is missing, cut off"),
    "too long": (lambda path: path.write_bytes(path.read_bytes() + b"1"), r"scales\.npy .*it is too long"),
    "empty": (lambda path: path.write_bytes(b""), r"scales\.npy"),
    "text": (lambda path: path.write_bytes(b"no array" * 100), r"scales\.npy"),
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
    message = rf"predictions_gap holds no whole predictions \({problem}.*: delete it and run"
    with pytest.raises(ValueError, match=message):
        Predictions.load(path)
    assert made_from(path) == made_from(tmp_path) == made_from(tmp_path / "nothing") == ""
    with pytest.raises(FileNotFoundError, match="nothing"):
        Predictions.load(tmp_path / "nothing")


TWO = """
    import sys
    from pathlib import Path
    from wsol_utils.maps.predictions import Predictions

    one = Predictions.load(Path(sys.argv[1]) / sys.argv[2])
    for _ in range(20):
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
    assert not model.backbone[-1]._forward_pre_hooks


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
    with pytest.raises(ValueError, match="holds no whole predictions"):
        predict(model, split, sizes, batch_size=2, path=tmp_path / "predictions")
    assert not list(tmp_path.iterdir())


def test_an_empty_split(model, split, tmp_path):
    nothing = datasets.ImageDataset(table_of(0), split.root, split.transform)
    with pytest.raises(ValueError, match="there is no image to predict"):
        predict(model, nothing, SIZES[:0], path=tmp_path / "predictions")
    assert not list(tmp_path.iterdir())


PEAK = """
    import sys
    from pathlib import Path
    import numpy as np, pandas as pd, torch
    from torch import nn
    from wsol_utils import datasets, models, pooling
    from wsol_utils.maps.extract import predict

    class Generated(datasets.ImageDataset):
        def frame(self, index):
            return torch.full((3, 64, 64), index % 256, dtype=torch.uint8), self.true_boxes(index)

    def peak(count):  # kB of this process so far
        ids = [f"{i:05}" for i in range(count)]
        table = pd.DataFrame({"image_id": ids, "path": ids, "label": 0, "boxes": [[(1.0, 2.0, 8.0, 9.0)]] * count})
        images = Generated(table, ".", datasets.test_transform(64))
        path = Path(sys.argv[1]) / f"{count}"
        found = predict(network, images, np.full((count, 2), 64), path=path, batch_size=50)
        assert found.scaled_maps.shape == (count, 15, 64, 64), found.scaled_maps.shape
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    torch.set_num_threads(1)
    network = models.Localizer(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), pooling.build("gap"), nn.Linear(2, 3))
    print(peak(100), peak(500))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process is read from Linux's /proc")
def test_memory_is_flat_in_the_number_of_images(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path)]
    root = Path(extract.__file__).parents[2]
    output = subprocess.run(command, cwd=root, env={**os.environ, "TQDM_DISABLE": "1"}, check=True, capture_output=True)
    few, many = (int(number) for number in output.stdout.split())
    held = 400 * 15 * 64 * 64 * 2 / 1024  # kB that the maps of the other images take, 48,000 of them
    assert many - few < held / 2, (few, many)
