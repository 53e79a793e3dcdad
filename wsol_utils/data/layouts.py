"""The layouts on disk, CUB, ILSVRC and Tiny-ImageNet, each read into one annotation table.

One row per image: image_id (str), path (str, relative to the root, posix), split ("train" or "test"), label (int,
0-based), class_name (str), width and height (int, pixels; 0 until `datasets.check` has read them), boxes (list of
(x0, y0, x1, y1) floats, half-open pixels of the original image), source (annotation file and line, for messages),
clipped (float, pixels by which the image's boxes passed its edge at most; 0 where none did, and until `datasets.check`
has clipped them). Each reader converts its format's boxes once, here at the border.
"""

import os
import posixpath
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from xml.etree.ElementTree import Element

import defusedxml.ElementTree
import pandas as pd

from wsol_utils.data.text import (
    LONGEST_XML,
    REMEDY,
    DatasetError,
    below,
    failure,
    found_in,
    names_in,
    number,
    plain_text,
)

__all__ = [  # and the error that tells what is wrong with a data set
    "COLUMNS", "READERS", "REMEDY", "Box", "DatasetError", "failure", "read_cub", "read_ilsvrc", "read_tiny_imagenet",
]  # fmt: skip

Box = tuple[float, float, float, float]

COLUMNS = ["image_id", "path", "split", "label", "class_name", "width", "height", "boxes", "source", "clipped"]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # all but the tab and the end of a line


