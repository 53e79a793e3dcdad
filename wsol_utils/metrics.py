"""Top-1 Cls, Top-1 Loc and GT-known Loc (Zhang et al., Sec. 5), with confidence intervals."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

Array = Tensor | np.ndarray


def iou(box: Array, others: Array) -> np.ndarray:
    """Intersection over union of one box with each of M others, half-open pixels.

    Args:
        box: (4,).
        others: (M, 4).

    Returns:
        (M,) in [0, 1]; boxes of no area give 0.
    """
    a, b = _numpy(box).astype(np.float64), _numpy(others).astype(np.float64).reshape(-1, 4)
    sides = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])  # (M, 2)
    common = sides.clip(min=0).prod(axis=1)
    union = _area(a[None]) + _area(b) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def best_iou(boxes: Array, ground_truth: Sequence) -> Array:
    """IoU of each predicted box with the nearest of its image's boxes (ILSVRC: a hit on any counts).

    Args:
        boxes: (N, 4), half-open pixels.
        ground_truth: N lists of boxes in the same frame; a list may be empty.

    Returns:
        (N,) float64, 0 where an image has no box.

    Raises:
        ValueError: if the lengths differ.
    """
    predicted = _numpy(boxes)
    if len(predicted) != len(ground_truth):
        raise ValueError(f"{len(predicted)} boxes, but ground truth for {len(ground_truth)} images")
    best = np.array([iou(box, others).max(initial=0) for box, others in zip(predicted, ground_truth, strict=True)])
    return torch.from_numpy(best).to(boxes.device) if isinstance(boxes, Tensor) else best


def localization(best_iou: Array, predicted: Array, labels: Array, iou: float = 0.5) -> dict[str, float]:
    """The three metrics of Tables 1 and 2, in percent.

    Args:
        best_iou: (N,), from `best_iou`, of the box of the ground-truth class.
        predicted: (N,) class ids of the classifier.
        labels: (N,) class ids that are right.
        iou: a box is right where its IoU is at least this.

    Returns:
        top1_cls: the class is right; top1_loc: class and box are right; gt_known: the box is right.

    Raises:
        ValueError: if the lengths differ or are 0.
    """
    overlap, guess, truth = (_numpy(x) for x in (best_iou, predicted, labels))
    if not len(overlap) == len(guess) == len(truth) > 0:
        raise ValueError(f"need as many IoUs, predictions and labels: {len(overlap)}, {len(guess)}, {len(truth)}")
    right_class, right_box = guess == truth, overlap >= iou
    rates = {"top1_cls": right_class, "top1_loc": right_class & right_box, "gt_known": right_box}
    return {name: 100 * float(hits.mean()) for name, hits in rates.items()}


def interval(percent: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The bootstrap percentile interval of a share of n images, in percent, without drawing a number.

    The mean of n zero-one values drawn again with replacement is Binomial(n, p) / n, so the
    quantiles of the bootstrap distribution are known exactly.
    """
    tail = (1 - confidence) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], n, percent / 100) / n
    return 100 * float(low), 100 * float(high)


def _numpy(values: Array | Sequence) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
