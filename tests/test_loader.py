"""Batches are those of the data set's own items, whichever way they come, and nothing is decoded without need."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wsol_utils import datasets
from wsol_utils.data.datasets import DatasetError, ImageDataset
from wsol_utils.data.loader import Loader

BATCHES = [[4, 1], [0, 3], [5]]
ALL = 6 * 3 * 40 * 40  # bytes of the frames
WAYS = {
    "one by one": {},
    "by a worker": {"workers": 1},
    "kept": {"memory": ALL},
    "by torchvision": {"decoder": "torchvision"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six JPEGs of sizes of their own."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(6):
        smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((60 + i, 50)))
        Image.fromarray(smooth).save(folder / f"{i}.jpg", quality=95)
    return folder


def photographs(root, transform=None):
    table = pd.DataFrame({"image_id": list("abcdef"), "path": [f"{i}.jpg" for i in range(6)], "label": range(6)})
    table["boxes"] = [[(float(i), 0.0, 30.0, 40.0)] * (i % 3) for i in range(6)]
    return ImageDataset(table, root, transform or datasets.train_transform(40, 32), seed=2)


def assert_equal(found, dataset, batches=BATCHES, atol=0.0):
    assert len(found) == len(batches)
    for (images, labels, boxes), batch in zip(found, batches, strict=True):
        expected, true, several = datasets.collate([dataset[i] for i in batch])
        torch.testing.assert_close(images, expected, rtol=0, atol=atol)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, true) and labels.dtype == torch.int64
        assert len(boxes) == len(several)
        assert all(torch.equal(a, b) for a, b in zip(boxes, several, strict=True))


@pytest.mark.parametrize("transform", [datasets.train_transform(40, 32), datasets.test_transform(40)], ids=repr)
@pytest.mark.parametrize("way", WAYS)
def test_batches_are_those_of_the_items(root, way, transform):
    dataset = photographs(root, transform)
    loader = Loader(dataset, **WAYS[way])
    seen = []
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        # torchvision decodes with the same library, but its own way from YCbCr to RGB: a level of 255, in units of σ
        found = list(loader.batches(BATCHES))
        assert_equal(found, dataset, atol=3 / 255 / 0.224 if way == "by torchvision" else 0.0)
        seen.append(found[0][0])
    assert torch.equal(*seen) != transform.augmented


def test_what_is_kept_is_decoded_once(root, monkeypatch):
    decoded = []
    decode = datasets.decode
    monkeypatch.setattr(datasets, "decode", lambda file, *rest: decoded.append(file.name) or decode(file, *rest))
    loader = Loader(photographs(root), memory=ALL)
    assert not decoded  # not before it is asked for
    for _ in range(2):
        list(loader.batches(BATCHES))
    assert sorted(decoded) == [f"{i}.jpg" for i in range(6)]
    decoded.clear()
    less = Loader(photographs(root), memory=ALL - 1)  # does not fit: nothing is kept
    for _ in range(2):
        list(less.batches(BATCHES))
    assert less.kept is None and len(decoded) == 10


def test_torchs_random_state_is_left_alone(root):
    for way in WAYS.values():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        list(Loader(photographs(root), **way).batches(BATCHES))
        assert list(Loader(photographs(root), **way).batches([])) == []
        assert torch.equal(torch.get_rng_state(), before), way


@pytest.fixture
def spoilt(root, tmp_path):
    """The same images, to be changed."""
    for file in root.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("way", ["one by one", "kept", "by torchvision"])  # test_faults has that of a worker
def test_an_image_that_does_not_decode(spoilt, way):
    (spoilt / "3.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"3\.jpg: an image that does not decode"):
        list(Loader(photographs(spoilt), **WAYS[way]).batches(BATCHES))


def test_what_torchvision_cannot_decode_pillow_does(root, spoilt):
    Image.open(root / "3.jpg").save(spoilt / "3.jpg", format="PNG")  # one such file is in ILSVRC
    dataset = photographs(spoilt)
    assert_equal(list(Loader(dataset, decoder="torchvision").batches([[0, 3]])), dataset, [[0, 3]])


def test_unknown_decoder(root):
    with pytest.raises(ValueError, match="unknown decoder 'opencv'; choose one of pillow, torchvision"):
        Loader(photographs(root), decoder="opencv")


def test_frames_on_a_gpu_take_no_more_than_a_quarter_of_what_is_free(root, monkeypatch):
    """Without a GPU: where the frames go is decided from what it says is free."""
    placed, to = [], torch.Tensor.to

    def moved(self, *args, **kwargs):  # resizing converts, too, where the processor has no instructions for 8 bits
        return placed.append("gpu") or self if "cuda" in args else to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", moved)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: placed.append("host") or self)
    for free in (4 * ALL, 4 * ALL - 1):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10 * free))
        assert Loader(photographs(root), device="cuda", memory=ALL).kept[0].shape == (6, 3, 40, 40)
    assert placed == ["gpu", "host"]
