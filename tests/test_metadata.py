"""The text files of wsolevaluation: what is read, what is refused and how, what is written."""

import numpy as np
import pandas as pd
import pytest
from layouts_on_disk import lines, replace_line

from wsol_utils.data.layouts import DatasetError
from wsol_utils.scores.external.metadata import read_metadata, read_predicted, write_metadata

A, B = "val2/995/0.jpeg", "val2/7/1.jpeg"


@pytest.fixture
def boxes(tmp_path):
    """Two images, the first with two boxes; one predicted class each."""
    lines(tmp_path / "image_ids.txt", [A, B])
    lines(tmp_path / "class_labels.txt", [f"{B},7", f"{A},995"])
    lines(tmp_path / "image_sizes.txt", [f"{A},500,375", f"{B},64,48"])
    lines(tmp_path / "localization.txt", [f"{A},111,108,441,193", f"{B},0,0.5,64,48", f"{A},5,6,5,6"])
    lines(tmp_path / "predicted.txt", [f"{B},3", f"{A},12"])
    return tmp_path


def test_boxes(boxes):
    found = read_metadata(boxes)
    assert found.image_ids == [A, B] and found.labels == {A: 995, B: 7}
    assert found.sizes == {A: (500, 375), B: (64, 48)}
    assert found.boxes[A].tolist() == [[111, 108, 441, 193], [5, 6, 5, 6]]
    assert found.boxes[B].tolist() == [[0, 0.5, 64, 48]] and found.boxes[B].dtype == np.float64
    assert (found.masks, found.corners, found.clipped) == ({}, "half-open", 0)
    predicted = read_predicted(boxes / "predicted.txt", found)
    assert predicted.tolist() == [12, 3] and predicted.dtype == np.int64


def test_masks(boxes):
    """Two objects and an ignored region, one object and none; OpenImages' metadata have no image_sizes.txt."""
    lines(boxes / "localization.txt", [f"{A},m/0a.png,m/0i.png", f"{A},m/0b.png", f"{B},m/1.png,"])
    (boxes / "image_sizes.txt").unlink()
    found = read_metadata(boxes)
    assert found.masks == {A: [("m/0a.png", "m/0i.png"), ("m/0b.png", "")], B: [("m/1.png", "")]}
    assert not found.boxes and not found.sizes
    for text in (f"{A},../m.png,", f"{A},m.png,/i.png", f"{A},,i.png", A, f"{A},1,2,3,4"):
        replace_line(boxes / "localization.txt", 2, text)
        with pytest.raises(DatasetError, match=r"localization\.txt:2: .* \(a line is id,mask,ignored region\)"):
            read_metadata(boxes)


def test_boxes_beyond_the_edge_are_clipped_and_counted(boxes):
    replace_line(boxes / "localization.txt", 1, f"{A},-4,108,502,9999")
    replace_line(boxes / "localization.txt", 2, f"\n{B},63,-0.5,64,48\n  ")  # blank lines are passed over
    found = read_metadata(boxes)
    assert found.boxes[A].tolist() == [[0, 108, 500, 375], [5, 6, 5, 6]]
    assert found.boxes[B].tolist() == [[63, 0, 64, 48]] and found.clipped == 2


# Boxes of the image of 64×48 pixels, and whether half-open and inclusive corners have an area in it.
EDGES = {
    "-3,5,0,9": (False, True), "5,-3,9,0": (False, True), "-3,5,-1,9": (False, False), "64,5,70,9": (False, False),
    "5,48,9,48": (False, False), "63,5,64,9": (True, True), "63,5,63,9": (True, True), "0,0,0,0": (True, True),
    "9,1,2,2": (False, False), "1,9,2,2": (False, False),
}  # fmt: skip


@pytest.mark.parametrize("box", EDGES)
def test_a_box_with_no_area_in_its_image_is_refused(boxes, box):
    replace_line(boxes / "localization.txt", 2, f"{B},{box}")
    for corners, fine in zip(("half-open", "inclusive"), EDGES[box], strict=True):
        if fine:
            assert read_metadata(boxes, corners).corners == corners
        else:
            problem = rf"localization\.txt:2: the box {box} has no area inside its image of 64×48 pixels"
            with pytest.raises(DatasetError, match=problem):
                read_metadata(boxes, corners)


