"""IoU, the metrics, their intervals and tests, against answers worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsol_utils import metrics

KINDS = [np.asarray, torch.tensor]


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1),
        ((0, 0, 4, 4), (2, 2, 6, 6), 4 / 28),
        ((0, 0, 4, 4), (1, 1, 3, 3), 4 / 16),  # contained
        ((0, 0, 10, 10), (0, 0, 10, 5), 0.5),
        ((0, 0, 4, 4), (4, 0, 8, 4), 0),  # half-open: they touch and share no pixel
        ((0, 0, 4, 4), (4, 4, 8, 8), 0),
        ((0, 0, 2, 2), (5, 5, 9, 9), 0),  # apart in both directions: two negative sides make no area
        ((0, 0, 2, 9), (5, 0, 9, 9), 0),
        ((3, 3, 3, 8), (0, 0, 9, 9), 0),  # no area
        ((0, 0, 0, 0), (0, 0, 0, 0), 0),
        ((5, 5, 1, 1), (0, 0, 9, 9), 0),  # inside out
        ((0, 0, 1.5, 2), (0.5, 0, 2, 2), 0.5),  # CUB's boxes have fractions
    ],
)
def test_iou_by_hand(a, b, expected):
    assert metrics.iou(np.array(a), np.array([b])).tolist() == pytest.approx([expected])
    assert metrics.iou(np.array(b), np.array([a])).tolist() == pytest.approx([expected])
    assert metrics.best_iou(np.array([a]), [[b]]).tolist() == pytest.approx([expected])


def test_iou_against_counting_pixels():
    corners = np.sort(np.random.default_rng(0).integers(0, 9, size=(40, 2, 2)), axis=1).reshape(40, 4)
    pixels = [{(x, y) for x in range(x0, x1) for y in range(y0, y1)} for x0, y0, x1, y1 in corners]
    for box, inside in zip(corners, pixels, strict=True):
        expected = [len(inside & other) / max(1, len(inside | other)) for other in pixels]
        np.testing.assert_allclose(metrics.iou(box, corners), expected)


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ((0, 0, 3, 3), (0, 0, 3, 3), 1),
        ((0, 0, 4, 4), (2, 2, 6, 6), 9 / 41),  # sides of 5, 3 in common: 9 / (25 + 25 - 9), half-open 4/28
        ((0, 0, 4, 4), (4, 0, 8, 4), 1 / 9),  # they touch and share a column: 5 / (25 + 25 - 5)
        ((0, 0, 4, 4), (4, 4, 8, 8), 1 / 49),  # and a pixel
        ((0, 0, 1, 1), (5, 5, 7, 7), 0),  # disjoint; without the clamp (-3)² / (4 + 9 - 9) = 9/4
        ((5, 5, 1, 1), (0, 0, 9, 9), 0),  # inside out
    ],
)
def test_inclusive_iou_by_hand(a, b, expected):
    assert metrics.iou(np.array(a), np.array([b]), inclusive=True).tolist() == pytest.approx([expected])
    assert metrics.iou(np.array(b), np.array([a]), inclusive=True).tolist() == pytest.approx([expected])
    assert metrics.best_iou(np.array([a]), [[b]], inclusive=True).tolist() == pytest.approx([expected])


BOXES = arrays(np.int64, (3, 4), elements=st.integers(0, 9))  # inside out among them


@given(BOXES, BOXES)
def test_inclusive_is_a_pixel_more_at_the_end(some, others):
    overlap = metrics.iou(some, others, inclusive=True)
    more = np.array([0, 0, 1, 1])
    np.testing.assert_array_equal(overlap, metrics.iou(some + more, others + more))
    assert overlap.shape == (3, 3) and (overlap >= 0).all() and (overlap <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_best_of_several_boxes(kind):
    boxes = kind([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0], [1, 1, 3, 3]])
    truth = [[(9, 9, 12, 12), (0, 0, 4, 2), (0, 0, 1, 1)], np.array([]), torch.tensor([(0, 0, 4, 4)]), [[1, 1, 3, 3]]]
    best = metrics.best_iou(boxes, truth)
    assert best.tolist() == [0.5, 0, 0, 1]
    assert type(best) is type(boxes) and best.dtype in (np.float64, torch.float64)
    assert metrics.best_iou(boxes[:0], []).shape == (0,)
    with pytest.raises(ValueError, match=r"4 boxes.*1 images"):
        metrics.best_iou(boxes, [[]])


@pytest.mark.parametrize("kind", KINDS)
def test_best_iou_at_several_thresholds_by_hand(kind):
    boxes = kind([[[0, 0, 4, 4], [0, 0, 4, 2], [9, 9, 12, 11]], [[0, 0, 4, 4]] * 3])
    truth = [[(9, 9, 12, 12), (0, 0, 4, 2)], []]
    best = metrics.best_iou(boxes, truth)
    assert best.tolist() == [[0.5, 1, 2 / 3], [0, 0, 0]]  # each box with the nearest of the two
    assert type(best) is type(boxes) and best.dtype in (np.float64, torch.float64)
    # sides of 5 by 5 and 5 by 3; 4 by 3 and 4 by 4
    assert metrics.best_iou(boxes, truth, inclusive=True).tolist() == [[15 / 25, 1, 12 / 16], [0, 0, 0]]
    assert metrics.best_iou(boxes[:0], []).shape == (0, 3)


IOU = [0.5, 0.49, 0.9, 0.0, 0.6, 0.5, 0.1, 0.3]
PREDICTED, LABELS = [1, 2, 3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("kind", [*KINDS, list])
def test_localization_by_hand(kind):
    figures = metrics.localization(kind(IOU), kind(PREDICTED), kind(LABELS))
    # classes 0–3 are right; boxes 0, 2, 4, 5, where exactly 0.5 counts; both: 0 and 2
    assert figures == {"top1_cls": 50.0, "top1_loc": 25.0, "gt_known": 50.0}
    assert all(type(value) is float for value in figures.values())


def test_localization_at_another_iou():
    for iou, gt_known in [(0.0, 100.0), (0.3, 75.0), (0.51, 25.0), (0.91, 0.0)]:
        figures = metrics.localization(np.array(IOU), np.array(PREDICTED), np.array(LABELS), iou)
        assert figures["gt_known"] == gt_known and figures["top1_cls"] == 50
    for lengths in [(2, 3, 3), (3, 2, 3), (3, 3, 2), (0, 0, 0)]:
        with pytest.raises(ValueError, match="need as many"):
            metrics.localization(*(np.ones(n) for n in lengths))


@pytest.mark.parametrize("n, hits", [(10, 5), (300, 217), (40, 1)])
def test_interval_is_what_a_bootstrap_gives(n, hits):
    images, rng = np.arange(n) < hits, np.random.default_rng(0)
    draws = 100 * images[rng.integers(0, n, (4000, n))].mean(axis=1)
    low, high = metrics.interval(100 * hits / n, n)
    # one image, or a tenth of the spread: what 4,000 draws leave open
    expected = np.percentile(draws, [2.5, 97.5], method="inverted_cdf")
    np.testing.assert_allclose([low, high], expected, rtol=0, atol=max(100 / n, 0.1 * draws.std()) + 1e-9)
    assert low < 100 * hits / n < high


def test_interval_of_ten_images_by_hand():
    # Binomial(10, 1/2): P(≤ 1) = 11/1024 = 0.011, P(≤ 2) = 56/1024 = 0.055; symmetric above
    assert metrics.interval(50.0, 10) == pytest.approx((20, 80))
    assert metrics.interval(0.0, 10) == (0, 0)
    assert metrics.interval(100.0, 10) == (100, 100)
    assert all(type(bound) is float for bound in metrics.interval(50.0, 10))


OVERLAP = [[0.6, 0.5, 0.1], [0.2, 0.7, 0.5], [0.4, 0.49, 0.9], [0.5, 0.0, 0.8]]  # 4 images, 3 thresholds


@pytest.mark.parametrize("kind", [*KINDS, list])
@pytest.mark.parametrize(
    "iou, expected",
    [
        (0.3, (75.0, 0)),  # hits 3, 3, 3: the first of a tie
        (0.45, (75.0, 1)),  # 2, 3, 3
        (0.5, (75.0, 2)),  # 2, 2, 3, where exactly 0.5 counts twice
        (0.51, (50.0, 2)),  # 1, 1, 2
        (0.95, (0.0, 0)),
    ],
)
def test_max_box_acc_by_hand(kind, iou, expected):
    best = metrics.max_box_acc(kind(OVERLAP), iou)
    assert best == expected and [type(value) for value in best] == [float, int]


@pytest.mark.parametrize(
    "overlap, expected",
    [
        # 100 at column 0, then 50 and 50 at column 1; one column for all would give 50 at most
        ([[0.4, 0.9], [0.4, 0.0]], [100, 50, 50]),
        (OVERLAP, [75, 75, 50]),  # 0.9 and 0.8
        ([[0.3], [0.5], [0.7], [0.29]], [75, 50, 25]),  # the borders count
    ],
)
def test_max_box_acc_v2_by_hand(overlap, expected):
    mean, *parts = metrics.max_box_acc_v2(np.array(overlap)).items()
    assert mean == ("max_box_acc_v2", pytest.approx(sum(expected) / 3))
    assert parts == [(f"max_box_acc_v2_{iou}", part) for iou, part in zip((30, 50, 70), expected, strict=True)]


def test_max_box_acc_needs_images_and_thresholds():
    for shape in [(0, 3), (3, 0), (3,), (1, 2, 3)]:
        with pytest.raises(ValueError, match=r"overlap must be \(N, K\)"):
            metrics.max_box_acc(np.zeros(shape))


SCORES = np.array([[1.0, 0.9, 0.6], [0.6, 0.2, 0.0]])
MASK = np.array([[1, 0, 1], [255, 1, 0]])


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_average_precision_by_hand(kind):
    # from the top: 1.0 object, precision 1/1; 0.9 background; 0.6 object, 2/3, its twin is ignored;
    # 0.2 object, 3/4; each object pixel is a third of the recall
    figure = metrics.pixel_average_precision(kind(SCORES)[None], kind(MASK)[None])
    assert figure == pytest.approx(100 * (1 + 2 / 3 + 3 / 4) / 3) and type(figure) is float
    # were the twin background, both 0.6 would be one bin: 2/4 there, then 3/5
    figure = metrics.pixel_average_precision(kind(SCORES)[None], kind(MASK % 255)[None])
    assert figure == pytest.approx(100 * (1 + 2 / 4 + 3 / 5) / 3)


@pytest.mark.parametrize(
    "on_object, beside, expected",
    [
        (0.5, 0.4, 100),
        (0.5, 0.5009, 50),  # one bin, one precision for both
        (1.0, 0.999999, 100),  # 1 has a bin of its own
        (1.0, 1.0, 50),
        (0.3, 0.2999, 100),  # 300/1000 opens its bin
        (0.0, 0.0009, 50),
        (0.0, 0.1, 50),  # the lowest bin counts as well
    ],
)
def test_pixel_average_precision_counts_in_bins(on_object, beside, expected):
    assert metrics.pixel_average_precision([np.array([[on_object, beside]])], [np.array([[1, 0]])]) == expected


@given(arrays(np.int64, 12, elements=st.integers(0, 8)), arrays(np.int64, 12, elements=st.sampled_from([0, 1, 255])))
def test_pixel_average_precision_threshold_by_threshold(levels, mask):
    mask[0] = 1
    area = recall = 0.0
    for level in range(8, -1, -1):
        reached, hits = ((levels >= level) & (mask < 2)).sum(), ((levels >= level) & (mask == 1)).sum()
        area += 0 if reached == 0 else hits / reached * (hits / (mask == 1).sum() - recall)
        recall = hits / (mask == 1).sum()
    # three images of different shapes, given one at a time, are counted together
    pieces = [[x[:4].reshape(2, 2), x[4:10].reshape(2, 3), x[10:].reshape(1, 2)] for x in (levels / 8, mask)]
    figure = metrics.pixel_average_precision(iter(pieces[0]), iter(pieces[1]))
    assert figure == pytest.approx(100 * area)


@pytest.mark.parametrize(
    "maps, masks, reason",
    [
        ([SCORES, SCORES - 0.001], [MASK, MASK], r"not in \[0, 1\]: normalise"),
        ([np.where(SCORES == 0.9, np.nan, SCORES)], [MASK], "not finite"),
        ([SCORES], [MASK * 255], "no mask has an object pixel"),  # an object of 255 is not one
        ([SCORES, SCORES], [MASK], "shorter"),
    ],
)
def test_pixel_average_precision_says_what_is_wrong(maps, masks, reason):
    with pytest.raises(ValueError, match=reason):
        metrics.pixel_average_precision(maps, masks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "only_a, only_b, expected",
    [
        (0, 5, 0.0625),  # 2 · 0.5⁵
        (1, 4, 0.375),  # 2 · (1 + 5) / 32
        (2, 8, 112 / 1024),  # 2 · (1 + 10 + 45) / 2¹⁰
        (3, 3, 1),
        (1, 0, 1),
        (0, 0, 1),
    ],
)
def test_mcnemar_by_hand(kind, only_a, only_b, expected):
    for both, neither in [(0, 0), (7, 2)]:  # images where the methods agree say nothing
        a = kind([True] * only_a + [False] * only_b + [True] * both + [False] * neither)
        b = kind([False] * only_a + [True] * only_b + [True] * both + [False] * neither)
        p = metrics.mcnemar(a, b)
        assert p == pytest.approx(expected, rel=1e-12) and type(p) is float
        assert metrics.mcnemar(b, a) == p


def test_mcnemar_needs_the_same_images():
    for other in (np.ones(4, dtype=bool), np.ones(1, dtype=bool)):  # one would broadcast
        with pytest.raises(ValueError, match="the same images"):
            metrics.mcnemar(np.zeros(3, dtype=bool), other)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list])
def test_paired_interval_by_hand(kind):
    # mean 1, standard error √2/√2; one degree of freedom is Cauchy's: t = tan(0.475 π) = 12.706
    reach = np.tan(0.475 * np.pi)
    assert metrics.paired_interval(kind([0.0, 2.0])) == pytest.approx((1 - reach, 1 + reach))
    # mean 2, standard error 1/√3; two degrees of freedom: t = 0.95 / √(2 · 0.975 · 0.025) = 4.303
    reach = 0.95 / np.sqrt(2 * 0.975 * 0.025) / np.sqrt(3)
    assert metrics.paired_interval(kind([1.0, 2.0, 3.0])) == pytest.approx((2 - reach, 2 + reach))


def test_paired_interval_of_equal_differences_is_a_point():
    assert metrics.paired_interval([1.5, 1.5, 1.5]) == (1.5, 1.5)


def test_paired_interval_over_images_and_seeds_by_hand():
    gains = np.array([[0.0, 2.0, 1.0, 5.0], [2.0, 0.0, 3.0, 3.0]])
    # seeds' means 2 and 2: nothing; images' means 1, 1, 2, 4: variance 2, over 4; three degrees of freedom: t = 3.182
    assert metrics.paired_interval(gains) == pytest.approx((2 - 3.182446 * 0.5**0.5, 2 + 3.182446 * 0.5**0.5))
    assert metrics.paired_interval(gains[:1]) == pytest.approx(metrics.paired_interval(gains[0]))  # images alone
    # seeds' means 2 and 6: variance 8, over 2, one degree of freedom: t = 12.706
    gains[1] += 4
    reach = (12.706205 * 4 + 3.182446 * 0.5) / 4.5**0.5
    assert metrics.paired_interval(gains) == pytest.approx((4 - reach, 4 + reach))


@pytest.mark.parametrize("between_seeds", [0.0, 12.0])
def test_paired_interval_holds_the_truth_as_often_as_it_says(between_seeds):
    """Three trainings, judged on the same 200 images: both make a difference, and so does chance."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        seeds, images = rng.normal(0, between_seeds, (3, 1)), rng.normal(0, 40, (1, 200))
        low, high = metrics.paired_interval(5 + seeds + images + rng.normal(0, 30, (3, 200)))
        held += low <= 5 <= high
    assert held / 300 >= 0.93


@pytest.mark.filterwarnings("error")  # not by dividing by zero
@pytest.mark.parametrize("differences", [[], [3.0], np.zeros(0), torch.ones(1), np.ones((1, 1)), np.zeros((2, 0))])
def test_paired_interval_needs_two_differences(differences):
    low, high = metrics.paired_interval(differences)
    assert np.isnan(low) and np.isnan(high)
