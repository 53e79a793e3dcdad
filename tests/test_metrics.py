"""IoU, the three metrics and their interval, against answers worked out by hand."""

import numpy as np
import pytest
import torch

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
