"""The annotation table of a data set, checked and kept as a file, and the torch Dataset that serves it.

Boxes follow every resize, crop and flip of their image.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from wsol_utils.common import files
from wsol_utils.common.bars import watched
from wsol_utils.data.layouts import (
    COLUMNS,
    READERS,
    Box,
    DatasetError,
    failure,
    read_cub,
    read_ilsvrc,
    read_tiny_imagenet,
)
from wsol_utils.data.images import cause, decode
from wsol_utils.data.text import below
from wsol_utils.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Transform,
    denormalize,
    test_transform,
    train_transform,
)

__all__ = [  # layouts and transforms belong to the same topic: photographs on disk -> what a network takes
    "COLUMNS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "READERS",
    "DatasetError",
    "ImageDataset",
    "Transform",
    "check",
    "collate",
    "denormalize",
    "hold_out",
    "leave_out",
    "read_cub",
    "read_ilsvrc",
    "read_table",
    "read_tiny_imagenet",
    "test_transform",
    "train_transform",
    "write_table",
]  # fmt: skip

Sample = tuple[torch.Tensor, int, torch.Tensor]
T = TypeVar("T")
MEASURED = ("width", "height", "boxes", "clipped")  # what `check` finds out of an image


def check(table: pd.DataFrame, root: str | os.PathLike, splits: Sequence[str] = ("train", "test")) -> pd.DataFrame:
    """Opens and decodes every image of `splits` below `root` whose size is not known; other splits stay as they are.

    Returns:
        The table with width and height filled in, every box clipped to its image, and in `clipped` by how much.
    Raises:
        DatasetError: images are missing (counted), or, at the first such row in the table's order, an image does
            not decode or a box has no area inside it.
    """
    rows = _rows_of(table, splits)
    values = {name: table[name].tolist() for name in COLUMNS}
    if missing := [row for row in rows if not os.path.isfile(Path(root, values["path"][row]))]:
        raise failure(
            root,
            values["path"][missing[0]],
            f"missing image, listed in {values['source'][missing[0]]} "
            f"({len(missing)} of {len(rows)} images are missing)",
            "unpack the data set again, or take them off its lists",
        )

    def measure(row: int) -> tuple[int, int, list[Box], float]:
        path, source, width, height, boxes = (values[n][row] for n in ("path", "source", "width", "height", "boxes"))
        if not width:  # else `leave_out` has decoded it
            (width, height), _ = decode(Path(root, path), f", listed in {source}", scaled=True)
        inside, beyond = list[Box](), float(values["clipped"][row])  # what was clipped before stays counted
        for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
            inside.append((max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))))
            if inside[-1][2] <= inside[-1][0] or inside[-1][3] <= inside[-1][1]:
                problem = (
                    f"box {number}, {(x0, y0, x1, y1)}, lies outside its image {path} of {width} x {height} pixels"
                )
                raise failure(root, source, f"{problem} (half-open)")
            beyond = max(beyond, -x0, -y0, x1 - width, y1 - height)
        return width, height, inside, beyond

    for row, measured in watched(_of_each(rows, measure), len(rows), "check"):
        for name, value in zip(MEASURED, measured, strict=True):
            values[name][row] = value
    return table.assign(**{name: values[name] for name in MEASURED})


def leave_out(
    table: pd.DataFrame, root: str | os.PathLike, splits: Sequence[str] = ("train", "test")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Takes out the images of `splits` that are missing below `root` or do not decode; other splits stay as they are.

    Wrong boxes are none of its business: `check` still stops at them.

    Returns:
        The rows that can be used, with width and height filled in; and of the others, in the same order, image_id,
        path, split and reason, one line.
    Raises:
        DatasetError: none would be left of a split, or the machine failed to read a file that is there.
    """
    rows = _rows_of(table, splits)
    paths = table["path"].tolist()

    def look(row: int) -> tuple[int, int] | str:
        """Its size, or what is wrong with it."""
        file = Path(root, paths[row])
        if not os.path.isfile(file):
            return "no such file"
        try:
            return decode(file, scaled=True)[0]
        except DatasetError as error:
            if getattr(error.__cause__, "errno", None):
                raise  # not the image's fault
            return f"does not decode ({cause(error.__cause__)})"

    sizes, reasons = table[["width", "height"]].to_numpy(copy=True), {}
    for row, found in watched(_of_each(rows, look), len(rows), "look for bad ones"):
        if isinstance(found, str):
            reasons[row] = found
        else:
            sizes[row] = found
    table = table.assign(width=sizes[:, 0], height=sizes[:, 1])
    left_out = table.iloc[list(reasons)][["image_id", "path", "split"]].assign(reason=list(reasons.values()))
    used = table.iloc[[row for row in range(len(table)) if row not in reasons]].reset_index(drop=True)
    for split in sorted(set(left_out["split"]) - set(used["split"])):
        row = left_out[left_out["split"] == split].iloc[0]
        problem = f"{row['reason']}, as with every image of the {split} split"
        raise failure(root, row["path"], problem, "unpack the data set again")
    return used, left_out.reset_index(drop=True)


