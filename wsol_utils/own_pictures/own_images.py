"""The paper's localisation on one's own pictures, step by step: the map (Eq. 3), the threshold (Sec. 4.3), the box.

`load_network` and `look` ask a network once for each picture; `locate` then tries what you like, without it:

    network = load_network(backbone="resnet50")
    view = look(network, "cat.jpg")
    print(view.class_name, locate(view).box, locate(view, "signed", eta=0.2).box)
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from wsol_utils.boxes import thresholds
from wsol_utils.common.checks import numpy
from wsol_utils.data import photographs, transforms
from wsol_utils.data.texts import DatasetError, failure, is_litter
from wsol_utils.figures import plots
from wsol_utils.maps import cam
from wsol_utils.own_pictures.networks import Network, load_network
from wsol_utils.own_pictures.views import Located, View, light, write_coco, write_csv
from wsol_utils.scores import evaluation, protocols

__all__ = [
    "Located", "Network", "View", "activation", "draw", "light", "load_network", "locate", "look", "pictures",
    "readable", "save_drawing", "view_of", "write_coco", "write_csv",
]  # fmt: skip

DRAWN = 2000  # pixels: matplotlib takes minutes and gigabytes for much larger pictures


def pictures(where: str | Path | Sequence[str | Path], recursive: bool = False) -> list[Path]:
    """Files as they are given, and those in a folder, sorted; each once. `look` says which of them are pictures.

    What begins with a dot is passed over, and so is what file managers and archives leave (`texts.LITTER`).

    Args:
        recursive: whether the folders below count, too.

    Raises:
        OSError: if a folder cannot be read.
        ValueError: if a path does not exist, a folder has no file, or nothing is given.
    """
    given = [where] if isinstance(where, str | Path) else list(where)
    if not given:
        raise ValueError("no picture is given: name files, or folders of pictures")
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(_files(path, recursive))
            if not inside and not recursive and any(_files(path, True)):
                raise ValueError(
                    f"{path} has files only in its sub-folders: --recursive (recursive=True) takes them, too"
                )
            if not inside:
                problem = "has no picture: there is no file in it that could be one"
                raise ValueError(f"{path} {problem}; name another folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"{path} does not exist: name a file, or a folder of pictures")
    return list(dict.fromkeys(found))


def readable(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The pictures among some files; and of each of the others why it is none.

    Raises:
        ValueError: if there is no picture among them.
    """
    found, wrong = list[Path](), list[str]()
    for path in paths:
        try:
            _decoded(path)
            found.append(path)
        except DatasetError as error:
            wrong.append(str(error))
    if not found:
        raise ValueError(f"no picture among {len(wrong)} files{': ' if wrong else ''}{'; '.join(wrong[:1])}")
    return found, wrong


def look(network: Network, path: str | Path, class_index: int | None = None) -> View:
    """One pass of a network over a picture, resized to the square of its input as in the evaluation.

    The picture is turned as its EXIF orientation says, and boxes are pixels of what one sees.

    Args:
        class_index: of the class to look for; None for the one that the network predicts.

    Raises:
        ValueError: if the picture cannot be read or does not decode, or there is no such class.
    """
    classes = len(network.class_names)
    if class_index is not None and not 0 <= class_index < classes:
        raise ValueError(f"there is no class {class_index}: {network.name} has {classes} classes, counted from 0")
    image = np.array(_decoded(Path(path)))  # (H, W, 3)
    transform, no_boxes = transforms.test_transform(network.image_size), torch.zeros(0, 4)
    frame, _ = transform.resize(torch.from_numpy(image).permute(2, 0, 1), no_boxes)  # (3, S, S)
    images, _ = transform.finish(frame[None], [no_boxes], [transform.crop([])])
    weights = cast(Tensor, network.model.class_weights)  # (K, C)
    with torch.inference_mode():
        images = images.to(weights.device)
        found = network.model(images)
        probabilities = found.logits[0].float().softmax(dim=0)
        index = int(probabilities.argmax()) if class_index is None else class_index
        own, method = None, getattr(network.model, "method", None)
        if method is not None and not method.linear:
            own = numpy(method.maps(network.model, images, torch.tensor([index], device=images.device))[0])
    return View(
        image, str(path), index, network.class_names[index], numpy(probabilities), numpy(found.features[0]),
        numpy(weights[index]), own, network.image_size,
    )  # fmt: skip


