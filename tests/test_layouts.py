"""Readers of the layouts: boxes worked out by hand, and bad lines named by file and line."""

import time
from pathlib import Path

import pandas as pd
import pytest
from layouts_on_disk import TRAIN, VAL, XML, voc

from wsol_utils import layouts, text
from wsol_utils.data.layouts import DatasetError

FILES = {  # of each layout, the text of its lists; images are empty files
    "cub": {
        "images.txt": "1 001.Red_bird/a.jpg\n2 001.Red_bird/b.jpg\n3 002.Blue_bird/c.jpg\n4 002.Blue_bird/d.jpg\n",
        "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
        "train_test_split.txt": "1 1\n2 0\n3 1\n4 0\n",
        "bounding_boxes.txt": "1 0.0 0.0 40.0 30.0\n2 2.5 3.25 10.5 20.0\n3 5.0 6.0 7.0 8.0\n4 1.0 1.0 38.0 28.0\n",
        "classes.txt": "1 001.Red_bird\n2 002.Blue_bird\n",
    },
    "ilsvrc": {
        "LOC_synset_mapping.txt": "n02 bird, feathered one\nn01 fish\n",
        "LOC_val_solution.csv": "ImageId,PredictionString\nv1,n01 1 2 30 39 \nv2,n02 0 0 49 39 n02 5 5 9 9 \n",
        "LOC_train_solution.csv": "ImageId,PredictionString\nn02_7,n02 3 4 5 6 \nn01_5,n01 0 1 2 3 \n",
        f"{XML}/v1.xml": "\n".join(voc("n01", [(1, 2, 30, 39)])),
        f"{XML}/v2.xml": "\n".join(voc("n02", [(0, 0, 49, 39), (5, 5, 9, 9)])),
        **{f"{TRAIN}/{name}.JPEG": "" for name in ("n02/n02_7", "n02/n02_12", "n01/n01_5")},
        **{f"{VAL}/{name}.JPEG": "" for name in ("v1", "v2")},
    },
    "tiny_imagenet": {
        "wnids.txt": "n02\nn01\n",
        "words.txt": "n00\tentity\nn01\tfish\nn02\tbird, feathered one\n",
        "train/n01/n01_boxes.txt": "n01_0.JPEG\t0\t10\t63\t58\n",
        "train/n02/n02_boxes.txt": "n02_0.JPEG\t4\t5\t4\t9\n",
        "val/val_annotations.txt": "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t63\t0\t63\t63\n",
        **{f"val/images/val_{i}.JPEG": "" for i in range(2)},
    },
}
each_layout = pytest.mark.parametrize("layout", FILES)


