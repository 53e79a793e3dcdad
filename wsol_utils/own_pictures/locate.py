"""Locate the object in one's own picture, step by step: the map (Eq. 3), the threshold (Sec. 4.3), the box.

`look` asks a network once for each picture; `locate` then tries any map and any threshold without it:

    network = networks.load_network(backbone="resnet50")
    view = look(network, "cat.jpg")
    print(view.class_name, locate(view).box, locate(view, "signed", eta=0.2).box)
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from wsol_utils.boxes import thresholds
from wsol_utils.common import files
from wsol_utils.common.checks import numpy
from wsol_utils.data.images import cause, decode, eight_bits
from wsol_utils.data.text import DatasetError, failure, is_litter, shown
from wsol_utils.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from wsol_utils.figures import plots
from wsol_utils.maps import cam
from wsol_utils.own_pictures.networks import Network
from wsol_utils.scores import evaluation, protocols

COLUMNS = ("path", "class_index", "class_name", "probability", "rule", "eta", "x0", "y0", "x1", "y1")
DRAWN = 600  # pixels: a drawing shows no more of a picture, and more would be slow


@dataclass(frozen=True)
class View:
    """What a network says about one picture, or a map that came from elsewhere.

    Attributes:
        image: (H, W, 3) uint8, in RGB, turned as its EXIF orientation says.
        image_size: side of the square that maps are upsampled to, pixels: the network's input.
        path: of the file; "" for `view_of`.
        class_index: of the class that the map is of; -1 where it is unknown.
        class_name: its name.
        probability: of that class, by the network's softmax; None where it is unknown.
        features: (C, h, w) float32, P of Eq. 2; None for `view_of`.
        class_weights: (C,) float32, the classifier's row for the class, w of Eq. 2; None for `view_of`.
        given_map: (h, w) float32, the map that came from elsewhere, or that a method made itself; else None.
    """

    image: np.ndarray
    image_size: int
    path: str = ""
    class_index: int = -1
    class_name: str = ""
    probability: float | None = None
    features: np.ndarray | None = None
    class_weights: np.ndarray | None = None
    given_map: np.ndarray | None = None


@dataclass(frozen=True)
class Located:
    """Where the object is, and how the threshold was chosen (Sec. 4.3).

    Attributes:
        map: (S, S) float32, upsampled to the view's image_size and divided by its maximum; 0 if that is not positive.
        eta: η, a fraction of the map's maximum.
        box: (x0, y0, x1, y1), half-open, in pixels of the view's image; zeros where nothing is above η.
        differences: (K,), D at each of `thresholds.PAPER_GRID`: the steps of V; NaN where undefined.
        rule: that chose η, or "slider" where η was given.
    """

    map: np.ndarray
    eta: float
    box: tuple[float, float, float, float]
    differences: np.ndarray
    rule: str


def pictures(where: str | Path | Iterable[str | Path], recursive: bool = False) -> tuple[list[Path], list[str]]:
    """Find the pictures among files and in folders, whatever their names end in; each once, those of a folder sorted.

    Names that begin with a dot are passed over, and so is what file managers and archives leave (`text.LITTER`).

    Args:
        where: a file or a folder, or several.
        recursive: whether the folders below count, too.

    Returns:
        The pictures; and for each file that is none, and each folder that has none, a message that says why.

    Raises:
        OSError: if a folder cannot be read.
        ValueError: if there is no picture at all.
    """
    found, problems = list[Path](), list[str]()
    for path in map(Path, [where] if isinstance(where, str | Path) else where):
        inside = [path]
        if path.is_dir():
            below = path.rglob("*") if recursive else path.iterdir()
            inside = sorted(p for p in below if p.is_file() and not any(map(is_litter, p.relative_to(path).parts)))
        if not inside:
            problems.append(shown(f"{path} has no picture in it: take its sub-folders, too, by --recursive"))
        for file in inside:
            try:
                _decoded(file, scaled=True)
                found.append(file)
            except DatasetError as error:
                problems.append(str(error))
    if not found:
        raise ValueError(f"no picture was found: {'; '.join(problems[:3])}")
    return list(dict.fromkeys(found)), problems


def _decoded(path: Path, scaled: bool = False) -> Image.Image:
    """The picture in a file, in RGB and upright; an error's remedy is for a picture, not for a data set."""
    try:
        return decode(path, scaled=scaled, upright=True)[1]
    except DatasetError as error:
        problem = f"no picture that can be read ({cause(error.__cause__)})"
        remedy = "save it again as JPEG or PNG, smaller if it is huge, or leave it out"
        raise failure(path.parent, path.name, problem, remedy) from error


