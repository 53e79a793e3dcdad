"""Evaluate score maps of any network, one .npy for each image, by every protocol and every threshold rule."""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsol_utils.boxes import thresholds
from wsol_utils.common import files
from wsol_utils.common.checks import one_of
from wsol_utils.data.layouts import failure
from wsol_utils.maps import cam
from wsol_utils.maps.predictions import Predictions
from wsol_utils.scores import evaluation, metrics, protocols
from wsol_utils.scores.external.metadata import Metadata, below, read_metadata, write_metadata

__all__ = ["Metadata", "evaluate", "read", "read_metadata", "write_maps", "write_metadata"]

RULES = (*thresholds.RULES, "best_fixed", "oracle")
COLUMNS = [
    "threshold_rule", "threshold", "threshold_sd", "uses_ground_truth", "n_images", "top1_cls", "top1_loc",
    "gt_known", "gt_known_low", "gt_known_high", "p_value", "max_box_acc", "max_box_acc_v2", "max_box_acc_v2_30",
    "max_box_acc_v2_50", "max_box_acc_v2_70", "pxap",
]  # fmt: skip
REMEDY = "give a map (height, width) of floating point for every id of the metadata, as numpy.save writes it"


def write_maps(folder: str | os.PathLike, image_ids: Iterable[str], maps: Iterable[np.ndarray]) -> None:
    """Write each map (H, W) as `<id>.npy`, float32: whole or not at all.

    Raises:
        ValueError: an id leaves the folder, or there are not as many ids as maps.
    """
    for image_id, scores in zip(image_ids, maps, strict=True):
        data = io.BytesIO()
        np.save(data, np.asarray(scores, dtype=np.float32))
        with files.written(Path(folder, f"{below(image_id)}.npy"), durable=False) as temporary:  # many, and small
            temporary.write_bytes(data.getbuffer())


@dataclass(frozen=True)
class ScoreMaps(Predictions):
    """Predictions with one map for each image, "maps", which is read from its file when it is asked for.

    Attributes:
        folder: holds `<id>.npy` for every id.
        interpolation: how maps are upsampled where they differ in shape, for which `evaluation` has no place.
    """

    folder: Path = Path()
    interpolation: str = "bilinear"

    def maps(self, kind: str, rows: slice = slice(None)) -> np.ndarray:
        """(n, H, W) maps of some rows, float32, or float64 where a file is wider.

        Raises:
            DatasetError: a file is cut off, or holds anything but finite numbers (height, width).
        """
        found = [_map(self.folder, f"{image_id}.npy") for image_id in self.image_id[rows]]
        if len({one.shape for one in found}) > 1:
            found = [cam.upsample(one[None], tuple(self.size.tolist()), self.interpolation)[0] for one in found]
        return np.stack(found)


def read(
    folder: str | os.PathLike, metadata: Metadata, protocol: protocols.Protocol, size: int = 224,
    predicted: np.ndarray | None = None,
) -> ScoreMaps:  # fmt: skip
    """Maps of all images of the metadata, and the true boxes in the network's input: all of `evaluation` takes them.

    Inclusive corners become half-open ones, but for a protocol that is `inclusive` without `last_pixel`: as
    wsolevaluation does, it scales the corners of the file, cuts them to whole numbers, and takes those as first and
    last pixel, whatever they are.

    Args:
        folder: holds `<id>.npy` for every id; other files are not looked at.
        size: side of the network's square input, pixels.
        predicted: (N,) classes in the order of the metadata; -1, unknown, where it is not given.

    Raises:
        DatasetError: a map is missing.
    """
    ids, count = metadata.image_ids, len(metadata.image_ids)
    if missing := sorted(name for name in (f"{image_id}.npy" for image_id in ids) if not Path(folder, name).is_file()):
        raise failure(folder, missing[0], f"{len(missing)} maps missing, this one first", REMEDY)
    true = [np.zeros((0, 4))] * count
    if metadata.boxes:
        as_they_stand = metadata.corners == "half-open" or (protocol.inclusive and not protocol.last_pixel)
        behind = np.zeros(4) if as_they_stand else np.array([0, 0, 1, 1])
        true = [protocols.to_input(metadata.boxes[i] + behind, metadata.sizes[i], size, protocol) for i in ids]
    return ScoreMaps(
        image_id=np.array(ids),
        label=np.array([metadata.labels[image_id] for image_id in ids], dtype=np.int64),
        predicted=np.full(count, -1) if predicted is None else np.asarray(predicted),
        logits=np.zeros((count, 0), dtype=np.float16),
        kinds=np.array(["maps"]),
        scaled_maps=np.zeros((count, 1, 0, 0)),
        scales=np.ones((count, 1), dtype=np.float32),
        box=np.concatenate(true),
        box_image=np.repeat(np.arange(count), [len(boxes) for boxes in true]),
        size=np.array([size, size]),
        image_size=np.array([metadata.sizes.get(image_id, (size, size)) for image_id in ids]),
        folder=Path(folder),
        interpolation=protocol.interpolation,
    )


