"""Turn maps into boxes and boxes into rows of metrics, by the same steps for every combination that is compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from wsol_utils import boxes
from wsol_utils.boxes import thresholds
from wsol_utils.common.bars import watched
from wsol_utils.maps import cam
from wsol_utils.maps.predictions import Predictions, recombined
from wsol_utils.scores import metrics
from wsol_utils.scores.protocols import Protocol, frame_side

CHUNK = 128  # maps that are upsampled at a time: 26 MB at 224×224
LOOK_AT_BOXES = ("best_fixed", "oracle")
NETWORK = ("seed", "method", "pooling")  # the columns of every table that tell one network from another

Size = Sequence[int] | np.ndarray  # height, width
Rules = Sequence[str] | Mapping[str, np.ndarray]  # some of `thresholds.RULES`, or one's own thresholds (N,) by name
Found = dict[str, tuple[np.ndarray, np.ndarray]]  # for each rule: thresholds (N,), and what they give


def combinations(
    networks: Mapping[tuple, Predictions], recombinations: Sequence[str], features: str
) -> Iterator[tuple[dict[str, Any], Predictions, str]]:
    """Go through all that is compared, in the order of the tables: every network, every recombination of its maps.

    Args:
        networks: the predictions of each, by its values of `NETWORK`.
        recombinations, features: as for `predictions.recombined`.

    Yields:
        The values of `NETWORK` and the recombination by column, the predictions, and the kind of the maps.
    """
    for network, predictions in networks.items():
        for recombination, kind in recombined(predictions, recombinations, features).items():
            yield dict(zip(NETWORK, network, strict=True)) | {"recombination": recombination}, predictions, kind


def localize_maps(maps: np.ndarray, size: Size, protocol: Protocol, rules: Rules) -> tuple[np.ndarray, Found]:
    """Normalise each map as the protocol does, choose its threshold, and find the largest component's box.

    Args:
        maps: (B, h, w), raw.
        size: height and width of the network's input.

    Returns:
        (B, H', W') normalised maps; for each rule thresholds (B,) and boxes (B, 4) in the network's input frame,
        half-open, but for far corners that the protocol's `clip` moves to the last pixel.
    """
    unit = _normalized(maps, size, protocol)
    graded = _graded(unit, protocol)
    if isinstance(rules, Mapping):
        chosen = dict(rules)
    else:
        chosen = thresholds.select_all(unit, rules, protocol.candidates, protocol.boundary)
        if protocol.levels and "percentile" in rules:  # rethinkingCAM's own rule: int(0.35 · percentile) of levels
            cut = np.floor([thresholds.IMAGE_RULES["percentile"](image) for image in graded])
            chosen["percentile"] = cut / protocol.levels  # the maximum, unless there is nothing
    found = {rule: boxes.largest_box(graded, eta, protocol.component) for rule, eta in chosen.items()}
    shape = graded.shape[1:]
    return unit, {rule: (chosen[rule], _as_scored(box, shape, size, protocol)) for rule, box in found.items()}


def prepared(maps: np.ndarray, size: Size, protocol: Protocol) -> np.ndarray:
    """Prepare maps as the protocol thresholds them.

    Args:
        maps: (B, h, w), raw.
        size: height and width of the network's input.
        protocol: resolution, interpolation, normalisation and levels.

    Returns:
        (B, H', W'), whole numbers where the protocol has levels.
    """
    return _graded(_normalized(maps, size, protocol), protocol)


def chunks(count: int) -> Iterator[slice]:
    """Cut that many images into slices of at most CHUNK."""
    return (slice(start, start + CHUNK) for start in range(0, count, CHUNK))


def prepared_kind(predictions: Predictions, kind: str, protocol: Protocol) -> Iterator[np.ndarray]:
    """Prepare all maps of one kind as `prepared` does, at most CHUNK at a time."""
    for maps in _of_kind(predictions, kind):
        yield prepared(maps, predictions.size, protocol)


def truth(predictions: Predictions, protocol: Protocol) -> list[np.ndarray]:
    """The true boxes, N arrays (n, 4), in the convention of the protocol."""
    true = predictions.true_boxes()
    side = predictions.size[::-1]  # width, height
    if protocol.last_pixel:
        frame = np.array([frame_side(int(s), protocol) for s in side])
        pixel = frame / predictions.image_size  # (N, 2), of the original image, in the frame
        cut = np.tile(np.where(frame > side, side, np.inf), 2)  # boxes that the crop cut off end beyond that pixel
        true = [np.where(box < cut, box - [0, 0, *one], box) for box, one in zip(true, pixel, strict=True)]
    if protocol.inclusive:  # 223.99999 is 224 in float32
        true = [np.floor(box.round(3)) for box in true]
    return [box.clip(0, np.tile(side - 1, 2)) for box in true] if protocol.last_pixel else true


def iou_on_grid(predictions: Predictions, kind: str, protocol: Protocol) -> np.ndarray:
    """IoU of the largest component's box with the nearest true box, at every threshold of the protocol's grid.

    Args:
        kind: which of the maps.

    Returns:
        (N, K).
    """
    true, overlap = truth(predictions, protocol), list[np.ndarray]()
    for chunk in prepared_kind(predictions, kind, protocol):
        found = boxes.largest_boxes(chunk, protocol.grid, protocol.component)  # (n, K, 4)
        some = true[len(overlap) : len(overlap) + len(found)]
        scored = _as_scored(found, chunk.shape[1:], predictions.size, protocol)
        overlap += list(metrics.best_iou(scored, some, protocol.inclusive))
    return np.array(overlap)


def iou_of_contours(predictions: Predictions, kind: str, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """IoU as of `iou_on_grid`, under a protocol that takes contours, and what MaxBoxAccV2 counts.

    Returns:
        (N, K) of the largest contour's box, and (N, K) of the best box among all contours of the mask.
    """
    true = truth(predictions, protocol)
    largest, best = np.zeros((2, len(true), len(protocol.grid)))
    for i, image in enumerate(image for chunk in prepared_kind(predictions, kind, protocol) for image in chunk):
        found = boxes.contour_boxes(image, protocol.grid)  # K arrays (M, 4), shared where masks are the same
        distinct = {id(array): array for array in found}
        first = np.cumsum([0, *map(len, distinct.values())])[:-1]
        several = _as_scored(np.concatenate(list(distinct.values())), image.shape, predictions.size, protocol)
        overlap = metrics.iou(several, true[i], protocol.inclusive).max(axis=1, initial=0)
        place = {key: j for j, key in enumerate(distinct)}
        mask = [place[id(array)] for array in found]  # (K,)
        largest[i], best[i] = overlap[first][mask], np.maximum.reduceat(overlap, first)[mask]
    return largest, best


def localize(predictions: Predictions, kind: str, protocol: Protocol, rules: Sequence[str]) -> Found:
    """Localise in all maps of one kind, as `localize_maps` does.

    Returns:
        For each rule: (N,) thresholds, (N, 4) boxes.
    """
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for maps in _of_kind(predictions, kind):
        for rule, found in localize_maps(maps, predictions.size, protocol, rules)[1].items():
            parts.setdefault(rule, []).append(found)
    return {
        rule: (np.concatenate([eta for eta, _ in several]), np.concatenate([box for _, box in several]))
        for rule, several in parts.items()
    }


def overlaps(predictions: Predictions, kind: str, protocol: Protocol, rules: Sequence[str]) -> Found:
    """Localise as `localize` does, and give each box's IoU with the nearest true box, (N,), in its place."""
    true, localized = truth(predictions, protocol), localize(predictions, kind, protocol, rules)
    return {rule: (eta, metrics.best_iou(found, true, protocol.inclusive)) for rule, (eta, found) in localized.items()}