def view_of(
    image: np.ndarray | Image.Image, scores: np.ndarray | Tensor, class_name: str = "", image_size: int = 224
) -> View:
    """A map that any other program made (pytorch-grad-cam, torchcam, …), to be thresholded as ours are.

    Args:
        image: (H, W, 3) uint8, the picture; or Pillow's image of it, which is not turned as its EXIF data say.
        scores: (h, w), a map over the whole picture, of any size and scale; above 0 where the object is.
        class_name: to be shown.
        image_size: the map is upsampled to a square of this side, pixels; give h where h = w to leave it as it is.

    Raises:
        ValueError: if a shape is wrong, or the scores are not floating point or not finite.
    """
    given = numpy(scores)
    if given.ndim != 2 or 0 in given.shape:
        raise ValueError(f"a map is (h, w), got {given.shape}")
    if given.dtype.kind != "f" or not np.isfinite(given).all():
        raise ValueError("a map is floating point without NaN or infinity")
    if isinstance(image, Image.Image):
        image = np.array(photographs.eight_bits(image.copy()).convert("RGB"))
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise ValueError(f"a picture is (H, W, 3) uint8 or Pillow's, got {kind}: give np.asarray(PIL.Image.open(file))")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"a picture is (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if image_size < 1:
        raise ValueError(f"image_size is a side in pixels, got {image_size}")
    unknown = np.zeros(0, np.float32)
    return View(image, "", -1, class_name, unknown, None, None, given.astype(np.float32), image_size)


def activation(view: View, recombination: str = "absolute") -> np.ndarray:
    """The class activation map (Eqs. 2 and 3), not normalised; a given map as it is.

    Args:
        recombination: as of `cam.activation_map`.

    Returns:
        (h, w) float32.

    Raises:
        ValueError: if the recombination is unknown, or the network gave numbers that are not finite.
    """
    if view.given_map is not None:
        return view.given_map
    assert view.features is not None and view.class_weights is not None  # of a network, then
    return cam.activation_map(view.features[None], view.class_weights[None], recombination)[0]


def locate(
    view: View, recombination: str = "absolute", rule: str = "first_above_mean", eta: float | None = None
) -> Located:
    """The box of the largest component above a threshold that is chosen without ground truth (Sec. 4.3).

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
    means = thresholds.boundary_means(maps)
    x0, y0, x1, y1 = box[0] / side
    height, width = view.image.shape[:2]
    return Located(
        maps[0], float(str(chosen[0])) if eta is None else float(eta),  # 0.7, not 0.699999988
        (float(x0 * width), float(y0 * height), float(x1 * width), float(y1 * height)),
        np.array(thresholds.PAPER_GRID), means[0], thresholds.boundary_differences(means)[0],
        "given" if view.given_map is not None else recombination, rule,
    )  # fmt: skip


def draw(view: View, located: Located) -> Figure:
    """The picture under the map with the box, beside D against η with its mean, as in Fig. 3."""
    figure = Figure(figsize=(8, 3.4))  # none of pyplot's, which would have to be closed
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    known = f", {100 * view.probability:.1f} %" if view.probability is not None else ""
    step = max(1, max(view.image.shape[:2]) // DRAWN)
    plots.show(left, view.image[::step, ::step], np.maximum(located.map, 0), f"{view.class_name}{known}")
    plots.draw_box(left, np.array(located.box) / step, plots.PREDICTION)
    if np.isfinite(located.differences).any():
        right.plot(located.candidates, located.differences, color="red", marker=".", label="D")
        right.axhline(np.nanmean(located.differences), color="blue", label="mean of D")
    right.axvline(located.eta, color="grey", linestyle="--", label=f"{located.rule}: η = {located.eta:.2f}")
    right.set(xlabel="η, share of the map's maximum", ylabel="D", xlim=(0, 1))
    right.legend(fontsize=8)
    figure.tight_layout(pad=0.5)
    return figure


def save_drawing(view: View, located: Located, path: Path) -> None:
    """What `draw` shows as a PNG: the whole file or none."""
    plots.save(draw(view, located), path)


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    """What may be a picture in a folder; a link that leads nowhere is one that cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if recursive and not is_litter(name)]
        for file in (Path(place, name) for name in names if not is_litter(name)):
            if file.is_file() or not file.exists():  # neither a pipe nor a link to a folder
                yield file


def _decoded(path: Path) -> Image.Image:
    """The picture in a file, in RGB and upright.

    Raises:
        DatasetError: if it cannot be read or does not decode; its remedy is for a picture, not for a data set.
    """
    try:
        return photographs.decode(path, upright=True)[1]
    except DatasetError as error:
        problem = f"no picture that can be read ({photographs.cause(error.__cause__)})"
        too_large = isinstance(error.__cause__, Image.DecompressionBombError)
        remedy = "scale the picture down" if too_large else "save it again as JPEG or PNG, or leave it out"
        raise failure(path.parent, path.name, problem, remedy) from error