def put(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def move(root: Path, path: str, folder: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / path).rename(root / folder / Path(path).name)


# By hand.


def test_cub(tmp_path):
    table = layouts.read_cub(put(tmp_path, FILES["cub"]))
    assert list(table.columns) == layouts.COLUMNS
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
    assert not table[["width", "height", "clipped"]].any(axis=None)


@pytest.mark.parametrize("boxes_from", ["xml", "csv"])
def test_ilsvrc(tmp_path, boxes_from):
    put(tmp_path, FILES["ilsvrc"])
    if boxes_from == "csv":
        (tmp_path / XML).rename(tmp_path / "elsewhere")
    table = layouts.read_ilsvrc(tmp_path)
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


def test_ilsvrc_without_train_or_its_list(tmp_path):
    put(tmp_path, FILES["ilsvrc"])
    (tmp_path / "LOC_train_solution.csv").unlink()
    table = layouts.read_ilsvrc(tmp_path)
    assert table["boxes"].tolist()[:3] == [[], [], []] and table["source"][0] == f"{TRAIN}/n02"
    (tmp_path / TRAIN).rename(tmp_path / "elsewhere")
    assert layouts.read_ilsvrc(tmp_path)["split"].tolist() == ["test", "test"]


def test_tiny_imagenet(tmp_path):
    table = layouts.read_tiny_imagenet(put(tmp_path, FILES["tiny_imagenet"]))
    assert table["image_id"].tolist() == ["n01_0", "n02_0", "val_0", "val_1"]
    assert table["path"].tolist()[1:3] == ["train/n02/images/n02_0.JPEG", "val/images/val_0.JPEG"]
    assert table["split"].tolist() == ["train", "train", "test", "test"]
    assert table["label"].tolist() == [0, 1, 1, 0]  # wnids sorted
    assert table["class_name"].tolist() == ["fish", "bird", "bird", "fish"]
    # equal inclusive corners are one pixel, not an empty box: the real files have 132 such columns and rows
    assert table["boxes"].tolist() == [[(0, 10, 64, 59)], [(4, 5, 5, 10)], [(0, 32, 45, 63)], [(63, 0, 64, 64)]]
    assert table["source"].tolist()[::2] == ["train/n01/n01_boxes.txt:1", "val/val_annotations.txt:1"]


@each_layout
def test_blank_lines_windows_lines_and_a_byte_order_mark(tmp_path, layout):
    expected = layouts.READERS[layout](put(tmp_path, FILES[layout]))
    for file in (*tmp_path.rglob("*.txt"), *tmp_path.rglob("*.csv")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    pd.testing.assert_frame_equal(layouts.READERS[layout](tmp_path), expected)


# What lies beside the images, and images that lie elsewhere.


def test_other_files_are_passed_over_and_any_ending_of_a_jpeg_is_read(tmp_path):
    put(tmp_path, FILES["ilsvrc"])
    before = layouts.read_ilsvrc(tmp_path)
    put(tmp_path / TRAIN / "n02", dict.fromkeys(("._n02_7.JPEG", ".DS_Store", "Thumbs.db", "list.txt"), ""))
    pd.testing.assert_frame_equal(layouts.read_ilsvrc(tmp_path), before)
    for path, ending in ((f"{TRAIN}/n02/n02_7", ".jpeg"), (f"{VAL}/v1", ".jpg"), (f"{VAL}/v2", ".JPG")):
        (tmp_path / f"{path}.JPEG").rename(tmp_path / f"{path}{ending}")
    found = layouts.read_ilsvrc(tmp_path)
    pd.testing.assert_frame_equal(found.drop(columns="path"), before.drop(columns="path"))
    assert [Path(path).name for path in found["path"]] == [
        "n02_12.JPEG", "n02_7.jpeg", "n01_5.JPEG", "v1.jpg", "v2.JPG"
    ]  # fmt: skip


def test_ilsvrc_s_train_folders_hold_its_classes_and_ids_once(tmp_path):
    put(tmp_path, FILES["ilsvrc"])
    (tmp_path / TRAIN / "n03").mkdir()
    with pytest.raises(layouts.DatasetError, match=f"{TRAIN}/n03: no synset of LOC_synset_mapping.txt"):
        layouts.read_ilsvrc(tmp_path)
    (tmp_path / TRAIN / "n03").rmdir()
    (tmp_path / TRAIN / "n01" / "n01_5.jpg").touch()  # beside n01_5.JPEG
    with pytest.raises(layouts.DatasetError, match=r"n01_5\.jpg is listed twice, or another image has its id, n01_5;"):
        layouts.read_ilsvrc(tmp_path)


def test_ilsvrc_s_validation_in_class_folders(tmp_path):
    put(tmp_path, FILES["ilsvrc"])
    for name, wnid in (("v1", "n01"), ("v2", "n02")):
        move(tmp_path, f"{VAL}/{name}.JPEG", f"{VAL}/{wnid}")
        move(tmp_path, f"{XML}/{name}.xml", f"{XML}/{wnid}")
    table = layouts.read_ilsvrc(tmp_path)
    assert table["path"].tolist()[3:] == [f"{VAL}/n01/v1.JPEG", f"{VAL}/n02/v2.JPEG"]
    assert table["source"][4] == f"{XML}/n02/v2.xml (LOC_val_solution.csv:3)"
    assert table["boxes"].tolist()[3:] == [[(1, 2, 31, 40)], [(0, 0, 50, 40), (5, 5, 10, 10)]]
    put(tmp_path, {f"{VAL}/v2.JPEG": ""})
    assert layouts.read_ilsvrc(tmp_path)["path"].tolist()[4] == f"{VAL}/v2.JPEG"  # the flat one wins
    (tmp_path / VAL / "v2.JPEG").unlink()
    move(tmp_path, f"{VAL}/n02/v2.JPEG", f"{VAL}/n01")  # of another class: not taken for it
    assert layouts.read_ilsvrc(tmp_path)["path"].tolist()[4] == f"{VAL}/v2.JPEG"


@pytest.mark.parametrize("folder", ["val/{}/images", "val/{}"])
def test_tiny_imagenet_s_validation_in_class_folders(tmp_path, folder):
    before = layouts.read_tiny_imagenet(put(tmp_path, FILES["tiny_imagenet"]))
    for name, wnid in (("val_0", "n02"), ("val_1", "n01")):
        move(tmp_path, f"val/images/{name}.JPEG", folder.format(wnid))
    paths = [*before["path"][:2], f"{folder.format('n02')}/val_0.JPEG", f"{folder.format('n01')}/val_1.JPEG"]
    pd.testing.assert_frame_equal(layouts.read_tiny_imagenet(tmp_path), before.assign(path=paths))


# Bad input: file, text to replace or None to delete the file, its replacement, what the message says.

BOXES, SPLIT, CLASSES = "bounding_boxes.txt", "train_test_split.txt", "image_class_labels.txt"
SOLUTION, MAPPING, ANNOTATIONS = "LOC_val_solution.csv", "LOC_synset_mapping.txt", "val/val_annotations.txt"
BAD = {
    "cub": [
        ("images.txt", None, None, "images.txt: no such file; DATA_ROOT must be the folder .*notebook 01"),
        (BOXES, "3 5.0", "3 five", f"{BOXES}:3: a box is four finite numbers below 2.31, found 'five 6.0 7.0 8.0'"),
        (BOXES, "3 5.0", "3 nan", f"{BOXES}:3: .*finite"),
        (BOXES, "3 5.0", "3", f"{BOXES}:3: expected 5 fields, found '3 6.0 7.0 8.0'"),
        (BOXES, "6.0 7.0", "6.0 0", f"{BOXES}:3: a box of no area"),
        (BOXES, "3 5.0 6.0 7.0 8.0\n", "", f"images.txt:3: image 3 has no line in {BOXES}"),
        (BOXES, "3 5.0", "2 5.0", f"{BOXES}:3: duplicate id '2', first in {BOXES}:2"),
        (BOXES, "4 1.0", "9 1 1 1 1\n4 1.0", f"{BOXES}:4: image 9 has no line in images.txt"),
        (CLASSES, "3 2", "3 7", f"{CLASSES}:3: class '7' is not in classes.txt"),
        (SPLIT, "3 1", "3 2", f"{SPLIT}:3: '2' is neither 1 .train. nor 0 .test."),
        ("images.txt", "3 002.Blue_bird", "3 ../elsewhere", "images.txt:3: '../elsewhere/c.jpg' .*leaves"),
        ("images.txt", "b.jpg", "a.jpg", f"{BOXES}:2 .images.txt:2.: .*a.jpg is listed twice"),
        ("images.txt", "002.Blue_bird/d", "./002.Blue_bird/c", f"{BOXES}:4 .images.txt:4.: .*listed twice"),
        ("images.txt", "a.jpg", "a\x1b[31m.jpg", "images.txt:1: .*control characters"),
        ("images.txt", "1 001", "\x01" * 3_000_000, "images.txt:1: expected 2 fields, found '.x01"),
    ],
    "ilsvrc": [
        (SOLUTION, None, None, f"{SOLUTION}: no such file; DATA_ROOT must be the folder .*notebook 01"),
        (SOLUTION, "ImageId,PredictionString\n", "", f"{SOLUTION}:1: the header .* is missing"),
        (SOLUTION, "v1,n01 1 2 30 39", "v1,", f"{SOLUTION}:2: an image without a box"),
        (SOLUTION, "30 39", "30", f"{SOLUTION}:2: .*'n01 1 2 30'"),
        (SOLUTION, "v1,", "v1;", f"{SOLUTION}:2: expected 2 fields"),
        (SOLUTION, "30 39", "0 39", f"{SOLUTION}:2: a box of no area"),
        (SOLUTION, "v1,n01", "v1,n09", f"{SOLUTION}:2: unknown synset 'n09'"),
        (SOLUTION, "39 n02", "39 n01", f"{SOLUTION}:3: .*n02 0 0 49 39 n01"),
        (SOLUTION, "v2,", "../v2,", f"{SOLUTION}:3: '../v2' .*leaves"),
        ("LOC_train_solution.csv", "n02_7,", "n02_8,", "solution.csv:2: missing image .*n02_8.JPEG"),
        ("LOC_train_solution.csv", "n02_7,n02", "n02_7,n01", "solution.csv:2: synset 'n01', but .*train/n02"),
        (MAPPING, "n01 fish", "n01 fish\nn03 cat", f"{TRAIN}/n03: no such folder"),
        (f"{XML}/v2.xml", None, None, f"{XML}/v2.xml: no readable XML .*image of {SOLUTION}:3"),
        (f"{XML}/v2.xml", "</annotation>", "", f"{XML}/v2.xml: no readable XML .*line 4"),
        (f"{XML}/v2.xml", "object>", "thing>", f"{XML}/v2.xml .{SOLUTION}:3.: a test image without a box"),
        (f"{XML}/v2.xml", "<xmax>9</xmax>", "", f"{XML}/v2.xml, object 2: a box is four finite numbers"),
        (f"{XML}/v2.xml", "<xmax>9<", "<xmax>4<", f"{XML}/v2.xml, object 2: a box of no area"),
        (f"{XML}/v2.xml", "<name>n02", "<name>n01", f"{XML}/v2.xml, object 1: synset 'n01', but 'n02'"),
    ],
    "tiny_imagenet": [
        ("wnids.txt", None, None, "wnids.txt: no such file; DATA_ROOT must be the folder .*notebook 01"),
        ("train/n02/n02_boxes.txt", None, None, "train/n02/n02_boxes.txt: no such file; DATA_ROOT"),
        ("words.txt", "n01\tfish\n", "", "wnids.txt:2: unknown synset 'n01', not in words.txt"),
        (ANNOTATIONS, "n01", "n09", f"{ANNOTATIONS}:2: unknown synset 'n09'"),
        (ANNOTATIONS, "\t0\t63\t63", "", f"{ANNOTATIONS}:2: expected 6 fields"),
        (ANNOTATIONS, "44", "x", f"{ANNOTATIONS}:1: .*'0 32 x 62'"),
        (ANNOTATIONS, "62", "31", f"{ANNOTATIONS}:1: a box of no area"),
        (ANNOTATIONS, "val_1", "val_0", f"{ANNOTATIONS}:2: .*twice"),
        (ANNOTATIONS, "val_1", "../val_1", f"{ANNOTATIONS}:2: .*leaves"),
    ],
}  # fmt: skip


def refused(layout: str, root: Path, told: str) -> None:
    """The message, one line and not a long one, names a file below the root, says so, and has a remedy."""
    with pytest.raises(DatasetError, match=told) as caught:
        layouts.READERS[layout](root)
    message = str(caught.value)
    assert message.startswith(f"{root}/") and message.isprintable() and len(message) < len(str(root)) + 700
    assert "; correct it, or unpack the data set again (notebook 01" in message or "; DATA_ROOT must be" in message


@pytest.mark.fault("a malformed line: fields, ids, classes or boxes that are wrong", "refused with file and line")
@pytest.mark.fault("NaN, infinity or 2^31 in place of a number", "refused with file and line")
@pytest.mark.fault(
    "a path or id that climbs, is absolute, or holds control characters",
    "refused with file and line before any file is looked up; the message is one plain line",
)
@pytest.mark.parametrize(("layout", "case"), [(layout, case) for layout, cases in BAD.items() for case in cases])
def test_a_bad_file_is_named(tmp_path, layout, case):
    file, old, new, told = case
    put(tmp_path, FILES[layout])
    if file == SOLUTION:  # its own boxes count only where there are no XML files
        (tmp_path / XML).rename(tmp_path / "elsewhere")
    if old is None:
        (tmp_path / file).unlink()
    else:
        assert old in FILES[layout][file]
        put(tmp_path, {file: FILES[layout][file].replace(old, new)})
    refused(layout, tmp_path, told)


@each_layout
def test_no_folder_and_no_image(tmp_path, layout):
    with pytest.raises(DatasetError, match=r"nowhere.*no such folder; DATA_ROOT must be the folder .*notebook 01"):
        layouts.READERS[layout](tmp_path / "nowhere")
    lists = {name: "\n" for name in FILES[layout] if name.endswith((".txt", ".csv"))}
    put(tmp_path, lists | ({SOLUTION: "ImageId,PredictionString\n"} if layout == "ilsvrc" else {}))
    refused(layout, tmp_path, "lists no image")


@pytest.mark.fault("a list in UTF-16 or Latin-1", "refused with its name, nothing is guessed")
@each_layout
def test_other_encodings(tmp_path, layout):
    put(tmp_path, FILES[layout])
    for name, content in FILES[layout].items():
        if name.endswith((".txt", ".csv")):
            for data in (content.encode("utf-16"), content.encode("utf-16-le")):
                (tmp_path / name).write_bytes(data)
                refused(layout, tmp_path, "; correct it")
            (tmp_path / name).write_bytes(content.encode() + b"caf\xe9 4\n")
            refused(layout, tmp_path, rf"{name}: not a text in UTF-8 \(line {content.count(chr(10)) + 1}: ")
            put(tmp_path, {name: content})


ENTITIES = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
GOOD = FILES["ilsvrc"][f"{XML}/v1.xml"]
BAD_XML = {
    "a billion laughs": f'<!DOCTYPE x [<!ENTITY a "ha">{ENTITIES}]><annotation>&j;</annotation>',
    "another file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>',
    "another machine": f'<!DOCTYPE x SYSTEM "http://localhost:1/x.dtd">{GOOD}',
    "an encoding expat lacks": f'<?xml version="1.0" encoding="shift_jis"?>{GOOD}',
    "a zero byte": GOOD.replace("<name>", "<name>\0"),
    "nothing": "",
    "an element in a number": GOOD.replace("<xmin>1", "<xmin><i>1</i>"),
    "sixty thousand objects in each other": "<object>" * 60_000 + "</object>" * 60_000,
}


@pytest.mark.fault(
    "XML with entity bombs, a DTD, other files' or machines' contents, or a wrong encoding",
    "refused with the file's name at once; no entity is expanded, nothing else is opened",
)
@pytest.mark.parametrize("name", BAD_XML)
def test_hostile_xml(tmp_path, name):
    put(tmp_path, FILES["ilsvrc"] | {f"{XML}/v1.xml": BAD_XML[name]})
    start = time.process_time()
    refused("ilsvrc", tmp_path, f"{XML}/v1.xml")
    assert time.process_time() - start < 3


# Paths and numbers.


def test_paths_below_a_folder():
    for path in ("a b/é.jpg", "…", "./a.jpg", "A:"):
        assert text.below(path) == path
    out = ("..", "a/../../x.jpg", "/etc/passwd", "//server/share", "a\\..\\x.jpg", "\\x")
    for path in (*out, "", "a\0.jpg", "a\u200b"):
        with pytest.raises(ValueError, match="is no path below a folder"):
            text.below(path)


def test_numbers():
    assert [text.number(given) for given in ("7", "-0.5", "1e-05", "2147483647")] == [7, -0.5, 1e-05, 2147483647]
    for bad in ("", "x", "nan", "inf", "1e999", "-2147483648", "0x10"):
        with pytest.raises(ValueError):
            text.number(bad)
