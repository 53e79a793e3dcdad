"""The conventions of an evaluation, and how a box follows an image into the network's input."""

import re
from dataclasses import replace

import layouts_on_disk
import numpy as np
import pytest
import torch
from plain_predictions import predictions

from wsol_utils import datasets, evaluation, experiments, protocols, thresholds
from wsol_utils.scores.protocols import PROTOCOLS, frame_side, to_input

PAPER, BAE = PROTOCOLS["paper"], PROTOCOLS["rethinkingcam"]


def test_candidates_of_sec_5():
    assert tuple(i / 20 for i in range(21)) == thresholds.PAPER_GRID
    assert {row.candidates for row in PROTOCOLS.values()} == {thresholds.PAPER_GRID}
    assert PAPER.grid == BAE.grid == thresholds.PAPER_GRID


def test_unknown():
    with pytest.raises(ValueError, match=r"unknown protocol 'papers'.*; choose one of paper, wsolevaluation, reth"):
        protocols.get("papers")


def test_the_margin_of_a_crop_is_whole():
    sides = [224, 96, 128, 32]
    assert [frame_side(side, BAE) for side in sides] == [256, 110, 146, 36]  # 96 / 7 = 13.7 pixels: each side takes 7
    assert [frame_side(side, PAPER) for side in sides] == sides


@pytest.mark.parametrize(
    "box, whole, cropped",
    [
        # 512×256 pixels -> 224×224: x · 7/16, y · 7/8; -> 256×256: x / 2, y · 1, and the crop begins at 16
        ((16, 8, 64, 250), (7, 7, 28, 218.75), (0, 0, 16, 224)),  # clipped
        ((0, 0, 20, 10), (0, 0, 8.75, 8.75), (0, 0, 0, 0)),  # wholly beside the crop
        ((33, 17, 34, 18), (14.4375, 14.875, 14.875, 15.75), (0.5, 1, 1, 2)),  # not rounded
    ],
)
def test_boxes_in_the_input_by_hand(box, whole, cropped):
    assert to_input([box], (512, 256), 224, PAPER).tolist() == [list(whole)]
    assert to_input([box], (512, 256), 224, BAE).tolist() == [list(cropped)]
    assert to_input([], (512, 256), 224, BAE).shape == (0, 4)


def test_a_data_set_is_scored_as_its_files_name_the_corners():
    """ILSVRC's name the last pixel, and wsolevaluation scores what stands there; CUB's width leads one pixel beyond."""
    for dataset, words in {"ilsvrc": (False, True, True), "cub": (False, False, True)}.items():
        rows = [experiments.configure(dataset, "light", protocol=name).conventions for name in PROTOCOLS]
        assert tuple(row.last_pixel for row in rows) == words
        assert [replace(row, last_pixel=False) for row in rows] == [
            replace(row, last_pixel=False) for row in PROTOCOLS.values()
        ]


def test_the_corners_of_ilsvrcs_files_come_out_under_wsolevaluation(tmp_path):
    layouts_on_disk.ilsvrc(tmp_path, train=0, test=3)
    table = datasets.check(datasets.read_ilsvrc(tmp_path), tmp_path)
    protocol = experiments.configure("ilsvrc", "light").follow("wsolevaluation")
    for row in table.itertuples():
        size = (row.width, row.height)
        text = (tmp_path / layouts_on_disk.XML / f"{row.image_id}.xml").read_text()
        corners = [list(map(int, box)) for box in zip(*(re.findall(rf"<{k}>(\d+)<", text) for k in SIDES), strict=True)]
        true = to_input(row.boxes, size, 224, protocol)
        one = predictions({"maps": np.ones((1, 2, 2))}, [true], (224, 224), image_size=size)
        expected = [[int(v * 224.0 / size[i % 2]) for i, v in enumerate(box)] for box in corners]
        assert evaluation.truth(one, protocol)[0].tolist() == expected


SIDES = ("xmin", "ymin", "xmax", "ymax")


@pytest.mark.parametrize("protocol", [PAPER, BAE])
@pytest.mark.parametrize("side", [224, 96, 33])
def test_boxes_follow_the_image(protocol, side):
    """The same as the transform that the network's images take."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (20, 2))
    found = np.concatenate([corner, corner + rng.uniform(1, 100, (20, 2))], axis=1)
    transform = datasets.test_transform(side, frame_side(side, protocol))
    photograph = torch.zeros(3, 310, 300, dtype=torch.uint8)
    frame, boxes = transform.resize(photograph, torch.tensor(found, dtype=torch.float32))
    (image,), (expected,) = transform.finish(frame[None], [boxes], [transform.crop([])])
    assert image.shape == (3, side, side)
    # boxes wholly beside the crop keep no area either way, but not the same place
    kept = (expected[:, 2:] > expected[:, :2]).all(dim=1).numpy()
    ours = to_input(found, (300, 310), side, protocol)
    np.testing.assert_allclose(ours[kept], expected[kept], atol=1e-3)
    assert (ours[~kept, 2:] <= ours[~kept, :2] + 1e-3).any(axis=1).all() and kept.sum() > 10
