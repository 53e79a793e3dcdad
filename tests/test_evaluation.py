"""Maps to boxes to metrics, on maps small enough to follow by hand."""

from dataclasses import replace
from functools import partial

import numpy as np
import plain_predictions
import pytest
from plain_references import largest_contour

from wsol_utils import ablations, boxes, cam, evaluation, metrics, thresholds
from wsol_utils.maps.predictions import Predictions
from wsol_utils.scores.protocols import PROTOCOLS, to_input

PAPER, CHOE, BAE = PROTOCOLS["paper"], PROTOCOLS["wsolevaluation"], PROTOCOLS["rethinkingcam"]
SMALL = replace(PAPER, resolution="map", grid=(0.0, 0.2, 0.5, 1.0))
MINMAX = replace(PAPER, resolution="map", normalization="minmax")
KINDS = ["signed", "positive", "absolute"]


def predictions(maps, *others, **more):
    """All kinds of maps the same (N, H, W)."""
    return plain_predictions.predictions(dict.fromkeys(KINDS, maps), *others, **more)


def rough(n=20, seed=0):
    """Random maps with a hill, two boxes each, on a frame of 24×32 pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:6, :8]
    centre = rng.uniform(1, 5, (n, 2, 1, 1))
    hills = np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / 6) + 0.3 * rng.random((n, 6, 8)) - 0.2
    corner = rng.integers(0, 12, (n, 2, 2))
    sides = rng.integers(6, 13, (n, 2, 2))
    true = np.concatenate([corner, corner + sides], axis=2)
    return predictions(hills, true, (24, 32), rng.integers(0, 3, n), rng.integers(0, 3, n))


# One image of 1×4 positions on a frame of 10×40 pixels: a position is 10 pixels wide.
ROW = [[[1.0, 0.5, 0.3, 0.0]]]


def test_iou_on_the_grid_by_hand():
    three = predictions(ROW * 3, [[(0, 0, 20, 10)], [(20, 0, 40, 10), (0, 0, 10, 10)], []], (10, 40))
    assert evaluation.iou_on_grid(three, "absolute", SMALL).tolist() == [
        # > 0: three positions, 20 of 30 pixels; > 0.2: the same; > 0.5, strictly: one, 10 of 20; > 1: none
        [pytest.approx(2 / 3)] * 2 + [0.5, 0],
        # 30 pixels against [20, 40): 10 of 40, against [0, 10): 10 of 30; then 10 against [0, 10): all
        [pytest.approx(1 / 3)] * 2 + [1, 0],
        [0, 0, 0, 0],  # no true box
    ]


def test_boxes_at_map_resolution_are_scaled_by_axis():
    maps = np.zeros((1, 3, 5))
    maps[0, 1, 2:4] = 1  # rows [1, 2) of 3, columns [2, 4) of 5, on a frame of 30×100 pixels
    one = predictions(maps, [[(40, 10, 80, 20)]], (30, 100))
    assert evaluation.iou_on_grid(one, "absolute", SMALL).tolist() == [[1, 1, 1, 0]]


def test_prepared_maps_are_upsampled_first_and_normalised_then():
    some = rough(3)
    ready = evaluation.prepared(some.maps("absolute"), some.size, PAPER)
    expected = cam.normalize(cam.upsample(some.maps("absolute"), (24, 32)), "max")
    np.testing.assert_array_equal(ready, expected)
    assert ready.max(axis=(1, 2)).tolist() == [1, 1, 1]  # the other way round the peaks would be lower


@pytest.mark.parametrize(
    "protocol",
    [PAPER, MINMAX, replace(PAPER, boundary="contour", candidates=tuple(i / 10 for i in range(11))),
     replace(PAPER, levels=255, component="contour", interpolation="bicubic")],
    ids=["paper", "minmax", "boundary", "levels"],
)  # fmt: skip
def test_localize_is_select_and_the_largest_box(protocol):
    some, rules = rough(), ["first_above_mean", "argmax", "otsu", "fixed"]
    found, overlap = (look(some, "signed", protocol, rules) for look in (evaluation.localize, evaluation.overlaps))
    assert list(found) == list(overlap) == rules
    graded = evaluation.prepared(some.maps("signed"), some.size, protocol)
    maps = evaluation.prepared(some.maps("signed"), some.size, replace(protocol, levels=0))
    scale = 1 if protocol.resolution == "input" else 4  # 6×8 positions on 24×32 pixels
    for rule, (eta, box) in found.items():
        np.testing.assert_array_equal(eta, thresholds.select(maps, rule, protocol.candidates, protocol.boundary))
        np.testing.assert_array_equal(box, boxes.largest_box(graded, eta, protocol.component) * scale)
        np.testing.assert_array_equal(overlap[rule][0], eta)
        np.testing.assert_array_equal(overlap[rule][1], metrics.best_iou(box, some.true_boxes()))
    assert len({tuple(eta) for eta, _ in found.values()}) == 4  # the rules do not agree


LOOKS = {  # at the maps of one kind
    "iou_on_grid": lambda some: evaluation.iou_on_grid(some, "absolute", PAPER),
    "iou_of_contours": lambda some: evaluation.iou_of_contours(some, "absolute", CHOE)[1],
    "localize": lambda some: evaluation.localize(some, "absolute", PAPER, ["first_above_mean"])["first_above_mean"][1],
    "scores": lambda some: np.array(list(evaluation.scores(some, "absolute", PAPER))),
    "coverage": lambda some: evaluation.coverage(some, partial(some.maps, "absolute"), PAPER),
    "of_channels": lambda some: ablations.of_channels(some, PAPER).drop(columns="map").to_numpy(),
    "of_levels": lambda some: levels(some).drop(columns="outcome").to_numpy(),
}


def levels(some):
    chosen = np.full(20, 0.2), np.tile([0.1, 0.6], 10)
    return ablations.of_levels(some, "absolute", PAPER, chosen, (np.full(20, 0.3), np.full(20, 0.7)))


@pytest.mark.parametrize("look", LOOKS)
def test_maps_are_read_a_chunk_at_a_time(monkeypatch, look):
    some, five = rough(), [0, 1, 2, 0, 1]
    kinds = np.array([*KINDS, "strongest_positive", "strongest_negative"])
    some = replace(some, kinds=kinds, scaled_maps=some.scaled_maps[:, five], scales=some.scales[:, five])
    at_once, read, maps = LOOKS[look](some), [], Predictions.maps

    def watched(self, kind, rows=slice(None)):
        found = maps(self, kind, rows)
        read.append(len(found))
        return found

    monkeypatch.setattr(Predictions, "maps", watched)
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    np.testing.assert_array_equal(LOOKS[look](some), at_once)
    assert set(read) == {7, 6} and sum(read) % 20 == 0


OVERLAP = np.array(
    [
        # η 0   0.2   0.5  1.0
        [0.1, 0.6, 0.2, 0.0],
        [0.1, 0.4, 0.5, 0.0],  # 0.5 is a hit
        [0.9, 0.3, 0.7, 0.0],
        [0.0, 0.4, 0.3, 0.0],
    ]
)


def test_on_grid_and_rows_by_hand():
    four = predictions(ROW * 4, [[(0, 0, 9, 9)]] * 4, (10, 40), [0, 1, 2, 3], [0, 1, 0, 0])  # two classes right
    found = evaluation.on_grid(OVERLAP, SMALL)
    expected = {
        "fixed": ([0.2] * 4, [0.6, 0.4, 0.3, 0.4]),
        "best_fixed": ([0.5] * 4, [0.2, 0.5, 0.7, 0.3]),  # 1, 1, 2 and 0 hits
        "oracle": ([0.2, 0.5, 0, 0.2], [0.6, 0.5, 0.9, 0.4]),
    }
    assert {rule: (eta.tolist(), overlap.tolist()) for rule, (eta, overlap) in found.items()} == expected
    columns = ["threshold_rule", "threshold", "uses_ground_truth", "n_images", "gt_known", "top1_loc", "top1_cls"]
    listed = evaluation.rows(four, found, SMALL)
    assert [[row[column] for column in columns] for row in listed] == [
        ["fixed", 0.2, False, 4, 25, 25, 50],
        ["best_fixed", 0.5, True, 4, 50, 25, 50],
        ["oracle", pytest.approx(0.9 / 4), True, 4, 75, 50, 50],
    ]
    assert [row["threshold_sd"] for row in listed] == pytest.approx([0, 0, (0.33 / 4 - (0.9 / 4) ** 2) ** 0.5])


def test_p_values():
    """McNemar's, of the images that the rule and the fixed threshold do not agree on."""
    twelve = predictions(ROW * 12, [[]] * 12, (10, 40))
    usual = np.array([1.0] * 4 + [0.0] * 8)
    better, other = np.array([1.0] * 10 + [0.0] * 2), usual[::-1].copy()
    found = {name: (np.zeros(12), overlap) for name, overlap in (("li", better), ("fixed", usual), ("otsu", other))}
    li, fixed, otsu = evaluation.rows(twelve, found, SMALL)
    assert li["p_value"] == pytest.approx(2 * 0.5**6)  # 6 images against none
    assert fixed["p_value"] == 1 and otsu["p_value"] == 1  # 4 images against 4
    hits = {rule: overlap >= 0.5 for rule, (_, overlap) in found.items()}
    assert li["p_value"] == metrics.mcnemar(hits["li"], hits["fixed"])
    del found["fixed"]
    assert all("p_value" not in one for one in evaluation.rows(twelve, found, SMALL))
    # Binomial(12, 1/3): P(0) = 0.008, P(≤ 1) = 0.054 > 0.025; P(≤ 6) = 0.934, P(≤ 7) = 0.981
    assert (otsu["gt_known_low"], otsu["gt_known_high"]) == pytest.approx((100 / 12, 700 / 12))


