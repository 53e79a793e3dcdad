"""Maps to boxes to metrics, on maps small enough to follow by hand."""

import numpy as np
import pytest

from wsol_utils import boxes, cam, evaluation, metrics, thresholds
from wsol_utils.predictions import KINDS, Predictions
from wsol_utils.protocols import PROTOCOLS, Protocol

PAPER = PROTOCOLS["paper"]
SMALL = Protocol("max", "map", (0.0, 0.2, 0.5, 1.0), 0.5)


def predictions(maps, true, size, labels=None, predicted=None):
    """Of plain maps (N, H, W): all kinds the same."""
    maps = np.asarray(maps, dtype=np.float32)
    scales = np.abs(maps).max(axis=(1, 2))
    scaled = maps / np.where(scales > 0, scales, 1)[:, None, None]
    labels = np.zeros(len(maps), dtype=np.int64) if labels is None else np.array(labels)
    return Predictions(
        image_id=np.array([str(i) for i in range(len(maps))]), label=labels,
        predicted=labels if predicted is None else np.array(predicted), logits=np.zeros((len(maps), 2), np.float16),
        kinds=np.array(KINDS), scaled_maps=np.repeat(scaled[:, None], len(KINDS), axis=1).astype(np.float16),
        scales=np.repeat(scales[:, None], len(KINDS), axis=1),
        box=np.concatenate([np.asarray(b, np.float32).reshape(-1, 4) for b in true]),
        box_image=np.repeat(np.arange(len(maps)), [len(b) for b in true]), size=np.array(size),
    )  # fmt: skip


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
    one = predictions(ROW, [[(0, 0, 20, 10)]], (10, 40))
    # > 0: three positions, 20 of 30 pixels; > 0.2: the same; > 0.5, strictly: one, 10 of 20; > 1: none
    assert evaluation.iou_on_grid(one, "absolute", SMALL).tolist() == [[pytest.approx(2 / 3)] * 2 + [0.5, 0]]


def test_the_nearest_of_several_boxes_counts_and_none_is_a_miss():
    two = predictions(ROW * 2, [[(20, 0, 40, 10), (0, 0, 10, 10)], []], (10, 40))
    overlap = evaluation.iou_on_grid(two, "absolute", SMALL)
    # 30 pixels against [20, 40): 10 of 40, against [0, 10): 10 of 30; then 10 against [0, 10): all
    assert overlap.tolist() == [[pytest.approx(1 / 3)] * 2 + [1, 0], [0, 0, 0, 0]]


def test_boxes_at_map_resolution_are_scaled_by_axis():
    maps = np.zeros((1, 3, 5))
    maps[0, 1, 2:4] = 1  # rows [1, 2) of 3, columns [2, 4) of 5, on a frame of 30×100 pixels
    one = predictions(maps, [[(40, 10, 80, 20)]], (30, 100))
    assert evaluation.iou_on_grid(one, "absolute", SMALL).tolist() == [[1, 1, 1, 0]]
    _, found = evaluation.localize(one, "absolute", SMALL, ["fixed"])["fixed"]
    assert found.tolist() == [[40, 10, 80, 20]]


def test_boxes_at_input_resolution_are_left_alone():
    maps = np.ones((1, 2, 2))  # constant: stays so when upsampled
    one = predictions(maps, [[(0, 0, 6, 4)]], (4, 6))
    _, found = evaluation.localize(one, "absolute", Protocol("max", "input", SMALL.candidates, 0.5), ["fixed"])["fixed"]
    assert found.tolist() == [[0, 0, 6, 4]]


def test_prepared_maps_are_upsampled_first_and_normalised_then():
    some = rough(3)
    (ready,) = evaluation.prepared(some.maps("absolute"), some.size, PAPER)
    expected = cam.normalize(cam.upsample(some.maps("absolute"), (24, 32)), "max")
    np.testing.assert_array_equal(ready, expected)
    assert ready.max(axis=(1, 2)).tolist() == [1, 1, 1]  # the other way round the peaks would be lower
    (small,) = evaluation.prepared(some.maps("absolute"), some.size, Protocol("minmax", "map", (0.5,), 0.5))
    np.testing.assert_array_equal(small, cam.normalize(some.maps("absolute"), "minmax"))