def bounds(predictions: Predictions, kind: str, protocol: Protocol) -> Found:
    """`on_grid` for the maps of one kind."""
    return on_grid(iou_on_grid(predictions, kind, protocol), protocol)


def on_grid(overlap: np.ndarray, protocol: Protocol) -> Found:
    """Choose thresholds on the grid in three ways: the fixed one, and two that look at the true boxes.

    Args:
        overlap: (N, K), from `iou_on_grid`.

    Returns:
        As `overlaps`, for `fixed`, `best_fixed` (the one threshold that suits this split best) and `oracle`
        (the best threshold of every image).
    """
    grid, images = np.array(protocol.grid), np.arange(len(overlap))
    columns = {
        "fixed": np.full(len(overlap), np.abs(grid - thresholds.FIXED).argmin()),
        "best_fixed": np.full(len(overlap), metrics.max_box_acc(overlap, protocol.iou)[1]),
        "oracle": overlap.argmax(axis=1),
    }
    return {rule: (grid[k], overlap[images, k]) for rule, k in columns.items()}


def rows(predictions: Predictions, found: Found, protocol: Protocol) -> list[dict]:
    """Compute a row of metrics for each rule of `overlaps` or `on_grid`, and compare it with `fixed`.

    Returns:
        threshold_rule, threshold and threshold_sd (mean and deviation of those chosen), uses_ground_truth; p_value,
        McNemar's against `fixed`, where that is among the rules; n_images, top1_cls, top1_loc, gt_known, gt_known_low,
        gt_known_high (percent, 95 % interval); and for each image, (N,), iou and class_is_right.
    """
    listed, right = [], np.asarray(predictions.predicted == predictions.label)
    for rule, (eta, overlap) in found.items():
        figures = {"threshold_rule": rule, "threshold": float(eta.mean()), "threshold_sd": float(eta.std())}
        figures["uses_ground_truth"] = rule in LOOK_AT_BOXES
        if "fixed" in found:
            hits, usual = overlap >= protocol.iou, found["fixed"][1] >= protocol.iou
            figures["p_value"] = metrics.mcnemar(hits, usual)
        hit = metrics.localization(overlap, predictions.predicted, predictions.label, protocol.iou)
        low, high = metrics.interval(hit["gt_known"], len(overlap))
        figures |= {"n_images": len(overlap), **hit, "gt_known_low": low, "gt_known_high": high}
        listed.append(figures | {"iou": overlap, "class_is_right": right})
    return listed


