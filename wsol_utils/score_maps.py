"""Score maps of any network, one .npy for each image, evaluated as ours are: every protocol, every threshold rule."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from wsol_utils import cam, evaluation, files, metrics, protocols, thresholds
from wsol_utils.bars import QUIET
from wsol_utils.layouts import failure
from wsol_utils.metadata import Metadata, below, read_metadata, read_predicted, write_metadata
from wsol_utils.predictions import Predictions

__all__ = ["Metadata", "evaluate", "read", "read_metadata", "read_predicted", "write_maps", "write_metadata"]

CHUNK = 256  # images that are read at a time: 51 MB of maps at 224×224
RULES = (*thresholds.RULES, "best_fixed", "oracle")
COLUMNS = (
    "threshold_rule", "threshold", "threshold_sd", "uses_ground_truth", "n_images", "top1_cls", "top1_loc",
    "gt_known", "gt_known_low", "gt_known_high", "p_value", "max_box_acc", "max_box_acc_v2", "pxap",
)  # fmt: skip


def write_maps(folder: str | os.PathLike, image_ids: Iterable[str], maps: Iterable[np.ndarray]) -> None:
    """Write each map (H, W) as `<id>.npy`, float32: whole or not at all.

    Raises:
        ValueError: an id leaves the folder, or there are not as many ids as maps.
    """
    for image_id, scores in zip(image_ids, maps, strict=True):
        path = Path(folder, f"{below(image_id)}.npy")
        data = io.BytesIO()
        np.save(data, np.asarray(scores, dtype=np.float32))
        with files.written(path, durable=False) as temporary:  # many, and small
            temporary.write_bytes(data.getbuffer())


def read(
    maps_folder: str | os.PathLike,
    metadata: Metadata,
    image_ids: Sequence[str],
    protocol: protocols.Protocol,
    size: int = 224,
    predicted: np.ndarray | None = None,
) -> Predictions:
    """Some images' maps as predictions that hold one map each, "maps": all of `evaluation` works on them.

    Maps keep their precision. Where they differ in shape, they are upsampled here rather than by `evaluation`.
    True corners are taken as half-open; an `inclusive` protocol cuts them to whole numbers once they are scaled, and
    takes those as first and last pixel, as wsolevaluation does.

    Args:
        maps_folder: holds `<id>.npy` for every id.
        image_ids: of images in the metadata.
        size: side of the network's square input, pixels.
        predicted: (N,) classes of these images; -1, unknown, where it is not given.

    Raises:
        DatasetError: a map is missing, cut off, empty, not two-dimensional, not floating point or not finite.
    """
    label = np.array([metadata.labels[image_id] for image_id in image_ids], dtype=np.int64)
    true = [np.zeros((0, 4))] * len(image_ids)
    if metadata.boxes:
        true = [protocols.to_input(metadata.boxes[i], metadata.sizes[i], size, protocol) for i in image_ids]
    maps = [_map(Path(maps_folder), f"{image_id}.npy") for image_id in image_ids]
    if len({one.shape for one in maps}) > 1:
        maps = [cam.upsample(one[None], size, protocol.interpolation)[0] for one in maps]
    return Predictions(
        image_id=np.array(image_ids),
        label=label,
        predicted=np.full(len(label), -1) if predicted is None else np.asarray(predicted),
        logits=np.zeros((len(label), 0), dtype=np.float16),
        kinds=np.array(["maps"]),
        scaled_maps=np.stack(maps)[:, None],  # (N, 1, H, W)
        scales=np.ones((len(label), 1), dtype=np.float32),
        box=np.concatenate(true),
        box_image=np.repeat(np.arange(len(true)), [len(boxes) for boxes in true]),
        size=np.array([size, size]),
        image_size=np.array([metadata.sizes.get(image_id, (size, size)) for image_id in image_ids]),
    )


def evaluate(
    maps: str | os.PathLike,
    metadata: Metadata,
    protocol: str | protocols.Protocol = "paper",
    rules: Sequence[str] = ("fixed", "first_above_mean", "best_fixed", "oracle"),
    size: int = 224,
    predicted: np.ndarray | None = None,
    masks: Iterable[np.ndarray] | None = None,
) -> pd.DataFrame:
    """Every figure of a folder of score maps, of which a few hundred are in memory at a time.

    Args:
        maps: the folder, with a map for every image of the metadata and no other.
        protocol: one of `protocols.PROTOCOLS`, or a row of one's own.
        rules: one or more of `RULES`.
        size: side of the network's square input, pixels.
        predicted: (N,) classes in the order of the metadata, for Top-1.
        masks: N of (size, size) in that order, from the module `masks`, for PxAP.

    Returns:
        `COLUMNS`, a row for each rule: what `evaluation.rows` gives (without `predicted`, top1_* are NaN; without the
        rule "fixed", p_value), and three figures of the maps, the same in every row, in percent: max_box_acc,
        MaxBoxAcc on the protocol's grid; max_box_acc_v2, where the protocol takes contours; pxap, with masks.
        Metadata without boxes give one row of n_images and pxap alone.

    Raises:
        DatasetError: maps are missing or superfluous, or from `read`.
        ValueError: a name is unknown, there is no rule, or there are neither boxes nor masks.
    """
    convention = protocols.get(protocol) if isinstance(protocol, str) else protocol
    count = len(metadata.image_ids)
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown or not rules:
        problem = f"unknown threshold rule {unknown[0]!r}" if unknown else "no threshold rule"
        raise ValueError(f"{problem}; choose one or more of {', '.join(RULES)}")
    if not metadata.boxes and masks is None:
        raise ValueError("these metadata name masks instead of boxes: give the masks")
    _same_ids(Path(maps), metadata.image_ids)
    rows = [{"n_images": count}]
    if metadata.boxes:
        label = np.array([metadata.labels[image_id] for image_id in metadata.image_ids])
        known: Any = SimpleNamespace(label=label, predicted=np.full(count, -1) if predicted is None else predicted)
        found, whole = _found(_chunks(maps, metadata, convention, size), count, convention, rules)
        rows = [row | whole for row in evaluation.rows(known, found, convention)]
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    if predicted is None:
        table[["top1_cls", "top1_loc"]] = np.nan
    if masks is not None:
        chunks = _chunks(maps, metadata, convention, size)
        each = (one for _, some in chunks for one in evaluation.scores(some, "maps", convention))
        table["pxap"] = metrics.pixel_average_precision(each, masks)
    return table


def _same_ids(folder: Path, image_ids: Sequence[str]) -> None:
    found = glob("**/*.npy", root_dir=folder, recursive=True, include_hidden=True)  # through linked folders too
    there = {Path(name).as_posix() for name in found}
    listed = {f"{image_id}.npy" for image_id in image_ids}
    for names, problem in ((listed - there, "missing"), (there - listed, "not in image_ids.txt")):
        if names:
            remedy = "give one map for every id of the metadata, and no other"
            raise failure(folder, min(names), f"{len(names)} maps {problem}, this one first", remedy)


def _chunks(
    maps: str | os.PathLike, metadata: Metadata, protocol: protocols.Protocol, size: int
) -> Iterator[tuple[slice, Predictions]]:
    """All images in the order of the metadata, with their places."""
    with tqdm(total=len(metadata.image_ids), desc="score maps", unit="image", disable=QUIET) as bar:
        for start in range(0, len(metadata.image_ids), CHUNK):
            rows = slice(start, start + CHUNK)
            some = read(maps, metadata, metadata.image_ids[rows], protocol, size)
            yield rows, some
            bar.update(len(some.label))


def _found(
    chunks: Iterable[tuple[slice, Predictions]], count: int, protocol: protocols.Protocol, rules: Sequence[str]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, float]]:
    """Thresholds (N,) and IoU (N,) of each rule, as `evaluation.overlaps` gives them; and both MaxBoxAcc."""
    grid = np.empty((count, len(protocol.grid)))
    contours = np.empty_like(grid) if protocol.component == "contour" else None
    chosen = {rule: (np.empty(count), np.empty(count)) for rule in rules if rule in thresholds.RULES}
    for rows, some in chunks:
        if contours is None:
            grid[rows] = evaluation.iou_on_grid(some, "maps", protocol)
        else:
            grid[rows], contours[rows] = evaluation.iou_of_contours(some, "maps", protocol)
        for rule, (eta, overlap) in evaluation.overlaps(some, "maps", protocol, list(chosen)).items():
            chosen[rule][0][rows], chosen[rule][1][rows] = eta, overlap
    found = evaluation.on_grid(grid, protocol) | chosen
    whole = {"max_box_acc": metrics.max_box_acc(grid, protocol.iou)[0]}
    if contours is not None:
        whole["max_box_acc_v2"] = metrics.max_box_acc_v2(contours)
    return {rule: found[rule] for rule in rules}, whole


def _map(folder: Path, name: str) -> np.ndarray:
    """(H, W) float32, or float64 of a wider file."""
    remedy = "write an array (height, width) of floating point for every id, as numpy.save does"
    if not (folder / name).is_file():
        raise failure(folder, name, "no such file", remedy)
    try:
        scores = np.load(folder / name, allow_pickle=False)
    except Exception as error:  # NumPy's reader raises many kinds
        raise failure(folder, name, f"no whole .npy file ({error})", remedy) from error
    if not isinstance(scores, np.ndarray) or not np.issubdtype(scores.dtype, np.floating):
        raise failure(folder, name, "not an array of floating point", remedy)
    if scores.ndim != 2 or not scores.size:
        raise failure(folder, name, f"not (height, width) but {scores.shape}", remedy)
    if not np.isfinite(scores).all():
        raise failure(folder, name, f"{np.count_nonzero(~np.isfinite(scores))} values NaN or infinite", remedy)
    return scores.astype(np.float64 if scores.dtype.itemsize > 4 else np.float32)