@pytest.mark.parametrize("protocol", [PAPER, Protocol("minmax", "map", PAPER.candidates, 0.5)])
def test_iou_on_the_grid_is_what_the_modules_say(protocol):
    some = rough()
    overlap = evaluation.iou_on_grid(some, "signed", protocol)
    assert overlap.shape == (20, 21)
    maps = np.concatenate(list(evaluation.prepared(some.maps("signed"), some.size, protocol)))
    scale = 1 if protocol.resolution == "input" else 4  # 6×8 positions on 24×32 pixels
    for k in (0, 4, 10):
        by_one = boxes.largest_box(maps, np.full(20, protocol.candidates[k])) * scale
        assert overlap[:, k] == pytest.approx(metrics.best_iou(by_one, some.true_boxes()))


@pytest.mark.parametrize("protocol", [PAPER, Protocol("minmax", "map", PAPER.candidates, 0.5)])
def test_localize_is_select_and_the_largest_box(protocol):
    some = rough()
    rules = ["first_above_mean", "argmax", "otsu", "fixed"]
    found = evaluation.localize(some, "signed", protocol, rules)
    assert list(found) == rules
    maps = np.concatenate(list(evaluation.prepared(some.maps("signed"), some.size, protocol)))
    for rule, (eta, box) in found.items():
        np.testing.assert_array_equal(eta, thresholds.select(maps, rule, protocol.candidates))
        scale = 1 if protocol.resolution == "input" else 4
        np.testing.assert_array_equal(box, boxes.largest_box(maps, eta) * scale)
    assert len({tuple(eta) for eta, _ in found.values()}) == 4  # the rules do not agree


def test_the_grid_and_the_rule_fixed_agree():
    some = rough()
    overlap = evaluation.iou_on_grid(some, "absolute", PAPER)
    _, box = evaluation.localize(some, "absolute", PAPER, ["fixed"])["fixed"]
    assert metrics.best_iou(box, some.true_boxes()) == pytest.approx(overlap[:, PAPER.candidates.index(0.2)])


