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
        ((0, 0, 3, 3), (2, 2, 5, 5), 4 / 28),  # the first row of half-open boxes above, corners as pixels
        ((0, 0, 4, 4), (2, 2, 6, 6), 9 / 41),  # sides of 5, 3 in common: 9 / (25 + 25 - 9), half-open 4/28
        ((0, 0, 4, 4), (4, 0, 8, 4), 1 / 9),  # they touch and share a column: 5 / (25 + 25 - 5)
        ((0, 0, 4, 4), (4, 4, 8, 8), 1 / 49),  # and a pixel
        ((0, 0, 3, 3), (4, 0, 7, 3), 0),  # neighbours
        ((0, 0, 1, 1), (5, 5, 7, 7), 0),  # disjoint; without the clamp (-3)² / (4 + 9 - 9) = 9/4
        ((0, 0, 2, 9), (5, 0, 9, 9), 0),
        ((3, 3, 3, 3), (3, 3, 3, 3), 1),  # one pixel
        ((3, 3, 3, 8), (0, 0, 9, 9), 6 / 100),
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
    truth = [[(9, 9, 12, 12), (0, 0, 4, 2), (0, 0, 1, 1)], [], [(0, 0, 4, 4)], [[1, 1, 3, 3]]]
    best = metrics.best_iou(boxes, truth)
    assert best.tolist() == [0.5, 0, 0, 1]
    assert type(best) is type(boxes) and best.dtype in (np.float64, torch.float64)


@pytest.mark.parametrize("as_boxes", [list, np.array, torch.tensor, lambda boxes: torch.tensor(boxes).float()])
def test_any_kind_of_ground_truth(as_boxes):
    truth = [as_boxes([[9, 9, 12, 12], [0, 0, 4, 2]]), as_boxes([])]
    assert metrics.best_iou(np.array([[0, 0, 4, 4], [0, 0, 1, 1]]), truth).tolist() == [0.5, 0]
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 1, 1]], requires_grad=True)
    assert metrics.best_iou(boxes, truth).tolist() == [0.5, 0]


def test_best_iou_of_no_image():
    assert metrics.best_iou(np.zeros((0, 4)), []).shape == (0,)


def test_best_iou_needs_as_many_lists_as_boxes():
    with pytest.raises(ValueError, match=r"2 boxes.*1 images"):
        metrics.best_iou(np.zeros((2, 4)), [[]])


@pytest.mark.parametrize("kind", KINDS)
def test_best_iou_on_a_grid_by_hand(kind):
    boxes = kind([[[0, 0, 4, 4], [0, 0, 4, 2], [9, 9, 12, 11]], [[0, 0, 4, 4]] * 3])
    truth = [[(9, 9, 12, 12), (0, 0, 4, 2)], []]
    best = metrics.best_iou_on_grid(boxes, truth)
    assert best.tolist() == [[0.5, 1, 2 / 3], [0, 0, 0]]  # each box with the nearest of the two
    assert type(best) is type(boxes) and best.dtype in (np.float64, torch.float64)
    # sides of 5 by 5 and 5 by 3; 4 by 3 and 4 by 4
    assert metrics.best_iou_on_grid(boxes, truth, inclusive=True).tolist() == [[15 / 25, 1, 12 / 16], [0, 0, 0]]


@given(BOXES, BOXES, st.booleans())
def test_best_iou_on_a_grid_box_by_box(first, second, inclusive):
    boxes, truth = np.stack([first, second]), [second, first[:2]]
    expected = [[metrics.iou(box, some, inclusive).max() for box in k] for k, some in zip(boxes, truth, strict=True)]
    np.testing.assert_array_equal(metrics.best_iou_on_grid(boxes, truth, inclusive), expected)
    np.testing.assert_array_equal(metrics.best_iou(boxes[:, 1], truth, inclusive), np.array(expected)[:, 1])


def test_best_iou_on_a_grid_of_no_image():
    assert metrics.best_iou_on_grid(np.zeros((0, 5, 4)), []).shape == (0, 5)


@pytest.mark.parametrize(
    "shape, images, reason",
    [((2, 5, 4), 1, r"2 boxes.*1 images"), ((2, 4), 2, r"\(N, K, 4\), got \(2, 4\)"), ((2, 4, 5), 2, r"\(N, K, 4\)")],
)
def test_best_iou_on_a_grid_says_what_is_wrong(shape, images, reason):
    with pytest.raises(ValueError, match=reason):
        metrics.best_iou_on_grid(np.zeros(shape), [[]] * images)


