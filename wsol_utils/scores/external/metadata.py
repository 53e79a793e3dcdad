"""Read and write the annotations of a split as the text files of clovaai/wsolevaluation (Choe et al. 2020).

A folder for each split, one line for each image, in localization.txt for each object:

    image_ids.txt       val2/995/0.jpeg
    class_labels.txt    val2/995/0.jpeg,995
    image_sizes.txt     val2/995/0.jpeg,500,375
    localization.txt    val2/995/0.jpeg,111,108,441,193

Where objects have masks (OpenImages), localization.txt names files, `id,mask,ignored region`, of which the last may be
empty or left out, and image_sizes.txt is not needed; an empty file counts as none.

One id may be spelt in several Unicode forms, or with \\ for /: files that mean the same image go together.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd

from wsol_utils.common import files
from wsol_utils.common.checks import one_of
from wsol_utils.data.layouts import DatasetError, failure
from wsol_utils.data.text import LARGEST, below, number, plain_text

FILES = ("image_ids.txt", "class_labels.txt", "localization.txt", "image_sizes.txt")
CORNERS = ("half-open", "inclusive")  # x1 and y1 of a file: the pixel behind the box, or its own last one
Say = Callable[[str], object]  # told in one line what was put up with


@dataclass(frozen=True)
class Metadata:
    """What is true of the images of a split.

    Attributes:
        image_ids: in the order of image_ids.txt.
        labels: the class of each.
        sizes: width and height of each; empty without image_sizes.txt.
        boxes: of each, (n, 4) float64 corners as they stand in the file, but clipped to the image; empty where objects
            have masks.
        masks: of each, (mask, ignored region) for every object, paths below some root; empty where they have boxes.
        corners: what x1 and y1 of the boxes name, one of `CORNERS`.
    """

    image_ids: list[str]
    labels: dict[str, int]
    sizes: dict[str, tuple[int, int]]
    boxes: dict[str, np.ndarray]
    masks: dict[str, list[tuple[str, str]]]
    corners: str = "half-open"


def silent(text: str) -> None:
    """Tell nobody."""


def read_metadata(folder: str | os.PathLike, corners: str = "half-open", say: Say = silent) -> Metadata:
    """Read the text files of a folder; Windows' line ends and a byte-order mark are fine.

    Args:
        corners: what x1 and y1 of the boxes name, one of `CORNERS`: "half-open", the pixel behind the box, as in
            wsolevaluation's files for CUB and in what `write_metadata` writes; "inclusive", the box's last pixel, as in
            wsolevaluation's files for ILSVRC.
        say: is told how many boxes leave their image and were clipped to it.

    Raises:
        DatasetError: a file is missing, a line is malformed, a box has no area inside its image, a path leaves its
            folder, or the ids of two files differ.
        ValueError: the corners are unknown.
    """
    one_of("corners", corners, CORNERS)
    folder = Path(folder)
    present = (name for name in FILES if name != "image_sizes.txt" or (folder / name).exists())
    return _parse(folder, {name: _text(folder / name) for name in present}, corners, say)


def read_predicted(file: str | os.PathLike, metadata: Metadata, say: Say = silent) -> np.ndarray:
    """Predicted classes, a line `id,class` for each image -> (N,) int64 in the order of the metadata.

    Args:
        say: is told how many lines are of other images, which are passed over.

    Raises:
        DatasetError: as `read_metadata`.
    """
    file = Path(file)
    labels = _by_id(file, _text(file), LABEL, metadata.image_ids, others=say)
    return np.array([labels[image_id][0][1] for image_id in metadata.image_ids], dtype=np.int64)


def one_form(name: str) -> str:
    """What all spellings of an id or of a file's name have in common: NFC, and / between its parts."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def on_disk(folder: Path, name: str) -> Path:
    """The file of that name below a folder, in whichever Unicode form it lies there; the name itself if there is none.

    Raises:
        ValueError: several files have that name, each in another form.
    """
    if (folder / name).exists():
        return folder / name
    found = [folder]
    for part in name.split("/"):
        entries = [entry for place in found if place.is_dir() for entry in place.iterdir()]
        found = [entry for entry in entries if one_form(entry.name) == one_form(part)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} files have this name, each in another Unicode form")
    return found[0] if found else folder / name


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
    _parse(folder, texts, "half-open", silent)
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
    if x0 > x1 or y0 > y1:
        raise ValueError
    return corners


def _paths(fields: Sequence[str]) -> tuple[str, str]:
    mask, ignored = fields if len(fields) > 1 else [*fields, ""]
    return _below(mask), ignored and _below(ignored)


