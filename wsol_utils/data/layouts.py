"""The layouts on disk, CUB, ILSVRC and Tiny-ImageNet, each read into one annotation table.

One row per image: image_id (str), path (str, relative to the root, posix), split ("train" or "test"), label (int,
0-based), class_name (str), width and height (int, pixels; 0 until `datasets.check` has read them), boxes (list of
(x0, y0, x1, y1) floats, half-open pixels of the original image), source (annotation file and line, for messages),
clipped (float, the most pixels by which a box passed the image's edge; 0 until `datasets.check` has clipped it).
Each reader converts its format's boxes once, here at the border.
"""

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import defusedxml.ElementTree
import pandas as pd

from wsol_utils.data.text import DatasetError, below, failure, is_litter, number, plain_text

__all__ = [  # and the error that tells what is wrong with a data set
    "COLUMNS", "READERS", "Box", "DatasetError", "failure", "read_cub", "read_ilsvrc", "read_tiny_imagenet",
]  # fmt: skip

Box = tuple[float, float, float, float]

COLUMNS = ["image_id", "path", "split", "label", "class_name", "width", "height", "boxes", "source", "clipped"]
JPEG = (".JPEG", ".jpeg", ".jpg", ".JPG")  # the endings of ILSVRC's images


def read_cub(root: str | os.PathLike) -> pd.DataFrame:
    """Read CUB-200-2011; `root` is the folder with images.txt.

    bounding_boxes.txt holds x, y, width, height with fractions, 0-based: (x, y, x + width, y + height).
    image_id is the path below images/; labels follow the order of classes.txt; in train_test_split.txt 1 is train.

    Raises:
        DatasetError: a file is missing, a line is malformed, or the ids of two files differ.
    """
    root = Path(root)
    images, classes = _by_id(root, "images.txt", 2), _by_id(root, "classes.txt", 2)
    counts = {"image_class_labels.txt": 2, "train_test_split.txt": 2, "bounding_boxes.txt": 5}
    others = {name: _by_id(root, name, count) for name, count in counts.items()}
    for name, lines in others.items():
        for key in sorted(images.keys() ^ lines.keys()):
            where, _ = images.get(key) or lines[key]
            raise failure(root, where, f"image {key} has no line in {name if key in images else 'images.txt'}")
    labels, splits, boxes = others.values()
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
    """Read ILSVRC CLS-LOC as Kaggle distributes it; `root` is the folder with LOC_val_solution.csv.

    Inclusive corners, read as they stand, 0-based: (xmin, ymin, xmax + 1, ymax + 1). Labels are the line indices of
    LOC_synset_mapping.txt. The validation images become split "test", with the boxes of their XML files where that
    folder exists, else of the CSV. Images and XML files of val may lie in a folder for each synset. The train folder
    may be absent, and train images may have no box.

    Raises:
        DatasetError: a file, a class's folder or a listed train image is missing, a line is malformed, a synset or a
            train folder is unknown, or two images have one id.
    """
    root = Path(root)
    data, xmls = "ILSVRC/Data/CLS-LOC", "ILSVRC/Annotations/CLS-LOC/val"
    validation, synsets = _solution(root, "LOC_val_solution.csv"), _by_id(root, "LOC_synset_mapping.txt", 2)
    classes = {wnid: (label, names.split(",")[0]) for label, (wnid, (_, [names])) in enumerate(synsets.items())}
    rows = []
    if (root / data / "train").is_dir():
        solution = _solution(root, "LOC_train_solution.csv") if (root / "LOC_train_solution.csv").is_file() else {}
        for name in sorted(os.listdir(root / data / "train")):
            if name not in classes and not is_litter(name):
                raise failure(root, f"{data}/train/{name}", "no synset of LOC_synset_mapping.txt")
        for wnid, label_and_name in classes.items():
            folder = f"{data}/train/{wnid}"
            if not (root / folder).is_dir():
                raise failure(root, folder, f"no such folder, though {wnid} is in LOC_synset_mapping.txt")
            for name in sorted(os.listdir(root / folder)):
                key, ending = os.path.splitext(name)
                if is_litter(name) or ending not in JPEG:
                    continue
                where, listed_wnid, boxes = solution.pop(key, (folder, wnid, []))
                if listed_wnid != wnid:
                    raise failure(root, where, f"synset {listed_wnid!r}, but the image is in {folder}")
                rows.append((key, f"{folder}/{name}", "train", *label_and_name, boxes, where))
        for key, (where, wnid, _) in solution.items():
            raise failure(root, where, f"missing image {data}/train/{wnid}/{key}.JPEG ({len(solution)} such lines)")
    has_xmls = (root / xmls).is_dir()
    for key, (where, wnid, boxes) in validation.items():
        if wnid not in classes:
            raise failure(root, where, f"unknown synset {wnid!r}, not in LOC_synset_mapping.txt")
        if has_xmls:
            xml = _first_of(root, [f"{xmls}/{key}.xml", f"{xmls}/{wnid}/{key}.xml"])
            boxes, where = _voc_boxes(root, xml, wnid, where), f"{xml} ({where})"
        path = _first_of(root, [f"{data}/val/{place}{key}{ending}" for place in ("", f"{wnid}/") for ending in JPEG])
        rows.append((key, path, "test", *classes[wnid], boxes, where))
    return _table(root, rows, "LOC_val_solution.csv")


