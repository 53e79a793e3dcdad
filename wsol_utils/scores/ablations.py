"""Measure what other readings of the paper cost where it is silent or ambiguous, one change at a time."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from wsol_utils.maps.predictions import Predictions, kind
from wsol_utils.scores import evaluation, metrics
from wsol_utils.scores.protocols import Protocol

# Each change in the words of `protocols.Protocol`.
CONVENTIONS: dict[str, dict[str, Any]] = {
    "as it stands": {},
    "min–max instead of division by the maximum": {"normalization": "minmax"},
    "thresholds and boxes at map resolution": {"resolution": "map"},
    "bicubic upsampling": {"interpolation": "bicubic"},
    "11 candidates": {"candidates": tuple(i / 10 for i in range(11))},
    "101 candidates": {"candidates": tuple(i / 100 for i in range(101))},
    "boundary: 4 neighbours": {"boundary": "4-neighbours"},
    "boundary: contour vertices": {"boundary": "contour"},
    "largest component by contour area": {"component": "contour"},
    "maps cut to 256 levels": {"levels": 255},
    "corners inclusive in IoU (+1)": {"inclusive": True},
}
FEATURES = {
    "P, signed (Eq. 2)": ("signed", "plain"),
    "P, positive only": ("positive", "plain"),
    "P, absolute (Eq. 3)": ("absolute", "plain"),
    "S⊙P, signed": ("signed", "weighted"),
    "S⊙P, positive only": ("positive", "weighted"),
    "S⊙P, absolute": ("absolute", "weighted"),
    "before the ReLU, signed": ("signed", "unrectified"),
    "before the ReLU, positive only": ("positive", "unrectified"),
    "before the ReLU, Σ|w|G": ("absolute", "unrectified"),
    "before the ReLU, |M_n|": ("absolute_maps", "unrectified"),
}
RULE = "first_above_mean"


def of_conventions(
    predictions: Predictions, map_kind: str, protocol: Protocol, known: evaluation.Found | None = None
) -> pd.DataFrame:
    """Measure what each of `CONVENTIONS` costs on the same maps.

    Args:
        map_kind: which of the maps.
        protocol: what "as it stands" means; a change that it has already is left out.
        known: what `figures` takes, for the protocol as it stands.

    Returns:
        Columns reading, GT-known in percent with the fixed threshold 0.20, with Sec. 4.3's rule, with the best
        fixed threshold and with the oracle, and the rule's mean threshold.
    """
    rows, bounds = [], {replace(protocol, candidates=(), boundary=""): known} if known else {}
    for reading, change in CONVENTIONS.items():
        changed = replace(protocol, **change)
        if changed == protocol and change:
            continue
        same_boxes = replace(changed, candidates=(), boundary="")  # these two matter to the rule of Sec. 4.3 alone
        if same_boxes not in bounds:
            bounds[same_boxes] = evaluation.bounds(predictions, map_kind, changed)
        found = {rule: chosen for rule, chosen in bounds[same_boxes].items() if not change or rule != RULE}
        rows.append({"reading": reading} | figures(predictions, map_kind, changed, found))
    return pd.DataFrame(rows)


def of_features(predictions: Predictions, protocol: Protocol) -> pd.DataFrame:
    """Measure the same for each of `FEATURES`: what a map is made of, P or S⊙P, after the last ReLU or before it.

    Σ|w|G and |M_n| differ where features are signed. A map of signed features may have no positive value; then it gives
    no box. Readings whose maps the predictions do not hold are left out: ResNet-50 adds the shortcut before its last
    ReLU.
    """
    held = {reading: kind(*words) for reading, words in FEATURES.items() if kind(*words) in predictions.kinds}
    return pd.DataFrame([{"reading": reading} | figures(predictions, name, protocol) for reading, name in held.items()])


def of_channels(predictions: Predictions, protocol: Protocol) -> pd.DataFrame:
    """Measure over a whole split what Fig. 2 shows of one image: which channels, positive or negative, see the object.

    Returns:
        For the strongest channel of either sign, and for M_p and |M_n|, means over the images in percent: the share
        of the true boxes that is covered, the share of the covered area that lies in them, their share of the image.
    """
    of = predictions.maps
    maps: dict[str, Callable[[slice], np.ndarray]] = {
        "strongest positive channel": partial(of, "strongest_positive"),
        "strongest negative channel": partial(of, "strongest_negative"),
        "M_p, all positive channels": partial(of, "positive"),
        "|M_n|, all negative channels": lambda rows: np.abs(of("signed", rows) - of("positive", rows)),
    }
    means = [100 * evaluation.coverage(predictions, values, protocol).mean(axis=0) for values in maps.values()]
    table = pd.DataFrame(means, columns=["box covered", "inside box", "box of image"])
    table.insert(0, "map", list(maps))
    return table


def of_failures(found: evaluation.Found, protocol: Protocol) -> pd.DataFrame:
    """Count where a rule misses a box that another threshold of the same map would have found, and which way it errs.

    Args:
        found: for each rule the thresholds (N,) and IoU (N,), as of `evaluation.overlaps`; with "oracle".

    Returns:
        For each rule, in percent of the images: hits; misses with a lower and with a higher threshold than the
        oracle's (the box is too large, or too small); images that no threshold of the grid gets right.
    """
    rows = []
    for rule, chosen in found.items():
        outcomes = _outcomes(chosen, found["oracle"], protocol)
        rows.append({"threshold_rule": rule} | {name: 100 * float(hit.mean()) for name, hit in outcomes.items()})
    return pd.DataFrame(rows)


def of_levels(
    predictions: Predictions, name: str, protocol: Protocol,
    chosen: tuple[np.ndarray, np.ndarray], best: tuple[np.ndarray, np.ndarray],
) -> pd.DataFrame:  # fmt: skip
    """Measure the level of the maps where a rule hits, and where it errs to either side.

    Args:
        chosen, best: thresholds (N,) and IoU (N,) of the rule and of the oracle.

    Returns:
        For each outcome: its share of the images, the mean thresholds chosen and best, and the mean level of the
        maps, as a share of their maximum, on the image's border and inside the true boxes.
    """
    levels: list[list[float]] = []
    true = predictions.true_boxes()
    for chunk in evaluation.prepared_kind(predictions, name, replace(protocol, levels=0)):
        for image in chunk:
            scale = np.tile([image.shape[1], image.shape[0]], 2) / np.tile(predictions.size[::-1], 2)
            inside = evaluation.inside_boxes(true[len(levels)] * scale, image.shape)
            border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
            levels.append([border.mean(), image[inside].mean() if inside.any() else np.nan])
    columns = np.column_stack([chosen[0], best[0], levels])
    names = ("chosen η", "best η", "level on the border", "level in the box")
    rows = []
    for outcome, which in _outcomes(chosen, best, protocol).items():
        means = columns[which].mean(axis=0) if which.any() else np.full(4, np.nan)
        rows.append({"outcome": outcome, "images, %": 100 * which.mean(), **dict(zip(names, means, strict=True))})
    return pd.DataFrame(rows)


def _outcomes(
    chosen: tuple[np.ndarray, np.ndarray], best: tuple[np.ndarray, np.ndarray], protocol: Protocol
) -> dict[str, np.ndarray]:
    """Thresholds (N,) and IoU (N,) of a rule and of the oracle -> for each outcome which images have it, (N,) bool."""
    (eta, overlap), (best_eta, best_overlap) = chosen, best
    hit, within_reach = overlap >= protocol.iou, best_overlap >= protocol.iou
    return {
        "hit": hit,
        "threshold too low": ~hit & within_reach & (eta < best_eta),
        "threshold too high": ~hit & within_reach & (eta > best_eta),
        "no threshold hits": ~hit & ~within_reach,
    }


def of_choe(
    predictions: Predictions, name: str, protocol: Protocol, masks: Iterable[np.ndarray] | None = None
) -> dict[str, float]:
    """Compute the scores of Choe et al. in percent: MaxBoxAcc with its threshold, MaxBoxAccV2, PxAP with masks.

    Last come the three parts of MaxBoxAccV2, as of `metrics.max_box_acc_v2`.

    Args:
        name: which of the maps.
        masks: N of (H, W) in the network's input frame, as `metrics.pixel_average_precision` takes them.
    """
    largest, best = evaluation.iou_of_contours(predictions, name, protocol)
    accuracy, k = metrics.max_box_acc(largest, protocol.iou)
    maps = evaluation.scores(predictions, name, protocol)
    pixels = np.nan if masks is None else metrics.pixel_average_precision(maps, masks)
    v2 = metrics.max_box_acc_v2(best)
    mean = v2.pop("max_box_acc_v2")
    return {"MaxBoxAcc": accuracy, "at τ": protocol.grid[k], "MaxBoxAccV2": mean, "PxAP": pixels} | v2


def average(rows: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    """Average over the seeds and round for a reader: percent to a tenth, thresholds and levels to a hundredth."""
    means = rows.drop(columns="seed").groupby(by, sort=False).mean()
    return means.round({name: 2 if "η" in name or "τ" in name or "level" in name else 1 for name in means})


def figures(
    predictions: Predictions, name: str, protocol: Protocol, known: evaluation.Found | None = None
) -> dict[str, float]:
    """GT-known of one kind of map by 0.20, the rule, the best fixed threshold, the oracle; and the rule's mean η.

    Args:
        name: which of the maps.
        known: what `evaluation.bounds` gave for them, and `evaluation.overlaps` for the rule, where that is known.
    """
    found = known or evaluation.bounds(predictions, name, protocol)
    if RULE not in found:
        found = found | evaluation.overlaps(predictions, name, protocol, [RULE])
    shown = {rule: found[rule] for rule in ("fixed", RULE, "best_fixed", "oracle")}
    hits = {rule: 100 * float((overlap >= protocol.iou).mean()) for rule, (_, overlap) in shown.items()}
    return hits | {"mean η": float(found[RULE][0].mean())}
