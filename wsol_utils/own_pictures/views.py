"""Hold what is known of one picture before and after an object is sought in it, and write it as COCO and as CSV."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsol_utils.common import files

COLUMNS = ("path", "class_index", "class_name", "probability", "rule", "eta", "x0", "y0", "x1", "y1")

Pair = tuple["View", "Located"]  # of one picture


@dataclass(frozen=True)
class View:
    """What a network says about one picture, or a map that came from elsewhere.

    Attributes:
        image: (H, W, 3) uint8, in RGB, turned as its EXIF orientation says.
        path: of the file; "" for `view_of`.
        class_index: of the class that the map is of; -1 where it is not known.
        class_name: its name.
        probabilities: (K,) float32, the network's softmax; empty for `view_of`.
        features: (C, h, w) float32, P of Eq. 2; None for `view_of`.
        class_weights: (C,) float32, the classifier's row for the class, w of Eq. 2; None for `view_of`.
        given_map: (h, w) float32, the map that came from elsewhere, or that a method made itself; else None.
        image_size: side of the square that maps are upsampled to, pixels: the network's input.
    """

    image: np.ndarray
    path: str
    class_index: int
    class_name: str
    probabilities: np.ndarray
    features: np.ndarray | None
    class_weights: np.ndarray | None
    given_map: np.ndarray | None
    image_size: int

    @property
    def probability(self) -> float | None:
        """Of the class that the map is of, by the network; None where it is not known."""
        return float(self.probabilities[self.class_index]) if len(self.probabilities) else None


@dataclass(frozen=True)
class Located:
    """Where the object is, and how the threshold was chosen (Sec. 4.3).

    Attributes:
        map: (S, S) float32, upsampled to the view's image_size and divided by its maximum; 0 if that is not positive.
        eta: η, a fraction of the map's maximum.
        box: (x0, y0, x1, y1), half-open, in pixels of the picture in the file; zeros where nothing is above η.
        candidates: (K,), the thresholds that the rule chose from.
        means: (K,), V: the map's mean on the boundary of each mask; NaN where the mask is empty.
        differences: (K,), D: the steps of V; NaN where undefined.
        recombination: of the map's channels, or "given".
        rule: that chose η, or "slider" where it was given.
    """

    map: np.ndarray
    eta: float
    box: tuple[float, float, float, float]
    candidates: np.ndarray
    means: np.ndarray
    differences: np.ndarray
    recombination: str
    rule: str


def light(view: View, located: Located) -> Pair:
    """The pair without its arrays of pixels: what `write_coco` and `write_csv` need of many pictures."""
    nothing = np.broadcast_to(np.uint8(0), view.image.shape)  # its shape, and one byte
    bare = replace(view, image=nothing, features=None, class_weights=None, given_map=None)
    return bare, replace(located, map=np.zeros((0, 0), np.float32))


def write_coco(path: str | Path, pairs: Iterable[Pair]) -> None:
    """COCO's JSON: the whole file or none.

    One category for each class that was looked for, one annotation for each box: `bbox` is x, y, width, height in
    pixels, `score` the class's probability where it is known. A picture without a box has no annotation.
    """
    pairs = list(pairs)
    classes = sorted({(view.class_index, view.class_name) for view, _ in pairs})
    ids = {of: number for number, of in enumerate(classes, start=1)}
    listed, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, (view, located) in enumerate(pairs, start=1):
        height, width = view.image.shape[:2]
        listed.append({"id": number, "file_name": view.path, "width": width, "height": height})
        x0, y0, x1, y1 = located.box
        if x1 <= x0 or y1 <= y0:
            continue
        category, score = ids[view.class_index, view.class_name], view.probability
        annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
        place = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        annotations.append(annotation | place if score is None else annotation | place | {"score": score})
    categories = [{"id": number, "name": name} for (_, name), number in ids.items()]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    files.write_text(path, json.dumps(content, indent=1) + "\n")


def write_csv(path: str | Path, pairs: Iterable[Pair]) -> None:
    """A row for each picture with the columns `COLUMNS`, the box in its pixels: the whole file or none.

    A byte of a path that is not UTF-8 is written as Python and COCO's JSON have it, \\udc80 to \\udcff.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for view, located in pairs:
        values = (view.path, view.class_index, view.class_name, view.probability, located.rule, located.eta)
        rows.writerow([*values, *located.box])
    files.write_text(path, text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8"))
