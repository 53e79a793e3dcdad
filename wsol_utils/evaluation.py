"""From maps to boxes to a row of metrics: the same few steps for every combination that is compared."""

from collections.abc import Iterator, Sequence

import numpy as np

from wsol_utils import boxes, cam, metrics, thresholds
from wsol_utils.predictions import Predictions
from wsol_utils.protocols import Protocol

CHUNK = 128  # maps that are upsampled at a time: 26 MB at 224×224


def prepared(maps: np.ndarray, size: Sequence[int], protocol: Protocol) -> Iterator[np.ndarray]:
    """Maps as the protocol thresholds them, a chunk at a time.

    Args:
        maps: (N, H, W).
        size: height and width of the network's input.
        protocol: normalisation and resolution.

    Yields:
        (at most CHUNK, H', W').
    """
    for start in range(0, len(maps), CHUNK):
        chunk = maps[start : start + CHUNK]
        if protocol.resolution == "input":
            chunk = cam.upsample(chunk, tuple(int(side) for side in size))
        yield cam.normalize(chunk, protocol.normalization)


def iou_on_grid(predictions: Predictions, recombination: str, protocol: Protocol) -> np.ndarray:
    """IoU of the largest component's box with the nearest true box, at every candidate threshold.

    Returns:
        (N, K).
    """
    true = predictions.true_boxes()
    chunks = prepared(predictions.maps(recombination), predictions.size, protocol)
    found = np.concatenate([boxes.largest_boxes(chunk, protocol.candidates) for chunk in chunks])  # (N, K, 4)
    found = _to_input(found, predictions, protocol)
    return np.stack([metrics.best_iou(found[:, k], true) for k in range(found.shape[1])], axis=1)


def localize(
    predictions: Predictions, recombination: str, protocol: Protocol, rules: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The threshold that each rule chooses for each map, and the box that it gives.

    Returns:
        For each rule: (N,) thresholds, (N, 4) boxes in the network's input frame.
    """
    chosen: dict[str, list] = {rule: [] for rule in rules}
    found: dict[str, list] = {rule: [] for rule in rules}
    for chunk in prepared(predictions.maps(recombination), predictions.size, protocol):
        for rule, eta in thresholds.select_all(chunk, rules, protocol.candidates).items():
            chosen[rule].append(eta)
            found[rule].append(boxes.largest_box(chunk, eta))
    return {
        rule: (np.concatenate(chosen[rule]), _to_input(np.concatenate(found[rule]), predictions, protocol))
        for rule in rules
    }


def row(predictions: Predictions, overlap: np.ndarray, protocol: Protocol) -> dict[str, float]:
    """The metrics of one combination.

    Args:
        predictions: for the classes and the number of images.
        overlap: (N,) IoU of each image's box.
        protocol: for the IoU that counts as a hit.

    Returns:
        n_images, top1_cls, top1_loc, gt_known, gt_known_low, gt_known_high (percent, 95 % interval).
    """
    figures = metrics.localization(overlap, predictions.predicted, predictions.label, protocol.iou)
    low, high = metrics.interval(figures["gt_known"], len(overlap))
    return {"n_images": len(overlap), **figures, "gt_known_low": low, "gt_known_high": high}


def grid_rows(predictions: Predictions, overlap: np.ndarray, protocol: Protocol) -> list[dict]:
    """Three ways to a threshold on the grid: the fixed one, and two that look at the true boxes.

    Args:
        overlap: (N, K), from `iou_on_grid`.

    Returns:
        Rows for `fixed`, `best_fixed` (the one threshold that suits this split best) and `oracle`
        (the best threshold of every image), the latter two with `uses_ground_truth`.
    """
    grid = np.array(protocol.candidates)
    best = int((overlap >= protocol.iou).mean(axis=0).argmax())
    columns = {
        "fixed": (np.full(len(overlap), np.abs(grid - thresholds.FIXED).argmin()), False),
        "best_fixed": (np.full(len(overlap), best), True),
        "oracle": (overlap.argmax(axis=1), True),
    }
    return [
        {"threshold_rule": rule, "threshold": float(grid[k].mean()), "uses_ground_truth": uses}
        | row(predictions, overlap[np.arange(len(overlap)), k], protocol)
        for rule, (k, uses) in columns.items()
    ]


def _to_input(found: np.ndarray, predictions: Predictions, protocol: Protocol) -> np.ndarray:
    """Boxes found at map resolution, in pixels of the network's input."""
    if protocol.resolution == "input":
        return found
    height, width = predictions.scaled_maps.shape[2:]
    return found * (np.array(predictions.size)[[1, 0, 1, 0]] / [width, height, width, height])
