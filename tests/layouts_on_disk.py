"""What several tests share: made-up data sets in the official layouts, weights files, and notebooks in this process."""

import ast
import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from wsol_utils.data.datasets import COLUMNS

matplotlib.use("agg")  # figures are made, and shown to nobody

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
ROAD = [path.stem for path in sorted(NOTEBOOKS.glob("0[1-6]_*.ipynb"))]

VAL, TRAIN = "ILSVRC/Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/train"
XML = "ILSVRC/Annotations/CLS-LOC/val"
COLOURS = ("gold", "navy", "crimson", "seagreen")
Corners = tuple[int, int, int, int]  # inclusive, as ILSVRC and Tiny-ImageNet write them


def lines(path: Path, rows: Sequence[str]) -> None:
    """Write a text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def replace_line(path: Path, number: int, text: str | None) -> None:
    """Change the line of that number (from 1), or take it out."""
    rows = path.read_text(encoding="utf-8").splitlines()
    rows[number - 1 : number] = [] if text is None else [text]
    lines(path, rows)


def drawn(path: Path, label: int, number: int, side: int = 0, boxes: int = 1) -> list[Corners]:
    """Draw an image of noise with an ellipse of the class's colour in each of some boxes, which are returned.

    Args:
        side: width and height; 0 draws both from 64 to 300.
    """
    rng = np.random.default_rng([label, number])
    width, height = (side, side) if side else (int(v) for v in rng.integers(64, 301, 2))
    image = Image.fromarray(rng.integers(90, 160, (height, width, 3), dtype=np.uint8))
    found: list[Corners] = []
    for k in range(boxes):  # side by side
        x0, x1 = width * k // boxes + 4, width * (k + 1) // boxes - 5
        y0, y1 = (int(v) for v in (rng.uniform(0.05, 0.3) * height, rng.uniform(0.6, 0.95) * height))
        found.append((x0, y0, x1, y1))
        ImageDraw.Draw(image).ellipse(found[-1], fill=COLOURS[label % len(COLOURS)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="JPEG", quality=90)
    return found


def cub(root: Path, train: int = 2, test: int = 3, classes: int = 2) -> None:
    """CUB-200-2011: five lists and images/; boxes as x, y, width, height."""
    images, labels, splits, boxes = [], [], [], []
    for label in range(classes):
        for number in range(train + test):
            name, key = f"{label + 1:03d}.Bird_{label}/Bird_{label}_{number:04d}.jpg", len(images) + 1
            [(x0, y0, x1, y1)] = drawn(root / "images" / name, label, number)
            images.append(f"{key} {name}")
            labels.append(f"{key} {label + 1}")
            splits.append(f"{key} {int(number < train)}")
            boxes.append(f"{key} {x0:.1f} {y0:.1f} {x1 + 1 - x0:.1f} {y1 + 1 - y0:.1f}")
    lines(root / "images.txt", images)
    lines(root / "image_class_labels.txt", labels)
    lines(root / "train_test_split.txt", splits)
    lines(root / "bounding_boxes.txt", boxes)
    lines(root / "classes.txt", [f"{label + 1} {label + 1:03d}.Bird_{label}" for label in range(classes)])


def voc(wnid: str, boxes: Sequence[Corners]) -> list[str]:
    """The lines of a VOC XML file."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    corners = ["".join(f"<{s}>{v}</{s}>" for s, v in zip(sides, box, strict=True)) for box in boxes]
    return [
        "<annotation>",
        *(f"<object><name>{wnid}</name><bndbox>{text}</bndbox></object>" for text in corners),
        "</annotation>",
    ]


def prediction_string(wnid: str, boxes: Sequence[Corners]) -> str:
    """The boxes of an image as Kaggle's lists hold them."""
    return "".join(" ".join([wnid, *map(str, box)]) + " " for box in boxes)


