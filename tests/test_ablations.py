"""The other readings of the paper: one change each, and figures small enough to follow by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from plain_predictions import predictions

from wsol_utils import ablations, boxes, evaluation, pooling, thresholds
from wsol_utils.maps.extract import maps_of
from wsol_utils.maps.predictions import kind
from wsol_utils.scores.protocols import PROTOCOLS

PAPER = PROTOCOLS["paper"]
SMALL = replace(PAPER, resolution="map", grid=(0.0, 0.2, 0.5, 1.0))


def test_every_reading_changes_one_word_to_one_that_is_known():
    known = {"normalization": ["minmax"], "resolution": ["map"], "interpolation": ["bicubic"], "candidates": [11, 101],
             "boundary": list(thresholds.BOUNDARIES[1:]), "component": list(boxes.COMPONENTS[1:]), "levels": [255],
             "inclusive": [True]}  # fmt: skip
    found = {name: [] for name in known}
    for ((name, value),) in (change.items() for change in list(ablations.CONVENTIONS.values())[1:]):
        assert getattr(PAPER, name) != value
        if name == "candidates":
            assert value == pytest.approx(np.linspace(0, 1, len(value)))
        found[name].append(len(value) if name == "candidates" else value)
    assert found == known and ablations.CONVENTIONS["as it stands"] == {}


def test_features_are_all_that_a_network_can_give():
    held = maps_of(torch.rand(1, 2, 2, 2), torch.rand(1, 2), pooling.build("gap"), torch.rand(1, 2, 2, 2))
    assert [kind(*words) for words in ablations.FEATURES.values()] == [name for name in held if "strongest" not in name]


# Positions of 10 pixels; the first box is of the map's first two, the second of its first.
MAPS = [[[1.0, 0.5, 0.25, 0.0]], [[1.0, 0.5, 0.5, 0.5]]]
TRUE = [[(0, 0, 20, 10)], [(0, 0, 10, 10)]]


def test_conventions_by_hand():
    two = predictions({"absolute": MAPS, "signed": np.zeros((2, 1, 4))}, TRUE, (10, 40))
    by_rule = evaluation.overlaps(two, "absolute", SMALL, thresholds.RULES)
    known = by_rule | evaluation.bounds(two, "absolute", SMALL)
    found = ablations.of_conventions(two, "absolute", SMALL)
    pd.testing.assert_frame_equal(found, ablations.of_conventions(two, "absolute", SMALL, known))
    found = found.set_index("reading")
    assert list(found.columns) == ["fixed", "first_above_mean", "best_fixed", "oracle", "mean η"]
    # Above 0.2: three positions, IoU 2/3, and four, 1/4. V of the first map is 0.583, 0.75 from η = 0.25 and 1 from
    # 0.5: D exceeds its mean at 0.25 first, and the box is right. Of the second, 0.625 and 1 from 0.5: right too.
    usual = [50, 100, 100, 100, 0.375]
    others = {
        "min–max instead of division by the maximum": [100, 100, 100, 100, 0.125],  # the second becomes 1, 0, 0, 0
        "11 candidates": [50, 100, 100, 100, 0.4],  # 0.3 is the first that leaves the third position out
    }
    for reading, figures in found.iterrows():
        assert figures.tolist() == pytest.approx(others.get(reading, usual)), reading
    # taken at map resolution already
    assert list(found.index) == [
        name for name in ablations.CONVENTIONS if name != "thresholds and boxes at map resolution"
    ]


def test_a_convention_that_holds_already_is_left_out():
    two = predictions({"absolute": MAPS}, TRUE, (10, 40))
    levelled = replace(SMALL, levels=255, interpolation="bicubic", component="contour", inclusive=True)
    found = ablations.of_conventions(two, "absolute", levelled)["reading"].tolist()
    assert len(found) == len(ablations.CONVENTIONS) - 5 and found[0] == "as it stands"


def test_features_by_hand():
    right, wrong = MAPS, [[[0.0, 0.0, 0.0, 1.0]]] * 2
    both = [right[0], wrong[0]]
    maps = {"signed": wrong, "absolute": right, "weighted_positive": both, "strongest_positive": right}
    two = predictions(maps, TRUE, (10, 40))
    found = ablations.of_features(two, SMALL)
    assert found["reading"].tolist() == ["P, signed (Eq. 2)", "P, absolute (Eq. 3)", "S⊙P, positive only"]
    assert found["oracle"].tolist() == [0, 100, 50]  # nothing of a map that the predictions do not hold
    assert found["fixed"].tolist() == [0, 50, 50]
    with_relu = predictions({"unrectified_absolute": right, "unrectified_absolute_maps": wrong}, TRUE, (10, 40))
    found = ablations.of_features(with_relu, SMALL)
    assert found["reading"].tolist() == ["before the ReLU, Σ|w|G", "before the ReLU, |M_n|"]
    assert found["oracle"].tolist() == [100, 0]


def test_channels_by_hand():
    """Above 0.2 of its maximum, at 2×4 pixels; the boxes are columns 0 and 1, and all of the image."""

    def rows(*values):
        return [list(values)] * 2

    m_p, m_n = [rows(1, 0, 1, 0), rows(1, 1, 1, 0)], [rows(0, -4, -3, -2), rows(0, 0, 0, -5)]
    two = predictions(
        {
            "signed": np.add(m_p, m_n), "positive": m_p,
            "strongest_positive": [rows(9, 1, 0, 0), rows(1, 0, 0, 0)],
            "strongest_negative": [rows(0, 0, 1, 1), rows(0, 0, 0, 1)],
        },
        [[(0, 0, 2, 2)], [(0, 0, 4, 2)]], (2, 4),
    )  # fmt: skip
    found = ablations.of_channels(two, replace(PAPER, levels=255)).set_index("map")
    expected = {
        "strongest positive channel": [(50 + 25) / 2, 100, 75],
        "strongest negative channel": [(0 + 25) / 2, (0 + 100) / 2, 75],
        "M_p, all positive channels": [(50 + 75) / 2, (50 + 100) / 2, 75],
        "|M_n|, all negative channels": [(50 + 25) / 2, (100 / 3 + 100) / 2, 75],
    }
    assert list(found.columns) == ["box covered", "inside box", "box of image"]
    assert list(found.index) == list(expected)
    for name, means in expected.items():
        assert found.loc[name].tolist() == pytest.approx(means, abs=1e-4), name


def test_failures_by_hand():
    eta = np.array([0.2, 0.2, 0.2, 0.2, 0.2])
    found = {
        "fixed": (eta, np.array([0.5, 0.4, 0.1, 0.3, 0.49])),  # 0.5 is a hit
        "li": (np.array([0.3, 0.1, 0.4, 0.1, 0.1]), np.array([0.4, 0.7, 0.6, 0.6, 0.2])),  # 0.6 with no oracle: a hit
        "oracle": (np.array([0.2, 0.3, 0.1, 0.5, 0.6]), np.array([0.5, 0.8, 0.6, 0.4, 0.9])),
    }
    expected = pd.DataFrame(
        {"threshold_rule": ["fixed", "li", "oracle"], "hit": [20.0, 60.0, 80.0], "threshold too low": [40.0, 20.0, 0.0],
         "threshold too high": [20.0, 20.0, 0.0], "no threshold hits": [20.0, 0.0, 20.0]}
    )  # fmt: skip
    pd.testing.assert_frame_equal(ablations.of_failures(found, PAPER), expected)


def test_levels_by_hand():
    """Maps of 3×4 positions, ten pixels each; the border is 10 of them."""
    border, box, centre = np.full((3, 4), 0.0), np.zeros((3, 4)), (slice(1, 2), slice(1, 3))
    border[:], border[centre] = 0.5, 1  # 0.5 on the border, 1 in the middle
    box[centre], box[2, 3], box[0, 0] = [2, 1], 1, 1  # 1 and 0.5 in the middle; 0.5 in two corners
    maps, true = [border, box, box, 4 * border, box], [[(10, 10, 30, 20)]] * 4 + [[(0, 0, 40, 10), (30, 0, 40, 30)]]
    five = predictions({"absolute": maps}, true, (30, 40))
    chosen = np.array([0.2, 0.1, 0.3, 0.4, 0.1]), np.array([0.5, 0.4, 0.1, 0.2, 0.3])
    best = np.array([0.2, 0.3, 0.4, 0.1, 0.5]), np.array([0.5, 0.6, 0.9, 0.7, 0.4])
    found = ablations.of_levels(five, "absolute", replace(SMALL, levels=255), chosen, best)
    assert found["outcome"].tolist() == ["hit", "threshold too low", "threshold too high", "no threshold hits"]
    expected = [  # share, η chosen and best, level on the border and in the box
        [20, 0.2, 0.2, 0.5, 1],
        [40, (0.1 + 0.3) / 2, (0.3 + 0.4) / 2, 2 * 0.5 / 10, (1 + 0.5) / 2],
        [20, 0.4, 0.1, 0.5, 1],
        [20, 0.1, 0.5, 2 * 0.5 / 10, 2 * 0.5 / 6],  # two boxes of six positions together
    ]
    np.testing.assert_allclose(found.drop(columns="outcome"), expected, rtol=1e-6)
    hits = ablations.of_levels(
        five.subset(np.array([0])), "absolute", SMALL, *((a[:1], b[:1]) for a, b in (chosen, best))
    )
    assert hits["images, %"].tolist() == [100, 0, 0, 0]
    assert hits.iloc[1:, 2:].isna().all(axis=None)  # no image, no mean


def test_scores_of_choe_by_hand():
    line_and_square = [[0.9, 0, 1, 1], [0.9, 0, 1, 1]]
    one = predictions({"absolute": [line_and_square]}, [[(0, 0, 1, 1)]], (2, 4))
    protocol = PROTOCOLS["wsolevaluation"]
    # the square is the largest and a miss, the line is right; the last thresholds leave the square alone
    assert ablations.of_choe(one, "absolute", protocol) == {
        "MaxBoxAcc": 0, "at τ": 0, "MaxBoxAccV2": 100, "PxAP": pytest.approx(np.nan, nan_ok=True),
        "max_box_acc_v2_30": 100, "max_box_acc_v2_50": 100, "max_box_acc_v2_70": 100,
    }  # fmt: skip
    mask = np.array([[1, 0, 0, 0]] * 2)
    scores = ablations.of_choe(one, "absolute", replace(protocol, iou=0.2, grid=(0.5, 0.8, 1)), [mask])
    # above the maximum nothing is left, and that box's one pixel is a quarter of the true one's four
    assert (scores["MaxBoxAcc"], scores["at τ"], scores["MaxBoxAccV2"]) == (100, 1, 100)
    assert scores["PxAP"] == pytest.approx(100 * 2 / 6)  # two of the six pixels that score most
