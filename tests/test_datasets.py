"""Readers, checks, table files and the torch Dataset, on layouts of a few drawn images and on the real folders."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wsol_utils import datasets
from wsol_utils.data.datasets import DatasetError, ImageDataset, check, hold_out, read_table, write_table

REAL = Path(__file__).parents[2] / "shared" / "data"
VAL, TRAIN = "ILSVRC/Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/train"
XML = "ILSVRC/Annotations/CLS-LOC/val"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def draw(root: Path, names: list[str], size: tuple[int, int]) -> None:
    """Images of noise, so that a file cut in half is short of pixels and not of padding only."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(root / name, format="JPEG")


def cub(root: Path) -> None:
    """Four 40 x 30 images of two classes, the second image in a box with fractions."""
    names = ["001.Red_bird/a.jpg", "001.Red_bird/b.jpg", "002.Blue_bird/c.jpg", "002.Blue_bird/d.jpg"]
    draw(root, [f"images/{name}" for name in names], (40, 30))
    write(
        root,
        {
            "images.txt": "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)),
            "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
            "train_test_split.txt": "1 1\n2 0\n3 1\n4 0\n",
            "bounding_boxes.txt": "1 0.0 0.0 40.0 30.0\n2 2.5 3.25 10.5 20.0\n3 5.0 6.0 7.0 8.0\n4 1.0 1.0 38.0 28.0\n",
            "classes.txt": "1 001.Red_bird\n2 002.Blue_bird\n",
        },
    )


def voc(*objects: tuple) -> str:
    body = "".join(
        f"<object>\n<name>{name}</name>\n<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox>\n</object>\n"
        for name, a, b, c, d in objects
    )
    return f"<annotation>\n<size><width>50</width><height>40</height></size>\n{body}</annotation>\n"


def ilsvrc(root: Path) -> None:
    """Two 50 x 40 validation images, the second with two boxes, and three train images, one without a box."""
    draw(
        root,
        [
            f"{VAL}/v1.JPEG",
            f"{VAL}/v2.JPEG",
            f"{TRAIN}/n02/n02_7.JPEG",
            f"{TRAIN}/n02/n02_12.JPEG",
            f"{TRAIN}/n01/n01_5.JPEG",
        ],
        (50, 40),
    )
    write(
        root,
        {
            "LOC_synset_mapping.txt": "n02 bird, feathered one\nn01 fish\n",
            "LOC_val_solution.csv": "ImageId,PredictionString\nv1,n01 1 2 30 39 \nv2,n02 0 0 49 39 n02 5 5 9 9 \n",
            "LOC_train_solution.csv": "ImageId,PredictionString\nn02_7,n02 3 4 5 6 \nn01_5,n01 0 1 2 3 \n",
            f"{XML}/v1.xml": voc(("n01", 1, 2, 30, 39)),
            f"{XML}/v2.xml": voc(("n02", 0, 0, 49, 39), ("n02", 5, 5, 9, 9)),
        },
    )


def tiny_imagenet(root: Path) -> None:
    draw(
        root,
        [
            "train/n01/images/n01_0.JPEG",
            "train/n02/images/n02_0.JPEG",
            "val/images/val_0.JPEG",
            "val/images/val_1.JPEG",
        ],
        (64, 64),
    )
    write(
        root,
        {
            "wnids.txt": "n02\nn01\n",
            "words.txt": "n00\tentity\nn01\tfish\nn02\tbird, feathered one\n",
            "train/n01/n01_boxes.txt": "n01_0.JPEG\t0\t10\t63\t58\n",
            "train/n02/n02_boxes.txt": "n02_0.JPEG\t4\t5\t4\t9\n",
            "val/val_annotations.txt": "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t63\t0\t63\t63\n",
        },
    )


LAYOUTS: dict[str, Callable[[Path], None]] = {"cub": cub, "ilsvrc": ilsvrc, "tiny_imagenet": tiny_imagenet}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def read(layout: str, root: Path) -> pd.DataFrame:
    return datasets.READERS[layout](root)


# Readers: the boxes are worked out by hand.


def test_cub_golden(tmp_path: Path) -> None:
    cub(tmp_path)
    table = datasets.read_cub(tmp_path)
    assert list(table.columns) == list(datasets.COLUMNS)
    assert table["image_id"].tolist()[:2] == ["001.Red_bird/a.jpg", "001.Red_bird/b.jpg"]
    assert table["path"][2] == "images/002.Blue_bird/c.jpg"
    assert table["split"].tolist() == ["train", "test", "train", "test"]
    assert table["label"].tolist() == [0, 0, 1, 1]
    assert table["class_name"].tolist() == ["Red bird", "Red bird", "Blue bird", "Blue bird"]
    assert table["boxes"].tolist() == [  # x, y, x + width, y + height
        [(0.0, 0.0, 40.0, 30.0)],
        [(2.5, 3.25, 13.0, 23.25)],
        [(5.0, 6.0, 12.0, 14.0)],
        [(1.0, 1.0, 39.0, 29.0)],
    ]
    assert table["source"][1] == "bounding_boxes.txt:2 (images.txt:2)"
    assert not table[["width", "height"]].any(axis=None)