# The conventions, one by one.


def only_box(protocol, values, true=(0, 0, 40, 10)):
    """The box of one map 1×4 on a frame of 10×40 pixels at the threshold 0.2, and its IoU with the true one."""
    one = predictions([[values]], [[true]], (10, 40))
    protocol = replace(protocol, resolution="map", grid=(0.2,))
    (found,) = boxes.largest_boxes(evaluation.prepared(one.maps("signed"), one.size, protocol), protocol.grid)
    [box] = evaluation._as_scored(found, (1, 4), one.size, protocol).tolist()
    return box, evaluation.iou_on_grid(one, "signed", protocol)[0, 0]


WHOLE, NONE = [0, 0, 40, 10], [0, 0, 0, 0]


@pytest.mark.parametrize(
    "values, paper, choe, bae",
    [
        ([0, 0, 0, 0], NONE, NONE, WHOLE),
        ([3, 3, 3, 3], WHOLE, NONE, WHOLE),  # constant: 1 when divided by its maximum, else 0; Bae's fallback
        ([-1, -2, -3, -4], NONE, [0, 0, 30, 9], [0, 0, 30, 10]),  # stretched: 1, 2/3, 1/3, 0
        ([0, 0, 1, 1], [20, 0, 40, 10], [20, 0, 39, 9], [20, 0, 40, 10]),  # clipped to the last pixel's index
    ],
)
def test_boxes_of_each_protocol_by_hand(values, paper, choe, bae):
    found = [only_box(protocol, values)[0] for protocol in (PAPER, CHOE, BAE)]
    assert found == [paper, choe, bae]


