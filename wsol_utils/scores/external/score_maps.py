"""Score maps of any network, one .npy for each image, evaluated as ours are: every protocol, every threshold rule."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from wsol_utils.boxes import thresholds
from wsol_utils.common import files
from wsol_utils.common.bars import QUIET
from wsol_utils.common.checks import one_of
from wsol_utils.data.layouts import failure
from wsol_utils.maps import cam
from wsol_utils.maps.predictions import Predictions
from wsol_utils.scores import evaluation, metrics, protocols
from wsol_utils.scores.external.metadata import Metadata, Say, below, one_form, read_metadata, silent, write_metadata

__all__ = [
    "Metadata", "best_threshold", "evaluate", "find", "read", "read_metadata", "write_maps", "write_metadata",
]  # fmt: skip

CHUNK = 256  # images that are read at a time: 51 MB of maps at 224×224
RULES = (*thresholds.RULES, "best_fixed", "oracle")
COLUMNS = (
    "threshold_rule", "threshold", "threshold_sd", "uses_ground_truth", "n_images", "top1_cls", "top1_loc",
    "gt_known", "gt_known_low", "gt_known_high", "p_value", "max_box_acc", "max_box_acc_v2", "max_box_acc_v2_30",
    "max_box_acc_v2_50", "max_box_acc_v2_70", "pxap",
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


def find(folder: str | os.PathLike, image_ids: Sequence[str]) -> tuple[dict[str, str], int]:
    """The file of each id's map, and how many maps of other images the folder holds.

    Files that begin with a dot do not count, nor does what lies in a folder that does; only an id can name them. An
    id and the name of its file may be of different Unicode forms.

    Returns:
        For each id a path below the folder.

    Raises:
        DatasetError: a map is missing, or two files have the name of one id, each in another Unicode form.
    """
    several: dict[str, list[str]] = {}
    found = sorted(glob("**/*.npy", root_dir=folder, recursive=True))  # through linked folders too
    for name in found:
        several.setdefault(one_form(name), []).append(name)
    names, missing = {}, []
    for image_id in image_ids:
        name = f"{image_id}.npy"
        there = several.get(one_form(name)) or [name] * Path(folder, name).is_file()
        if len(there) > 1:
            problem = f"{len(there)} files have this name, each in another Unicode form"
            raise failure(folder, name, problem, "keep one of them")
        if there:
            names[image_id] = there[0]
        else:
            missing.append(name)
    if missing:
        remedy = "give a map for every id of the metadata"
        raise failure(folder, min(missing), f"{len(missing)} maps missing, this one first", remedy)
    return names, len(set(found) - set(names.values()))


def read(
    maps_folder: str | os.PathLike, metadata: Metadata, image_ids: Sequence[str], protocol: protocols.Protocol,
    size: int = 224, predicted: np.ndarray | None = None, names: Mapping[str, str] | None = None,
) -> Predictions:  # fmt: skip
    """Some images' maps as predictions that hold one map each, "maps": all of `evaluation` works on them.

    Maps keep their precision. Where they differ in shape, they are upsampled here rather than by `evaluation`.
    Inclusive corners of the metadata become half-open ones, but for a protocol that is `inclusive` without
    `last_pixel`: as wsolevaluation does, it scales the corners of the file, cuts them to whole numbers, and takes those
    as first and last pixel, whatever they are.

    Args:
        maps_folder: holds `<id>.npy` for every id.
        image_ids: of images in the metadata.
        size: side of the network's square input, pixels.
        predicted: (N,) classes of these images; -1, unknown, where it is not given.
        names: the file of each id, from `find`, where it may be of another Unicode form.

    Raises:
        DatasetError: a map is missing, cut off, empty, not two-dimensional, not floating point or not finite, or
            leaves [0, 1] under a protocol without normalization.
    """
    label = np.array([metadata.labels[image_id] for image_id in image_ids], dtype=np.int64)
    true = [np.zeros((0, 4))] * len(image_ids)
    if metadata.boxes:
        as_they_stand = metadata.corners == "half-open" or (protocol.inclusive and not protocol.last_pixel)
        behind = np.zeros(4) if as_they_stand else np.array([0, 0, 1, 1])
        true = [protocols.to_input(metadata.boxes[i] + behind, metadata.sizes[i], size, protocol) for i in image_ids]
    files_of, unit = names or {i: f"{i}.npy" for i in image_ids}, protocol.normalization == "none"
    maps = [_map(Path(maps_folder), files_of[image_id], unit) for image_id in image_ids]
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
    maps: str | os.PathLike, metadata: Metadata, protocol: str | protocols.Protocol = "paper",
    rules: Sequence[str] = ("fixed", "first_above_mean", "best_fixed", "oracle"), size: int = 224,
    predicted: np.ndarray | None = None, masks: Iterable[np.ndarray] | None = None,
    own: Mapping[str, float] | None = None, boxes: str | os.PathLike | None = None, say: Say = silent,
) -> pd.DataFrame:  # fmt: skip
    """Every figure of a folder of score maps, of which a few hundred are in memory at a time.

    Args:
        maps: the folder, with a map for every image of the metadata.
        protocol: one of `protocols.PROTOCOLS`, or a row of one's own: `normalization="none"` takes maps as they are.
        rules: one or more of `RULES`.
        size: side of the network's square input, pixels.
        predicted: (N,) classes in the order of the metadata, for Top-1.
        masks: N of (size, size) in that order, from the module `masks`, for PxAP.
        own: thresholds for all images, in [0, 1], by the names of their rows: "eta" for one's own, "tuned" for
            `best_threshold` of another split.
        boxes: CSV file to write: for each image and row image_id, threshold_rule, threshold, the box x0, y0, x1, y1 in
            half-open pixels of the original image, of no area where there is none, and its iou with the nearest true
            box. This reads the maps once more.
        say: is told how many maps of other images the folder holds, which are passed over.

    Returns:
        `COLUMNS`, a row for each rule: what `evaluation.rows` gives (without `predicted`, top1_* are NaN; without the
        rule "fixed", p_value), and figures of the maps, the same in every row, in percent: max_box_acc, MaxBoxAcc on
        the protocol's grid; max_box_acc_v2 and its three parts, where the protocol takes contours; pxap, with masks.
        Metadata without boxes give one row of n_images and pxap alone.

    Raises:
        DatasetError: maps are missing, or from `read`.
        ValueError: a name is unknown, there is no rule, a threshold is outside [0, 1], or there are neither boxes nor
            masks.
    """
    convention, own = protocols.get(protocol) if isinstance(protocol, str) else protocol, own or {}
    count = len(metadata.image_ids)
    if not rules:
        raise ValueError(f"no threshold rule; choose one or more of {', '.join(RULES)}")
    for rule in rules:
        one_of("threshold rule", rule, RULES)
    if wrong := [f"{name} {eta:g}" for name, eta in own.items() if not 0 <= eta <= 1]:
        raise ValueError(f"a threshold is a share of the map's maximum, from 0 to 1, got {wrong[0]}")
    if not metadata.boxes and (masks is None or boxes or own):
        problem = "give the masks" if masks is None else "ask for no boxes to be written and no thresholds of one's own"
        raise ValueError(f"these metadata name masks instead of boxes: {problem}")
    chunks = _chunks_of(maps, metadata, convention, size, say)
    rows = [{"n_images": count}]
    if metadata.boxes:
        label = np.array([metadata.labels[image_id] for image_id in metadata.image_ids])
        known: Any = SimpleNamespace(label=label, predicted=np.full(count, -1) if predicted is None else predicted)
        found, whole = _found(chunks(), count, convention, rules, own)
        rows = [row | whole for row in evaluation.rows(known, found, convention)]
        if boxes:
            _write_boxes(Path(boxes), chunks(), convention, found)
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    if predicted is None:
        table[["top1_cls", "top1_loc"]] = np.nan
    if masks is not None:
        each = (one for _, some in chunks() for one in evaluation.scores(some, "maps", convention))
        table["pxap"] = metrics.pixel_average_precision(each, masks)
    return table


def best_threshold(
    maps: str | os.PathLike, metadata: Metadata, protocol: str | protocols.Protocol = "paper", size: int = 224,
    say: Say = silent,
) -> float:  # fmt: skip
    """The one threshold of the protocol's grid that suits a split best, to be used on another; all as in `evaluate`.

    Raises:
        DatasetError: as `evaluate`.
        ValueError: the protocol is unknown, or there are no boxes.
    """
    convention = protocols.get(protocol) if isinstance(protocol, str) else protocol
    if not metadata.boxes:
        raise ValueError("a threshold is tuned on boxes: these metadata name masks instead")
    chunks = _chunks_of(maps, metadata, convention, size, say)
    overlap = np.concatenate([evaluation.iou_on_grid(some, "maps", convention) for _, some in chunks()])
    return convention.grid[metrics.max_box_acc(overlap, convention.iou)[1]]


def _chunks_of(
    maps: str | os.PathLike, metadata: Metadata, protocol: protocols.Protocol, size: int, say: Say
) -> Callable[[], Iterator[tuple[slice, Predictions]]]:
    """A function that goes through all images in the order of the metadata, with their places; none is missing."""
    names, unused = find(maps, metadata.image_ids)
    if unused:
        say(f"{Path(maps)}: maps of images that image_ids.txt does not list, not used: {unused}")

    def chunks() -> Iterator[tuple[slice, Predictions]]:
        with tqdm(total=len(metadata.image_ids), desc="score maps", unit="image", disable=QUIET) as bar:
            for start in range(0, len(metadata.image_ids), CHUNK):
                rows = slice(start, start + CHUNK)
                some = read(maps, metadata, metadata.image_ids[rows], protocol, size, names=names)
                yield rows, some
                bar.update(len(some.label))

    return chunks


def _found(
    chunks: Iterable[tuple[slice, Predictions]], count: int, protocol: protocols.Protocol, rules: Sequence[str],
    own: Mapping[str, float],
) -> tuple[evaluation.Found, dict[str, float]]:  # fmt: skip
    """Thresholds (N,) and IoU (N,) of each rule, as `evaluation.overlaps` gives them; and every MaxBoxAcc."""
    grid = np.empty((count, len(protocol.grid)))
    contours = np.empty_like(grid) if protocol.component == "contour" else None
    by_rule = [rule for rule in rules if rule in thresholds.RULES]
    chosen = {name: (np.empty(count), np.empty(count)) for name in (*by_rule, *own)}
    for rows, some in chunks:
        if contours is None:
            grid[rows] = evaluation.iou_on_grid(some, "maps", protocol)
        else:
            grid[rows], contours[rows] = evaluation.iou_of_contours(some, "maps", protocol)
        looked = evaluation.overlaps(some, "maps", protocol, by_rule)
        if own:
            given = {name: np.full(len(some.label), eta) for name, eta in own.items()}
            looked |= evaluation.overlaps(some, "maps", protocol, given)
        for name, found in looked.items():
            chosen[name][0][rows], chosen[name][1][rows] = found
    every = evaluation.on_grid(grid, protocol) | chosen
    whole = {"max_box_acc": metrics.max_box_acc(grid, protocol.iou)[0]}
    if contours is not None:
        whole |= {"max_box_acc_v2": metrics.max_box_acc_v2(contours)} | metrics.max_box_acc_v2_parts(contours)
    return {name: every[name] for name in (*rules, *own)}, whole


def _write_boxes(
    path: Path, chunks: Iterable[tuple[slice, Predictions]], protocol: protocols.Protocol, found: evaluation.Found
) -> None:
    """For each image and rule the box at the threshold that was chosen, no far corner clipped to the last pixel."""
    with files.written(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        for rows, some in chunks:
            tables = []
            etas = {rule: eta[rows] for rule, (eta, _) in found.items()}
            for rule, (eta, box) in evaluation.localize(some, "maps", replace(protocol, clip=False), etas).items():
                there = (box[:, 2:] > box[:, :2]).all(axis=1, keepdims=True)
                box = protocols.from_input(box, some.image_size, int(some.size[0]), protocol) * there
                columns = {"image_id": some.image_id, "threshold_rule": rule, "threshold": eta.round(6)}
                columns |= {name: box[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))}
                tables.append(pd.DataFrame(columns | {"iou": found[rule][1][rows]}))
            together = pd.concat(tables).sort_index(kind="stable")  # image by image
            together.to_csv(file, index=False, header=rows.start == 0, lineterminator="\n")


def _map(folder: Path, name: str, unit: bool = False) -> np.ndarray:
    """(H, W) float32, or float64 of a wider file; `unit`: of values in [0, 1]."""
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
    if unit and not (scores.min() >= 0 and scores.max() <= 1):
        problem = (
            f"values from {scores.min():.9g} to {scores.max():.9g}, but a map that is taken as it is lies in [0, 1]"
        )
        raise failure(folder, name, problem, "stretch the maps to [0, 1], or leave that to us, without --as-is")
    return scores.astype(np.float64 if scores.dtype.itemsize > 4 else np.float32)
