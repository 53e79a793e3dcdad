"""Masks, on images of a few pixels."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsol_utils import masks, sample
from wsol_utils.data.layouts import DatasetError
from wsol_utils.data.sample.drawing import SIZE
from wsol_utils.scores.external.metadata import Metadata
from wsol_utils.scores.protocols import PROTOCOLS


def picture(file, rows, mode="L"):
    """Write grey values as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, dtype=np.uint8)).convert(mode).save(file)


def openimages(**objects):
    """Metadata of images with masks."""
    return Metadata(list(objects), dict.fromkeys(objects, 0), {}, {}, objects)


def test_openimages_by_hand(tmp_path):
    picture(tmp_path / "m/a.png", [[255, 0, 0, 0], [0, 0, 0, 0]])
    picture(tmp_path / "m/b.png", [[0, 1, 0, 0], [0, 0, 0, 0]])  # 1 > 0.5 is an object, as in wsolevaluation
    picture(tmp_path / "m/1.png", [[0, 0, 0, 255], [0, 0, 0, 0]], mode="1")
    picture(tmp_path / "m/i.png", [[255, 255, 255, 0], [0, 0, 255, 0]])  # objects under it stay objects
    of_two = openimages(x=[("m/a.png", "m/i.png"), ("m/b.png", "")], y=[("m/1.png", "")])
    x, y = masks.of_openimages(of_two, tmp_path, ["x", "y"], 4)
    # 2 rows become 4: each twice
    assert x.tolist() == [[1, 1, 255, 0]] * 2 + [[0, 0, 255, 0]] * 2
    assert y.tolist() == [[0, 0, 0, 1]] * 2 + [[0, 0, 0, 0]] * 2
    assert x.dtype == y.dtype == np.uint8 and x.shape == y.shape == (4, 4)


def test_the_nearest_neighbour_is_opencvs(tmp_path):
    # 5 columns to 2: column i of the new one is floor(i * 5 / 2) of the old, 0 and 2; Pillow's centres give 1 and 3
    picture(tmp_path / "a.png", [[255, 0, 255, 0, 0]] * 5)
    (mask,) = masks.of_openimages(openimages(x=[("a.png", "")]), tmp_path, ["x"], 2)
    assert mask.tolist() == [[1, 1], [1, 1]]


def test_the_centre_crop_of_rethinkingcam(tmp_path):
    # 256 pixels a side, which is the frame: the network sees [16, 240)
    grey = np.zeros((256, 256))
    grey[10:30, 200:256] = 255
    picture(tmp_path / "segmentations/k/x.png", grey)
    table = pd.DataFrame({"image_id": ["k/x.jpg"]})
    (mask,) = masks.of_cub(tmp_path, table, 224, PROTOCOLS["rethinkingcam"])
    rows, columns = np.nonzero(mask)
    # rows [10, 30) - 16, cut at 0: [0, 14); columns [200, 256) - 16, cut at 224: [184, 224)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (0, 14, 184, 224)
    assert mask.sum() == 14 * 40


def test_cub_takes_what_half_of_the_annotators_marked(tmp_path):
    picture(tmp_path / "segmentations/001.A/a_1.png", [[0, 51, 102, 127], [128, 153, 204, 255]])
    table = pd.DataFrame({"image_id": ["001.A/a_1.jpg"]})
    (mask,) = masks.of_cub(tmp_path, table, 4)
    assert mask.tolist() == [[0, 0, 0, 0]] * 2 + [[1, 1, 1, 1]] * 2


@pytest.mark.parametrize("root", [".", "CUB_200_2011"])
def test_cub_segmentations_lie_in_the_folder_of_the_images_or_beside_it(tmp_path, root):
    (tmp_path / root).mkdir(exist_ok=True)
    table = pd.DataFrame({"image_id": ["k/x.jpg", "k/y.jpg"]})
    assert not masks.available(tmp_path / root, table)
    picture(tmp_path / "segmentations/k/z.png", [[255]])  # of another data set
    assert not masks.available(tmp_path / root, table)
    picture(tmp_path / "segmentations/k/y.png", [[255]])
    assert masks.available(tmp_path / root, table)
    (mask,) = masks.of_cub(tmp_path / root, table[1:], 1)
    assert mask.tolist() == [[1]]


def test_the_sample_has_masks(tmp_path):
    item = sample.bird_items(tmp_path, 1, 1)[0]
    [box] = sample.draw(item, seed=0)
    table = pd.DataFrame({"image_id": [f"{item.path.parent.name}/{item.path.name}"]})
    assert masks.available(tmp_path / "birds" / "CUB_200_2011", table)
    (mask,) = masks.of_cub(tmp_path / "birds" / "CUB_200_2011", table, size=SIZE)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == tuple(box)  # a bird's box is its mask's


def test_a_missing_or_broken_file_is_named(tmp_path):
    table = pd.DataFrame({"image_id": ["k/x.jpg"]})
    file = tmp_path / "segmentations/k/x.png"
    picture(tmp_path / "segmentations/k/z.png", [[255]])
    with pytest.raises(DatasetError, match=r"segmentations/k/x\.png: no such file; unpack"):
        next(masks.of_cub(tmp_path, table, 4))
    picture(file, np.arange(256).reshape(16, 16))
    whole = file.read_bytes()
    for broken in (b"", b"no picture", whole[: len(whole) // 2]):
        file.write_bytes(broken)
        with pytest.raises(DatasetError, match=r"segmentations/k/x\.png: a mask that does not decode"):
            next(masks.of_cub(tmp_path, table, 4))
    with pytest.raises(DatasetError, match=r"i\.png: no such file"):
        next(masks.of_openimages(openimages(x=[("segmentations/k/z.png", "i.png")]), tmp_path, ["x"], 4))