PLAIN = {"zero": np.zeros((4, 4)), "constant": np.full((4, 4), 3.0), "negative": -np.arange(1.0, 17).reshape(4, 4)}
BESIDE = np.eye(4)


@pytest.mark.fault(
    "maps that are zero, constant or negative", "every rule gives a threshold and a box, by every protocol"
)
@pytest.mark.parametrize("protocol", [PAPER, CHOE, BAE], ids=["paper", "wsolevaluation", "rethinkingcam"])
@pytest.mark.parametrize("name", PLAIN)
def test_every_rule_on_maps_without_a_hill(protocol, name):
    true = [(10, 10, 20, 20)]
    alone = predictions([PLAIN[name]], [true], (40, 40))
    among = predictions([BESIDE, PLAIN[name], BESIDE], [true] * 3, (40, 40))
    several = evaluation.localize(among, "signed", protocol, thresholds.RULES)
    for rule, (eta, found) in evaluation.localize(alone, "signed", protocol, thresholds.RULES).items():
        assert 0 <= eta[0] <= 1 and (found >= 0).all() and (found <= 40).all(), rule
        assert several[rule][0][1] == eta[0] and (several[rule][1][1] == found[0]).all(), rule  # whatever is beside it
        if protocol is PAPER:  # divided by its maximum: nothing is above 0, or all of it is
            assert found[0].tolist() == ([0, 0, 40, 40] if name == "constant" else NONE), rule


