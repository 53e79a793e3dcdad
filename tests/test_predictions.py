"""One pass over a split: what is kept equals the modules' own answers, image by image."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from wsol_utils import cam, datasets, models, pooling
from wsol_utils.predictions import KINDS, Predictions, maps_of, predict

BOXES = [  # of images of 40×20 pixels: none, one, three, one
    [],
    [(10.0, 5.0, 30.0, 15.0)],
    [(0.0, 0.0, 40.0, 20.0), (0.0, 0.0, 10.0, 10.0), (20.0, 10.0, 40.0, 20.0)],
    [(39.0, 19.0, 40.0, 20.0)],
]
LABELS = [2, 0, 1, 1]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("split")
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 40, 3), dtype=np.uint8)).save(root / f"{i}.png")
    table = pd.DataFrame({"image_id": list("abcd"), "path": [f"{i}.png" for i in range(4)], "label": LABELS})
    table["boxes"] = BOXES
    return datasets.ImageDataset(table, root, datasets.test_transform(32))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = models.build("small_vgg", 3, "gap").eval()
    nn.init.normal_(network.head.weight)
    return network


@pytest.fixture(scope="module")
def found(model, split):
    return predict(model, split, batch_size=3)


def test_shapes_and_kinds(found):
    assert found.kinds.tolist() == ["signed", "positive", "absolute", "strongest_positive", "strongest_negative"]
    assert found.kinds.tolist() == list(KINDS)
    assert found.scaled_maps.shape == (4, 5, 4, 4) and found.scaled_maps.dtype == np.float16
    assert found.scales.shape == (4, 5) and found.logits.shape == (4, 3)
    assert np.abs(found.scaled_maps).max(axis=(2, 3)) == pytest.approx(1)  # divided by the largest magnitude
    assert found.image_id.tolist() == list("abcd")
    assert found.label.tolist() == LABELS
    assert found.size.tolist() == [32, 32]


@pytest.mark.parametrize("kind", ["signed", "positive", "absolute"])
def test_maps_are_those_of_the_true_class(model, split, found, kind):
    for i, label in enumerate(LABELS):
        with torch.inference_mode():
            features = model(split[i][0][None]).features
            expected = cam.activation_map(features, model.class_weights[[label]], kind)[0].numpy()
        # float16 keeps 11 bits of each value, of a map whose largest magnitude is 1
        np.testing.assert_allclose(found.maps(kind)[i], expected, rtol=0, atol=np.abs(expected).max() * 2**-11)
        assert found.maps(kind).dtype == np.float32


def test_logits_and_classes(model, split, found):
    with torch.inference_mode():
        logits = torch.cat([model(split[i][0][None]).logits for i in range(4)]).numpy()
    np.testing.assert_allclose(found.logits, logits, rtol=1e-3, atol=1e-4)
    assert found.predicted.tolist() == logits.argmax(axis=1).tolist()


def test_the_class_is_that_of_the_unrounded_logits(split):
    class Close(nn.Module):  # float16 makes the two logits equal
        class_weights = torch.ones(3, 1)

        def forward(self, images):
            return models.Output(torch.tensor([1.0, 1.0001, 0.0]).expand(len(images), 3), images[:, :1].abs())

    close = predict(Close(), split)
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
    other = predict(model, split, batch_size=batch_size)
    for name in ("image_id", "label", "predicted", "box", "box_image", "size", "kinds"):
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name), err_msg=name)
    for name in ("scales", "logits", "scaled_maps"):
        np.testing.assert_allclose(getattr(other, name), getattr(found, name), rtol=1e-3, atol=1e-3, err_msg=name)


def test_the_network_is_not_trained_by_it(model, split):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    predict(model.train(), split)
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_strongest_channels_by_hand():
    features = torch.zeros(2, 4, 1, 2)
    features[0, :, 0] = torch.tensor([[4.0, 0.0], [1.0, 1.0], [3.0, 3.0], [0.0, 8.0]])  # means 2, 1, 3, 4
    features[1, :, 0] = torch.tensor([[1.0, 2.0], [5.0, 5.0], [0.0, 0.0], [7.0, 9.0]])
    weights = torch.tensor([[1.0, 3.0, -1.0, -0.5], [-1.0, -9.0, -99.0, 0.1]])
    # w · mean(F): 2, 3, -3, -2 and -1.5, -45, 0, 0.8: neither the largest weight nor the largest mean decides
    maps = dict(zip(KINDS, maps_of(features, weights).unbind(dim=1), strict=True))
    assert maps["strongest_positive"].tolist() == [[[1, 1]], [[7, 9]]]
    assert maps["strongest_negative"].tolist() == [[[3, 3]], [[5, 5]]]
    assert maps["signed"][0].tolist() == [[4 + 3 - 3 - 0, 0 + 3 - 3 - 4]]
    assert maps["absolute"][0].tolist() == [[10, 10]]
    assert maps["positive"][0].tolist() == [[7, 3]]


def test_a_map_of_zeros_and_one_beyond_float16(split):
    class Extreme(nn.Module):
        class_weights = torch.tensor([[0.0], [1e6], [1e6]])

        def forward(self, images):
            return models.Output(torch.zeros(len(images), 3), torch.full((len(images), 1, 2, 2), 3.0))

    found = predict(Extreme(), split)
    assert not found.maps("signed")[1].any()  # the class with the weight 0
    assert found.maps("signed")[0].tolist() == [[3e6, 3e6], [3e6, 3e6]]  # float16 ends at 65504


def test_a_network_that_is_not_finite(split):
    broken = models.build("small_vgg", 3, "gap")
    with torch.no_grad():
        broken.head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="class_weights must be floating point without NaN or infinity"):
        predict(broken, split)


def test_unknown_kind(found):
    with pytest.raises(ValueError, match=r"unknown recombination 'abs'; choose one of signed, positive, absolute"):
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
    assert part.size is found.size


def test_save_and_load(found, tmp_path):
    path = tmp_path / "seed0" / "predictions_gap.npz"
    found.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["predictions_gap.npz"]
    again = Predictions.load(path)
    for name in found.__dataclass_fields__:
        kept, read = getattr(found, name), getattr(again, name)
        assert kept.dtype == read.dtype, name
        np.testing.assert_array_equal(read, kept, err_msg=name)


def test_an_interrupted_save_leaves_the_old_file(found, tmp_path, monkeypatch):
    path = tmp_path / "predictions_gap.npz"
    found.save(path)

    def cut_off(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", cut_off)
    with pytest.raises(KeyboardInterrupt):
        found.subset(np.array([0])).save(path)
    assert Predictions.load(path).image_id.tolist() == list("abcd")


def test_a_map_takes_two_bytes_a_position(tmp_path):
    n, kinds, side = 500, len(KINDS), 13
    many = Predictions(
        image_id=np.array([f"{i:05}" for i in range(n)]), label=np.zeros(n, int), predicted=np.zeros(n, int),
        logits=np.zeros((n, 10), np.float16), kinds=np.array(KINDS),
        scaled_maps=np.zeros((n, kinds, side, side), np.float16), scales=np.zeros((n, kinds), np.float32),
        box=np.zeros((n, 4), np.float32), box_image=np.arange(n), size=np.array([224, 224]),
    )  # fmt: skip
    many.save(tmp_path / "many.npz")
    assert (tmp_path / "many.npz").stat().st_size / n == pytest.approx(2 * 169 * kinds + 120, abs=20)


def test_wgap_is_not_gap(split, model):
    """The pooling decides the logits, and nothing else of a network with the same weights."""
    weighted = models.Localizer(model.backbone, pooling.WeightedGlobalAveragePool(), model.head)
    a, b = predict(model, split), predict(weighted, split)
    np.testing.assert_array_equal(a.scaled_maps, b.scaled_maps)
    assert not np.allclose(a.logits, b.logits, rtol=0.01)
