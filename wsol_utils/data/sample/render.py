"""The embedded sample: two small data sets drawn here, so that nothing has to be downloaded.

*things*, in the layout of ILSVRC's Kaggle distribution, holds twelve kinds of objects of different shapes, some
images with several of them. *birds*, in the layout of CUB-200-2011, holds ten kinds of birds that differ only in the
markings of head and wing: plumage, pose, size, place, background and clutter are nuisance.

Every image has a random generator of its own, so the files are the same, byte for byte, in whatever order they are
drawn. Boxes are (x0, y0, x1, y1) in pixels, half-open, until a format wants them otherwise.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, indent, tostring

import numpy as np
import PIL
import scipy
import skimage
from filelock import FileLock
from numpy.random import SeedSequence, default_rng
from PIL import Image

from wsol_utils.common import files
from wsol_utils.common.bars import watched
from wsol_utils.data.sample import drawing, shapes
from wsol_utils.data.sample.drawing import SIZE, Box, picture_of_bird, picture_of_things, tight_box
from wsol_utils.data.sample.shapes import BIRDS, THINGS

PER_CLASS = {"things": (100, 25), "birds": (60, 30)}  # images of each class: (train, val or test)


class Item(NamedTuple):
    """One image to draw: split 0 is train, 1 val or test; classes, and the images of a class, count from 0."""

    data_set: str
    split: int
    kind: int
    number: int
    path: Path


def wnid(kind: int) -> str:
    """Make up a WordNet id for a class of things."""
    return f"n{90000001 + kind}"


def bird_items(root: Path, train: int, test: int) -> list[Item]:
    """List the images of *birds* in the order of their ids, which count from 1."""
    items: list[Item] = []
    images = root / "birds" / "CUB_200_2011" / "images"
    for kind, name in enumerate(BIRDS):
        for split, number in [(0, i) for i in range(train)] + [(1, i) for i in range(test)]:
            file = f"{name}_{split * train + number + 1:04d}_{len(items) + 1}.jpg"
            items.append(Item("birds", split, kind, number, images / f"{kind + 1:03d}.{name}" / file))
    return items


def thing_items(root: Path, train: int, val: int) -> list[Item]:
    """List the images of *things*; val takes the classes in turn."""
    data, kinds = root / "things" / "ILSVRC" / "Data" / "CLS-LOC", range(len(THINGS))
    items = []
    for kind, number in ((k, i) for k in kinds for i in range(train)):
        items.append(Item("things", 0, kind, number, data / "train" / wnid(kind) / f"{wnid(kind)}_{number + 1}.JPEG"))
    for count, (number, kind) in enumerate(((i, k) for i in range(val) for k in kinds), 1):
        items.append(Item("things", 1, kind, number, data / "val" / f"ILSVRC2012_val_{count:08d}.JPEG"))
    return items


def draw(item: Item, seed: int) -> list[Box]:
    """Draw and write one image, for a bird its mask too, and return the boxes of its objects."""
    rng = default_rng(SeedSequence((seed, list(PER_CLASS).index(item.data_set), item.split, item.kind, item.number)))
    folder = item.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if item.data_set == "things":
        pixels, masks = picture_of_things(rng, THINGS[item.kind])
    else:
        pixels, masks = picture_of_bird(rng, list(BIRDS.values())[item.kind])
        masks_folder = folder.parents[1] / "segmentations" / folder.name
        masks_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks[0].astype(np.uint8) * 255).save(masks_folder / f"{item.path.stem}.png")
    Image.fromarray(pixels).save(item.path, "JPEG", quality=92)
    return [tight_box(mask) for mask in masks]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_cub(top: Path, items: list[Item], boxes: list[list[Box]]) -> None:
    """Write the five text files of CUB-200-2011; a box is x, y, width, height."""
    numbered = [(i, item, found[0]) for i, (item, found) in enumerate(zip(items, boxes, strict=True), 1)]
    write_lines(top / "classes.txt", (f"{k} {k:03d}.{name}" for k, name in enumerate(BIRDS, 1)))
    write_lines(top / "images.txt", (f"{i} {item.path.parent.name}/{item.path.name}" for i, item, _ in numbered))
    write_lines(top / "image_class_labels.txt", (f"{i} {item.kind + 1}" for i, item, _ in numbered))
    write_lines(top / "train_test_split.txt", (f"{i} {1 - item.split}" for i, item, _ in numbered))
    rows = (f"{i} {x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}" for i, _, (x0, y0, x1, y1) in numbered)
    write_lines(top / "bounding_boxes.txt", rows)


def element(tag: str, content: object) -> Element:
    """Make an XML element of a text, or of the (tag, content) pairs of what is in it."""
    made = Element(tag)
    if isinstance(content, list):
        made.extend(element(*pair) for pair in content)
    else:
        made.text = str(content)
    return made


def annotation(path: Path, name: str, corners: list[Box]) -> str:
    """Describe an image as ILSVRC's XML files do; `corners` are those of its objects, both pixels included."""
    objects = [
        [("name", name), ("pose", "Unspecified"), ("truncated", 0), ("difficult", 0),
         ("bndbox", list(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)))] for box in corners
    ]  # fmt: skip
    source, size = [("database", "wsol_utils.sample")], [("width", SIZE), ("height", SIZE), ("depth", 3)]
    about = [("folder", path.parent.name), ("filename", path.stem), ("source", source), ("size", size)]
    tree = element("annotation", [*about, ("segmented", 0), *(("object", one) for one in objects)])
    indent(tree, "\t")
    return tostring(tree, encoding="unicode")


