"""The annotation table of a data set, checked and kept as a file, and the torch Dataset that serves it.

Boxes follow every resize, crop and flip of their image.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import FiniteFloat, TypeAdapter

from wsol_utils.common import files
from wsol_utils.common.bars import watched
from wsol_utils.data.images import cause, decode
from wsol_utils.data.layouts import COLUMNS, READERS, read_cub, read_ilsvrc, read_tiny_imagenet
from wsol_utils.data.text import DatasetError, below, failure
from wsol_utils.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Transform,
    denormalize,
    test_transform,
    train_transform,
)

__all__ = [  # layouts and transforms belong to the same topic: photographs on disk -> what a network takes
    "COLUMNS", "IMAGENET_MEAN", "IMAGENET_STD", "READERS", "DatasetError", "ImageDataset", "Transform", "check",
    "collate", "denormalize", "hold_out", "leave_out", "read_cub", "read_ilsvrc", "read_table", "read_tiny_imagenet",
    "test_transform", "train_transform", "write_table",
]  # fmt: skip

Sample = tuple[torch.Tensor, int, torch.Tensor]
SPLITS = ("train", "test")
BOXES = TypeAdapter(list[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]])  # of an image, as JSON has them


def check(table: pd.DataFrame, root: str | os.PathLike, splits: Sequence[str] = SPLITS) -> pd.DataFrame:
    """Decode every image of `splits` whose size is not known, and clip its boxes; other splits stay as they are.

    Returns:
        The table with width and height filled in, every box clipped to its image, and in `clipped` by how much.
    Raises:
        DatasetError: images are missing or do not decode (the first is named, all are counted), or a box has no area
            inside its image.
    """
    sizes, bad = _looked_at(table, root, splits)
    values = {name: table[name].tolist() for name in COLUMNS}
    for row, reason in bad.items():
        problem = f"{reason}, listed in {values['source'][row]} ({len(bad)} of {len(bad) + len(sizes)} are bad)"
        raise failure(root, values["path"][row], problem)
    for row, (width, height) in sizes.items():
        listed = np.reshape(values["boxes"][row], (-1, 4))
        inside = listed.clip(0, [width, height, width, height])
        outside = (inside[:, 2:] <= inside[:, :2]).any(axis=1)
        if outside.any():
            number, path = int(outside.argmax()), values["path"][row]
            box = f"box {number + 1}, {values['boxes'][row][number]}"
            problem = f"{box}, lies outside its image {path} of {width} x {height} pixels (half-open)"
            raise failure(root, values["source"][row], problem)
        values["width"][row], values["height"][row] = width, height
        values["boxes"][row] = [tuple(box) for box in inside.tolist()]
        beyond = float(np.abs(listed - inside).max(initial=0))
        values["clipped"][row] = max(values["clipped"][row], beyond)  # what was clipped before stays counted
    return table.assign(**{name: values[name] for name in ("width", "height", "boxes", "clipped")})


def leave_out(
    table: pd.DataFrame, root: str | os.PathLike, splits: Sequence[str] = SPLITS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take out the images of `splits` that are missing or do not decode; other splits, and wrong boxes, stay.

    Returns:
        The rows that can be used, with width and height filled in; and of the others, in the same order, image_id,
        path, split and reason, one line.
    Raises:
        DatasetError: none would be left of a split, or the machine failed to read a file that is there.
    """
    sizes, bad = _looked_at(table, root, splits)
    measured = table[["width", "height"]].to_numpy(copy=True)
    for row, size in sizes.items():
        measured[row] = size
    usable = ~np.isin(np.arange(len(table)), list(bad))
    used = table.assign(width=measured[:, 0], height=measured[:, 1])[usable].reset_index(drop=True)
    left_out = table[~usable][["image_id", "path", "split"]].assign(reason=list(bad.values())).reset_index(drop=True)
    for row in left_out[~left_out["split"].isin(used["split"])].itertuples():
        raise failure(root, row.path, f"{row.reason}, as with every image of the {row.split} split")
    return used, left_out


def _looked_at(
    table: pd.DataFrame, root: str | os.PathLike, splits: Sequence[str]
) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
    """Find the (width, height) of the rows in some splits whose images decode; and of the others what is wrong."""
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise DatasetError(f"unknown split {unknown[0]!r}; name 'train' or 'test'")
    rows = np.flatnonzero(table["split"].isin(splits)).tolist()
    paths, known = table["path"].tolist(), list(zip(table["width"], table["height"], strict=True))

    def look(row: int) -> tuple[int, int] | str:
        if all(known[row]):
            return known[row]
        file = Path(root, paths[row])
        try:
            return decode(file, scaled=True)[0] if os.path.isfile(file) else "missing image"
        except DatasetError as error:
            if getattr(error.__cause__, "errno", None):
                raise  # not the image's fault
            return f"an image that does not decode ({cause(error.__cause__)})"

    sizes, bad = dict[int, tuple[int, int]](), dict[int, str]()
    with ThreadPoolExecutor() as pool:  # whose threads do not run far ahead
        found = chain.from_iterable(pool.map(look, rows[start : start + 1024]) for start in range(0, len(rows), 1024))
        for row, size in zip(rows, watched(found, len(rows), "check"), strict=True):
            if isinstance(size, str):
                bad[row] = size
            else:
                sizes[row] = size
    return sizes, bad