def ilsvrc(root: Path, train: int = 2, test: int = 3, classes: int = 2, synsets: int = 0) -> None:
    """ILSVRC as Kaggle distributes it; every second validation image holds three objects.

    Args:
        train: images of each class; 0 leaves the train folder out.
        synsets: lines of the mapping; 0 for as many as classes.
    """
    wnids = [f"n{k:08d}" for k in range(synsets or classes)]
    lines(root / "LOC_synset_mapping.txt", [f"{wnid} thing {k}, another name" for k, wnid in enumerate(wnids)])
    listed: dict[str, list[str]] = {"train": [], "val": []}
    for label, wnid in enumerate(wnids[:classes]):
        for number in range(train):
            boxes = drawn(root / TRAIN / wnid / f"{wnid}_{number}.JPEG", label, number)
            listed["train"].append(f"{wnid}_{number},{prediction_string(wnid, boxes)}")
        for number in range(test):
            key = f"ILSVRC2012_val_{label * test + number + 1:08d}"
            boxes = drawn(root / VAL / f"{key}.JPEG", label, 100 + number, boxes=3 if number % 2 else 1)
            lines(root / XML / f"{key}.xml", voc(wnid, boxes))
            listed["val"].append(f"{key},{prediction_string(wnid, boxes)}")
    for name, rows in listed.items():
        if rows:
            lines(root / f"LOC_{name}_solution.csv", ["ImageId,PredictionString", *rows])


def tiny_imagenet(root: Path, train: int = 2, test: int = 3, classes: int = 2) -> None:
    """Tiny-ImageNet-200: images of 64 × 64 pixels, tab-separated inclusive corners."""
    wnids, validation = [f"n{k:08d}" for k in range(classes)], []
    for label, wnid in enumerate(wnids):
        rows = []
        for number in range(train):
            name = f"{wnid}_{number}.JPEG"
            [box] = drawn(root / "train" / wnid / "images" / name, label, number, side=64)
            rows.append("\t".join([name, *map(str, box)]))
        lines(root / "train" / wnid / f"{wnid}_boxes.txt", rows)
        for number in range(test):
            name = f"val_{label * test + number}.JPEG"
            [box] = drawn(root / "val" / "images" / name, label, 100 + number, side=64)
            validation.append("\t".join([name, wnid, *map(str, box)]))
    lines(root / "val" / "val_annotations.txt", validation)
    lines(root / "wnids.txt", wnids[::-1])
    lines(root / "words.txt", [f"{wnid}\tthing {k}, another name" for k, wnid in enumerate(wnids)])


def table(n: int = 6, split: str = "train") -> pd.DataFrame:
    """Rows of an annotation table, two classes in turn; their pictures are those of the fixture `config`."""
    return pd.DataFrame(
        {"image_id": [str(i) for i in range(n)], "path": [f"{i}.png" for i in range(n)], "split": split,
         "label": [i % 2 for i in range(n)], "class_name": [f"c{i % 2}" for i in range(n)], "width": 8, "height": 8,
         "boxes": [[(0.0, 0.0, 4.0, 4.0)] for _ in range(n)], "source": "list.txt:1",
         "clipped": 0.0}
    )[list(COLUMNS)]  # fmt: skip


LAYOUTS: dict[str, Callable[..., None]] = {"cub": cub, "ilsvrc": ilsvrc, "tiny_imagenet": tiny_imagenet}


def weights_file(path: Path, network: torch.nn.Module, part: str = "") -> Path:
    """A state dict as safetensors; `part` keeps the keys that begin so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in network.state_dict().items() if key.startswith(part)}
    save_file(state, path)
    return path


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return open, (str(self.file), "w")


def run_notebook(name: str, **parameters) -> dict:
    """Execute a notebook's code cells in this process, quicker than in a kernel, and return its variables.

    As papermill does, parameters are assigned in a cell of their own after the one tagged `parameters`. The last
    expression of a cell is displayed, to nobody.
    """
    notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    variables: dict = {"__name__": "__main__", "In": [""]}
    with contextlib.chdir(NOTEBOOKS):
        try:
            for index, cell in enumerate(notebook["cells"]):
                if cell["cell_type"] == "code":
                    _execute("".join(cell["source"]), f"{name}, cell {index + 1}", variables)
                if parameters and "parameters" in cell["metadata"].get("tags", []):
                    injected = "".join(f"{key} = {value!r}\n" for key, value in parameters.items())
                    _execute("# Parameters\n" + injected, f"{name}, injected parameters", variables)
        finally:
            plt.close("all")
    return variables


def _execute(source: str, where: str, variables: dict) -> None:
    variables["In"].append(source)
    body = ast.parse(source, where).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), where, "exec"), variables)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), where, "eval"), variables)
        if value is not None:
            repr(value), getattr(value, "_repr_html_", str)()


def run_road(first: str = "01", last: str = "06", **parameters) -> None:
    """Several notebooks in turn, with the same parameters."""
    for name in ROAD:
        if first <= name[:2] <= last:
            run_notebook(name, **parameters)
