"""What is true of a split's images, as the text files of clovaai/wsolevaluation (Choe et al. 2020) have it.

A folder for each split, one line for each image, in localization.txt for each object:

    image_ids.txt       val2/995/0.jpeg
    class_labels.txt    val2/995/0.jpeg,995
    image_sizes.txt     val2/995/0.jpeg,500,375
    localization.txt    val2/995/0.jpeg,111,108,441,193

Where objects have masks (OpenImages), localization.txt names files, `id,mask,ignored region`, of which the last may be
empty, and image_sizes.txt is not needed.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wsol_utils import files
from wsol_utils.layouts import DatasetError, failure
from wsol_utils.texts import LARGEST, below, number, plain_text

FILES = ("image_ids.txt", "class_labels.txt", "localization.txt", "image_sizes.txt")


@dataclass(frozen=True)
class Metadata:
    """What is true of the images of a split.

    Attributes:
        image_ids: in the order of image_ids.txt.
        labels: the class of each.
        sizes: width and height of each; empty without image_sizes.txt.
        boxes: of each, (n, 4) float64 corners as they stand in the file; empty where objects have masks.
        masks: of each, (mask, ignored region) for every object, paths below some root; empty where they have boxes.
    """

    image_ids: list[str]
    labels: dict[str, int]
    sizes: dict[str, tuple[int, int]]
    boxes: dict[str, np.ndarray]
    masks: dict[str, list[tuple[str, str]]]


def read_metadata(folder: str | os.PathLike) -> Metadata:
    """Read the text files of a folder; Windows' line ends and a byte-order mark are fine.

    Raises:
        DatasetError: a file is missing, a line is malformed, a path leaves its folder, or the ids of two files differ.
    """
    folder = Path(folder)
    present = (name for name in FILES if name != "image_sizes.txt" or (folder / name).exists())
    return _parse(folder, {name: _text(folder / name) for name in present})


def read_predicted(file: str | os.PathLike, metadata: Metadata) -> np.ndarray:
    """Predicted classes, a line `id,class` for each image -> (N,) int64 in the order of the metadata.

    Raises:
        DatasetError: as `read_metadata`.
    """
    labels = _by_id(Path(file), _text(Path(file)), LABEL, metadata.image_ids)
    return np.array([labels[image_id][0] for image_id in metadata.image_ids], dtype=np.int64)


def write_metadata(folder: str | os.PathLike, table: pd.DataFrame, ids: Sequence[str] | None = None) -> None:
    """Write the rows of an annotation table as these text files, each whole or not at all.

    Corners are written as they stand, half-open, as in wsolevaluation's files for CUB; its files for ILSVRC have the
    last pixel instead. Fractions are kept, which wsolevaluation itself does not read.

    Args:
        table: of `datasets`, with width, height and a box in every row.
        ids: names to write instead of image_id, one for each row.

    Raises:
        DatasetError: what would be written could not be read: an id twice or with a comma, no box, no size.
    """
    folder, names = Path(folder), table["image_id"] if ids is None else ids
    rows = list(zip(names, table["label"], table["width"], table["height"], table["boxes"], strict=True))
    listed = {
        "image_ids.txt": [name for name, *_ in rows],
        "class_labels.txt": [f"{name},{label}" for name, label, *_ in rows],
        "image_sizes.txt": [f"{name},{width},{height}" for name, _, width, height, _ in rows],
        "localization.txt": [",".join([name, *map(_digits, box)]) for name, *_, boxes in rows for box in boxes],
    }
    texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in listed.items()}
    _parse(folder, texts)
    for name, text in texts.items():
        files.write_text(folder / name, text)


# What a line of each kind is made of, for messages, and what becomes of the fields after its id.
Kind = tuple[str, Callable[[list[str]], object]]


def _whole(fields: Sequence[str], count: int, least: int) -> tuple[int, ...]:
    if len(fields) != count or not all(re.fullmatch(r"\s*\d{1,10}\s*", field, re.ASCII) for field in fields):
        raise ValueError
    numbers = tuple(map(int, fields))
    if not all(least <= value < LARGEST for value in numbers):
        raise ValueError
    return numbers


def _corners(fields: Sequence[str]) -> list[float]:
    x0, y0, x1, y1 = corners = [number(field) for field in fields]
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
        raise ValueError
    return corners


def _paths(fields: Sequence[str]) -> tuple[str, str]:
    mask, ignored = fields
    return below(mask), ignored and below(ignored)


ID: Kind = ("id", lambda fields: _whole(fields, 0, 0))
LABEL: Kind = ("id,class with a class from 0 on", lambda fields: _whole(fields, 1, 0)[0])
SIZE: Kind = ("id,width,height with sides from 1 on", lambda fields: _whole(fields, 2, 1))
BOX: Kind = ("id,x0,y0,x1,y1 with 0 <= x0 <= x1 and 0 <= y0 <= y1", _corners)
MASK: Kind = ("id,mask,ignored region with paths below a folder, the last one or nothing", _paths)


def _parse(folder: Path, texts: dict[str, str]) -> Metadata:
    """The files' texts by name; the folder is for messages."""
    ids = list(_by_id(folder / "image_ids.txt", texts["image_ids.txt"], ID))
    if not ids:
        raise _wrong(folder / "image_ids.txt", "lists no image")
    labels = _by_id(folder / "class_labels.txt", texts["class_labels.txt"], LABEL, ids)
    first = texts["localization.txt"].lstrip().partition("\n")[0]
    kind = MASK if first.count(",") == 2 else BOX
    if kind is BOX and "image_sizes.txt" not in texts:
        raise _wrong(folder / "image_sizes.txt", "no such file, which boxes need")
    sizes = (
        _by_id(folder / "image_sizes.txt", texts["image_sizes.txt"], SIZE, ids) if "image_sizes.txt" in texts else {}
    )
    objects = _by_id(folder / "localization.txt", texts["localization.txt"], kind, ids, several=True)
    if kind is BOX:
        _inside(folder / "localization.txt", texts["localization.txt"], {key: size for key, [size] in sizes.items()})
    return Metadata(
        image_ids=ids,
        labels={image_id: label for image_id, [label] in labels.items()},
        sizes={image_id: size for image_id, [size] in sizes.items()},
        boxes={image_id: np.array(found) for image_id, found in objects.items()} if kind is BOX else {},
        masks=objects if kind is MASK else {},
    )