def output_names(paths: Iterable[Path]) -> list[str]:
    """Name each file by its path below the folder that all of them share, so that outputs get names of their own."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    top = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(top).as_posix() for path in absolute]


def look(network: Network, path: str | Path, class_index: int | None = None) -> View:
    """Pass a picture through a network once, resized to the square of its input as in the evaluation.

    The picture is turned as its EXIF orientation says, and boxes are pixels of what one sees.

    Args:
        class_index: of the class to look for; None for the one that the network predicts.

    Raises:
        DatasetError: if the picture cannot be read or does not decode.
        ValueError: if there is no such class.
    """
    classes = len(network.class_names)
    if class_index is not None and not 0 <= class_index < classes:
        raise ValueError(f"there is no class {class_index}: {network.name} has {classes} classes, counted from 0")
    image = np.array(_decoded(Path(path)))  # (H, W, 3)
    frame = functional.resize(torch.from_numpy(image).permute(2, 0, 1), [network.image_size] * 2, antialias=True)
    pixels = functional.to_dtype(frame, torch.float32, scale=True)  # (3, S, S)
    weights = cast(Tensor, network.model.class_weights)  # (K, C)
    images = functional.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))[None].to(weights.device)
    with torch.inference_mode():
        logits, features, *_ = network.model(images)
        probabilities = logits[0].softmax(dim=0)  # (K,)
        index = int(probabilities.argmax()) if class_index is None else class_index
        own, method = None, getattr(network.model, "method", None)
        if method is not None and not method.linear:
            own = numpy(method.maps(network.model, images, torch.tensor([index], device=images.device))[0])
    return View(
        image, network.image_size, str(path), index, network.class_names[index], float(probabilities[index]),
        numpy(features[0]), numpy(weights[index]), own,
    )  # fmt: skip


def view_of(
    image: np.ndarray | Image.Image, scores: np.ndarray | Tensor, class_name: str = "", image_size: int = 224
) -> View:
    """Take a map that any other program made (pytorch-grad-cam, torchcam, …), to be thresholded as ours are.

    Args:
        image: (H, W, 3) uint8, the picture; or Pillow's image of it, which is not turned as its EXIF data say.
        scores: (h, w), a map over the whole picture, of any size and scale; above 0 where the object is.
        class_name: to be shown.
        image_size: the map is upsampled to a square of this side, pixels; give h where h = w to leave it as it is.

    Raises:
        ValueError: if a shape or type is wrong, or the scores are not finite.
    """
    given = numpy(scores)
    if given.ndim != 2 or given.size == 0 or given.dtype.kind != "f" or not np.isfinite(given).all():
        found = f"{given.dtype} {given.shape}"
        raise ValueError(f"a map is (h, w), floating point without NaN or infinity, got {found}: give one map alone")
    if isinstance(image, Image.Image):
        image = np.array(eight_bits(image.copy()).convert("RGB"))
    if np.shape(image)[2:] != (3,) or image.dtype != np.uint8:
        kind = f"{type(image).__name__} {np.shape(image)}"
        raise ValueError(f"a picture is (H, W, 3) uint8 or Pillow's, got {kind}: give PIL.Image.open(file)")
    return View(image, image_size, class_name=class_name, given_map=given.astype(np.float32))


def activation(view: View, recombination: str = "absolute") -> np.ndarray:
    """The class activation map (Eqs. 2 and 3), not normalised, (h, w) float32; a given map as it is.

    Args:
        recombination: as of `cam.activation_map`.

    Raises:
        ValueError: if the recombination is unknown, or the network gave numbers that are not finite.
    """
    if view.given_map is not None:
        return view.given_map
    assert view.features is not None and view.class_weights is not None  # it is a network's view
    return cam.activation_map(view.features[None], view.class_weights[None], recombination)[0]


def locate(
    view: View, recombination: str = "absolute", rule: str = "first_above_mean", eta: float | None = None
) -> Located:
    """Find the box of the largest component above a threshold that is chosen without ground truth (Sec. 4.3).

    Args:
        recombination: as of `cam.activation_map`; a given map has none.
        rule: one of `thresholds.RULES`.
        eta: a threshold in [0, 1] in place of the rule's.

    Raises:
        ValueError: if a word is unknown, or eta is outside [0, 1].
    """
    if eta is not None and not 0 <= eta <= 1:
        raise ValueError(f"a threshold is a fraction of the map's maximum, from 0 to 1, got {eta}")
    raw, side = activation(view, recombination)[None], view.image_size  # (1, h, w)
    rules = [rule] if eta is None else {"slider": np.array([eta])}
    maps, found = evaluation.localize_maps(raw, (side, side), protocols.PAPER, rules)  # (1, S, S)
    [(rule, (chosen, box))] = found.items()
    differences = thresholds.boundary_differences(thresholds.boundary_means(maps))  # (1, K)
    height, width = view.image.shape[:2]
    x0, y0, x1, y1 = (box[0] / side * [width, height, width, height]).tolist()
    eta = float(str(chosen[0])) if eta is None else float(eta)  # 0.7, not 0.699999988
    return Located(maps[0], eta, (x0, y0, x1, y1), differences[0], rule)


def draw(view: View, located: Located) -> Figure:
    """Draw the picture under the map with the box, and beside it D against η with its mean, as in Fig. 3."""
    figure = Figure(figsize=(8, 3.4))  # none of pyplot's, which would have to be closed
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    known = f", {100 * view.probability:.1f} %" if view.probability is not None else ""
    step = max(1, max(view.image.shape[:2]) // DRAWN)
    title, box = f"{view.class_name}{known}", np.array(located.box) / step
    plots.show(left, view.image[::step, ::step], located.map, title, found=box)
    if np.isfinite(located.differences).any():
        right.plot(thresholds.PAPER_GRID, located.differences, color="red", marker=".", label="D")
        right.axhline(np.nanmean(located.differences), color="blue", label="mean of D")
    right.axvline(located.eta, color="grey", linestyle="--", label=f"{located.rule}: η = {located.eta:.2f}")
    right.set(xlabel="η, share of the map's maximum", ylabel="D", xlim=(0, 1))
    right.legend(fontsize=8)
    figure.tight_layout(pad=0.5)
    return figure


def row(view: View, located: Located) -> dict[str, Any]:
    """List what `write_coco` and `write_csv` need of a picture: `COLUMNS`, and its width and height in pixels."""
    height, width = view.image.shape[:2]
    known = (view.path, view.class_index, view.class_name, view.probability, located.rule, located.eta, *located.box)
    return dict(zip(COLUMNS, known, strict=True)) | {"width": width, "height": height}


def write_coco(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of `row` as COCO's JSON: the whole file or none.

    One category for each class that was looked for, one annotation for each box: `bbox` is x, y, width, height in
    pixels, `score` the class's probability where it is known. A picture without a box has no annotation.
    """
    classes = sorted({(row["class_index"], row["class_name"]) for row in rows})
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for number, row in enumerate(rows, start=1):
        images.append({"id": number, "file_name": row["path"], "width": row["width"], "height": row["height"]})
        width, height = row["x1"] - row["x0"], row["y1"] - row["y0"]
        if width > 0 and height > 0:
            category = classes.index((row["class_index"], row["class_name"])) + 1
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            place = {"bbox": [row["x0"], row["y0"], width, height], "area": width * height}
            score = {} if row["probability"] is None else {"score": row["probability"]}
            annotations.append(annotation | place | score)
    categories = [{"id": number, "name": name} for number, (_, name) in enumerate(classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    files.write_text(path, json.dumps(content, indent=1) + "\n")


def write_csv(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write the `COLUMNS` of rows of `row`, the box in the picture's pixels: the whole file or none.

    A byte of a path that is not UTF-8 is written as Python and COCO's JSON have it, \\udc80 to \\udcff.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    files.write_text(path, text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8"))