def test_true_corners_are_whole_numbers():
    # cut off, but for a corner that float32 left just below a whole number
    for true in ((20.7, 0.9, 39.2, 9.99), (19.99999, 0, 38.99999, 8.99999)):
        assert only_box(CHOE, [0, 0, 1, 1], true) == ([20, 0, 39, 9], 1)


# Images of 512×256 and of 64×64 pixels. Resized to 256×256 a pixel is 1/2 by 1, or 4 by 4; 16 are cut from each side.
CUT_OFF = {
    (512, 256): {
        (128, 64, 384, 192): [48, 48, 175, 175],  # 383 / 2 - 16 = 175.5; 191 - 16
        (16, 8, 64, 250): [0, 0, 15, 223],  # 249 - 16 = 233
        (0, 0, 20, 10): [0, 0, 0, 0],  # beside the crop
        (490, 245, 512, 256): [223, 223, 223, 223],  # beyond it
    },
    (64, 64): {(0, 20, 62, 64): [0, 64, 223, 223]},  # 61 · 4 - 16 = 228, and not 224 - 4
}


def test_last_pixels_by_hand():
    """rethinkingCAM's true boxes: the last pixel in the original image, scaled, cut to whole numbers and clipped."""
    true = [to_input(list(boxes), size, 224, BAE) for size, boxes in CUT_OFF.items()]
    two = predictions(np.ones((2, 2, 2)), true, (224, 224), image_size=list(CUT_OFF))
    found = evaluation.truth(two, BAE)
    assert [boxes.tolist() for boxes in found] == [list(boxes.values()) for boxes in CUT_OFF.values()]
    # without a crop, the frame's own edge is no cut: a pixel is 4 by 1/2
    whole = predictions(np.ones((1, 2, 2)), [[(0, 0, 224, 224)]], (224, 224), image_size=(56, 448))
    assert evaluation.truth(whole, replace(BAE, frame=1))[0].tolist() == [[0, 0, 220, 223]]


def percentile_as_standard(scores):
    """rethinkingCAM's box of one map in [0, 1] (H, W): corners x, y, x + w, y + h."""
    levels = (255 * scores).astype(np.uint8)
    return largest_contour(levels > int(0.35 * np.percentile(levels, 90)), [0, 0, *levels.shape[::-1]])


def test_the_percentile_is_taken_from_the_levels():
    some = rough(50)
    some.scaled_maps[7] = 0  # nothing to find
    eta, found = evaluation.localize(some, "signed", BAE, ["percentile"])["percentile"]
    ready = evaluation.prepared(some.maps("signed"), some.size, replace(BAE, levels=0))
    assert found.tolist() == [percentile_as_standard(scores.astype(np.float64)) for scores in ready]
    assert found[7].tolist() == [0, 0, 32, 24] and eta[7] == 0
    levels = [(255 * scores.astype(np.float64)).astype(np.uint8) for scores in ready]
    np.testing.assert_array_equal(np.rint(255 * eta), [int(0.35 * np.percentile(one, 90)) for one in levels])


