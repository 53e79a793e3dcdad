"""Top-1 Cls, Top-1 Loc and GT-known Loc (Zhang et al., Sec. 5), with confidence intervals.

Beside them MaxBoxAcc, MaxBoxAccV2 and PxAP (Choe et al. 2020, "Evaluating weakly supervised object
localization methods right"), and two ways to compare methods on the same images or the same seeds.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy import stats

from wsol_utils.common.checks import Array, like, numpy

V2_IOUS = (0.3, 0.5, 0.7)  # of MaxBoxAccV2
BINS = 1000  # of PxAP, below 1
TAIL = (1 - 0.95) / 2  # on either side of a 95 % interval


def iou(box: Array, others: Array, inclusive: bool = False) -> np.ndarray:
    """Intersection over union of one box, or of each of several, with each of M others.

    Args:
        box: (4,) or (K, 4).
        others: (M, 4).
        inclusive: corners are the first and the last pixel, so that a side is x1 - x0 + 1, as in the code
            of Choe et al. 2020 and of Bae et al. 2020; otherwise pixels are half-open. The intersection
            is clamped at 0: without that, as in Bae et al.'s code, disjoint boxes can score above 1.

    Returns:
        (M,) or (K, M), float64 in [0, 1]; boxes of no area give 0.
    """
    a = numpy(box).astype(np.float64)[..., None, :]  # (1, 4) or (K, 1, 4)
    b = numpy(others).astype(np.float64).reshape(-1, 4)
    common = _area(np.maximum(a[..., :2], b[:, :2]), np.minimum(a[..., 2:], b[:, 2:]), inclusive)
    union = _area(a[..., :2], a[..., 2:], inclusive) + _area(b[:, :2], b[:, 2:], inclusive) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def best_iou(boxes: Array, ground_truth: Sequence, inclusive: bool = False) -> Array:
    """IoU of each predicted box with the nearest of its image's boxes (ILSVRC: a hit on any counts).

    Args:
        boxes: (N, 4), or (N, K, 4), one for each of K thresholds.
        ground_truth: N lists of boxes in the same frame; a list may be empty.
        inclusive: the convention of the corners, as in `iou`.

    Returns:
        (N,) or (N, K) float64, 0 where an image has no box.

    Raises:
        ValueError: if the lengths differ.
    """
    predicted = numpy(boxes)
    if len(predicted) != len(ground_truth):
        raise ValueError(f"{len(predicted)} boxes, but ground truth for {len(ground_truth)} images")
    best = np.zeros(predicted.shape[:-1])
    for i, (found, others) in enumerate(zip(predicted, ground_truth, strict=True)):
        best[i] = iou(found, others, inclusive).max(axis=-1, initial=0)
    return like(boxes, torch.from_numpy(best))


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
    overlap, guess, truth = (numpy(x) for x in (best_iou, predicted, labels))
    if not len(overlap) == len(guess) == len(truth) > 0:
        raise ValueError(f"need as many IoUs, predictions and labels: {len(overlap)}, {len(guess)}, {len(truth)}")
    right_class, right_box = guess == truth, overlap >= iou
    rates = {"top1_cls": right_class, "top1_loc": right_class & right_box, "gt_known": right_box}
    return {name: 100 * float(hits.mean()) for name, hits in rates.items()}


def interval(percent: float, n: int) -> tuple[float, float]:
    """The 95 % bootstrap percentile interval of a share of n images, in percent, without drawing a number.

    The mean of n zero-one values drawn again with replacement is Binomial(n, p) / n, so the quantiles of the bootstrap
    distribution are known exactly.
    """
    low, high = stats.binom.ppf([TAIL, 1 - TAIL], n, percent / 100) / n
    return 100 * float(low), 100 * float(high)


def max_box_acc(overlap: Array, iou: float = 0.5) -> tuple[float, int]:
    """MaxBoxAcc (Choe et al. 2020): GT-known Loc at the one threshold that suits these images best.

    Args:
        overlap: (N, K), IoU of each image's box at each of K thresholds.
        iou: a box is right where its IoU is at least this.

    Returns:
        The share of images in percent, and the column of the threshold, the first of a tie.

    Raises:
        ValueError: if the overlap is not (N, K), or has no image or no threshold.
    """
    values = numpy(overlap)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"overlap must be (N, K) with N, K > 0, got {values.shape}")
    shares = (values >= iou).mean(axis=0)  # (K,)
    return 100 * float(shares.max()), int(shares.argmax())


def max_box_acc_v2(overlap: Array) -> dict[str, float]:
    """MaxBoxAccV2 (Choe et al. 2020): the mean of MaxBoxAcc at IoU 0.3, 0.5 and 0.7, each at its own best threshold.

    Args:
        overlap: (N, K), at each threshold the best IoU over the boxes of all contours of the mask, where
            MaxBoxAcc takes the largest alone.

    Returns:
        max_box_acc_v2, and its parts max_box_acc_v2_30, _50 and _70, in percent; errors are those of `max_box_acc`.
    """
    parts = {f"max_box_acc_v2_{round(100 * iou)}": max_box_acc(overlap, iou)[0] for iou in V2_IOUS}
    return {"max_box_acc_v2": float(np.mean(list(parts.values())))} | parts


def pixel_average_precision(maps: Iterable[Array], masks: Iterable[Array]) -> float:
    """PxAP (Choe et al. 2020): the area under the precision-recall curve over the pixels of all images.

    Scores are counted in bins, one image at a time: [0, 0.001), ..., [0.999, 1), and one for exactly 1. From the
    highest bin down, each adds the precision reached times the recall it gains.

    Args:
        maps: of (H, W) each, scores in [0, 1].
        masks: one (H, W) for each map: 1 on the object, 0 beside it; any other value (255) is ignored.

    Returns:
        Percent.

    Raises:
        ValueError: if there are not as many masks as maps, a score is not in [0, 1] or not finite, or no mask has an
            object pixel.
    """
    edges = np.append(np.arange(BINS + 1) / BINS, 2)
    counts = np.zeros((2, BINS + 1), dtype=np.int64)  # background, object
    for scores, mask in zip(map(numpy, maps), map(numpy, masks), strict=True):
        if not ((scores >= 0) & (scores <= 1)).all():  # NaN neither
            raise ValueError("a map has scores that are not finite or not in [0, 1]: normalise it first")
        counts += [np.histogram(scores[mask == kind], edges)[0] for kind in (0, 1)]
    fp, tp = counts[:, ::-1].cumsum(axis=1)  # from the highest score down
    if not tp[-1]:
        raise ValueError("no mask has an object pixel (value 1)")
    precision, gained = tp / np.maximum(tp + fp, 1), np.diff(tp, prepend=0)
    return 100 * float((precision * gained).sum() / tp[-1])


def mcnemar(a: Array, b: Array) -> float:
    """The exact two-sided p-value of McNemar's test (1947) that two methods hit equally often.

    Where only one of them hits, it is either with probability 1/2: a binomial test on those images.

    Args:
        a, b: (N,) bool, the hits of the two methods on the same images.

    Returns:
        p in (0, 1]; 1 where the two agree on every image.

    Raises:
        ValueError: if the lengths differ.
    """
    hits, others = numpy(a), numpy(b)
    if hits.shape != others.shape:
        raise ValueError(f"need hits on the same images, got {hits.shape} and {others.shape}")
    only_a, only_b = int((hits > others).sum()), int((hits < others).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_interval(differences: Array | Sequence[float]) -> tuple[float, float]:
    """Student's 95 % t interval of the mean of paired differences: of two methods over S seeds, or on N images each.

    Seeds and images both count as drawn by chance. The variance of the mean is that of the seeds' means over S plus
    that of the images' means over N. What neither explains is counted twice: the interval is wide rather than narrow.
    Its t is the mean of the t of both parts, weighted by their shares of the variance (Cochran). A single seed, or a
    single image, adds nothing: the interval then says nothing about another one.

    Args:
        differences: (S,), one for each seed, or (S, N), one for each seed and image; in any unit.

    Returns:
        Low and high in the same unit, both NaN for fewer than two differences.
    """
    values = numpy(differences).astype(float)
    values = values[:, None] if values.ndim == 1 else values
    if values.size < 2:
        return np.nan, np.nan
    means = [m for m in (values.mean(axis=1), values.mean(axis=0)) if len(m) > 1]
    parts = np.array([m.var(ddof=1) / len(m) for m in means])
    t = stats.t.ppf(1 - TAIL, [len(m) - 1 for m in means])
    reach = (t * parts).sum() / np.sqrt(parts.sum()) if parts.any() else 0.0
    return float(values.mean() - reach), float(values.mean() + reach)


def _area(low: np.ndarray, high: np.ndarray, inclusive: bool) -> np.ndarray:
    """(..., 2) corners -> (...) areas, 0 where a side is negative."""
    return (high - low + inclusive).clip(min=0).prod(axis=-1)