def _by_id(file: Path, text: str, kind: Kind, ids: Iterable[str] = (), several: bool = False) -> dict[str, list]:
    """What the lines of every id say; with `ids`, of these and no other, at least one each."""
    form, convert = kind
    found: dict[str, list] = {image_id: [] for image_id in ids}
    known = bool(found)
    for place, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        image_id, *fields = line.split(",")
        try:
            value = convert(fields)
            below(image_id)
        except ValueError as error:
            raise _wrong(file, f"expected {form}, found {line!r}", place) from error
        if known and image_id not in found:
            raise _wrong(file, f"unknown id {image_id!r}, not in image_ids.txt", place)
        if found.setdefault(image_id, []) and not several:
            raise _wrong(file, f"{image_id!r} a second time", place)
        found[image_id].append(value)
    for image_id in (image_id for image_id, values in found.items() if not values):
        raise _wrong(file, f"no line for {image_id!r} of image_ids.txt")
    return found


def _inside(file: Path, text: str, sizes: dict[str, tuple[int, int]]) -> None:
    """Corners that leave their image by more than a pixel contradict image_sizes.txt."""
    for place, line in enumerate(text.split("\n"), start=1):
        image_id, *corners = line.split(",")
        if corners and any(float(x) > side + 1 for x, side in zip(corners[2:], sizes[image_id], strict=True)):
            raise _wrong(file, f"{line!r} leaves its image of {'×'.join(map(str, sizes[image_id]))} pixels", place)


def _text(file: Path) -> str:
    try:
        return plain_text(file)
    except FileNotFoundError as error:
        raise _wrong(file, "no such file") from error
    except (OSError, ValueError) as error:
        raise _wrong(file, f"cannot be read ({getattr(error, 'strerror', error)})") from error


def _digits(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def _wrong(file: Path, problem: str, line: int = 0) -> DatasetError:
    where = f"{file.name}:{line}" if line else file.name
    return failure(file.parent, where, problem, "write it as clovaai/wsolevaluation's metadata have it")