def read_cub(root: str | os.PathLike) -> pd.DataFrame:
    """CUB-200-2011; `root` is the folder with images.txt.

    bounding_boxes.txt holds x, y, width, height with fractions, 0-based: (x, y, x + width, y + height).
    image_id is the path below images/; labels follow the order of classes.txt; in train_test_split.txt 1 is train.

    Raises:
        DatasetError: a file is missing, a line is malformed, or the ids of two files differ.
    """
    root = Path(root)
    images, classes = _by_id(root, "images.txt", 2), _by_id(root, "classes.txt", 2)
    names = ("image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
    labels, splits, boxes = (_by_id(root, name, count) for name, count in zip(names, (2, 2, 5), strict=True))
    for name, lines in zip(names, (labels, splits, boxes), strict=True):
        for key in (key for key in images if key not in lines):
            raise failure(root, images[key][0], f"image {key} has no line in {name}")
        for key in (key for key in lines if key not in images):
            raise failure(root, lines[key][0], f"image {key} is not in images.txt")
    class_labels = {key: label for label, key in enumerate(classes)}
    rows = []
    for key, (listed, [path]) in images.items():
        (in_labels, [class_id]), (in_splits, [is_train]), (in_boxes, xywh) = labels[key], splits[key], boxes[key]
        if class_id not in classes:
            raise failure(root, in_labels, f"class {class_id!r} is not in classes.txt")
        if is_train not in ("0", "1"):
            raise failure(root, in_splits, f"{is_train!r} is neither 1 (train) nor 0 (test)")
        class_name = classes[class_id][1][0].split(".", 1)[-1].replace("_", " ")  # "001.Black_footed_Albatross"
        file, split = "images/" + _inside(root, listed, path), "train" if is_train == "1" else "test"
        box, source = _box(root, in_boxes, xywh, "xywh"), f"{in_boxes} ({listed})"
        rows.append((path, file, split, class_labels[class_id], class_name, [box], source))
    return _table(root, rows, "images.txt")


def read_ilsvrc(root: str | os.PathLike) -> pd.DataFrame:
    """ILSVRC CLS-LOC as Kaggle distributes it; `root` is the folder with LOC_val_solution.csv.

    Inclusive corners, read as they stand, 0-based: (xmin, ymin, xmax + 1, ymax + 1). Labels are the line indices of
    LOC_synset_mapping.txt. The validation images become split "test", with the boxes of their XML files where that
    folder exists, else of the CSV. Images and XML files of val may lie in a folder for each synset. The train folder
    may be absent, and train images may have no box; a warning counts what is in its folders and is no JPEG by its name.

    Raises:
        DatasetError: a file or a listed train image is missing, a line is malformed, a synset is unknown, or two train
            images have the same id.
    """
    root = Path(root)
    names = cache(partial(names_in, root))  # looks into a folder once
    data, xmls = "ILSVRC/Data/CLS-LOC", "ILSVRC/Annotations/CLS-LOC/val"
    validation, has_xmls = _solution(root, "LOC_val_solution.csv"), (root / xmls).is_dir()
    synsets = _by_id(root, "LOC_synset_mapping.txt", 2)
    classes = {wnid: (label, names.split(",")[0]) for label, (wnid, (_, [names])) in enumerate(synsets.items())}
    rows = []
    if (root / data / "train").is_dir():
        solution = _solution(root, "LOC_train_solution.csv") if (root / "LOC_train_solution.csv").is_file() else {}
        folders = {name for name in names(f"{data}/train") if (root / data / "train" / name).is_dir()}
        for wnid in sorted(folders ^ classes.keys()):
            problem = "no such folder, though in" if wnid in classes else "unknown synset, not in"
            raise failure(root, f"{data}/train/{wnid}", f"{problem} LOC_synset_mapping.txt")
        others = []
        for wnid in classes:
            folder = f"{data}/train/{wnid}"
            for name, file in names_in(root, folder).items():
                if not name.endswith(".JPEG"):
                    others.append(f"{wnid}/{file}")
                    continue
                _inside(root, folder, file)  # file systems allow names that no list could hold
                listed, listed_wnid, boxes = solution.pop(name[:-5], (folder, wnid, []))
                if listed_wnid != wnid:
                    raise failure(root, listed, f"synset {listed_wnid!r}, but the image is in {folder}")
                rows.append((name[:-5], f"{folder}/{file}", "train", *classes[wnid], boxes, listed))
        if others:
            problem = (
                f"left out {len(others)} files whose names do not end in .JPEG, .jpeg or .jpg, first {others[0]!r}"
            )
            warnings.warn(f"{root / data / 'train'}: {problem}; rename those that are JPEGs", stacklevel=2)
        for key, (listed, wnid, _) in solution.items():
            raise failure(root, listed, f"missing image {data}/train/{wnid}/{key}.JPEG ({len(solution)} such lines)")
    for key, (listed, wnid, boxes) in validation.items():
        if wnid not in classes:
            raise failure(root, listed, f"unknown synset {wnid!r}, not in LOC_synset_mapping.txt")
        if has_xmls:
            xml = found_in(names, f"{key}.xml", xmls, f"{xmls}/{wnid}")
            boxes, listed = _voc_boxes(root, xml, wnid, listed), f"{xml} ({listed})"
        path = found_in(names, f"{key}.JPEG", f"{data}/val", f"{data}/val/{wnid}")
        rows.append((key, path, "test", *classes[wnid], boxes, listed))
    return _table(root, rows, "LOC_val_solution.csv")


def read_tiny_imagenet(root: str | os.PathLike) -> pd.DataFrame:
    """Tiny-ImageNet-200; `root` is the folder with wnids.txt.

    Inclusive corners on a 64-pixel frame: (x0, y0, x1 + 1, y1 + 1). Labels number the sorted lines of wnids.txt,
    whose own order is arbitrary. val becomes split "test"; its images may lie in a folder for each synset, with or
    without an images/ in it. The train folder may be absent.

    Raises:
        DatasetError: a file is missing, a line is malformed, or a synset is unknown.
    """
    root = Path(root)
    wnids, words = _by_id(root, "wnids.txt", 1), _by_id(root, "words.txt", 2)
    for wnid in (wnid for wnid in wnids if wnid not in words):
        raise failure(root, wnids[wnid][0], f"unknown synset {wnid!r}, not in words.txt")
    classes = {wnid: (label, words[wnid][1][0].split(",")[0]) for label, wnid in enumerate(sorted(wnids))}
    lines = [
        ("train", [f"train/{wnid}/images"], where, file, wnid, corners)
        for wnid in classes
        if (root / "train").is_dir()
        for where, [file, *corners] in _fields(root, f"train/{wnid}/{wnid}_boxes.txt", 5)
    ]
    lines += [
        ("test", ["val/images", f"val/{wnid}/images", f"val/{wnid}"], where, file, wnid, corners)
        for where, [file, wnid, *corners] in _fields(root, "val/val_annotations.txt", 6)
    ]
    rows, names = [], cache(partial(names_in, root))
    for split, folders, where, file, wnid, corners in lines:
        if wnid not in classes:
            raise failure(root, where, f"unknown synset {wnid!r}, not in wnids.txt")
        path = found_in(names, _inside(root, where, file), *folders)
        rows.append((Path(file).stem, path, split, *classes[wnid], [_box(root, where, corners)], where))
    return _table(root, rows, "val/val_annotations.txt")


READERS: dict[str, Callable[[str | os.PathLike], pd.DataFrame]] = {
    "cub": read_cub,
    "ilsvrc": read_ilsvrc,
    "tiny_imagenet": read_tiny_imagenet,
}


def _fields(root: Path, name: str, count: int, separator: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """("name:line", its `count` fields) of every line of a file that is not blank."""
    if not (root / name).is_file():
        problem = "no such file" if root.is_dir() else "no such folder"
        remedy = f"DATA_ROOT must be the folder that holds {name} (notebook 01 says how to get the data)"
        raise failure(root, name, problem, remedy)
    try:
        lines = plain_text(root / name).split("\n")
    except OSError as error:
        raise failure(root, name, f"cannot be read ({error.strerror})", "make it readable") from error
    except ValueError as error:
        raise failure(root, name, str(error)) from error
    for place, line in enumerate(map(str.strip, lines), start=1):
        if line:
            if CONTROL.search(line):
                raise failure(root, f"{name}:{place}", f"control characters in {line!r}")
            fields = line.split(separator, count - 1)
            if len(fields) != count:
                raise failure(root, f"{name}:{place}", f"expected {count} fields, found {line!r}")
            yield f"{name}:{place}", fields


def _by_id(root: Path, name: str, count: int, separator: str | None = None) -> dict[str, tuple[str, list[str]]]:
    """Maps the first field of each line to ("name:line", the other fields)."""
    lines: dict[str, tuple[str, list[str]]] = {}
    for where, [key, *values] in _fields(root, name, count, separator):
        if key in lines:
            raise failure(root, where, f"duplicate id {key!r}, first in {lines[key][0]}")
        lines[_inside(root, where, key)] = where, values
    return lines


def _inside(root: Path, where: str, path: str) -> str:
    """As `below`; `where` is for the message."""
    try:
        return below(path)
    except ValueError as error:
        raise failure(root, where, str(error)) from error


def _box(root: Path, where: str, texts: Sequence[str], form: str = "inclusive") -> Box:
    """Four numbers -> half-open corners, from "xywh" or from "inclusive" corners, whose last pixel is the object's."""
    try:
        x0, y0, x1, y1 = map(number, texts)
    except ValueError as error:
        problem = f"a box is four finite numbers below 2^31, found {' '.join(texts)!r}"
        raise failure(root, where, problem) from error
    x1, y1 = (x0 + x1, y0 + y1) if form == "xywh" else (x1 + 1, y1 + 1)
    if x1 <= x0 or y1 <= y0:
        raise failure(root, where, f"a box of no area: {' '.join(texts)}")
    return x0, y0, x1, y1


def _solution(root: Path, name: str) -> dict[str, tuple[str, str, list[Box]]]:
    """A list of Kaggle's, ImageId -> ("name:line", synset, boxes)."""
    lines = _by_id(root, name, 2, separator=",")
    if lines.pop("ImageId", None) is None:
        raise failure(root, f"{name}:1", "the header ImageId,PredictionString is missing")
    solution = {}
    for key, (where, [prediction]) in lines.items():
        words = prediction.split()
        if not words or len(words) % 5 or len(set(words[::5])) != 1:
            problem = "an image without a box, or not 'synset xmin ymin xmax ymax' (again for each further box)"
            raise failure(root, where, f"{problem}: {prediction!r}")
        solution[key] = where, words[0], [_box(root, where, words[i + 1 : i + 5]) for i in range(0, len(words), 5)]
    return solution


def _voc_boxes(root: Path, name: str, wnid: str, listed: str) -> list[Box]:
    """The boxes of a VOC XML file, all of one synset."""
    file = root / name
    if not os.path.isfile(file):
        remedy = "unpack the data set again, or remove the whole folder, so that the CSV's boxes are used"
        raise failure(root, name, f"no such file, for the image of {listed}", remedy)
    try:
        if file.stat().st_size > LONGEST_XML:
            raise ValueError(f"{file.stat().st_size} bytes, of which {LONGEST_XML} at most are read")
        objects = list(defusedxml.ElementTree.fromstring(file.read_bytes(), forbid_dtd=True).iter("object"))
    except Exception as error:  # expat, its codecs and the file system raise many kinds
        line, _ = getattr(error, "position", (1, 0))
        raise failure(root, f"{name}:{line}", f"no readable XML ({error})") from error
    boxes = []
    for count, item in enumerate(objects, start=1):
        where, synset = f"{name}, object {count}", _only(item, "name")
        if synset != wnid:
            raise failure(root, where, f"synset {synset!r}, but {wnid!r} in {listed}")
        boxes.append(_box(root, where, [_only(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]))
    return boxes


def _only(item: Element, path: str) -> str:
    """The text of the element; of several, all their texts, which are then neither a name nor a number."""
    return " ".join((found.text or "").strip() for found in item.findall(path))


def _table(root: Path, rows: list[tuple], listing: str) -> pd.DataFrame:
    """The table of (image_id, path, split, label, class_name, boxes, source) rows."""
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ("width", "height", "clipped")])
    if table.empty:
        raise failure(root, listing, "lists no image")
    for row in table[table["path"].map(posixpath.normpath).duplicated()].itertuples():
        raise failure(root, row.source, f"{row.path} is listed twice")
    for row in table[(table["split"] == "test") & ~table["boxes"].astype(bool)].itertuples():
        raise failure(root, row.source, f"a test image without a box, {row.path}")
    return table.assign(width=0, height=0, clipped=0.0)[COLUMNS]
