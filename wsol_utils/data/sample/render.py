"""The embedded sample: two small data sets drawn here, so that nothing has to be downloaded.

*things*, in the layout of ILSVRC's Kaggle distribution, holds twelve kinds of objects of different shapes, some
images with several of them. *birds*, in the layout of CUB-200-2011, holds ten kinds of birds that differ only in the
markings of head and wing: plumage, pose, size, place, background and clutter are nuisance.

Every image has a random generator of its own, so the files are the same, byte for byte, whatever the number of
processes. Boxes are (x0, y0, x1, y1) in pixels, half-open, until a format wants them otherwise.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Thread
from typing import NamedTuple

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
    """One image to draw: split 0 is train, 1 val or test; classes and the images of a class count from 0."""

    data_set: str
    split: int
    kind: int
    index: int  # type: ignore[assignment]  # a tuple's method of that name is not used
    path: Path


def wnid(kind: int) -> str:
    """Made-up WordNet id of a class of things."""
    return f"n{90000001 + kind}"


def bird_items(root: Path, train: int, test: int) -> list[Item]:
    """The images of *birds*, in the order of their ids, which count from 1."""
    items: list[Item] = []
    images = root / "birds" / "CUB_200_2011" / "images"
    for kind, name in enumerate(BIRDS):
        for split, index in [(0, i) for i in range(train)] + [(1, i) for i in range(test)]:
            file = f"{name}_{split * train + index + 1:04d}_{len(items) + 1}.jpg"
            items.append(Item("birds", split, kind, index, images / f"{kind + 1:03d}.{name}" / file))
    return items


def thing_items(root: Path, train: int, val: int) -> list[Item]:
    """The images of *things*; val takes the classes in turn."""
    data, kinds = root / "things" / "ILSVRC" / "Data" / "CLS-LOC", range(len(THINGS))
    items = []
    for kind, index in ((k, i) for k in kinds for i in range(train)):
        items.append(Item("things", 0, kind, index, data / "train" / wnid(kind) / f"{wnid(kind)}_{index + 1}.JPEG"))
    for number, (index, kind) in enumerate(((i, k) for i in range(val) for k in kinds), 1):
        items.append(Item("things", 1, kind, index, data / "val" / f"ILSVRC2012_val_{number:08d}.JPEG"))
    return items


def draw(item: Item, seed: int) -> list[Box]:
    """Draws and writes one image, for a bird its mask too, and returns the boxes of its objects."""
    rng = default_rng(SeedSequence((seed, list(PER_CLASS).index(item.data_set), item.split, item.kind, item.index)))
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


def draw_all(items: list[Item], seed: int, processes: int) -> list[list[Box]]:
    """Draws every image and returns the boxes of each; processes are started afresh, which is safe in a notebook."""
    if processes == 1:
        return [draw(item, seed) for item in items]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent) as pool:
        drawn = pool.map(draw, items, [seed] * len(items), chunksize=16)
        return list(watched(drawn, len(items), "draw"))


def _end_with_parent() -> None:
    """A process that draws does not outlive the one that started it."""
    if parent := multiprocessing.parent_process():
        Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text file; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_cub(top: Path, items: list[Item], boxes: list[list[Box]]) -> None:
    """The five text files of CUB-200-2011; a box is x, y, width, height."""
    numbered = [(i, item, found[0]) for i, (item, found) in enumerate(zip(items, boxes, strict=True), 1)]
    write_lines(top / "classes.txt", (f"{k} {k:03d}.{name}" for k, name in enumerate(BIRDS, 1)))
    write_lines(top / "images.txt", (f"{i} {item.path.parent.name}/{item.path.name}" for i, item, _ in numbered))
    write_lines(top / "image_class_labels.txt", (f"{i} {item.kind + 1}" for i, item, _ in numbered))
    write_lines(top / "train_test_split.txt", (f"{i} {1 - item.split}" for i, item, _ in numbered))
    rows = (f"{i} {x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}" for i, _, (x0, y0, x1, y1) in numbered)
    write_lines(top / "bounding_boxes.txt", rows)


OBJECT = """
\t<object>
\t\t<name>{name}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{0}</xmin>
\t\t\t<ymin>{1}</ymin>
\t\t\t<xmax>{2}</xmax>
\t\t\t<ymax>{3}</ymax>
\t\t</bndbox>
\t</object>"""
ANNOTATION = """<annotation>
\t<folder>{folder}</folder>
\t<filename>{file}</filename>
\t<source>
\t\t<database>wsol_utils.sample</database>
\t</source>
\t<size>
\t\t<width>{size}</width>
\t\t<height>{size}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>{objects}
</annotation>"""


def write_ilsvrc(top: Path, items: list[Item], boxes: list[list[Box]]) -> None:
    """The annotations and lists of ILSVRC's Kaggle distribution; a box is its corners, both pixels included."""
    write_lines(top / "LOC_synset_mapping.txt", (f"{wnid(k)} {thing.__name__}" for k, thing in enumerate(THINGS)))
    solutions = ["ImageId,PredictionString"], ["ImageId,PredictionString"]
    for (_, split, kind, _, path), found in zip(items, boxes, strict=True):
        name, corners = wnid(kind), [(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in found]
        solutions[split].append(f"{path.stem}," + " ".join(f"{name} {x0} {y0} {x1} {y1}" for x0, y0, x1, y1 in corners))
        objects = "".join(OBJECT.format(*box, name=name) for box in corners)
        xml = ANNOTATION.format(folder=path.parent.name, file=path.stem, size=SIZE, objects=objects)
        place = path.relative_to(top / "ILSVRC" / "Data").with_suffix(".xml")
        write_lines(top / "ILSVRC" / "Annotations" / place, [xml])
    write_lines(top / "LOC_train_solution.csv", solutions[0])
    write_lines(top / "LOC_val_solution.csv", solutions[1])


def is_current(root: Path, stamp: dict) -> bool:
    """Whether the folder's stamp is the given one."""
    try:
        complete = all((root / name).is_dir() for name in PER_CLASS)
        return complete and json.loads((root / "stamp.json").read_text(encoding="utf-8")) == stamp
    except (OSError, ValueError):
        return False


def render(
    root: str | Path = "data/sample",
    seed: int = 0,
    processes: int | None = None,
    per_class: dict[str, tuple[int, int]] = PER_CLASS,
) -> None:
    """Renders both data sets below a folder, unless they are there already.

    Args:
        root: folder that will hold `things`, `birds` and `stamp.json`; it is rendered beside its place, then renamed.
            Of several processes at once one renders, and the others wait.
        seed: another seed gives other images.
        processes: how many draw at the same time, by default one per core; the files do not depend on it.
        per_class: images of each class, (train, val or test), for "things" and "birds".
    Raises:
        FileExistsError: if the folder holds something that was not rendered here.
        OSError: if it cannot be written.
    """
    root = Path(root).resolve()
    sources = b"".join(Path(file).read_bytes() for file in (__file__, drawing.__file__, shapes.__file__))
    stamp = {
        "seed": seed,
        "per_class": {name: list(counts) for name, counts in per_class.items()},
        "source": hashlib.sha256(sources).hexdigest(),
        "versions": {module.__name__: module.__version__ for module in (np, scipy, skimage, PIL)},
    }
    if is_current(root, stamp):
        return
    if root.exists() and not (root / "stamp.json").exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} holds files that were not rendered here: move them or name another folder")
    fresh, old = (root.with_name(f".{root.name}.{os.getpid()}.{state}") for state in ("new", "old"))
    birds, things = bird_items(fresh, *per_class["birds"]), thing_items(fresh, *per_class["things"])
    with files.explained(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.with_name(f".{root.name}.lock")):  # of another process that renders to the same place
            if is_current(root, stamp):
                return
            try:
                for left in [*root.parent.glob(f".{root.name}.*.new"), *root.parent.glob(f".{root.name}.*.old")]:
                    shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
                boxes = draw_all(birds + things, seed, processes or cores())
                write_cub(fresh / "birds" / "CUB_200_2011", birds, boxes[: len(birds)])
                write_ilsvrc(fresh / "things", things, boxes[len(birds) :])
                write_lines(fresh / "stamp.json", [json.dumps(stamp, indent=2)])
                files.all_to_disk()
                if root.exists():
                    root.rename(old)
                fresh.rename(root)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