@pytest.mark.parametrize("width", [6, 8, 10, 11])
def test_a_level_that_is_0_35_of_the_percentile(width):
    """Where that is a whole number, or nearly, rounding decides, and does it as in int() of it."""
    level, place = np.arange(1, 255), int(0.9 * (width - 1))
    maps = np.zeros((254, 1, width))
    maps[:, 0, place:], maps[..., -1] = level[:, None], 255
    cuts = np.array([int(0.35 * np.percentile(image.astype(np.uint8), 90)) for image in maps])
    maps, cuts = maps[cuts < level], cuts[cuts < level]
    maps[:, 0, 1], maps[:, 0, 2] = cuts, cuts + 1  # below the mask, and in it; the percentile does not move
    protocol = replace(BAE, resolution="map")
    some = predictions(maps, [[]] * len(maps), (1, width))
    scales = np.full((len(maps), 1), 255.0)  # float64, as float16 has not all levels
    some = replace(some, scaled_maps=maps[:, None] / 255, scales=scales, kinds=np.array(["maps"]))
    graded = evaluation.prepared(some.maps("maps"), some.size, protocol)
    np.testing.assert_array_equal(graded, maps)
    eta, _ = evaluation.localize(some, "maps", protocol, ["percentile"])["percentile"]
    mask = maps > (eta * 255)[:, None, None]
    assert not mask[:, 0, :2].any() and mask[:, 0, 2].all()


# Fig. 2 as figures, and PxAP.


@pytest.mark.parametrize(
    "image, true, expected",
    [
        # above 0.2, strictly: the first two of 8 pixels; corners are rounded to the nearest
        ([[7, 3.5, 1.4, 0], [0, 0, 0, 0]], [(0.4, -0.1, 1.4, 2)], [1 / 2, 1 / 2, 2 / 8]),
        ([[1, 0.5, 0.2, 0], [0, 0, 0, 0]], [(0, 0, 1, 2), (0, 0, 2, 1)], [2 / 3, 1, 3 / 8]),  # what both share, once
        ([[1, 0.5, 0.2, 0], [0, 0, 0, 0]], [], [0, 0, 0]),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], [(0, 0, 4, 1)], [0, 0, 4 / 8]),
    ],
)
def test_coverage_by_hand(image, true, expected):
    maps = np.array([image, [[0, 0, 0, 1], [0, 0, 0, 1]]], dtype=np.float32)
    two = predictions(maps, [true, [(3, 0, 4, 2)]], (2, 4))
    found = evaluation.coverage(two, maps.__getitem__, PAPER)
    np.testing.assert_allclose(found, [expected, [1, 1, 2 / 8]])


def test_coverage_is_taken_in_the_input_frame():
    one = predictions(ROW, [[(0, 0, 20, 10)]], (10, 40))  # the map has one row of four
    found = evaluation.coverage(one, partial(one.maps, "signed"), replace(PAPER, resolution="map", levels=255))
    covered = np.count_nonzero(cam.upsample(one.maps("signed"), (10, 40))[0, 0] > 0.2)
    np.testing.assert_allclose(found, [[1, 20 / covered, 1 / 2]])


def test_negative_scores_count_as_none():
    one = predictions([[[8.0, 4.0, -2.0, -8.0]]], [[]], (1, 4))  # signed, divided by the maximum: two at 0
    masks = [np.array([[0, 0, 1, 0]])]
    found = [metrics.pixel_average_precision(evaluation.scores(one, "signed", row), masks) for row in (PAPER, CHOE)]
    assert found == pytest.approx([100 / 4, 100 / 3])  # the second stretched