def write_ilsvrc(top: Path, items: list[Item], boxes: list[list[Box]]) -> None:
    """Write the annotations and lists of ILSVRC's Kaggle distribution; the last pixel of a corner is the object's."""
    write_lines(top / "LOC_synset_mapping.txt", (f"{wnid(k)} {thing.__name__}" for k, thing in enumerate(THINGS)))
    solutions = ["ImageId,PredictionString"], ["ImageId,PredictionString"]
    for item, found in zip(items, boxes, strict=True):
        name, corners = wnid(item.kind), [(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in found]
        prediction = " ".join(f"{name} {x0} {y0} {x1} {y1}" for x0, y0, x1, y1 in corners)
        solutions[item.split].append(f"{item.path.stem},{prediction}")
        place = item.path.relative_to(top / "ILSVRC" / "Data").with_suffix(".xml")
        write_lines(top / "ILSVRC" / "Annotations" / place, [annotation(item.path, name, corners)])
    write_lines(top / "LOC_train_solution.csv", solutions[0])
    write_lines(top / "LOC_val_solution.csv", solutions[1])


def render(root: str | Path = "data/sample", seed: int = 0, per_class: dict[str, tuple[int, int]] = PER_CLASS) -> None:
    """Render both data sets below a folder, unless they are there already.

    Args:
        root: folder that will hold `things`, `birds` and `stamp.json`; it is rendered beside its place, then renamed.
            Of several processes at once one renders, and the others wait.
        seed: another seed gives other images.
        per_class: images of each class, (train, val or test), for "things" and "birds".
    Raises:
        FileExistsError: if the folder holds something that was not rendered here.
        OSError: if it cannot be written.
    """
    root = Path(root).resolve()
    sources = b"".join(Path(file).read_bytes() for file in (__file__, drawing.__file__, shapes.__file__))
    about = {
        "seed": seed,
        "per_class": per_class,
        "source": hashlib.sha256(sources).hexdigest(),
        "versions": {module.__name__: module.__version__ for module in (np, scipy, skimage, PIL)},
    }
    stamp, kept = json.dumps(about, indent=2) + "\n", root / "stamp.json"
    with files.explained(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.with_name(f".{root.name}.lock")):  # of another process that renders to the same place
            if all((root / name).exists() for name in (*PER_CLASS, "stamp.json")) and kept.read_text() == stamp:
                return
            if not kept.exists() and root.exists() and any(root.iterdir()):
                problem = "holds files that were not rendered here: move them or name another folder"
                raise FileExistsError(f"{root} {problem}")
            for left in root.parent.glob(f".{root.name}.*.part"):  # of a process that was killed
                files.remove(left)
            with files.written(root, durable=False) as fresh:
                birds, things = bird_items(fresh, *per_class["birds"]), thing_items(fresh, *per_class["things"])
                items = birds + things
                with ThreadPoolExecutor() as pool:
                    boxes = list(watched(pool.map(draw, items, [seed] * len(items)), len(items), "draw"))
                write_cub(fresh / "birds" / "CUB_200_2011", birds, boxes[: len(birds)])
                write_ilsvrc(fresh / "things", things, boxes[len(birds) :])
                write_lines(fresh / "stamp.json", [stamp.rstrip()])
                files.all_to_disk()