ID: Kind = ("id", lambda fields: _whole(fields, 0, 0))
LABEL: Kind = ("id,class with a class from 0 on", lambda fields: _whole(fields, 1, 0)[0])
SIZE: Kind = ("id,width,height with sides from 1 on", lambda fields: _whole(fields, 2, 1))
BOX: Kind = ("id,x0,y0,x1,y1 with x0 <= x1 and y0 <= y1", _corners)
MASK: Kind = ("id,mask,ignored region with paths below a folder, the last one or nothing", _paths)


def _parse(folder: Path, texts: dict[str, str], corners: str, say: Say) -> Metadata:
    """The files' texts by name; the folder is for messages."""
    ids = list(_by_id(folder / "image_ids.txt", texts["image_ids.txt"], ID))
    if not ids:
        raise _wrong(folder / "image_ids.txt", "lists no image")
    labels = _by_id(folder / "class_labels.txt", texts["class_labels.txt"], LABEL, ids)
    first = texts["localization.txt"].lstrip().partition("\n")[0]
    kind = MASK if first.count(",") in (1, 2) else BOX
    sizes, listed = {}, texts.get("image_sizes.txt", "")
    if listed.strip():
        found = _by_id(folder / "image_sizes.txt", listed, SIZE, ids)
        sizes = {image_id: size for image_id, [(_, size)] in found.items()}
    elif kind is BOX:
        raise _wrong(folder / "image_sizes.txt", "no such file, or an empty one; boxes need it")
    objects = _by_id(folder / "localization.txt", texts["localization.txt"], kind, ids, several=True)
    return Metadata(
        image_ids=ids,
        labels={image_id: label for image_id, [(_, label)] in labels.items()},
        sizes=sizes,
        boxes=_inside(folder / "localization.txt", objects, sizes, corners, say) if kind is BOX else {},
        masks={key: [paths for _, paths in some] for key, some in objects.items()} if kind is MASK else {},
        corners=corners,
    )


def _by_id(
    file: Path, text: str, kind: Kind, ids: Iterable[str] = (), several: bool = False, others: Say | None = None
) -> dict[str, list[tuple[int, Any]]]:
    """What the lines of every id say, with their numbers; with `ids`, of these, at least one each.

    Lines of other ids are wrong, unless there is someone to tell how many `others` were passed over.
    """
    form, convert = kind
    found: dict[str, list[tuple[int, Any]]] = {image_id: [] for image_id in ids}
    spelt = {one_form(image_id): image_id for image_id in ids}
    known, passed_over = bool(found), 0
    for place, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name, *fields = line.split(",")
        try:
            value, name = convert(fields), _below(name)
        except ValueError as error:
            raise _wrong(file, f"expected {form}, found {line!r}", place) from error
        image_id = spelt.get(one_form(name))
        if known and image_id is None:
            if others is None:
                raise _wrong(file, f"unknown id {name!r}, not in image_ids.txt", place)
            passed_over += 1
        elif image_id is None:
            spelt[one_form(name)] = name
            found[name] = [(place, value)]
        elif found[image_id] and not several:
            other = "" if name == image_id else f"; line {found[image_id][0][0]} has it in another Unicode form"
            raise _wrong(file, f"{name!r} a second time{other}", place)
        else:
            found[image_id].append((place, value))
    for image_id in (image_id for image_id, values in found.items() if not values):
        raise _wrong(file, f"no line for {image_id!r} of image_ids.txt")
    if others and passed_over:
        others(f"{file}: lines of images that image_ids.txt does not list, not used: {passed_over}")
    return found


def _inside(
    file: Path, found: dict[str, list[tuple[int, Any]]], sizes: dict[str, tuple[int, int]], corners: str, say: Say
) -> dict[str, np.ndarray]:
    """(n, 4) corners of each image, clipped to it."""
    counts, last = [len(lines) for lines in found.values()], corners == "inclusive"  # whose last pixel is in the box
    places, listed = zip(*(line for lines in found.values() for line in lines), strict=True)
    box, size = np.array(listed, dtype=np.float64), np.repeat([sizes[key] for key in found], counts, axis=0)
    low, high = box[:, :2], box[:, 2:]
    inside = ((low < size) & ((high + last > 0) | (low >= 0))).all(axis=1)
    for i in np.flatnonzero(~inside):
        image = "×".join(map(str, size[i]))
        problem = f"the box {','.join(map(_digits, box[i]))} has no area inside its image of {image} pixels"
        raise _wrong(file, problem, places[i])
    clipped = box.clip(0, np.tile(size, 2))
    if count := int((clipped != box).any(axis=1).sum()):
        say(f"{file}: boxes that leave their image, clipped to it: {count} of {len(box)}")
    return dict(zip(found, np.split(clipped, np.cumsum(counts)[:-1]), strict=True))


def _below(path: str) -> str:
    """As `below`, for a path that may have \\ for /."""
    if "\\" in path and PureWindowsPath(path).drive:
        raise ValueError(f"{path!r} is no path below a folder: it leaves it")
    return below(path.replace("\\", "/"))


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