def test_unknown_corners(boxes):
    with pytest.raises(ValueError, match="unknown corners 'closed'; choose one of half-open, inclusive"):
        read_metadata(boxes, "closed")


WRONG = {
    # file, line, new text -> message
    "unknown id": ("class_labels.txt", 1, "x.jpeg,7", "class_labels.txt:1: unknown id 'x.jpeg', not in image_ids.txt"),
    "no label": ("class_labels.txt", 2, None, f"class_labels.txt: no line for '{A}' of image_ids.txt"),
    "no box": ("localization.txt", 2, None, f"localization.txt: no line for '{B}'"),
    "no prediction": ("predicted.txt", 1, None, f"predicted.txt: no line for '{B}'"),
    "an id twice": ("image_ids.txt", 2, A, f"image_ids.txt:2: '{A}' a second time"),
    "a word": (
        "localization.txt",
        1,
        f"{A},1,1,two,2",
        "localization.txt:1: could not .* 'two' .*id,x0,y0,x1,y1",
    ),
    "four fields": ("localization.txt", 3, f"{A},1,1,2", "localization.txt:3: not enough values"),
    "a mask among boxes": ("localization.txt", 2, f"{B},m.png,", "localization.txt:2: could not convert"),
    "two labels": ("class_labels.txt", 1, f"{B},7,8", "class_labels.txt:1: 2 fields after the id, not 1"),
    "no class": ("class_labels.txt", 1, f"{B},-1", "class_labels.txt:1: no whole number from 0 on, below 2"),
    "half a class": ("predicted.txt", 1, f"{B},0.5", "predicted.txt:1: no whole number from 0 on"),
    "no width": ("image_sizes.txt", 1, f"{A},0,375", r"image_sizes.txt:1: .* from 1 on.* \(a line is id,width,height"),
    "an id that climbs": ("image_ids.txt", 2, "val/../../x", "image_ids.txt:2: .*it leaves it"),
    "an id with a comma": ("image_ids.txt", 1, "a,b", r"image_ids.txt:1: 1 fields after the id.* \(a line is id\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(boxes, name):
    file, number, text, message = WRONG[name]
    replace_line(boxes / file, number, text)
    with pytest.raises(DatasetError, match=message) as caught:
        read_predicted(boxes / "predicted.txt", read_metadata(boxes))
    assert str(caught.value).startswith(f"{boxes}/{file}")
    assert str(caught.value).endswith("; write it as clovaai/wsolevaluation's metadata have it")


@pytest.mark.parametrize("name", ["image_ids.txt", "class_labels.txt", "localization.txt", "image_sizes.txt"])
def test_a_file_that_is_missing_or_no_text_is_named(boxes, name):
    for data, problem in ((None, "no such file"), (b"\xff\xfe\x00", "cannot be read .*UTF-8"), (b"\n\n", "")):
        (boxes / name).unlink()
        if data is not None:
            (boxes / name).write_bytes(data)
        with pytest.raises(DatasetError, match=f"{name}: {problem}"):
            read_metadata(boxes)
        (boxes / name).touch()


def test_what_is_written_is_what_is_read(tmp_path):
    table = pd.DataFrame({
        "image_id": ["k/a.jpg", "b.jpg"], "label": [3, 0], "width": [500, 64], "height": [375, 48],
        "boxes": [[(1.0, 2.0, 30.1, 40.0), (0, 0, 9, 9)], [(1 / 3, 0, 64, 48)]],
    })  # fmt: skip
    write_metadata(tmp_path / "new" / "folder", table)
    texts = {file.name: file.read_text() for file in (tmp_path / "new" / "folder").iterdir()}
    assert texts == {
        "image_ids.txt": "k/a.jpg\nb.jpg\n",
        "class_labels.txt": "k/a.jpg,3\nb.jpg,0\n",
        "image_sizes.txt": "k/a.jpg,500,375\nb.jpg,64,48\n",
        # whole numbers without a point
        "localization.txt": "k/a.jpg,1,2,30.1,40\nk/a.jpg,0,0,9,9\nb.jpg,0.3333333333333333,0,64,48\n",
    }
    again = read_metadata(tmp_path / "new" / "folder")
    assert again.image_ids == table["image_id"].tolist() and list(again.labels.values()) == [3, 0]
    assert [some.tolist() for some in again.boxes.values()] == [[list(box) for box in some] for some in table["boxes"]]
