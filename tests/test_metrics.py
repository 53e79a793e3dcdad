"""IoU, the metrics, their intervals and tests, against answers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsol_utils import metrics


def test_iou_by_hand():
    a, b = np.array([0, 0, 1.5, 2]), np.array([[0.5, 0, 2, 2], [1.5, 0, 3, 2], [2, 2, 1, 1]])  # CUB's have fractions
    assert metrics.iou(a, b).tolist() == pytest.approx(
        [0.5, 0, 0]
    )  # half-open: no pixel shared; the last is inside out


def test_iou_against_counting_pixels():
    corners = np.sort(np.random.default_rng(0).integers(0, 9, size=(40, 2, 2)), axis=1).reshape(40, 4)
    pixels = [{(x, y) for x in range(x0, x1) for y in range(y0, y1)} for x0, y0, x1, y1 in corners]
    for box, inside in zip(corners, pixels, strict=True):
        expected = [len(inside & other) / max(1, len(inside | other)) for other in pixels]
        np.testing.assert_allclose(metrics.iou(box, corners), expected)


BEST = np.array([[[0, 0, 4, 4], [0, 0, 4, 2], [9, 9, 12, 11]], [[0, 0, 4, 4]] * 3])  # of two images, three thresholds
TRUTH = [[(9, 9, 12, 12), (0, 0, 4, 2)], np.array([])]


def test_best_of_several_boxes_by_hand():
    assert metrics.best_iou(BEST, TRUTH).tolist() == [[0.5, 1, 2 / 3], [0, 0, 0]]  # each with the nearest of the two
    assert metrics.best_iou(BEST[:, 0], TRUTH).tolist() == [0.5, 0]
    # sides of 5 by 5 and 5 by 3; 4 by 3 and 4 by 4
    assert metrics.best_iou(BEST, TRUTH, inclusive=True).tolist() == [[15 / 25, 1, 12 / 16], [0, 0, 0]]
    tensor = metrics.best_iou(torch.tensor(BEST), [torch.tensor(TRUTH[0]), []])
    assert tensor.dtype == torch.float64 and tensor.tolist() == metrics.best_iou(BEST, TRUTH).tolist()
    assert metrics.best_iou(BEST[:0], []).shape == (0, 3)
    with pytest.raises(ValueError, match=r"2 boxes.*1 images"):
        metrics.best_iou(BEST, TRUTH[:1])


IOU = [0.5, 0.49, 0.9, 0.0, 0.6, 0.5, 0.1, 0.3]
PREDICTED, LABELS = [1, 2, 3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 6, 7, 8, 9]


def test_localization_by_hand():
    # classes 0–3 are right; boxes 0, 2, 4, 5, where exactly 0.5 counts; both: 0 and 2
    assert metrics.localization(IOU, PREDICTED, LABELS) == {"top1_cls": 50.0, "top1_loc": 25.0, "gt_known": 50.0}
    for iou, gt_known in [(0.0, 100.0), (0.3, 75.0), (0.51, 25.0), (0.91, 0.0)]:
        figures = metrics.localization(IOU, PREDICTED, LABELS, iou)
        assert figures["gt_known"] == gt_known and figures["top1_cls"] == 50
    for lengths in [(2, 3, 3), (3, 2, 3), (3, 3, 2), (0, 0, 0)]:
        with pytest.raises(ValueError, match="need as many"):
            metrics.localization(*(np.ones(n) for n in lengths))


@pytest.mark.parametrize("n, hits", [(10, 5), (300, 217), (40, 1), (10, 0), (10, 10)])
def test_interval_holds_what_a_bootstrap_draws(n, hits):
    """Of n draws with replacement, k hit with a probability that is known."""
    share = hits / n
    below = np.cumsum([math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)])
    expected = [100 * int((below >= tail - 1e-12).argmax()) / n for tail in (0.025, 0.975)]
    assert metrics.interval(100 * share, n) == pytest.approx(expected)


OVERLAP = [[0.6, 0.5, 0.1], [0.2, 0.7, 0.5], [0.4, 0.49, 0.9], [0.5, 0.0, 0.8]]  # 4 images, 3 thresholds


@pytest.mark.parametrize(
    "iou, expected",
    [
        (0.3, (75.0, 0)),  # hits 3, 3, 3: the first of a tie
        (0.5, (75.0, 2)),  # 2, 2, 3, where exactly 0.5 counts twice
        (0.51, (50.0, 2)),  # 1, 1, 2
        (0.95, (0.0, 0)),
    ],
)
def test_max_box_acc_by_hand(iou, expected):
    assert metrics.max_box_acc(OVERLAP, iou) == expected


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


@pytest.mark.parametrize(
    "on_object, beside, expected",
    [
        (0.5, 0.5009, 50),  # one bin, one precision for both
        (1.0, 0.999999, 100),  # 1 has a bin of its own
        (0.3, 0.2999, 100),  # 300/1000 opens its bin
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


SCORES = np.array([[1.0, 0.9, 0.6], [0.6, 0.2, 0.0]])
MASK = np.array([[1, 0, 1], [255, 1, 0]])


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


@pytest.mark.parametrize(
    "only_a, only_b, expected",
    [
        (0, 5, 0.0625),  # 2 · 0.5⁵
        (2, 8, 112 / 1024),  # 2 · (1 + 10 + 45) / 2¹⁰
        (3, 3, 1),
        (0, 0, 1),
    ],
)
def test_mcnemar_by_hand(only_a, only_b, expected):
    for both, neither in [(0, 0), (7, 2)]:  # images where the methods agree say nothing
        a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
        b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
        assert metrics.mcnemar(a, b) == metrics.mcnemar(b, a) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_needs_the_same_images():
    for other in (np.ones(4, dtype=bool), np.ones(1, dtype=bool)):  # one would broadcast
        with pytest.raises(ValueError, match="the same images"):
            metrics.mcnemar(np.zeros(3, dtype=bool), other)


def test_paired_interval_by_hand():
    # mean 1, standard error √2/√2; one degree of freedom is Cauchy's: t = tan(0.475 π) = 12.706
    reach = np.tan(0.475 * np.pi)
    assert metrics.paired_interval([0.0, 2.0]) == pytest.approx((1 - reach, 1 + reach))
    # mean 2, standard error 1/√3; two degrees of freedom: t = 0.95 / √(2 · 0.975 · 0.025) = 4.303
    reach = 0.95 / np.sqrt(2 * 0.975 * 0.025) / np.sqrt(3)
    assert metrics.paired_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - reach, 2 + reach))
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


@pytest.mark.filterwarnings("error")  # not by dividing by zero
@pytest.mark.parametrize("differences", [[], [3.0], np.ones((1, 1)), np.zeros((2, 0))])
def test_paired_interval_needs_two_differences(differences):
    low, high = metrics.paired_interval(differences)
    assert np.isnan(low) and np.isnan(high)


FIGURES = {
    "iou": (metrics.iou, [[0, 0, 4, 4]], [[2, 2, 6, 6]]),
    "localization": (metrics.localization, IOU, PREDICTED, LABELS),
    "max_box_acc": (metrics.max_box_acc, OVERLAP),
    "max_box_acc_v2": (metrics.max_box_acc_v2, OVERLAP),
    "pixel_average_precision": (metrics.pixel_average_precision, SCORES[None], MASK[None]),
    "mcnemar": (metrics.mcnemar, [True, True, False], [False, True, False]),
    "paired_interval": (metrics.paired_interval, [1.0, 2.0, 4.0]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_tensors_and_arrays_give_the_same_numbers(name):
    function, *given = FIGURES[name]
    expected = function(*map(np.asarray, given))
    assert function(*(torch.tensor(np.asarray(values)) for values in given)) == expected