def read_tiny_imagenet(root: str | os.PathLike) -> pd.DataFrame:
    """Read Tiny-ImageNet-200; `root` is the folder with wnids.txt.

    Inclusive corners on a 64-pixel frame: (x0, y0, x1 + 1, y1 + 1). Labels number the sorted lines of wnids.txt,
    whose own order is arbitrary. val becomes split "test"; its images may lie in a folder for each synset, with or
    without an images/ in it. The train folder may be absent.

    Raises:
        DatasetError: a file is missing, a line is malformed, or a synset is unknown.
    """
    root = Path(root)
    wnids, words = _by_id(root, "wnids.txt", 1), _by_id(root, "words.txt", 2)
    for wnid in sorted(wnids.keys() - words.keys()):
        raise failure(root, wnids[wnid][0], f"unknown synset {wnid!r}, not in words.txt")
    classes = {wnid: (label, words[wnid][1][0].split(",")[0]) for label, wnid in enumerate(sorted(wnids))}
    rows = []

    def add(split: str, folders: Sequence[str], where: str, file: str, wnid: str, corners: Sequence[str]) -> None:
        if wnid not in classes:
            raise failure(root, where, f"unknown synset {wnid!r}, not in wnids.txt")
        path = _first_of(root, [f"{folder}/{_inside(root, where, file)}" for folder in folders])
        rows.append((Path(file).stem, path, split, *classes[wnid], [_box(root, where, corners)], where))

    for wnid in classes if (root / "train").is_dir() else ():
        for where, [file, *corners] in _fields(root, f"train/{wnid}/{wnid}_boxes.txt", 5):
            add("train", [f"train/{wnid}/images"], where, file, wnid, corners)
    for where, [file, wnid, *corners] in _fields(root, "val/val_annotations.txt", 6):
        add("test", ["val/images", f"val/{wnid}/images", f"val/{wnid}"], where, file, wnid, corners)
    return _table(root, rows, "val/val_annotations.txt")


READERS: dict[str, Callable[[str | os.PathLike], pd.DataFrame]] = {
    "cub": read_cub,
    "ilsvrc": read_ilsvrc,
    "tiny_imagenet": read_tiny_imagenet,
}


def _fields(root: Path, name: str, count: int, separator: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield ("name:line", its `count` fields) of every line of a file that is not blank."""
    try:
        lines = plain_text(root / name).split("\n")
    except FileNotFoundError as error:
        problem = "no such file" if root.is_dir() else "no such folder"
        remedy = f"DATA_ROOT must be the folder that holds {name} (notebook 01 says how to get the data)"
        raise failure(root, name, problem, remedy) from error
    except ValueError as error:
        raise failure(root, name, str(error)) from error
    for place, line in enumerate(map(str.strip, lines), start=1):
        if line:
            fields = line.split(separator, count - 1)
            if len(fields) != count:
                raise failure(root, f"{name}:{place}", f"expected {count} fields, found {line!r}")
            yield f"{name}:{place}", fields


def _by_id(root: Path, name: str, count: int, separator: str | None = None) -> dict[str, tuple[str, list[str]]]:
    """Map the first field of each line to ("name:line", the other fields)."""
    lines: dict[str, tuple[str, list[str]]] = {}
    for where, [key, *values] in _fields(root, name, count, separator):
        if key in lines:
            raise failure(root, where, f"duplicate id {key!r}, first in {lines[key][0]}")
        lines[_inside(root, where, key)] = where, values
    return lines


def _inside(root: Path, where: str, path: str) -> str:
    """Return what `below` does; `where` is for the message."""
    try:
        return below(path)
    except ValueError as error:
        raise failure(root, where, str(error)) from error


def _first_of(root: Path, paths: Sequence[str]) -> str:
    """Return the first of these files that exists, or the first where none does."""
    return next((path for path in paths if os.path.isfile(root / path)), paths[0])


def _box(root: Path, where: str, texts: Sequence[str], form: str = "inclusive") -> Box:
    """Convert four numbers to half-open corners: from "xywh", or from corners of which the last pixel is inside."""
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
    """Read a list of Kaggle's: ImageId -> ("name:line", synset, boxes)."""
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
    """Read the boxes of a VOC XML file, all of one synset."""
    try:
        objects = defusedxml.ElementTree.parse(root / name, forbid_dtd=True).findall("object")
    except Exception as error:  # expat, its codecs and the file system raise many kinds
        raise failure(root, name, f"no readable XML ({error}), for the image of {listed}") from error
    boxes = []
    for count, item in enumerate(objects, start=1):
        where, synset = f"{name}, object {count}", item.findtext("name")
        if synset != wnid:
            raise failure(root, where, f"synset {synset!r}, but {wnid!r} in {listed}")
        sides = [item.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
        boxes.append(_box(root, where, sides))
    return boxes


def _table(root: Path, rows: list[tuple], listing: str) -> pd.DataFrame:
    """Make the table of (image_id, path, split, label, class_name, boxes, source) rows."""
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in ("width", "height", "clipped")])
    if table.empty:
        raise failure(root, listing, "lists no image")
    twice = table["path"].map(posixpath.normpath).duplicated() | table["image_id"].duplicated()
    for row in table[twice].itertuples():
        raise failure(root, row.source, f"{row.path} is listed twice, or another image has its id, {row.image_id}")
    for row in table[(table["split"] == "test") & ~table["boxes"].astype(bool)].itertuples():
        raise failure(root, row.source, f"a test image without a box, {row.path}")
    return table.assign(width=0, height=0, clipped=0.0)[COLUMNS]