@pytest.mark.parametrize("boxes_from", ["xml", "csv"])
def test_ilsvrc_golden(tmp_path: Path, boxes_from: str) -> None:
    ilsvrc(tmp_path)
    if boxes_from == "csv":
        (tmp_path / XML).rename(tmp_path / "elsewhere")
    table = datasets.read_ilsvrc(tmp_path)
    # train by class in the mapping's order, then by file name; then val in the order of its list
    assert table["image_id"].tolist() == ["n02_12", "n02_7", "n01_5", "v1", "v2"]
    assert table["path"].tolist()[1::2] == [f"{TRAIN}/n02/n02_7.JPEG", f"{VAL}/v1.JPEG"]
    assert table["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert table["label"].tolist() == [0, 0, 1, 1, 0]
    assert table["class_name"].tolist() == ["bird", "bird", "fish", "fish", "bird"]
    assert table["boxes"].tolist() == [  # the last pixel is the object's: + 1
        [],
        [(3, 4, 6, 7)],
        [(0, 1, 3, 4)],
        [(1, 2, 31, 40)],
        [(0, 0, 50, 40), (5, 5, 10, 10)],
    ]
    listed = f"{XML}/v2.xml (LOC_val_solution.csv:3)" if boxes_from == "xml" else "LOC_val_solution.csv:3"
    assert table["source"].tolist()[1::3] == ["LOC_train_solution.csv:2", listed]


def test_ilsvrc_without_train(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    (tmp_path / TRAIN).rename(tmp_path / "elsewhere")  # its list stays
    assert datasets.read_ilsvrc(tmp_path)["split"].tolist() == ["test", "test"]


def test_ilsvrc_train_without_list(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    (tmp_path / "LOC_train_solution.csv").unlink()
    table = datasets.read_ilsvrc(tmp_path)
    assert table["boxes"].tolist()[:3] == [[], [], []]
    assert table["source"][0] == f"{TRAIN}/n02"


def test_tiny_imagenet_golden(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path)
    table = datasets.read_tiny_imagenet(tmp_path)
    assert table["image_id"].tolist() == ["n01_0", "n02_0", "val_0", "val_1"]
    assert table["path"].tolist()[1:3] == ["train/n02/images/n02_0.JPEG", "val/images/val_0.JPEG"]
    assert table["split"].tolist() == ["train", "train", "test", "test"]
    assert table["label"].tolist() == [0, 1, 1, 0]  # wnids sorted
    assert table["class_name"].tolist() == ["fish", "bird", "bird", "fish"]
    # equal inclusive corners are one pixel, not an empty box: the real files have 132 such columns and rows
    assert table["boxes"].tolist() == [[(0, 10, 64, 59)], [(4, 5, 5, 10)], [(0, 32, 45, 63)], [(63, 0, 64, 64)]]
    assert table["source"].tolist()[::2] == ["train/n01/n01_boxes.txt:1", "val/val_annotations.txt:1"]


@each_layout
def test_blank_lines_windows_lines_and_a_byte_order_mark(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    expected = read(layout, tmp_path)
    for file in (*tmp_path.rglob("*.txt"), *tmp_path.rglob("*.csv")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    pd.testing.assert_frame_equal(read(layout, tmp_path), expected)


# What lies beside the images, and images that lie elsewhere.


def leave(root: Path, folders: list[str]) -> None:
    """What file managers, archives and JupyterLab leave, in each of the folders."""
    for folder in folders:
        write(root / folder, {f"{name}": "" for name in ("._n02_7.JPEG", ".DS_Store", "Thumbs.db", "desktop.ini")})
        write(root / folder, {".ipynb_checkpoints/n02_7.JPEG": "", "__MACOSX/._n02_7.JPEG": ""})


@pytest.mark.parametrize("layout", ["ilsvrc", "tiny_imagenet"])  # CUB's folders are not listed
@pytest.mark.filterwarnings("error")
def test_litter_is_not_counted(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    before = read(layout, tmp_path)
    leave(tmp_path, [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_dir()])
    pd.testing.assert_frame_equal(read(layout, tmp_path), before)


@pytest.mark.filterwarnings("error")
def test_any_ending_of_a_jpeg(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    before = datasets.read_ilsvrc(tmp_path)
    renamed = {f"{TRAIN}/n02/n02_7": ".jpeg", f"{TRAIN}/n01/n01_5": ".JPG", f"{VAL}/v1": ".jpeg", f"{VAL}/v2": ".jpg"}
    for path, ending in renamed.items():
        (tmp_path / f"{path}.JPEG").rename(tmp_path / f"{path}{ending}")
    found = check(datasets.read_ilsvrc(tmp_path), tmp_path)
    assert found["path"].tolist() == [f"{TRAIN}/n02/n02_12.JPEG", *(path + ending for path, ending in renamed.items())]
    pd.testing.assert_frame_equal(found[["image_id", "boxes", "split"]], before[["image_id", "boxes", "split"]])
    for folder, name in ((f"{TRAIN}/n02", "n02_7"), (VAL, "v1")):
        draw(tmp_path, [f"{folder}/{name}.JPEG"], (50, 40))
        with pytest.raises(
            DatasetError, match=rf"{folder}/{name}\.jpeg: {name}\.JPEG beside it has the same id; remove"
        ):
            datasets.read_ilsvrc(tmp_path)
        (tmp_path / folder / f"{name}.JPEG").unlink()


def test_other_files_beside_train_images_are_counted(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    before = datasets.read_ilsvrc(tmp_path)
    write(tmp_path, {f"{TRAIN}/{name}": "" for name in ("n02/n02_9.png", "n02/list.txt", "n01/JPEG")})
    with pytest.warns(UserWarning, match=rf"{TRAIN}: left out 3 files .*, first 'n02/list.txt'; rename"):
        pd.testing.assert_frame_equal(datasets.read_ilsvrc(tmp_path), before)


def into(root: Path, path: str, folder: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / path).rename(root / folder / Path(path).name)


def test_ilsvrc_s_validation_in_class_folders(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    for name, wnid in (("v1", "n01"), ("v2", "n02")):
        into(tmp_path, f"{VAL}/{name}.JPEG", f"{VAL}/{wnid}")
        into(tmp_path, f"{XML}/{name}.xml", f"{XML}/{wnid}")
    table = check(datasets.read_ilsvrc(tmp_path), tmp_path)
    assert table["path"].tolist()[3:] == [f"{VAL}/n01/v1.JPEG", f"{VAL}/n02/v2.JPEG"]
    assert table["source"][4] == f"{XML}/n02/v2.xml (LOC_val_solution.csv:3)"
    assert table["boxes"].tolist()[3:] == [[(1, 2, 31, 40)], [(0, 0, 50, 40), (5, 5, 10, 10)]]
    draw(tmp_path, [f"{VAL}/v2.JPEG"], (60, 50))
    assert check(datasets.read_ilsvrc(tmp_path), tmp_path)["path"].tolist()[4] == f"{VAL}/v2.JPEG"  # the flat one wins
    (tmp_path / VAL / "v2.JPEG").unlink()
    into(tmp_path, f"{VAL}/n02/v2.JPEG", f"{VAL}/n01")  # of another class: not taken for it
    with pytest.raises(DatasetError, match=rf"{VAL}/v2\.JPEG: missing image"):
        check(datasets.read_ilsvrc(tmp_path), tmp_path)


@pytest.mark.parametrize("folder", ["val/{}/images", "val/{}"])
def test_tiny_imagenet_s_validation_in_class_folders(tmp_path: Path, folder: str) -> None:
    tiny_imagenet(tmp_path)
    before = datasets.read_tiny_imagenet(tmp_path)
    for name, wnid in (("val_0", "n02"), ("val_1", "n01")):
        into(tmp_path, f"val/images/{name}.JPEG", folder.format(wnid))
    paths = ["train/n01/images/n01_0.JPEG", "train/n02/images/n02_0.JPEG"]
    paths += [f"{folder.format('n02')}/val_0.JPEG", f"{folder.format('n01')}/val_1.JPEG"]
    table = datasets.read_tiny_imagenet(tmp_path)
    pd.testing.assert_frame_equal(table, before.assign(path=paths))
    check(table, tmp_path)


def test_a_folder_of_images_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not looked into for each of 50,000 names."""
    ilsvrc(tmp_path)
    into(tmp_path, f"{VAL}/v2.JPEG", f"{VAL}/n02")
    listed, real = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(Path(path)) or real(path))
    datasets.read_ilsvrc(tmp_path)
    assert len(listed) == len(set(listed)) and {tmp_path / VAL, tmp_path / VAL / "n02", tmp_path / XML} <= set(listed)


# Bad input: (layout, file, text to replace or None to delete the file, its replacement, what the message says).

BAD_FILES = [
    ("cub", "images.txt", None, None, ["images.txt: no such file", "DATA_ROOT", "notebook 01"]),
    ("cub", "bounding_boxes.txt", None, None, ["bounding_boxes.txt: no such file", "DATA_ROOT"]),
    ("cub", "bounding_boxes.txt", "3 5.0", "3 five", ["bounding_boxes.txt:3", "four finite numbers", "five"]),
    ("cub", "bounding_boxes.txt", "3 5.0", "3 nan", ["bounding_boxes.txt:3", "nan"]),
    ("cub", "bounding_boxes.txt", "3 5.0", "3 inf", ["bounding_boxes.txt:3", "inf"]),
    ("cub", "bounding_boxes.txt", "3 5.0", "3", ["bounding_boxes.txt:3", "expected 5 fields", "3 6.0 7.0 8.0"]),
    ("cub", "bounding_boxes.txt", "8.0\n", "8.0 9\n", ["bounding_boxes.txt:3", "four finite numbers", "8.0 9"]),
    ("cub", "bounding_boxes.txt", "6.0 7.0", "6.0 0", ["bounding_boxes.txt:3", "no area"]),
    ("cub", "bounding_boxes.txt", "6.0 7.0", "6.0 -7", ["bounding_boxes.txt:3", "no area"]),
    ("cub", "bounding_boxes.txt", "3 5.0 6.0 7.0 8.0\n", "", ["images.txt:3", "image 3 has no line in bounding_boxes"]),
    (
        "cub",
        "bounding_boxes.txt",
        "3 5.0",
        "2 5.0",
        ["bounding_boxes.txt:3", "duplicate id '2'", "bounding_boxes.txt:2"],
    ),
    (
        "cub",
        "bounding_boxes.txt",
        "4 1.0",
        "9 1 1 1 1\n4 1.0",
        ["bounding_boxes.txt:4", "image 9 is not in images.txt"],
    ),
    ("cub", "image_class_labels.txt", "2 1\n", "", ["images.txt:2", "no line in image_class_labels.txt"]),
    ("cub", "image_class_labels.txt", "3 2", "3 7", ["image_class_labels.txt:3", "'7'", "classes.txt"]),
    ("cub", "train_test_split.txt", "3 1", "3 2", ["train_test_split.txt:3", "'2'", "train", "test"]),
    ("cub", "images.txt", "3 002.Blue_bird", "3 ../elsewhere", ["images.txt:3", "../elsewhere", "leaves"]),
    ("cub", "images.txt", "3 002.Blue_bird", "3 /elsewhere", ["images.txt:3", "/elsewhere", "leaves"]),
    ("cub", "images.txt", "b.jpg", "a.jpg", ["bounding_boxes.txt:2 (images.txt:2)", "a.jpg", "twice"]),
    ("cub", "images.txt", "3 002.Blue_bird/c.jpg", "3", ["images.txt:3", "expected 2 fields"]),
    ("ilsvrc", "LOC_val_solution.csv", None, None, ["LOC_val_solution.csv: no such file", "DATA_ROOT", "notebook 01"]),
    ("ilsvrc", "LOC_synset_mapping.txt", None, None, ["LOC_synset_mapping.txt: no such file", "DATA_ROOT"]),
    ("ilsvrc", "LOC_val_solution.csv", "ImageId,PredictionString\n", "", ["LOC_val_solution.csv:1", "header"]),
    ("ilsvrc", "LOC_val_solution.csv", "v1,n01 1 2 30 39", "v1,", ["LOC_val_solution.csv:2", "without a box"]),
    ("ilsvrc", "LOC_val_solution.csv", "30 39", "30", ["LOC_val_solution.csv:2", "'n01 1 2 30'"]),
    ("ilsvrc", "LOC_val_solution.csv", "v1,", "v1;", ["LOC_val_solution.csv:2", "expected 2 fields"]),
    ("ilsvrc", "LOC_val_solution.csv", "30 39", "0 39", ["LOC_val_solution.csv:2", "no area"]),
    ("ilsvrc", "LOC_val_solution.csv", "30 39", "30 inf", ["LOC_val_solution.csv:2", "inf"]),
    ("ilsvrc", "LOC_val_solution.csv", "v1,n01", "v1,n09", ["LOC_val_solution.csv:2", "unknown synset 'n09'"]),
    ("ilsvrc", "LOC_val_solution.csv", "39 n02", "39 n01", ["LOC_val_solution.csv:3", "n02 0 0 49 39 n01"]),
    ("ilsvrc", "LOC_val_solution.csv", "v2,", "v1,", ["LOC_val_solution.csv:3", "duplicate id 'v1'"]),
    ("ilsvrc", "LOC_val_solution.csv", "v2,", "../v2,", ["LOC_val_solution.csv:3", "'../v2'", "leaves"]),
    (
        "ilsvrc",
        "LOC_train_solution.csv",
        "n02_7,",
        "n02_8,",
        ["LOC_train_solution.csv:2", "missing image", "n02_8.JPEG"],
    ),
    ("ilsvrc", "LOC_train_solution.csv", "n02_7,n02", "n02_7,n01", ["LOC_train_solution.csv:2", "'n01'", "train/n02"]),
    ("ilsvrc", "LOC_train_solution.csv", "4 5 6", "4 5 2", ["LOC_train_solution.csv:2", "no area"]),
    ("ilsvrc", "LOC_synset_mapping.txt", "n01 fish\n", "", [f"{TRAIN}/n01", "unknown synset"]),
    ("ilsvrc", "LOC_synset_mapping.txt", "n01 fish", "n01 fish\nn03 cat", [f"{TRAIN}/n03", "no such folder"]),
    ("ilsvrc", f"{XML}/v2.xml", None, None, [f"{XML}/v2.xml: no such file", "LOC_val_solution.csv:3", "unpack"]),
    ("ilsvrc", f"{XML}/v2.xml", "</annotation>", "", [f"{XML}/v2.xml:12", "XML"]),
    ("ilsvrc", f"{XML}/v2.xml", "<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', [f"{XML}/v2.xml", "XML"]),
    ("ilsvrc", f"{XML}/v2.xml", "object>", "thing>", [f"{XML}/v2.xml", "LOC_val_solution.csv:3", "without a box"]),
    ("ilsvrc", f"{XML}/v2.xml", "<xmax>9</xmax>", "", [f"{XML}/v2.xml, object 2", "four finite numbers"]),
    ("ilsvrc", f"{XML}/v2.xml", "<xmax>9<", "<xmax>4<", [f"{XML}/v2.xml, object 2", "no area"]),
    ("ilsvrc", f"{XML}/v2.xml", "<name>n02", "<name>n01", [f"{XML}/v2.xml, object 1", "'n01'", "'n02'"]),
    ("tiny_imagenet", "wnids.txt", None, None, ["wnids.txt: no such file", "DATA_ROOT", "notebook 01"]),
    ("tiny_imagenet", "words.txt", None, None, ["words.txt: no such file", "DATA_ROOT"]),
    ("tiny_imagenet", "val/val_annotations.txt", None, None, ["val/val_annotations.txt: no such file", "DATA_ROOT"]),
    ("tiny_imagenet", "train/n02/n02_boxes.txt", None, None, ["train/n02/n02_boxes.txt: no such file", "DATA_ROOT"]),
    ("tiny_imagenet", "words.txt", "n01\tfish\n", "", ["wnids.txt:2", "'n01'", "words.txt"]),
    ("tiny_imagenet", "wnids.txt", "n01", "n02", ["wnids.txt:2", "duplicate id 'n02'"]),
    ("tiny_imagenet", "wnids.txt", "n01", "../n01", ["wnids.txt:2", "leaves"]),
    ("tiny_imagenet", "val/val_annotations.txt", "n01", "n09", ["val/val_annotations.txt:2", "unknown synset 'n09'"]),
    ("tiny_imagenet", "val/val_annotations.txt", "\t0\t63\t63", "", ["val/val_annotations.txt:2", "expected 6 fields"]),
    ("tiny_imagenet", "val/val_annotations.txt", "44", "x", ["val/val_annotations.txt:1", "0 32 x 62"]),
    ("tiny_imagenet", "val/val_annotations.txt", "62", "31", ["val/val_annotations.txt:1", "no area"]),
    ("tiny_imagenet", "val/val_annotations.txt", "val_1", "val_0", ["val/val_annotations.txt:2", "twice"]),
    ("tiny_imagenet", "val/val_annotations.txt", "val_1", "../val_1", ["val/val_annotations.txt:2", "leaves"]),
    ("tiny_imagenet", "train/n01/n01_boxes.txt", "63", "-3", ["train/n01/n01_boxes.txt:1", "no area"]),
]


@pytest.mark.parametrize(("layout", "file", "old", "new", "said"), BAD_FILES)
def test_bad_file_is_named(
    tmp_path: Path, layout: str, file: str, old: str | None, new: str | None, said: list[str]
) -> None:
    LAYOUTS[layout](tmp_path)
    if file == "LOC_val_solution.csv":  # its own boxes count only where there are no XML files
        (tmp_path / XML).rename(tmp_path / "elsewhere")
    text = (tmp_path / file).read_text()
    if old is None:
        (tmp_path / file).unlink()
    else:
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(DatasetError) as caught:
        read(layout, tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and (
        "correct it, or unpack" in message or "DATA_ROOT" in message or "unpack the data set again" in message
    )
    assert [part for part in said if part not in message] == []


@each_layout
def test_missing_root(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.*no such folder; DATA_ROOT must be the folder .*notebook 01"):
        read(layout, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("layout", "file"),
    [("cub", "images.txt"), ("ilsvrc", "LOC_val_solution.csv"), ("tiny_imagenet", "val/val_annotations.txt")],
)
def test_empty_list_and_bytes_that_are_no_text(tmp_path: Path, layout: str, file: str) -> None:
    LAYOUTS[layout](tmp_path)
    (tmp_path / file).write_bytes(b"1 caf\xe9\n")
    with pytest.raises(DatasetError, match=f"{file}: not a text in UTF-8"):
        read(layout, tmp_path)
    for name in (
        [file, "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"]
        if layout == "cub"
        else [file, *(f"train/{wnid}/{wnid}_boxes.txt" for wnid in ("n01", "n02"))]
    ):
        write(tmp_path, {name: "ImageId,PredictionString\n" if layout == "ilsvrc" else "\n"})
    if layout == "ilsvrc":
        (tmp_path / TRAIN).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=f"{file}: lists no image"):
        read(layout, tmp_path)


# check


@each_layout
def test_check_fills_sizes(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    table = read(layout, tmp_path)
    before = table.copy(deep=True)
    checked = check(table, tmp_path)
    sizes = {"cub": (40, 30), "ilsvrc": (50, 40), "tiny_imagenet": (64, 64)}
    assert set(zip(checked["width"], checked["height"], strict=True)) == {sizes[layout]}
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(checked.drop(columns=["width", "height"]), table.drop(columns=["width", "height"]))
    assert (checked["clipped"] == 0).all()
    only_test = check(table, tmp_path, ["test"])
    assert (only_test["width"] > 0).tolist() == (table["split"] == "test").tolist()


@pytest.mark.parametrize(
    ("box", "kept", "clipped"),  # x y width height in an image of 40 x 30
    [
        ("-0.5 0 9 9", (0, 0, 8.5, 9), 0.5),
        ("5 -7 9 9", (5, 0, 14, 2), 7),
        ("30 6 42 8", (30, 6, 40, 14), 32),
        ("5 6 7 26", (5, 6, 12, 30), 2),
        ("-1 -2 45 35", (0, 0, 40, 30), 4),  # by 1, 2, 4 and 3
    ],
)
def test_check_clips_and_says_by_how_much(
    tmp_path: Path, box: str, kept: tuple[float, float, float, float], clipped: float
) -> None:
    cub(tmp_path)
    lines = (tmp_path / "bounding_boxes.txt").read_text()
    (tmp_path / "bounding_boxes.txt").write_text(lines.replace("3 5.0 6.0 7.0 8.0", f"3 {box}"))
    table = datasets.read_cub(tmp_path)
    checked = check(table, tmp_path)
    assert checked["boxes"].tolist()[1:3] == [[(2.5, 3.25, 13.0, 23.25)], [kept]]
    assert checked["clipped"].tolist() == [0, 0, clipped, 0]
    pd.testing.assert_frame_equal(check(checked, tmp_path), checked)  # once clipped it stays counted
    assert check(table, tmp_path, splits=["test"])["boxes"][2] == table["boxes"][2]  # it is a train image


def test_check_of_cub_s_boxes_beyond_the_edge(tmp_path: Path) -> None:
    """Two lines as the data set has them, with the sizes of their images."""
    cub(tmp_path)
    draw(tmp_path, ["images/001.Red_bird/a.jpg"], (500, 410))
    draw(tmp_path, ["images/001.Red_bird/b.jpg"], (500, 333))
    lines = (tmp_path / "bounding_boxes.txt").read_text().splitlines()
    write(
        tmp_path, {"bounding_boxes.txt": "\n".join(["1 92.0 51.0 440.0 303.0", "2 3.0 31.0 387.0 304.0", *lines[2:]])}
    )
    checked = check(datasets.read_cub(tmp_path), tmp_path)
    assert checked["boxes"].tolist()[:2] == [[(92, 51, 500, 354)], [(3, 31, 390, 333)]]
    assert checked["clipped"].tolist() == [32, 2, 0, 0]


def test_check_clips_an_inclusive_corner_on_the_frame(tmp_path: Path) -> None:
    ilsvrc(tmp_path)  # xmax 50 of a 50 pixels wide image, as in the real annotations
    write(tmp_path, {f"{XML}/v2.xml": voc(("n02", 0, 0, 50, 40))})
    checked = check(datasets.read_ilsvrc(tmp_path), tmp_path)
    assert checked["boxes"].tolist()[-1] == [(0, 0, 50, 40)] and checked["clipped"].tolist()[-1] == 1


@pytest.mark.parametrize(
    "box", ["40 0 1 9", "0 30 9 1", "-1 0 1 9", "0 -9 9 9", "90 90 5 5", "-9 3 5 5", "3 -50 9 5", "39 30.5 9 9"]
)
def test_check_box_outside_its_image(tmp_path: Path, box: str) -> None:
    cub(tmp_path)
    lines = (tmp_path / "bounding_boxes.txt").read_text()
    (tmp_path / "bounding_boxes.txt").write_text(lines.replace("3 5.0 6.0 7.0 8.0", f"3 {box}"))
    table = datasets.read_cub(tmp_path)
    with pytest.raises(DatasetError, match=r"bounding_boxes.txt:3 .*box 1, .*outside.*c\.jpg of 40 x 30 .*correct it"):
        check(table, tmp_path)
    check(table, tmp_path, splits=["test"])  # it is a train image


def test_check_several_boxes_of_an_image(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    inside, beyond = ("n02", 0, 0, 49, 39), ("n02", -3, 5, 52, 9)
    write(tmp_path, {f"{XML}/v2.xml": voc(inside, beyond, inside)})
    write(tmp_path, {"LOC_train_solution.csv": "ImageId,PredictionString\nn02_7,n02 3 4 5 6 n02 9 9 60 60\n"})
    checked = check(datasets.read_ilsvrc(tmp_path), tmp_path)
    assert checked["boxes"].tolist()[-1] == [(0, 0, 50, 40), (0, 5, 50, 10), (0, 0, 50, 40)]
    assert checked["boxes"].tolist()[1] == [(3, 4, 6, 7), (9, 9, 50, 40)]
    assert checked["clipped"].tolist() == [0, 21, 0, 0, 3]  # 61 of 40 below; 53 of 50 to the right, 3 to the left
    write(tmp_path, {f"{XML}/v2.xml": voc(inside, ("n02", 50, 5, 52, 9))})
    with pytest.raises(DatasetError, match=r"v2\.xml \(LOC_val_solution\.csv:3\): box 2, .*v2\.JPEG of 50 x 40"):
        check(datasets.read_ilsvrc(tmp_path), tmp_path)


def test_check_missing_images_are_counted(tmp_path: Path) -> None:
    cub(tmp_path)
    table = datasets.read_cub(tmp_path)
    (tmp_path / table["path"][1]).unlink()
    (tmp_path / table["path"][3]).unlink()
    with pytest.raises(DatasetError, match=r"b\.jpg: missing image, .*\(images.txt:2\) \(2 of 4 images .*unpack"):
        check(table, tmp_path)
    check(table, tmp_path, splits=["train"])


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "png"])
def test_image_that_does_not_decode(tmp_path: Path, kind: str) -> None:
    cub(tmp_path)
    table = datasets.read_cub(tmp_path)
    file = tmp_path / table["path"][2]
    if kind == "png":
        Image.open(file).save(file, format="PNG")
    data = file.read_bytes()
    file.write_bytes({"truncated": data[:-100], "text": b"no image", "empty": b"", "png": data[:500]}[kind])
    with pytest.raises(DatasetError, match=r"c\.jpg: .*not decode.*listed in bounding_boxes.txt:3 .*unpack"):
        check(table, tmp_path)
    with pytest.raises(DatasetError, match=r"c\.jpg: .*not decode.*unpack"):
        ImageDataset(table, tmp_path, datasets.test_transform(32))[2]


def test_check_names_the_first_error_in_the_table_s_order(tmp_path: Path) -> None:
    cub(tmp_path)
    table = datasets.read_cub(tmp_path)
    for row in (1, 3):
        (tmp_path / table["path"][row]).write_bytes(b"no image")
    for _ in range(5):
        with pytest.raises(DatasetError, match=r"b\.jpg"):
            check(table, tmp_path)
        with pytest.raises(DatasetError, match=r"d\.jpg"):
            check(table[::-1], tmp_path)


def test_check_unknown_split(tmp_path: Path) -> None:
    cub(tmp_path)
    with pytest.raises(DatasetError, match="unknown split 'val'"):
        check(datasets.read_cub(tmp_path), tmp_path, splits=["val"])


# Table files, held-out part


@each_layout
def test_table_round_trip(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    table = check(read(layout, tmp_path), tmp_path)
    table.loc[0, "image_id"], table.loc[0, "class_name"], table.loc[1, "class_name"] = "007", "NA", 'a, "quoted"'
    write_table(table, tmp_path / "new folder" / "table.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "new folder" / "table.csv"), table)
    assert os.listdir(tmp_path / "new folder") == ["table.csv"]
    plain = pd.read_csv(tmp_path / "new folder" / "table.csv")  # what another program sees
    assert json.loads(plain["boxes"].iloc[-1]) == [list(box) for box in table["boxes"].iloc[-1]]


def test_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    cub(tmp_path)
    table = datasets.read_cub(tmp_path)
    (tmp_path / "out").mkdir()
    write_table(table, tmp_path / "out" / "table.csv")
    with pytest.raises(TypeError):
        write_table(table.assign(boxes=[{1}] * 4), tmp_path / "out" / "table.csv")
    assert os.listdir(tmp_path / "out") == ["table.csv"]
    pd.testing.assert_frame_equal(read_table(tmp_path / "out" / "table.csv"), table)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "a,b\n1,2\n",
        ",".join(datasets.COLUMNS) + "\na,b,test,0,c,1,1,[[1]],d,0\n",
        ",".join(datasets.COLUMNS) + "\na,b,test,zero,c,1,1,[],d,0\n",
        ",".join(datasets.COLUMNS) + "\na,b,test,0,c,1,1,[],d,-1\n",
        ",".join(datasets.COLUMNS) + "\na,b,test,0,c,1,1,[],d,nan\n",
        ",".join(datasets.COLUMNS) + "\na,b,test,0,c,1,1,[],d,\n",
        ",".join(datasets.COLUMNS[:-1]) + "\na,b,test,0,c,1,1,[],d\n",
    ],
)
def test_read_table_of_something_else(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"table\.csv: .*run notebook 01"):
        read_table(tmp_path / "table.csv")


def made_up_table(sizes: list[int], test: int = 3) -> pd.DataFrame:
    rows = [
        (f"{label}_{i}", f"{label}_{i}.jpg", "train", label, str(label), 9, 9, [(0.0, 0.0, 9.0, 9.0)], "list:1", 0.0)
        for label, size in enumerate(sizes)
        for i in range(size)
    ]
    rows += [(f"t{i}", f"t{i}.jpg", "test", 0, "0", 9, 9, [(0.0, 0.0, 9.0, 9.0)], "list:1", 0.0) for i in range(test)]
    return pd.DataFrame(rows, columns=datasets.COLUMNS)


def test_hold_out_is_stratified_and_disjoint() -> None:
    table = made_up_table([10, 20, 5, 1, 2])
    part = hold_out(table)
    assert part["image_id"].tolist() == table["image_id"].tolist()[:38]  # every train row once, no test row
    assert part[part["split"] == "test"].groupby("label").size().to_dict() == {0: 2, 1: 4, 2: 1, 4: 1}
    pd.testing.assert_frame_equal(part, hold_out(table))
    assert (hold_out(table, seed=1)["split"] != part["split"]).any()
    assert (hold_out(table, fraction=0.5)["split"] == "test").sum() == 5 + 10 + 2 + 1
    assert set(table["split"]) == {"train", "test"}  # untouched


def test_hold_out_takes_images_with_boxes() -> None:
    table = made_up_table([10])
    table["boxes"] = [[] if row % 2 else boxes for row, boxes in enumerate(table["boxes"])]
    part = hold_out(table, fraction=0.9)
    assert part.index[part["split"] == "test"].tolist() == [0, 2, 4, 6, 8]


def test_hold_out_impossible() -> None:
    with pytest.raises(DatasetError, match="no train image with a box"):
        hold_out(made_up_table([], test=3))
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(DatasetError, match="fraction must lie between 0 and 1"):
            hold_out(made_up_table([3]), fraction)


# The Dataset: boxes follow the image.

RED = (255, 0, 0)


def painted(root: Path, size: tuple[int, int], boxes: list[tuple], mode: str = "RGB") -> pd.DataFrame:
    """One black image of (width, height), red within the boxes."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = RED
    Image.fromarray(pixels).convert(mode).save(root / "image.png")
    boxes = [tuple(map(float, box)) for box in boxes]
    row = ("image", "image.png", "train", 3, "c", *size, boxes, "list:1", 0.0)
    return pd.DataFrame([row], columns=datasets.COLUMNS)


def red_extent(image: torch.Tensor) -> list[int]:
    """Half-open box around what is more than half red in a normalised image (3, H, W); zeros where nothing is."""
    rows, columns = np.nonzero(datasets.denormalize(image)[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]


def test_resize_by_hand(tmp_path: Path) -> None:
    table = painted(tmp_path, (40, 20), [(10, 4, 30, 16), (0, 0, 40, 20), (4, 5, 6, 7)])
    image, label, boxes = ImageDataset(table, tmp_path, datasets.test_transform(80))[0]
    assert (image.shape, image.dtype, label, boxes.dtype) == ((3, 80, 80), torch.float32, 3, torch.float32)
    assert type(image) is torch.Tensor and type(boxes) is torch.Tensor
    assert boxes.tolist() == [[20, 16, 60, 64], [0, 0, 80, 80], [8, 20, 12, 28]]  # x twice, y four times


@pytest.mark.parametrize("box", [(50, 20, 110, 70), (0, 0, 90, 60), (131, 47, 160, 120), (70, 50, 78, 56)])
def test_box_frames_the_painted_region_through_augmentation(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    table = painted(tmp_path, (160, 120), [box])
    dataset = ImageDataset(table, tmp_path, datasets.train_transform(128, 96))
    seen = set()
    for epoch in range(20):
        dataset.set_epoch(epoch)
        image, _, boxes = dataset[0]
        x0, y0, x1, y1 = boxes[0].tolist()
        assert 0 <= x0 <= x1 <= 96 and 0 <= y0 <= y1 <= 96
        if x1 - x0 > 1 and y1 - y0 > 1:
            assert np.abs(np.subtract(red_extent(image), (x0, y0, x1, y1))).max() <= 1
        else:
            extent = red_extent(image)
            assert (extent[2] - extent[0]) * (extent[3] - extent[1]) <= 2 * 96
        seen.add(tuple(boxes[0].tolist()))
    assert len(seen) > 10


def test_augmentation_is_a_function_of_seed_epoch_and_index(tmp_path: Path) -> None:
    draw(tmp_path, [f"{i}.jpg" for i in range(6)], (70, 60))
    table = made_up_table([6], test=0).assign(path=[f"{i}.jpg" for i in range(6)])

    def epoch_of(dataset: ImageDataset, epoch: int) -> torch.Tensor:
        dataset.set_epoch(epoch)
        return torch.stack([image for image, _, _ in dataset])

    dataset = ImageDataset(table, tmp_path, datasets.train_transform(64, 48), seed=5)
    first, second = epoch_of(dataset, 0), epoch_of(dataset, 1)
    assert not torch.equal(first, second)
    assert len({image.numpy().tobytes() for image in first}) > 1  # the same photograph, another crop at each index
    torch.manual_seed(99)  # neither what was drawn before nor the number of workers matters
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=4, collate_fn=datasets.collate, num_workers=2, persistent_workers=True
    )
    for epoch, expected in ((0, first), (1, second)):  # persistent workers see the new epoch
        dataset.set_epoch(epoch)
        assert torch.equal(torch.cat([images for images, _, _ in loader]), expected)
    dataset.set_epoch(0)
    assert torch.equal(dataset[4][0], first[4]) and torch.equal(dataset[-2][0], first[4])
    assert not torch.equal(epoch_of(ImageDataset(table, tmp_path, dataset.transform, seed=6), 0), first)


def test_items_leave_the_random_state_alone(tmp_path: Path) -> None:
    dataset = ImageDataset(painted(tmp_path, (40, 30), [(1, 2, 30, 20)]), tmp_path, datasets.train_transform(32, 24))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)


def test_items_without_boxes_and_collate(tmp_path: Path) -> None:
    table = painted(tmp_path, (40, 30), [(1, 2, 30, 20), (3, 4, 9, 9)])
    table = pd.concat([table, table.assign(label=1, boxes=[[]]), table]).iloc[1:]
    dataset = ImageDataset(table, tmp_path, datasets.train_transform(32, 24))
    assert len(dataset) == 2 and dataset[0][2].shape == (0, 4)
    images, labels, boxes = datasets.collate([dataset[0], dataset[1]])
    assert images.shape == (2, 3, 24, 24) and images.dtype == torch.float32
    assert labels.tolist() == [1, 3] and labels.dtype == torch.int64
    assert [b.shape for b in boxes] == [(0, 4), (2, 4)]
    with pytest.raises(IndexError):
        dataset[2]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_other_colour_modes(tmp_path: Path, mode: str) -> None:
    table = painted(tmp_path, (40, 30), [(1, 2, 30, 20)], mode)
    image, _, _ = ImageDataset(table, tmp_path, datasets.test_transform(16))[0]
    assert image.shape == (3, 16, 16)


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    pixels[24:] = 255  # the lower rows stay the lower ones
    Image.fromarray(pixels).save(tmp_path / "image.jpg", exif=exif, quality=100, subsampling=0)
    table = painted(tmp_path, (40, 30), [(0, 0, 20, 30)]).assign(path="image.jpg")
    checked = check(table.assign(width=0, height=0), tmp_path)
    assert (checked["width"][0], checked["height"][0]) == (40, 30)
    item, _, _ = ImageDataset(table, tmp_path, datasets.test_transform(40))[0]
    assert (datasets.denormalize(item)[:30] == 0).all() and (datasets.denormalize(item)[-5:] > 200).all()


def test_normalisation_and_its_inverse(tmp_path: Path) -> None:
    table = painted(tmp_path, (9, 9), [(0, 0, 9, 9)]).assign(path="plain.png")
    Image.new("RGB", (9, 9), (255, 0, 51)).save(tmp_path / "plain.png")
    image, _, _ = ImageDataset(table, tmp_path, datasets.test_transform(4))[0]
    # (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225
    assert image[:, 1, 2].tolist() == pytest.approx([2.248908, -2.035714, -0.915556], abs=1e-5)
    pixels = datasets.denormalize(image[None])
    assert pixels.shape == (1, 4, 4, 3) and pixels.dtype == np.uint8
    assert (pixels == (255, 0, 51)).all()
    assert (datasets.denormalize(image.numpy()) == (255, 0, 51)).all()


# The real folders.


@pytest.mark.parametrize(
    ("folder", "layout", "splits", "classes"),
    [("cub20/CUB_200_2011", "cub", {"train": 600, "test": 549}, 20), ("ilsvrc800", "ilsvrc", {"test": 800}, 545)],
)
def test_real_folders(folder: str, layout: str, splits: dict[str, int], classes: int) -> None:
    if not (REAL / folder).is_dir():
        pytest.skip(f"the real photographs of {folder} are not here")
    table = check(read(layout, REAL / folder), REAL / folder)
    assert table["split"].value_counts().to_dict() == splits
    assert table["label"].nunique() == classes
    if layout == "cub":
        sizes = np.loadtxt(REAL / folder / "sizes.txt", dtype=int)[:, 1:]
        assert (table[["width", "height"]].to_numpy() == sizes).all()
    else:
        assert (table[["width", "height"]] == 227).all(axis=None) and table["boxes"].str.len().sum() == 1220
        assert max(box[2] for boxes in table["boxes"] for box in boxes) == 227
    images, labels, boxes = datasets.collate(
        [ImageDataset(table, REAL / folder, datasets.test_transform())[i] for i in (0, 7)]
    )
    assert images.shape == (2, 3, 224, 224) and all((b[:, 2:] > b[:, :2]).all() for b in boxes)
    assert labels.tolist() == table["label"].iloc[[0, 7]].tolist()


# Images left out.


def spoil(root: Path, table: pd.DataFrame, rows: dict[int, bytes | None]) -> None:
    for row, data in rows.items():
        file = root / table["path"][row]
        file.unlink() if data is None else file.write_bytes(data)


@pytest.mark.fault(
    "photographs that are missing or do not decode, and on_bad_image is skip",
    "left out and listed with the reason; a split that would be empty, and wrong boxes, still stop",
)
def test_leave_out_lists_what_cannot_be_used(tmp_path: Path) -> None:
    ilsvrc(tmp_path)
    table = read("ilsvrc", tmp_path)
    before = table.copy(deep=True)
    whole = (tmp_path / table["path"][2]).read_bytes()
    spoil(tmp_path, table, {0: None, 2: whole[:-100], 3: b"a letter"})
    used, left_out = datasets.leave_out(table, tmp_path)
    pd.testing.assert_frame_equal(table, before)
    sized = table.assign(width=used["width"][0], height=used["height"][0])
    pd.testing.assert_frame_equal(used, sized.iloc[[1, 4]].reset_index(drop=True))
    assert list(left_out.columns) == ["image_id", "path", "split", "reason"] and list(left_out.index) == [0, 1, 2]
    assert left_out["image_id"].tolist() == ["n02_12", "n01_5", "v1"]
    assert left_out["path"].tolist() == [table["path"][row] for row in (0, 2, 3)]
    assert left_out["split"].tolist() == ["train", "train", "test"]
    reasons = left_out["reason"].tolist()
    assert reasons[0] == "no such file" and reasons[2] == "does not decode (no image of a known format)"
    assert reasons[1].startswith("does not decode (") and "truncated" in reasons[1]
    assert not any(str(tmp_path) in reason or "\n" in reason for reason in reasons)
    check(used, tmp_path)


def test_leave_out_of_one_split_leaves_the_other_alone(tmp_path: Path) -> None:
    cub(tmp_path)
    table = read("cub", tmp_path)
    spoil(tmp_path, table, {0: None, 1: None})
    used, left_out = datasets.leave_out(table, tmp_path, splits=["test"])
    assert used["image_id"].tolist() == table["image_id"].tolist()[::2] + table["image_id"].tolist()[3:]
    assert left_out["image_id"].tolist() == [table["image_id"][1]]
    with pytest.raises(DatasetError, match="unknown split 'val'"):
        datasets.leave_out(table, tmp_path, splits=["val"])


def test_leave_out_of_a_table_in_another_order(tmp_path: Path) -> None:
    """Rows count, not the labels of the index, which may even repeat."""
    cub(tmp_path)
    table = read("cub", tmp_path)
    spoil(tmp_path, table, {2: None})
    mixed = table.iloc[[3, 2, 1, 0]].set_axis([7, 7, 7, 8])
    used, left_out = datasets.leave_out(mixed, tmp_path)
    assert used["image_id"].tolist() == [table["image_id"][row] for row in (3, 1, 0)]
    assert left_out["image_id"].tolist() == [table["image_id"][2]]


def test_leave_out_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cub(tmp_path)
    table = read("cub", tmp_path)
    used, left_out = datasets.leave_out(table, tmp_path)
    pd.testing.assert_frame_equal(used, check(table, tmp_path))
    monkeypatch.setattr(Image, "open", None)  # once is enough
    pd.testing.assert_frame_equal(check(used, tmp_path), used)
    assert left_out.empty and list(left_out.columns) == ["image_id", "path", "split", "reason"]


def test_leave_out_of_a_whole_split_stops(tmp_path: Path) -> None:
    cub(tmp_path)
    table = read("cub", tmp_path)
    spoil(tmp_path, table, {1: None, 3: b"a letter"})
    with pytest.raises(DatasetError, match=r"b\.jpg: no such file, as with every image of the test split; unpack"):
        datasets.leave_out(table, tmp_path)
    datasets.leave_out(table, tmp_path, splits=["train"])


def test_leave_out_leaves_wrong_boxes_to_check(tmp_path: Path) -> None:
    cub(tmp_path)
    table = read("cub", tmp_path).assign(boxes=[[(99.0, 0.0, 100.0, 9.0)]] * 4)
    used, left_out = datasets.leave_out(table, tmp_path)
    assert left_out.empty
    with pytest.raises(DatasetError, match="lies outside its image"):
        check(used, tmp_path)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError("all is used")]
)
def test_leave_out_stops_where_the_machine_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    cub(tmp_path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    told = r"^all is used$|a\.jpg: cannot be read \((Permission denied|Input/output error)\); make it readable"
    with pytest.raises((DatasetError, MemoryError), match=told):
        datasets.leave_out(read("cub", tmp_path), tmp_path)