IOU = [0.5, 0.49, 0.9, 0.0, 0.6, 0.5, 0.1, 0.3]
PREDICTED, LABELS = [1, 2, 3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("kind", [*KINDS, list])
def test_localization_by_hand(kind):
    figures = metrics.localization(kind(IOU), kind(PREDICTED), kind(LABELS))
    # classes 0–3 are right; boxes 0, 2, 4, 5, where exactly 0.5 counts; both: 0 and 2
    assert figures == {"top1_cls": 50.0, "top1_loc": 25.0, "gt_known": 50.0}
    assert all(type(value) is float for value in figures.values())


@pytest.mark.parametrize("iou, gt_known", [(0.0, 100.0), (0.3, 75.0), (0.51, 25.0), (0.91, 0.0)])
def test_localization_at_another_iou(iou, gt_known):
    figures = metrics.localization(np.array(IOU), np.array(PREDICTED), np.array(LABELS), iou)
    assert figures["gt_known"] == gt_known and figures["top1_cls"] == 50


def test_localization_of_one_image_in_three():
    figures = metrics.localization(np.array([1.0, 0, 0]), np.array([1, 1, 1]), np.array([2, 1, 1]))
    assert figures == pytest.approx({"top1_cls": 200 / 3, "top1_loc": 0, "gt_known": 100 / 3})


def test_localization_of_any_memory_layout():
    iou, predicted, labels = np.array(IOU), np.array(PREDICTED), np.array(LABELS)
    expected = metrics.localization(iou, predicted, labels)
    assert metrics.localization(iou[::-1], predicted[::-1], labels[::-1]) == expected
    assert metrics.localization(torch.tensor(iou, requires_grad=True), predicted, labels) == expected


@pytest.mark.parametrize("lengths", [(2, 3, 3), (3, 2, 3), (3, 3, 2), (0, 0, 0)])
def test_localization_needs_equal_lengths(lengths):
    with pytest.raises(ValueError, match="need as many"):
        metrics.localization(*(np.ones(n) for n in lengths))


@pytest.mark.parametrize("n, hits", [(10, 5), (300, 217), (40, 1), (5794, 4770)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_interval_is_what_a_bootstrap_gives(n, hits, confidence):
    images = np.zeros(n, dtype=bool)
    images[:hits] = True
    rng = np.random.default_rng(0)
    draws = [100 * images[rng.integers(0, n, n)].mean() for _ in range(4000)]
    expected = np.percentile(draws, [50 * (1 - confidence), 50 * (1 + confidence)], method="inverted_cdf")
    low, high = metrics.interval(100 * hits / n, n, confidence)
    spread = np.std(draws)
    # one image, or a tenth of the spread: what 4,000 draws leave open
    np.testing.assert_allclose([low, high], expected, rtol=0, atol=max(100 / n, 0.1 * spread) + 1e-9)
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


def test_max_box_acc_of_boxes():
    large, half, apart = (0, 0, 4, 4), (0, 0, 4, 2), (8, 8, 9, 9)
    boxes = np.array([[large, half, apart], [large, half, half], [apart, half, half]])
    truth = [[large, (7, 7, 8, 8)], [half], [(0, 0, 4, 1), apart]]
    # IoU 1, 0.5, 0; 0.5, 1, 1; 1, 0.5, 0.5
    overlap = metrics.best_iou_on_grid(boxes, truth)
    assert metrics.max_box_acc(overlap) == (100, 0)
    assert metrics.max_box_acc(overlap, 0.7) == pytest.approx((200 / 3, 0))
    # with a pixel more 1, 15/25, 1/7; 15/25, 1, 1; 1, 10/15, 10/15: at 0.61 two hits in each column
    overlap = metrics.best_iou_on_grid(boxes, truth, inclusive=True)
    assert metrics.max_box_acc(overlap, 0.61) == pytest.approx((200 / 3, 0))
    assert metrics.max_box_acc(overlap[:2, :], 0.61) == (50, 0) and metrics.max_box_acc(overlap[1:]) == (100, 0)


@pytest.mark.parametrize(
    "overlap, ious, expected",
    [
        # 100 at column 0, then 50 and 50 at column 1; one column for all would give 50 at most
        ([[0.4, 0.9], [0.4, 0.0]], (0.3, 0.5, 0.7), 200 / 3),
        (OVERLAP, (0.3, 0.5, 0.7), 200 / 3),  # 75, 75, and 50 (0.9 and 0.8)
        (OVERLAP, (0.5, 0.51), 62.5),
        ([[0.3], [0.5], [0.7], [0.29]], (0.3, 0.5, 0.7), 50),  # 75, 50, 25: the borders count
    ],
)
def test_max_box_acc_v2_by_hand(overlap, ious, expected):
    figure = metrics.max_box_acc_v2(np.array(overlap), ious)
    assert figure == pytest.approx(expected) and type(figure) is float
    if len(ious) == 3:
        assert metrics.max_box_acc_v2(np.array(overlap)) == figure


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (1, 2, 3)])
@pytest.mark.parametrize("metric", [metrics.max_box_acc, metrics.max_box_acc_v2])
def test_max_box_acc_needs_images_and_thresholds(metric, shape):
    with pytest.raises(ValueError, match=r"overlap must be \(N, K\)"):
        metric(np.zeros(shape))


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
    "on_object, beside, steps, expected",
    [
        (0.5, 0.4, 2, 100),  # [0.5, 1) and [0, 0.5)
        (0.5, 0.9, 2, 50),  # one bin, one precision for both
        (0.9, 0.5, 2, 50),
        (0.9, 0.5, 1000, 100),
        (1.0, 0.999999, 2, 100),  # 1 has a bin of its own
        (1.0, 1.0, 2, 50),
        (0.3, 0.2999, 10, 100),  # 3/10 opens its bin
        (0.0, 0.09, 10, 50),
        (0.0, 0.1, 10, 50),  # the lowest bin counts as well
    ],
)
def test_pixel_average_precision_counts_in_bins(on_object, beside, steps, expected):
    figure = metrics.pixel_average_precision([np.array([[on_object, beside]])], [np.array([[1, 0]])], steps)
    assert figure == expected


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
    figure = metrics.pixel_average_precision(iter(pieces[0]), iter(pieces[1]), steps=8)
    assert figure == pytest.approx(100 * area)