def evaluate(
    maps: str | os.PathLike, metadata: Metadata, protocol: str | protocols.Protocol = "paper",
    rules: Sequence[str] = ("fixed", "first_above_mean", "best_fixed", "oracle"), size: int = 224,
    predicted: np.ndarray | None = None, masks: Iterable[np.ndarray] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Compute every figure of a folder of score maps, of which a hundred or so are in memory at a time.

    Args:
        maps: the folder, with a map for every image of the metadata.
        protocol: one of `protocols.PROTOCOLS`, or a row of one's own.
        rules: some of `RULES`.
        size: side of the network's square input, pixels.
        predicted: (N,) classes in the order of the metadata, for Top-1.
        masks: N of (size, size) in that order, from the module `masks`, for PxAP.

    Returns:
        `COLUMNS`, a row for each rule: what `evaluation.rows` gives (without `predicted`, top1_* are NaN; without the
        rule "fixed", p_value), and figures of the maps, the same in every row, in percent: max_box_acc, MaxBoxAcc on
        the protocol's grid; max_box_acc_v2 and its three parts, where the protocol takes contours; pxap, with masks.
        Metadata without boxes give one row of n_images and pxap alone.

    Raises:
        DatasetError: a map is missing, cut off, or anything but finite numbers (height, width).
        ValueError: a name is unknown, or there are neither boxes nor masks.
    """
    convention = protocols.get(protocol) if isinstance(protocol, str) else protocol
    for rule in rules:
        one_of("threshold rule", rule, RULES)
    if not metadata.boxes and masks is None:
        raise ValueError("these metadata name masks instead of boxes: give the masks")
    some = read(maps, metadata, convention, size, predicted)
    table = pd.DataFrame({"n_images": [len(some.label)]})
    if metadata.boxes:
        whole = {}
        if convention.component == "contour":
            grid, contours = evaluation.iou_of_contours(some, "maps", convention)
            whole = metrics.max_box_acc_v2(contours)
        else:
            grid = evaluation.iou_on_grid(some, "maps", convention)
        by_rule = [rule for rule in rules if rule in thresholds.RULES]
        found = evaluation.on_grid(grid, convention) | evaluation.overlaps(some, "maps", convention, by_rule)
        table = pd.DataFrame(evaluation.rows(some, {rule: found[rule] for rule in rules}, convention))
        table = table.assign(max_box_acc=metrics.max_box_acc(grid, convention.iou)[0], **whole)
    table = table.reindex(columns=COLUMNS)
    if predicted is None:
        table[["top1_cls", "top1_loc"]] = np.nan
    if masks is not None:
        table["pxap"] = metrics.pixel_average_precision(evaluation.scores(some, "maps", convention), masks)
    return table


def _map(folder: Path, name: str) -> np.ndarray:
    """(H, W) float32, or float64 of a wider file."""
    try:
        scores = np.load(folder / name, allow_pickle=False)
    except Exception as error:  # NumPy's reader raises many kinds
        raise failure(folder, name, f"no whole .npy file ({error})", REMEDY) from error
    if not isinstance(scores, np.ndarray) or scores.ndim != 2 or not scores.size or scores.dtype.kind != "f":
        problem = f"not (height, width) of floating point but {getattr(scores, 'shape', type(scores).__name__)}"
        raise failure(folder, name, f"{problem} of {getattr(scores, 'dtype', 'several arrays')}", REMEDY)
    if not np.isfinite(scores).all():
        raise failure(folder, name, f"{np.count_nonzero(~np.isfinite(scores))} values NaN or infinite", REMEDY)
    return scores.astype(np.float64 if scores.dtype.itemsize > 4 else np.float32)