def write_table(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Write the table as CSV, the boxes as JSON text: the whole file or none."""
    with files.written(path) as temporary:
        table.assign(boxes=table["boxes"].map(json.dumps)).to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Read what `write_table` wrote.

    Raises:
        DatasetError: the file is missing, cut off, or no such table; delete it and run notebook 01.
    """
    types = dict.fromkeys(COLUMNS, str) | dict.fromkeys(("label", "width", "height"), "int64") | {"clipped": "float64"}
    try:
        if files.is_cut_off(path):
            raise ValueError("it is cut off")
        table = pd.read_csv(path, dtype=types, keep_default_na=False)[COLUMNS]
        if not table["split"].isin(SPLITS).all():
            raise ValueError("a split is train or test")
        table["path"].map(below)
        return table.assign(boxes=table["boxes"].map(BOXES.validate_json))
    except (OSError, ValueError, KeyError, OverflowError) as error:
        problem = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"{path}: no table of annotations ({problem}); delete it and run notebook 01, which writes it"
        ) from error


def hold_out(table: pd.DataFrame, fraction: float = 0.2, seed: int = 0) -> pd.DataFrame:
    """Turn a part of the train split into split "test", so that values are tuned without a look at the test split.

    Args:
        table: its test rows are dropped.
        fraction: of every class, in (0, 1), rounded, at least one image with boxes; one image at least stays "train".
        seed: of the draw.
    Raises:
        DatasetError: no train image with a box can be held out.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"fraction must lie between 0 and 1, got {fraction}")
    table = table[table["split"] == "train"].reset_index(drop=True)
    held: list[int] = []
    for label, rows in table.groupby("label"):
        candidates = rows.index[rows["boxes"].str.len() > 0]
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1, len(candidates))
        held += np.random.default_rng([seed, int(label)]).choice(candidates, count, replace=False).tolist()
    if not held:
        raise DatasetError("no train image with a box to hold out; read a data set with a train split and its boxes")
    return table.assign(split=np.where(table.index.isin(held), "test", "train"))


# The images.


class ImageDataset(torch.utils.data.Dataset):
    """The images of a table's rows; an item is (image (3, H, W) float32, label, boxes (n, 4) float32).

    The boxes are half-open pixels of the transformed image. Augmentation depends on (seed, epoch, index) alone, not on
    workers or order, and leaves torch's generators as they were. EXIF orientation is not applied, as the annotations
    ignore it. An image that does not decode raises DatasetError.

    Items come one by one, to be looked at; `loader.Loader` gives the same in batches, fast.

    Args:
        table: rows to serve, in their order.
        root: the folder that its paths are relative to.
        transform: from `train_transform` or `test_transform`.
        seed: of the augmentation, not negative.
    """

    def __init__(self, table: pd.DataFrame, root: str | os.PathLike, transform: Transform, seed: int = 0) -> None:
        self.root, self.transform, self.seed = Path(root), transform, seed
        self.image_ids = np.array(table["image_id"].tolist(), dtype=np.str_)
        self.paths = np.array(table["path"].tolist(), dtype=np.str_)  # flat arrays: workers share them, uncopied
        self.labels = np.array(table["label"], dtype=np.int64)
        self.ends = np.cumsum([0, *map(len, table["boxes"])])
        self.boxes = np.array([box for boxes in table["boxes"] for box in boxes], dtype=np.float32).reshape(-1, 4)
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by persistent workers too

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation the next items get."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        frame, boxes = self.frame(index)
        images, [boxes] = self.transform.finish(frame[None], [boxes], [self.crop(index)])
        return images[0], int(self.labels[index]), boxes

    def frame(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what no augmentation changes: the resized photograph (3, F, F) uint8, and its boxes (n, 4) in it."""
        _, photograph = decode(self.root / self.paths[index])
        image = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)  # (h, w, 3) -> (3, h, w)
        return self.transform.resize(image, self.true_boxes(index))

    def crop(self, index: int) -> tuple[int, int, bool]:
        """Give the crop and flip of an image in this epoch, as `Transform.crop` does."""
        return self.transform.crop([self.seed, int(self.epoch), index])

    def true_boxes(self, index: int) -> torch.Tensor:
        """Give the boxes of an image, (n, 4) float32, half-open pixels of the photograph."""
        return torch.from_numpy(self.boxes[self.ends[index] : self.ends[index + 1]].copy())


def collate(batch: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Join B items: images (B, 3, H, W), labels (B,) int64, a list of B tensors of boxes (n, 4)."""
    images, labels, boxes = zip(*batch, strict=True)
    return torch.stack(images), torch.tensor(labels), list(boxes)
