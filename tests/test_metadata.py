"""The text files of wsolevaluation: what is read, what is refused and how, what is written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layouts_on_disk import lines, replace_line

from wsol_utils.data.layouts import DatasetError
from wsol_utils.scores.external.metadata import one_form, read_metadata, read_predicted, write_metadata

A, B = "val2/995/0.jpeg", "val2/7/1.jpeg"


@pytest.fixture
def boxes(tmp_path):
    """Two images, the first with two boxes."""
    lines(tmp_path / "image_ids.txt", [A, B])
    lines(tmp_path / "class_labels.txt", [f"{B},7", f"{A},995"])
    lines(tmp_path / "image_sizes.txt", [f"{A},500,375", f"{B},64,48"])
    lines(tmp_path / "localization.txt", [f"{A},111,108,441,193", f"{B},0,0.5,64,48", f"{A},5,6,5,6"])
    return tmp_path


@pytest.fixture
def masks(tmp_path):
    """The same images with masks: two objects and an ignored region, one object and none."""
    lines(tmp_path / "image_ids.txt", [A, B])
    lines(tmp_path / "class_labels.txt", [f"{A},995", f"{B},7"])
    lines(tmp_path / "localization.txt", [f"{A},m/0a.png,m/0i.png", f"{A},m/0b.png,", f"{B},m/1.png,"])
    return tmp_path


def table(ids, sizes=((500, 375),), labels=(3,), found=(((1.0, 2.0, 30.5, 40.0),),)):
    """As much of an annotation table as is written."""
    width, height = zip(*sizes, strict=True)
    columns = {"image_id": ids, "label": labels, "width": width, "height": height, "boxes": found}
    return pd.DataFrame({name: list(values) for name, values in columns.items()})


def test_boxes(boxes):
    found = read_metadata(boxes)
    assert found.image_ids == [A, B]
    assert found.labels == {A: 995, B: 7}
    assert found.sizes == {A: (500, 375), B: (64, 48)}
    assert found.boxes[A].tolist() == [[111, 108, 441, 193], [5, 6, 5, 6]]
    assert found.boxes[B].tolist() == [[0, 0.5, 64, 48]] and found.boxes[B].dtype == np.float64
    assert not found.masks


def test_masks(masks):
    found = read_metadata(masks)
    assert found.masks == {A: [("m/0a.png", "m/0i.png"), ("m/0b.png", "")], B: [("m/1.png", "")]}
    assert not found.boxes and not found.sizes  # OpenImages' metadata have no image_sizes.txt
    lines(masks / "image_sizes.txt", [f"{A},500,375", f"{B},64,48"])
    assert read_metadata(masks).sizes == {A: (500, 375), B: (64, 48)}


def test_windows_line_ends_byte_order_marks_and_blank_lines(boxes):
    expected = read_metadata(boxes)
    for file in boxes.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    found = read_metadata(boxes)
    assert (found.image_ids, found.labels, found.sizes) == (expected.image_ids, expected.labels, expected.sizes)
    assert {key: box.tolist() for key, box in found.boxes.items()} == {k: b.tolist() for k, b in expected.boxes.items()}


def test_boxes_beyond_the_edge_are_clipped_and_counted(boxes):
    replace_line(boxes / "localization.txt", 1, f"{A},-4,108,502,9999")
    replace_line(boxes / "localization.txt", 2, f"\n{B},63,-0.5,64,48\n  ")
    said = []
    found = read_metadata(boxes, say=said.append).boxes
    assert found[A].tolist() == [[0, 108, 500, 375], [5, 6, 5, 6]] and found[B].tolist() == [[63, 0, 64, 48]]
    assert said == [f"{boxes}/localization.txt: boxes that leave their image, clipped to it: 2 of 3"]


# Boxes of the image of 64×48 pixels, and whether half-open and inclusive corners have an area in it.
EDGES = {
    "-3,5,0,9": (False, True), "5,-3,9,0": (False, True), "-3,5,-1,9": (False, False), "64,5,70,9": (False, False),
    "5,48,9,48": (False, False), "63,5,64,9": (True, True), "63,5,63,9": (True, True), "0,0,0,0": (True, True),
}  # fmt: skip


@pytest.mark.parametrize("corners", ["half-open", "inclusive"])
@pytest.mark.parametrize("box", EDGES)
def test_a_box_with_no_area_in_its_image_is_refused(boxes, box, corners):
    replace_line(boxes / "localization.txt", 2, f"{B},{box}")
    if EDGES[box][corners == "inclusive"]:
        assert read_metadata(boxes, corners).corners == corners
    else:
        problem = rf"localization\.txt:2: the box {box} has no area inside its image of 64×48 pixels; write it as"
        with pytest.raises(DatasetError, match=problem):
            read_metadata(boxes, corners)


def test_unknown_corners(boxes):
    with pytest.raises(ValueError, match="unknown corners 'closed'; choose one of half-open, inclusive"):
        read_metadata(boxes, "closed")


def test_masks_as_they_are_published(masks):
    """An image_sizes.txt without a line, and no column for ignored regions."""
    expected = read_metadata(masks)
    (masks / "image_sizes.txt").write_text("")
    lines(masks / "localization.txt", [f"{A},m/0a.png", f"{A},m/0b.png,", f"{B},m/1.png"])
    found = read_metadata(masks)
    assert found.masks == {A: [("m/0a.png", ""), ("m/0b.png", "")], B: [("m/1.png", "")]}
    assert not found.sizes and found.image_ids == expected.image_ids


def test_boxes_need_sizes(boxes):
    (boxes / "image_sizes.txt").write_text("\n")
    with pytest.raises(DatasetError, match=r"image_sizes\.txt: no such file, or an empty one; boxes need it"):
        read_metadata(boxes)


COMPOSED, APART = "val/caf\u00e9.jpg", "val/cafe\u0301.jpg"  # one name in two Unicode forms, NFC and NFD


@pytest.mark.parametrize(("listed", "elsewhere"), [(COMPOSED, APART), (APART, COMPOSED), (COMPOSED, "val\\café.jpg")])
def test_ids_are_the_same_in_every_spelling(tmp_path, listed, elsewhere):
    lines(tmp_path / "image_ids.txt", [listed])
    lines(tmp_path / "class_labels.txt", [f"{elsewhere},3"])
    lines(tmp_path / "image_sizes.txt", [f"{elsewhere},64,48"])
    lines(tmp_path / "localization.txt", [f"{listed},1,2,3,4", f"{elsewhere},5,6,7,8"])
    lines(tmp_path / "predicted.txt", [f"{elsewhere},9"])
    found = read_metadata(tmp_path)
    assert found.image_ids == [listed] and found.labels == {listed: 3} and found.sizes == {listed: (64, 48)}
    assert found.boxes[listed].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert read_predicted(tmp_path / "predicted.txt", found).tolist() == [9]


def test_backslashes_in_the_list_of_ids_and_of_masks(masks):
    expected = read_metadata(masks)
    for file in masks.iterdir():
        file.write_text(file.read_text().replace("/", "\\"))
    assert read_metadata(masks) == expected


def test_one_id_in_two_spellings_is_named(boxes):
    lines(boxes / "image_ids.txt", [COMPOSED, APART])
    with pytest.raises(DatasetError, match=r"image_ids\.txt:2: .* second time; line 1 has it in another Unicode form"):
        read_metadata(boxes)


BOX_FORM = "expected id,x0,y0,x1,y1 with x0 <= x1 and y0 <= y1, found"
MALFORMED = {
    # file, line, new text -> where, what
    "unknown id": ("class_labels.txt", 1, "x.jpeg,7", "class_labels.txt:1: unknown id 'x.jpeg'"),
    "unknown id of a box": ("localization.txt", 2, "x.jpeg,1,1,2,2", "localization.txt:2: unknown id 'x.jpeg'"),
    "no label": ("class_labels.txt", 2, None, f"class_labels.txt: no line for '{A}'"),
    "no box": ("localization.txt", 2, None, f"localization.txt: no line for '{B}'"),
    "no size": ("image_sizes.txt", 1, None, f"image_sizes.txt: no line for '{A}'"),
    "an id twice": ("image_ids.txt", 2, A, f"image_ids.txt:2: '{A}' a second time"),
    "a label twice": ("class_labels.txt", 1, f"{A},995\n{A},995", f"class_labels.txt:2: '{A}' a second time"),
    "NaN": ("localization.txt", 1, f"{A},nan,108,441,193", f"localization.txt:1: {BOX_FORM} '{A},nan,108,441,193'"),
    "infinity": ("localization.txt", 1, f"{A},1,1,inf,2", f"localization.txt:1: {BOX_FORM} '{A},1,1,inf,2'"),
    "swapped x": ("localization.txt", 1, f"{A},9,1,2,2", f"localization.txt:1: {BOX_FORM} '{A},9,1,2,2'"),
    "swapped y": ("localization.txt", 1, f"{A},1,9,2,2", f"localization.txt:1: {BOX_FORM} '{A},1,9,2,2'"),
    "a word": ("localization.txt", 1, f"{A},1,1,two,2", f"localization.txt:1: {BOX_FORM} '{A},1,1,two,2'"),
    "four fields": ("localization.txt", 3, f"{A},1,1,2", f"localization.txt:3: {BOX_FORM} '{A},1,1,2'"),
    "six fields": ("localization.txt", 1, f"{A},1,1,2,2,2", f"localization.txt:1: {BOX_FORM} '{A},1,1,2,2,2'"),
    "a mask among boxes": ("localization.txt", 2, f"{B},m.png,", f"localization.txt:2: {BOX_FORM} '{B},m.png,'"),
    "two labels": ("class_labels.txt", 1, f"{B},7,8", f"class_labels.txt:1: expected id,class .* found '{B},7,8'"),
    "no class": ("class_labels.txt", 1, f"{B},-1", "class_labels.txt:1: expected id,class with a class from 0 on"),
    "half a class": ("class_labels.txt", 1, f"{B},0.5", "class_labels.txt:1: expected id,class"),
    "no width": ("image_sizes.txt", 1, f"{A},0,375", "image_sizes.txt:1: expected id,width,height with sides from 1"),
    "too wide": ("image_sizes.txt", 1, f"{A},1{'0' * 30},3", "image_sizes.txt:1: expected id,width,height"),
    "an absolute id": ("image_ids.txt", 1, "/etc/passwd", "image_ids.txt:1: expected id, found '/etc/passwd'"),
    "an id that climbs": ("image_ids.txt", 2, "val/../../x", "image_ids.txt:2: expected id, found 'val/../../x'"),
    "a backslash": ("image_ids.txt", 1, "val\\..\\x", "image_ids.txt:1: expected id, found"),
    "a bell": ("image_ids.txt", 1, "val\a", "image_ids.txt:1: expected id, found"),
    "an empty id": ("class_labels.txt", 1, ",7", "class_labels.txt:1: expected id,class with a class from 0 on"),
    "an id with a comma": ("image_ids.txt", 1, "a,b", "image_ids.txt:1: expected id, found 'a,b'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_named(boxes, name):
    file, number, text, message = MALFORMED[name]
    replace_line(boxes / file, number, text)
    with pytest.raises(DatasetError, match=message.replace("\\", "\\\\")) as caught:
        read_metadata(boxes)
    assert str(caught.value).startswith(f"{boxes}/{file}")
    assert str(caught.value).endswith("; write it as clovaai/wsolevaluation's metadata have it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [f"{A},../m.png,", f"{A},m.png,/i.png", f"{A},,i.png", A, f"{A},1,2,3,4"])
def test_a_malformed_line_of_masks_is_named(masks, text):
    replace_line(masks / "localization.txt", 2, text)
    with pytest.raises(DatasetError, match=r"localization\.txt:2: expected id,mask,ignored region"):
        read_metadata(masks)


@pytest.mark.parametrize("name", ["image_ids.txt", "class_labels.txt", "localization.txt", "image_sizes.txt"])
def test_a_missing_file_is_named(boxes, name):
    (boxes / name).unlink()
    with pytest.raises(DatasetError, match=f"{name}: no such file"):
        read_metadata(boxes)


def test_files_that_are_no_text(boxes):
    (boxes / "image_ids.txt").write_text("\n\n")
    with pytest.raises(DatasetError, match=r"image_ids\.txt: lists no image"):
        read_metadata(boxes)
    (boxes / "image_ids.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"image_ids\.txt: cannot be read"):
        read_metadata(boxes)
    (boxes / "image_ids.txt").unlink()
    (boxes / "image_ids.txt").mkdir()
    with pytest.raises(DatasetError, match=r"image_ids\.txt: cannot be read"):
        read_metadata(boxes)


def test_predicted_classes_come_in_the_order_of_the_images(boxes):
    lines(boxes / "predicted.txt", [f"{B},3", f"{A},12"])
    found = read_predicted(boxes / "predicted.txt", read_metadata(boxes))
    assert found.tolist() == [12, 3] and found.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([f"{A},1"], f"predicted.txt: no line for '{B}'"),
        (["c,1"], f"predicted.txt: no line for '{A}'"),
        ([f"{A},1", f"{B},one"], "predicted.txt:2: expected id,class"),
    ],
)
def test_predicted_classes_of_other_images_are_refused(boxes, text, message):
    lines(boxes / "predicted.txt", text)
    with pytest.raises(DatasetError, match=message):
        read_predicted(boxes / "predicted.txt", read_metadata(boxes))


def test_predictions_of_further_images_are_counted(boxes):
    lines(boxes / "predicted.txt", ["c,1", f"{A},12", f"{B},3", "val2/d.jpeg,0", "c,1"])
    said = []
    assert read_predicted(boxes / "predicted.txt", read_metadata(boxes), said.append).tolist() == [12, 3]
    assert said == [f"{boxes}/predicted.txt: lines of images that image_ids.txt does not list, not used: 3"]


# Writing.


def test_written_files_to_the_letter(tmp_path):
    two = table(
        ["a.jpg", "b.jpg"], [(500, 375), (64, 48)], [3, 0], [[(1.0, 2.0, 30.5, 40.0), (0, 0, 9, 9)], [(0, 0, 64, 48)]]
    )
    write_metadata(tmp_path / "new" / "folder", two)
    texts = {file.name: file.read_text() for file in (tmp_path / "new" / "folder").iterdir()}
    assert texts == {
        "image_ids.txt": "a.jpg\nb.jpg\n",
        "class_labels.txt": "a.jpg,3\nb.jpg,0\n",
        "image_sizes.txt": "a.jpg,500,375\nb.jpg,64,48\n",
        "localization.txt": "a.jpg,1,2,30.5,40\na.jpg,0,0,9,9\nb.jpg,0,0,64,48\n",  # whole numbers without a point
    }


def test_other_names_may_be_written(tmp_path):
    write_metadata(tmp_path, table(["0"]), ids=["val/0.JPEG"])
    assert read_metadata(tmp_path).image_ids == ["val/0.JPEG"]
    with pytest.raises(ValueError, match="zip"):
        write_metadata(tmp_path, table(["0"]), ids=["a", "b"])


@pytest.mark.parametrize(
    ("ids", "changes", "message"),
    [
        (["a,b"], {}, "image_ids.txt:1: expected id"),
        (["../a"], {}, "image_ids.txt:1: expected id"),
        (["a\nb"], {}, "class_labels.txt:1: expected id,class"),
        (["a"], {"sizes": [(0, 0)]}, "image_sizes.txt:1: expected id,width,height with sides from 1 on, found 'a,0,0'"),
        (["a"], {"found": [[]]}, "localization.txt: no line for 'a'"),
        (["a"], {"found": [[(0, 0, 9, 9), (0, 376, 9, 377)]]}, "localization.txt:2: the box 0,376,9,377 has no area"),
        (["a", "a"], {"sizes": [(1, 1)] * 2, "labels": [0, 0], "found": [[(0, 0, 1, 1)]] * 2}, "'a' a second time"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, ids, changes, message):
    with pytest.raises(DatasetError, match=message):
        write_metadata(tmp_path / "new", table(ids, **changes))
    assert not (tmp_path / "new").exists()


names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\,"), min_size=1).filter(
    lambda name: name != ".."
)
side = st.integers(1, 5000)


@st.composite
def image(draw):
    """A size, a class, and boxes inside the image."""
    size = draw(st.tuples(side, side))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        (x0, x1), (y0, y1) = (
            sorted(draw(st.floats(0, end, exclude_max=True) | st.integers(0, end - 1).map(float)) for _ in range(2))
            for end in size
        )
        found.append((x0, y0, x1, y1))
    return size, draw(st.integers(0, 10**6)), found


@given(st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), image(), min_size=1, max_size=4))
def test_what_is_written_is_what_is_read(tmp_path_factory, images):
    assume(len({one_form(image_id) for image_id in images}) == len(images))
    folder = Path(tmp_path_factory.mktemp("metadata"))
    sizes, labels, found = zip(*images.values(), strict=True)
    write_metadata(folder, table(list(images), sizes, labels, found))
    again = read_metadata(folder)
    assert again.image_ids == list(images)
    assert [again.sizes[key] for key in images] == list(sizes)
    assert [again.labels[key] for key in images] == list(labels)
    assert [again.boxes[key].tolist() for key in images] == [[list(box) for box in boxes] for boxes in found]