def _rows_of(table: pd.DataFrame, splits: Sequence[str]) -> list[int]:
    if unknown := sorted(set(splits) - {"train", "test"}):
        raise DatasetError(f"unknown split {unknown[0]!r}; name 'train' or 'test'")
    return np.flatnonzero(table["split"].isin(splits)).tolist()


def _of_each(rows: list[int], what: Callable[[int], T]) -> Iterator[tuple[int, T]]:
    """Each row and `what` of it, in their order, by threads that do not run far ahead."""
    with ThreadPoolExecutor() as pool:
        for some in (rows[start : start + 1024] for start in range(0, len(rows), 1024)):
            yield from zip(some, pool.map(what, some), strict=True)


def write_table(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """Writes the table as CSV, the boxes as JSON text: the whole file or none."""
    with files.written(path) as temporary:
        table.assign(boxes=table["boxes"].map(json.dumps)).to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Reads what `write_table` wrote.

    Raises:
        DatasetError: the file is missing, cut off, or no such table; delete it and run notebook 01.
    """
    types = dict.fromkeys(COLUMNS, str) | dict.fromkeys(("label", "width", "height"), "int64") | {"clipped": "float64"}
    try:
        if files.is_cut_off(path):
            raise ValueError("it is cut off")
        table = pd.read_csv(path, dtype=types, keep_default_na=False)[COLUMNS]
        if not table["split"].isin(("train", "test")).all() or (table[["label", "width", "height"]] < 0).any(axis=None):
            raise ValueError("a split is train or test, and no label or side is negative")
        if not table["clipped"].between(0, math.inf, inclusive="left").all():
            raise ValueError("clipped is a number of pixels")
        table["path"].map(below)
        return table.assign(boxes=[[_corners(box) for box in json.loads(text)] for text in table["boxes"]])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        problem = " ".join(str(error).split())[:200]
        raise DatasetError(
            f"{path}: no table of annotations ({problem}); delete it and run notebook 01, which writes it"
        ) from error


def _corners(box: list) -> Box:
    """A box as JSON has it.

    Raises:
        ValueError: if it is not four finite numbers with an area between them.
    """
    if not all(type(number) in (int, float) for number in box):
        raise ValueError(f"a box is four numbers, not {box!r}")
    x0, y0, x1, y1 = map(float, box)
    if not (-math.inf < x0 < x1 < math.inf and -math.inf < y0 < y1 < math.inf):
        raise ValueError(f"a box of no area: {box!r}")
    return x0, y0, x1, y1


def hold_out(table: pd.DataFrame, fraction: float = 0.2, seed: int = 0) -> pd.DataFrame:
    """Turns a part of the train split into split "test", so that values are tuned without a look at the test split.

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
        """Chooses the epoch whose augmentation the next items get."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        frame, boxes = self.frame(index)
        images, [boxes] = self.transform.finish(frame[None], [boxes], [self.crop(index)])
        return images[0], int(self.labels[index]), boxes

    def frame(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What no augmentation changes: the resized photograph (3, F, F) uint8, and its boxes (n, 4) in it."""
        _, photograph = decode(self.root / self.paths[index])
        image = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)  # (h, w, 3) -> (3, h, w)
        return self.transform.resize(image, self.true_boxes(index))

    def crop(self, index: int) -> tuple[int, int, bool]:
        """The crop and flip of an image in this epoch, as `Transform.crop` has it."""
        return self.transform.crop([self.seed, int(self.epoch), index])

    def true_boxes(self, index: int) -> torch.Tensor:
        """(n, 4) float32, half-open pixels of the photograph."""
        return torch.from_numpy(self.boxes[self.ends[index] : self.ends[index + 1]].copy())


def collate(batch: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """B items -> images (B, 3, H, W), labels (B,) int64, a list of B tensors of boxes (n, 4)."""
    images, labels, boxes = zip(*batch, strict=True)
    return torch.stack(images), torch.tensor(labels), list(boxes)