def coverage(predictions: Predictions, maps: Callable[[slice], np.ndarray], protocol: Protocol) -> np.ndarray:
    """Measure how much of the true boxes maps cover above `thresholds.FIXED` of their maximum (Fig. 2 in figures).

    Args:
        predictions: for the true boxes.
        maps: from rows to their maps (n, H, W), not negative.

    Returns:
        (N, 3): the share of the boxes' area that is covered, the share of the covered area inside them, and the
        share of the image that they take, which is the second share of a map that covers everything, or anything.
    """
    true, listed = predictions.true_boxes(), list[list[float]]()
    protocol = replace(protocol, resolution="input", levels=0)
    for rows in chunks(len(true)):
        for image in prepared(maps(rows), predictions.size, protocol):
            inside = inside_boxes(true[len(listed)], image.shape)
            covered = image > thresholds.FIXED * image.max()
            both = np.count_nonzero(covered & inside)
            listed.append([both / max(inside.sum(), 1), both / max(covered.sum(), 1), inside.mean()])
    return np.array(listed)


def inside_boxes(found: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mark the pixels inside any of (n, 4) half-open boxes, whose corners are rounded: (H, W) bool of that shape."""
    inside = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in np.rint(found).astype(int):
        inside[y0:y1, x0:x1] = True
    return inside


def scores(predictions: Predictions, kind: str, protocol: Protocol) -> Iterator[np.ndarray]:
    """Give maps (H, W) in the network's input frame, one at a time, for PxAP: in [0, 1], negative scores as 0."""
    for chunk in prepared_kind(predictions, kind, replace(protocol, resolution="input", levels=0)):
        yield from chunk.clip(min=0)


def _of_kind(predictions: Predictions, kind: str) -> Iterator[np.ndarray]:
    """Read the maps of one kind a chunk at a time."""
    several = list(chunks(len(predictions.image_id)))
    for rows in watched(several, len(several), kind, f"{CHUNK} maps"):
        yield predictions.maps(kind, rows)


def _normalized(maps: np.ndarray, size: Size, protocol: Protocol) -> np.ndarray:
    """(n, h, w) raw maps -> (n, H', W') at the protocol's resolution, with 1 as their maximum."""
    if protocol.resolution == "input":
        maps = cam.upsample(maps, (int(size[0]), int(size[1])), protocol.interpolation)
    return cam.normalize(maps, protocol.normalization)


def _graded(chunk: np.ndarray, protocol: Protocol) -> np.ndarray:
    """(n, H, W) normalised maps, in whole levels where the protocol has them, cut off as uint8 does."""
    # a whole number exceeds int(η · max) exactly where it exceeds η · max
    return np.floor(protocol.levels * chunk.astype(np.float64)) if protocol.levels else chunk


def _as_scored(found: np.ndarray, shape: Sequence[int], size: Size, protocol: Protocol) -> np.ndarray:
    """Half-open boxes (..., 4) in pixels of maps of that shape -> what the protocol compares with the true boxes."""
    height, width = (int(side) for side in size)
    if protocol.resolution == "map":
        rows, columns = shape
        found = found * (np.array([width, height, width, height]) / [columns, rows, columns, rows])
    if protocol.empty == "image":
        found = np.where(found[..., 2:3] > found[..., 0:1], found, [0, 0, width, height])
    if protocol.clip:
        found = np.minimum(found, [width - 1, height - 1, width - 1, height - 1])
    return found