@pytest.mark.parametrize("chunk", [1, 7, 20])
def test_chunks_do_not_matter(monkeypatch, chunk):
    some = rough()
    overlap = evaluation.iou_on_grid(some, "absolute", PAPER)
    found = evaluation.localize(some, "absolute", PAPER, ["first_above_mean", "li"])
    monkeypatch.setattr(evaluation, "CHUNK", chunk)
    assert len(list(evaluation.prepared(some.maps("absolute"), some.size, PAPER))) == -(-20 // chunk)
    np.testing.assert_allclose(evaluation.iou_on_grid(some, "absolute", PAPER), overlap)
    for rule, (eta, box) in evaluation.localize(some, "absolute", PAPER, ["first_above_mean", "li"]).items():
        np.testing.assert_allclose(eta, found[rule][0])
        np.testing.assert_array_equal(box, found[rule][1])


def test_grid_rows_by_hand():
    four = predictions(ROW * 4, [[(0, 0, 9, 9)]] * 4, (10, 40), [0, 1, 2, 3], [0, 1, 0, 0])  # two classes right
    overlap = np.array(
        [
            # η 0   0.2   0.5  1.0
            [0.1, 0.6, 0.2, 0.0],
            [0.1, 0.4, 0.5, 0.0],  # 0.5 is a hit
            [0.9, 0.3, 0.7, 0.0],
            [0.0, 0.4, 0.3, 0.0],
        ]
    )
    fixed, best, oracle = evaluation.grid_rows(four, overlap, SMALL)
    assert (fixed["threshold_rule"], fixed["threshold"], fixed["uses_ground_truth"]) == ("fixed", 0.2, False)
    assert (fixed["gt_known"], fixed["top1_loc"], fixed["top1_cls"]) == (25, 25, 50)
    assert (best["threshold_rule"], best["threshold"], best["uses_ground_truth"]) == ("best_fixed", 0.5, True)
    assert (best["gt_known"], best["top1_loc"], best["top1_cls"]) == (50, 25, 50)
    # the best of each image: 0.2, 0.5, 0, 0.2
    assert (oracle["threshold_rule"], oracle["uses_ground_truth"]) == ("oracle", True)
    assert oracle["threshold"] == pytest.approx(0.9 / 4)
    assert (oracle["gt_known"], oracle["top1_loc"], oracle["top1_cls"]) == (75, 50, 50)
    assert all(one["n_images"] == 4 for one in (fixed, best, oracle))


def test_the_iou_of_the_protocol_decides():
    four = predictions(ROW * 4, [[(0, 0, 9, 9)]] * 4, (10, 40))
    overlap = np.array([[0.2, 0.31, 0.0, 0.0], [0.1, 0.29, 0.0, 0.0], [0.8, 0.0, 0.0, 0.0], [0.8, 0.0, 0.0, 0.0]])
    rates = {
        iou: [r["gt_known"] for r in evaluation.grid_rows(four, overlap, Protocol("max", "map", SMALL.candidates, iou))]
        for iou in (0.3, 0.5)
    }
    assert rates == {0.3: [25, 50, 75], 0.5: [0, 50, 50]}


def test_row_by_hand():
    four = predictions(ROW * 4, [[]] * 4, (10, 40), [0, 1, 2, 3], [0, 1, 2, 0])
    figures = evaluation.row(four, np.array([0.5, 0.49, 0.9, 1.0]), SMALL)
    assert figures["n_images"] == 4
    assert (figures["top1_cls"], figures["top1_loc"], figures["gt_known"]) == (75, 50, 75)
    # Binomial(4, 3/4): P(0) = 0.004, P(≤ 1) = 0.051 > 0.025; P(4) = 0.316 > 0.025
    assert (figures["gt_known_low"], figures["gt_known_high"]) == (25, 100)


@pytest.mark.parametrize("seed", range(5))
def test_oracle_best_fixed_and_fixed_are_in_order(seed):
    some = rough(seed=seed)
    overlap = evaluation.iou_on_grid(some, "absolute", PAPER)
    fixed, best, oracle = (r["gt_known"] for r in evaluation.grid_rows(some, overlap, PAPER))
    assert 0 <= fixed <= best <= oracle <= 100
    assert oracle == pytest.approx(100 * (overlap.max(axis=1) >= 0.5).mean())
    assert fixed == pytest.approx(100 * (overlap[:, 4] >= 0.5).mean())
    _, box = evaluation.localize(some, "absolute", PAPER, ["first_above_mean"])["first_above_mean"]
    assert evaluation.row(some, metrics.best_iou(box, some.true_boxes()), PAPER)["gt_known"] <= oracle


def test_the_metrics_look_at_the_class_that_is_predicted():
    some = rough()
    overlap = np.ones(20)
    figures = evaluation.row(some, overlap, PAPER)
    share = 100 * (some.predicted == some.label).mean()
    assert figures["top1_loc"] == figures["top1_cls"] == pytest.approx(share)
    assert figures["gt_known"] == 100


def test_recombination_is_the_map_that_is_thresholded():
    maps = np.zeros((1, 1, 4), dtype=np.float32)
    one = predictions(maps + 1, [[(0, 0, 10, 10)]], (10, 40))
    one.scaled_maps[0, 0] = [[1, 0, 0, 0]]  # signed
    one.scaled_maps[0, 2] = [[0, 0, 1, 1]]  # absolute
    assert evaluation.iou_on_grid(one, "signed", SMALL)[0, 1] == 1
    assert evaluation.iou_on_grid(one, "absolute", SMALL)[0, 1] == 0
    assert evaluation.localize(one, "signed", SMALL, ["fixed"])["fixed"][1].tolist() == [[0, 0, 10, 10]]
    assert evaluation.localize(one, "absolute", SMALL, ["fixed"])["fixed"][1].tolist() == [[20, 0, 40, 10]]


def test_unknown_rule_and_recombination():
    some = rough(2)
    with pytest.raises(ValueError, match=r"unknown threshold rule 'otso'.*otsu"):
        evaluation.localize(some, "absolute", PAPER, ["otso"])
    with pytest.raises(ValueError, match=r"unknown recombination 'abs'"):
        evaluation.iou_on_grid(some, "abs", PAPER)
