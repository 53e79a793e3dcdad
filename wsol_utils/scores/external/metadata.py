"""Read and write the annotations of a split as the text files of clovaai/wsolevaluation (Choe et al. 2020).

A folder for each split, one line for each image, in localization.txt for each object:

    image_ids.txt       val2/995/0.jpeg
    class_labels.txt    val2/995/0.jpeg,995
    image_sizes.txt     val2/995/0.jpeg,500,375
    localization.txt    val2/995/0.jpeg,111,108,441,193

Where objects have masks (OpenImages), localization.txt names files, `id,mask,ignored region`, of which the last may be
empty or left out, and image_sizes.txt is not read.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from wsol_utils.common import files
from wsol_utils.common.checks import one_of
from wsol_utils.data.layouts import DatasetError, failure
from wsol_utils.data.text import LARGEST, below, number, plain_text

CORNERS = ("half-open", "inclusive")  # x1 and y1 of a file: the pixel behind the box, or the box's last pixel
T = TypeVar("T")


@dataclass(frozen=True)
class Metadata:
    """What is true of the images of a split.

    Attributes:
        image_ids: in the order of image_ids.txt.
        labels: the class of each.
        sizes: width and height of each; empty where objects have masks.
        boxes: of each, (n, 4) float64 corners as the file has them, clipped to the image; empty where objects have
            masks.
        masks: of each, (mask, ignored region) for every object, paths below some root; empty where they have boxes.
        corners: what x1 and y1 of the boxes name, one of `CORNERS`.
        clipped: how many boxes passed their image's edge.
    """

    image_ids: list[str]
    labels: dict[str, int]
    sizes: dict[str, tuple[int, int]]
    boxes: dict[str, np.ndarray]
    masks: dict[str, list[tuple[str, str]]]
    corners: str = "half-open"
    clipped: int = 0


def read_metadata(folder: str | os.PathLike, corners: str = "half-open") -> Metadata:
    """Read the text files of a folder.

    Args:
        corners: what x1 and y1 of the boxes name, one of `CORNERS`: "half-open", the pixel behind the box, as in
            wsolevaluation's files for CUB and in what `write_metadata` writes; "inclusive", the box's last pixel, as in
            wsolevaluation's files for ILSVRC.

    Raises:
        DatasetError: a file is missing, a line is malformed, a box has no area inside its image, a path leaves its
            folder, or the ids of two files differ.
        ValueError: the corners are unknown.
    """
    one_of("corners", corners, CORNERS)
    folder = Path(folder)
    ids = list(_read(folder / "image_ids.txt", "id", lambda _, fields: _whole(fields, 0)))
    labels = _labels(folder / "class_labels.txt", ids)
    file = folder / "localization.txt"
    if _text(file).lstrip().partition("\n")[0].count(",") in (1, 2):
        masks = _read(file, "id,mask,ignored region", lambda _, fields: _paths(fields), ids, several=True)
        return Metadata(ids, labels, {}, {}, masks)
    listed = _read(folder / "image_sizes.txt", "id,width,height", lambda _, fields: _whole(fields, 2, least=1), ids)
    sizes = {image_id: (width, height) for image_id, [(width, height)] in listed.items()}
    given = _read(file, "id,x0,y0,x1,y1", partial(_box, sizes, corners == "inclusive"), ids, several=True)
    boxes = {image_id: np.array(some).clip(0, np.tile(sizes[image_id], 2)) for image_id, some in given.items()}
    clipped = sum(int((boxes[image_id] != some).any(axis=1).sum()) for image_id, some in given.items())
    return Metadata(ids, labels, sizes, boxes, {}, corners, clipped)


def read_predicted(file: str | os.PathLike, metadata: Metadata) -> np.ndarray:
    """Read predicted classes, a line `id,class` for each image.

    Returns:
        (N,) int64, in the order of the metadata.

    Raises:
        DatasetError: the file is missing, a line is malformed, or its ids are not those of the metadata.
    """
    return np.array(list(_labels(Path(file), metadata.image_ids).values()), dtype=np.int64)


def write_metadata(folder: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write the rows of an annotation table as these text files, each whole or not at all.

    Corners are half-open, as in wsolevaluation's files for CUB. Fractions are kept, which its own code does not read.

    Args:
        table: of `datasets`, with width, height and a box in every row.
    """
    each = zip(table["image_id"], table["boxes"], strict=True)
    boxes = [
        [image_id, *(np.format_float_positional(v, trim="-") for v in box)] for image_id, some in each for box in some
    ]
    tables = {
        "image_ids.txt": table[["image_id"]],
        "class_labels.txt": table[["image_id", "label"]],
        "image_sizes.txt": table[["image_id", "width", "height"]],
        "localization.txt": pd.DataFrame(boxes),
    }
    for name, rows in tables.items():
        files.write_text(Path(folder) / name, rows.to_csv(index=False, header=False, lineterminator="\n"))