def test_pixel_average_precision_of_perfect_and_constant_maps():
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 255]])
    assert metrics.pixel_average_precision([1.0 * (mask == 1)], [mask]) == 100
    for constant in (0.0, 0.5, 1.0):  # 3 of the 7 pixels that count
        assert metrics.pixel_average_precision([np.full((2, 4), constant)], [mask]) == pytest.approx(300 / 7)
    # the map upside down: the background first, then 3 of 7
    assert metrics.pixel_average_precision([1.0 - (mask == 1)], [mask]) == pytest.approx(300 / 7)


@pytest.mark.parametrize(
    "maps, masks, reason",
    [
        ([SCORES, SCORES], [MASK, MASK.T], r"map 1 is \(2, 3\), but its mask \(3, 2\)"),
        ([SCORES], [MASK[:1]], r"map 0 is \(2, 3\), but its mask \(1, 3\)"),  # would broadcast
        ([SCORES + 0.001], [MASK], r"map 0.*not in \[0, 1\]"),
        ([SCORES, SCORES - 0.001], [MASK, MASK], r"map 1.*not in \[0, 1\]"),
        ([np.where(SCORES == 0.9, np.nan, SCORES)], [MASK], "not finite"),
        ([np.where(SCORES == 0.9, np.inf, SCORES)], [MASK], "not finite"),
        ([SCORES], [MASK * 255], "no mask has an object pixel"),  # an object of 255 is not one
        ([], [], "no mask has an object pixel"),
        ([SCORES, SCORES], [MASK], "shorter"),
        ([SCORES], [MASK, MASK], "longer"),
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
    # at 80 %: t = 0.8 / √(2 · 0.9 · 0.1) = 1.886
    reach = 0.8 / np.sqrt(2 * 0.9 * 0.1) / np.sqrt(3)
    low, high = metrics.paired_interval(kind([1.0, 2.0, 3.0]), confidence=0.8)
    assert (low, high) == pytest.approx((2 - reach, 2 + reach)) and type(low) is type(high) is float


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


@pytest.mark.parametrize("between_seeds", [0.0, 3.0, 12.0])
def test_paired_interval_holds_the_truth_as_often_as_it_says(between_seeds):
    """Three trainings, judged on the same 200 images: both make a difference, and so does chance."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(600):
        seeds, images = rng.normal(0, between_seeds, (3, 1)), rng.normal(0, 40, (1, 200))
        low, high = metrics.paired_interval(5 + seeds + images + rng.normal(0, 30, (3, 200)))
        held += low <= 5 <= high
    assert held / 600 >= 0.93


@pytest.mark.filterwarnings("error")  # not by dividing by zero
@pytest.mark.parametrize("differences", [[], [3.0], np.zeros(0), torch.ones(1), np.ones((1, 1)), np.zeros((2, 0))])
def test_paired_interval_needs_two_differences(differences):
    low, high = metrics.paired_interval(differences)
    assert np.isnan(low) and np.isnan(high)