def _labels(file: Path, ids: Iterable[str]) -> dict[str, int]:
    found = _read(file, "id,class", lambda _, fields: _whole(fields, 1), ids)
    return {image_id: label for image_id, [(label,)] in found.items()}


def _read(
    file: Path, form: str, convert: Callable[[str, list[str]], T], ids: Iterable[str] = (), several: bool = False
) -> dict[str, list[T]]:
    """What the lines of each id say; `ids`, where given: those that must be there, and no others.

    Args:
        form: of a line, for messages.
        convert: from an id and the fields that follow it; raises ValueError.
        several: whether an id may have several lines.
    """
    found: dict[str, list[T]] = {image_id: [] for image_id in ids}
    listed = bool(found)
    for place, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        name, *fields = line.split(",")
        try:
            some = found[below(name)] if listed else found.setdefault(below(name), [])
            if some and not several:
                raise ValueError(f"{name!r} a second time")
            some.append(convert(name, fields))
        except KeyError as error:
            raise _wrong(file, f"unknown id {name!r}, not in image_ids.txt", place) from error
        except ValueError as error:
            raise _wrong(file, f"{error} (a line is {form})", place) from error
    if not found:
        raise _wrong(file, "lists no image")
    for image_id in (image_id for image_id, values in found.items() if not values):
        raise _wrong(file, f"no line for {image_id!r} of image_ids.txt")
    return found


def _whole(fields: list[str], count: int, least: int = 0) -> tuple[int, ...]:
    if len(fields) != count:
        raise ValueError(f"{len(fields)} fields after the id, not {count}")
    for field in fields:
        if not re.fullmatch(r"\s*\d{1,10}\s*", field, re.ASCII) or not least <= int(field) < LARGEST:
            raise ValueError(f"no whole number from {least} on, below 2^31: {field!r}")
    return tuple(map(int, fields))


def _paths(fields: list[str]) -> tuple[str, str]:
    mask, ignored = fields if len(fields) > 1 else [*fields, ""]
    return below(mask), ignored and below(ignored)


def _box(sizes: dict[str, tuple[int, int]], inclusive: bool, image_id: str, fields: list[str]) -> list[float]:
    x0, y0, x1, y1 = corners = [number(field) for field in fields]
    width, height = sizes[image_id]
    for low, high, side in ((x0, x1, width), (y0, y1, height)):
        if low > high or low >= side or (low < 0 and high + inclusive <= 0):
            raise ValueError(f"the box {','.join(fields)} has no area inside its image of {width}×{height} pixels")
    return corners


def _text(file: Path) -> str:
    try:
        return plain_text(file)
    except FileNotFoundError as error:
        raise _wrong(file, "no such file") from error
    except (OSError, ValueError) as error:
        raise _wrong(file, f"cannot be read ({getattr(error, 'strerror', error)})") from error


def _wrong(file: Path, problem: str, line: int = 0) -> DatasetError:
    where = f"{file.name}:{line}" if line else file.name
    return failure(file.parent, where, problem, "write it as clovaai/wsolevaluation's metadata have it")
