"""Annotation files that nobody should trust: every reader reads them right, or names file, line, cause and remedy."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts_on_disk import LAYOUTS, TRAIN, XML, lines, replace_line, voc

from wsol_utils import datasets, layouts, metadata, score_maps, text
from wsol_utils.data.layouts import DatasetError

A, B = "val/a.jpg", "val/b.jpg"
VAL_XML = f"{XML}/ILSVRC2012_val_00000001.xml"
REMEDIES = ("correct it, or unpack the data set again", "write it as clovaai/wsolevaluation's metadata have it")


def written_metadata(root: Path) -> None:
    lines(root / "image_ids.txt", [A, B])
    lines(root / "class_labels.txt", [f"{A},3", f"{B},7"])
    lines(root / "image_sizes.txt", [f"{A},500,375", f"{B},64,48"])
    lines(root / "localization.txt", [f"{A},1,2,30,40", f"{B},0,0,64,48"])
    lines(root / "predicted.txt", [f"{A},3", f"{B},7"])


def written_masks(root: Path) -> None:
    written_metadata(root)
    lines(root / "localization.txt", [f"{A},m/a.png,m/i.png", f"{B},m/b.png,"])


def every_metadata(root: Path) -> object:
    found = metadata.read_metadata(root)
    return found, metadata.read_predicted(root / "predicted.txt", found)


KINDS = {
    **{
        name: (lambda root, make=make: make(root, train=1, test=1), layouts.READERS[name])
        for name, make in LAYOUTS.items()
    },
    "metadata": (written_metadata, every_metadata),
    "masks": (written_masks, every_metadata),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A valid folder of every kind."""
    root = tmp_path_factory.mktemp("whole")
    for name, (make, read) in KINDS.items():
        make(root / name)
        read(root / name)
    return root


class Spoilt:
    """A folder of a kind, and a file in it that is changed for a moment."""

    def __init__(self, root: Path, kind: str, file: str) -> None:
        self.root, self.read, self.path, self.name = root / kind, KINDS[kind][1], root / kind / file, file
        self.before = self.path.read_bytes()

    def __enter__(self) -> "Spoilt":
        return self

    def __exit__(self, *_) -> None:
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(self.before)

    def refused(self, line: int | None = None) -> str:
        """The message of the error, which names the file, the line, a cause and a remedy, in one short line."""
        with pytest.raises(DatasetError) as caught:
            self.read(self.root)
        message = str(caught.value)
        where = f"{self.path}:{line}: " if line else f"{self.path}"
        assert message.startswith(where), message
        assert any(remedy in message for remedy in REMEDIES)
        assert message.isprintable() and len(message) < len(str(self.path)) + 600
        return message


# Paths and ids.

EVIL = [
    "../x.jpg", "a/../../x.jpg", "..", "/etc/passwd", "//server/share", "a\\..\\x.jpg", "C:\\x.jpg", "a\0.jpg",
    "a\x1b[31m.jpg", "a\x7fb", "a\u202eb", "a\u200bb", "x" * 300, "x/" * 600 + "x",
]  # fmt: skip
PATHS = {  # kind and file -> line that holds a path or an id
    ("cub", "images.txt"): "1 {}",
    ("cub", "classes.txt"): "{} 001.Bird",
    ("ilsvrc", "LOC_val_solution.csv"): "{},n00000000 1 2 3 4",
    ("ilsvrc", "LOC_synset_mapping.txt"): "{} thing",
    ("tiny_imagenet", "val/val_annotations.txt"): "{}\tn00000000\t1\t2\t3\t4",
    ("tiny_imagenet", "wnids.txt"): "{}",
    ("metadata", "image_ids.txt"): "{}",
    ("metadata", "predicted.txt"): "{},3",
    ("masks", "localization.txt"): A + ",{},",
}


@pytest.mark.fault(
    "a path or id that climbs, is absolute, too long, or holds control characters",
    "refused with file and line before any file is looked up; the message is one plain line",
)
@pytest.mark.parametrize(("kind", "file"), PATHS)
def test_paths_that_leave_the_folder(whole, kind, file):
    for path in EVIL:
        with Spoilt(whole, kind, file) as spoilt:
            replace_line(spoilt.path, 2 if file.endswith(".csv") else 1, PATHS[kind, file].format(path))
            spoilt.refused(2 if file.endswith(".csv") else 1)


def test_one_check_of_paths():
    assert metadata.below is layouts.below is score_maps.below is text.below
    assert [text.below(path) for path in ("a b/é.jpg", "…")] == ["a b/é.jpg", "…"]
    with pytest.raises(ValueError, match="empty"):
        text.below("")


def test_one_file_under_two_names(tmp_path):
    LAYOUTS["cub"](tmp_path, train=1, test=1)
    path = (tmp_path / "images.txt").read_text().splitlines()[0].split()[1]
    for other in (f"./{path}", path.replace("/", "//"), path.replace("/", "/./")):
        replace_line(tmp_path / "images.txt", 2, f"2 {other}")
        with pytest.raises(DatasetError, match=r"\(images\.txt:2\): .* is listed twice"):
            layouts.read_cub(tmp_path)


def test_a_file_whose_name_no_text_could_hold(tmp_path):
    LAYOUTS["ilsvrc"](tmp_path, train=1, test=1)
    for name in (b"\xff.JPEG", b"new\nline.JPEG"):
        file = os.path.join(os.fsencode(tmp_path / TRAIN / "n00000001"), name)
        try:
            Path(os.fsdecode(file)).write_bytes(b"")
        except OSError:
            pytest.skip("this file system takes no such names")
        with pytest.raises(DatasetError, match=rf"{TRAIN}/n00000001: .* is no path below a folder") as caught:
            layouts.read_ilsvrc(tmp_path)
        assert str(caught.value).isprintable()
        os.remove(file)
    (tmp_path / TRAIN / "n\x1b[31m").mkdir()
    with pytest.raises(DatasetError, match=r"n\\x1b\[31m: unknown synset") as caught:
        layouts.read_ilsvrc(tmp_path)
    assert str(caught.value).isprintable()


# Numbers.

NO_NUMBERS = [
    "nan", "-nan", "inf", "-inf", "infinity", "1e300", "-1e300", "1e999", "2147483648", "9" * 400, "1" * 101,
    "1_0", "１２", "٣", "½", "0x10", "1e", "1.5.5", "--1", "+", ".", "True", "1d3", "1" * 5000 + "x",
]  # fmt: skip
OBJECT = voc("n00000000", [(1, 2, 9, 9)])[1].replace("<xmin>1<", "<xmin>{}<")
WHOLE_ALONE = [*NO_NUMBERS, "1.5", "-1", "1e2", "+5"]
NUMBERS = {  # kind and file -> line with a number, and what is refused in its place
    ("cub", "bounding_boxes.txt"): ("1 {} 2.5 3.5 4.5", NO_NUMBERS),
    ("ilsvrc", VAL_XML): (OBJECT, NO_NUMBERS),
    ("tiny_imagenet", "val/val_annotations.txt"): ("val_0.JPEG\tn00000000\t{}\t2\t63\t63", NO_NUMBERS),
    ("metadata", "localization.txt"): (A + ",{},2,499,40", NO_NUMBERS),
    ("metadata", "image_sizes.txt"): (A + ",{},375", [*WHOLE_ALONE, "0"]),
    ("metadata", "class_labels.txt"): (A + ",{}", WHOLE_ALONE),
    ("metadata", "predicted.txt"): (A + ",{}", WHOLE_ALONE),
}  # fmt: skip


@pytest.mark.fault(
    "NaN, infinity, 1e300, 2^31, 1_000, other scripts' digits, thousands of digits in place of a number",
    "refused with file and line",
)
@pytest.mark.parametrize(("kind", "file"), NUMBERS)
def test_what_is_no_number(whole, kind, file):
    line, refused = NUMBERS[kind, file]
    number = 2 if file == VAL_XML else 1
    with Spoilt(whole, kind, file) as spoilt:
        replace_line(spoilt.path, number, line.format("500" if "sizes" in file else "5"))
        spoilt.read(spoilt.root)
        for text in refused:
            replace_line(spoilt.path, number, line.format(text))
            message = spoilt.refused(None if file == VAL_XML else number)
            assert file != VAL_XML or f"{VAL_XML}, object 1: a box is four finite numbers" in message


def test_numbers_of_a_train_list(tmp_path):
    LAYOUTS["ilsvrc"](tmp_path, train=1, test=1)
    for text in NO_NUMBERS:
        replace_line(tmp_path / "LOC_train_solution.csv", 2, f"n00000000_0,n00000000 {text} 2 30 40")
        with pytest.raises(DatasetError, match=r"LOC_train_solution\.csv:2: a box is four finite numbers"):
            layouts.read_ilsvrc(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 7), ("-0.5", -0.5), ("+3.", 3), (".25", 0.25), ("1e-05", 1e-05), (" 2E2 ", 200), ("2147483647", 2147483647)],
)
def test_what_is_a_number(text, expected):
    assert text.number(text) == expected


# Encodings and line ends.

MAIN = {
    "cub": ("bounding_boxes.txt", "image_class_labels.txt", "images.txt", "train_test_split.txt", "classes.txt"),
    "ilsvrc": ("LOC_val_solution.csv", "LOC_synset_mapping.txt", "LOC_train_solution.csv"),
    "tiny_imagenet": ("val/val_annotations.txt", "wnids.txt", "words.txt", "train/n00000000/n00000000_boxes.txt"),
    "metadata": ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt", "predicted.txt"),
    "masks": ("localization.txt",),
}
FILES = [(kind, file) for kind, files in MAIN.items() for file in files]


@pytest.mark.fault("a list in UTF-16, UTF-32 or Latin-1", "refused with file and line, nothing is guessed")
@pytest.mark.parametrize(("kind", "file"), FILES)
def test_other_encodings(whole, kind, file):
    with Spoilt(whole, kind, file) as spoilt:
        text = spoilt.before.decode()
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"):
            spoilt.path.write_bytes(text.encode(encoding))
            spoilt.refused()
        spoilt.path.write_bytes(spoilt.before + "caf\xe9 4\n".encode("latin-1"))
        assert f"not a text in UTF-8 (line {text.count(chr(10)) + 1}: byte 0xe9, " in spoilt.refused()


def plain(found: object) -> str:
    return found.to_json() if isinstance(found, pd.DataFrame) else repr(found)


@pytest.mark.parametrize(("kind", "file"), FILES)
def test_line_ends_of_windows_and_old_macs(whole, kind, file):
    with Spoilt(whole, kind, file) as spoilt:
        expected = plain(spoilt.read(spoilt.root))
        for end in (b"\r\n", b"\r", b"\r\r\n", b"\n\r"):
            data = spoilt.before.replace(b"\n", end)
            spoilt.path.write_bytes(data if end in (b"\r\n", b"\r") else data + b"\n\n")
            found = plain(spoilt.read(spoilt.root))
            if end in (b"\r\n", b"\r") or kind in ("metadata", "masks"):  # else blank lines move the sources' numbers
                assert found == expected


@pytest.mark.parametrize("kind", LAYOUTS)
def test_control_characters_in_a_name(whole, kind):
    file = {"cub": "classes.txt", "ilsvrc": "LOC_synset_mapping.txt", "tiny_imagenet": "words.txt"}[kind]
    for character in "\0\x07\x0b\x1b\x1f\x7f\x85\u2028":
        with Spoilt(whole, kind, file) as spoilt:
            text = spoilt.before.decode().splitlines()
            replace_line(spoilt.path, 2, f"{text[1]}{character}name")
            assert "control characters" in spoilt.refused(2)


# Ids.


@pytest.mark.parametrize(("kind", "file"), [pair for pair in FILES if "boxes" not in pair[1] and pair[0] != "masks"])
def test_an_id_twice(whole, kind, file):
    """Of images, classes, synsets and predictions; boxes of an image in localization.txt may be several."""
    number = 3 if file.endswith("solution.csv") else 2
    with Spoilt(whole, kind, file) as spoilt:
        replace_line(spoilt.path, number, spoilt.before.decode().splitlines()[number - 2])
        if file == "localization.txt":
            assert f"no line for '{B}'" in spoilt.refused()
        else:
            with pytest.raises(DatasetError, match=rf"{file}:{number}\b.*(duplicate id|twice|a second time)"):
                spoilt.read(spoilt.root)


# Size.


@pytest.mark.fault(
    "lists of a million lines; a list of more than 1 GiB, or an XML file of more than 1 MiB",
    "time and memory grow with the lines, no faster; larger files are refused by name",
)
@pytest.mark.parametrize("kind", ["cub", "metadata"])
def test_many_lines(tmp_path, kind):
    """Twenty times the lines take about twenty times as long.

    At 100,000 and 1,000,000 lines a file: cub 2.2 s and 28 s with 0.22 and 2.2 GB, metadata 1.9 s and 21 s with 0.1
    and 1 GB, tiny_imagenet 1.2 s and 14 s, ilsvrc 1.1 s and 11 s with 0.1 and 1 GB, on one core.
    """
    forms = {
        "cub": {
            "images.txt": "{} 001.a/bird_{}.jpg",
            "image_class_labels.txt": "{} 1",
            "train_test_split.txt": "{} 0",
            "bounding_boxes.txt": "{} 1.0 2.0 30.5 40.0",
        },
        "metadata": {
            "image_ids.txt": "a/{}.jpg",
            "class_labels.txt": "a/{}.jpg,1",
            "image_sizes.txt": "a/{}.jpg,500,375",
            "localization.txt": "a/{}.jpg,1,2,30.5,40",
        },
    }[kind]
    lines(tmp_path / "classes.txt", ["1 001.a"])
    spent = {}
    for count in (1500, 30_000):
        for name, form in forms.items():
            lines(tmp_path / name, [form.format(i, i) for i in range(count)])
        start = time.process_time()
        found = layouts.read_cub(tmp_path) if kind == "cub" else metadata.read_metadata(tmp_path)
        spent[count] = time.process_time() - start
        assert len(found if kind == "cub" else found.image_ids) == count
    assert spent[30_000] < 4 * 20 * spent[1500] + 1


def test_files_too_large_to_be_lists(whole, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    for kind, file, longest in (("cub", "images.txt", 1 << 30), ("metadata", "image_ids.txt", 1 << 30)):
        path = whole / kind / file
        before = path.open("rb").read()
        with path.open("r+b") as opened:
            opened.truncate(longest + 1)  # zeros that take no place
        try:
            with pytest.raises(
                DatasetError, match=f"{file}: .*{longest + 1} bytes, of which {longest} at most are read"
            ):
                KINDS[kind][1](whole / kind)
        finally:
            path.write_bytes(before)


def test_a_line_of_megabytes_makes_a_short_message(whole):
    for kind, file in FILES:
        with Spoilt(whole, kind, file) as spoilt:
            replace_line(spoilt.path, 1, "\x01" * 3_000_000)
            spoilt.refused()


def test_a_file_that_cannot_be_read(whole, monkeypatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for kind, file in (("cub", "images.txt"), ("metadata", "image_ids.txt")):
        with pytest.raises(DatasetError, match=rf"{file}: cannot be read \(Permission denied\); "):
            KINDS[kind][1](whole / kind)


# XML.

GOOD = "\n".join(voc("n00000000", [(1, 2, 30, 40)]))
ENTITIES = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
BAD_XML = {
    "a billion laughs": f'<!DOCTYPE x [<!ENTITY a "ha">{ENTITIES}]><annotation>&j;</annotation>',
    "a long entity often": f'<!DOCTYPE x [<!ENTITY a "{"ha" * 9999}">]><annotation>{"&a;" * 9999}</annotation>',
    "another file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>',
    "another machine": f'<!DOCTYPE x SYSTEM "http://localhost:1/x.dtd">{GOOD}',
    "an entity for a name": GOOD.replace("<annotation>", '<!DOCTYPE x [<!ENTITY n "n00000000">]><annotation>'),
    "an unknown encoding": f'<?xml version="1.0" encoding="nonsense"?>{GOOD}',
    "a codec that is no encoding": f'<?xml version="1.0" encoding="rot13"?>{GOOD}',
    "an encoding expat lacks": f'<?xml version="1.0" encoding="shift_jis"?>{GOOD}',
    "another encoding than declared": f'<?xml version="1.0" encoding="utf-16"?>{GOOD}',
    "a zero byte": GOOD.replace("<name>", "<name>\0"),
    "bytes that are no UTF-8": GOOD.encode() + b"<!-- \xff -->",
    "cut off": GOOD[:-20],
    "two roots": GOOD + GOOD,
    "no XML": "a letter",
    "nothing": "",
    "too much": GOOD + " " * (1 << 20),
    "no object": "<annotation/>",
    "no box": GOOD.replace("bndbox", "box"),
    "two boxes in one": GOOD.replace("</object>", "<bndbox><xmin>1</xmin></bndbox></object>"),
    "two sides and none": GOOD.replace("<xmin>", "<xmax>").replace("</xmin>", "</xmax>"),
    "two names": GOOD.replace("<name>", "<name>n00000000</name><name>"),
    "an element in a number": GOOD.replace("<xmin>1", "<xmin><i>1</i>"),
    "sixty thousand objects in each other": "<object>" * 60_000 + "</object>" * 60_000,
    "swapped corners": GOOD.replace("<xmax>30", "<xmax>0"),
    "negative corners": GOOD.replace("<xmin>1<", "<xmin>-9<").replace("<xmax>30<", "<xmax>-10<"),
}  # fmt: skip


@pytest.mark.fault(
    "XML with entity bombs, a DTD, other files' or machines' contents, wrong encodings, or boxes twice",
    "refused with the file's name at once; no entity is expanded, nothing else is opened",
)
@pytest.mark.parametrize("name", BAD_XML)
def test_hostile_xml(whole, name):
    with Spoilt(whole, "ilsvrc", VAL_XML) as spoilt:
        text = BAD_XML[name]
        spoilt.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        start = time.process_time()
        spoilt.refused()
        assert time.process_time() - start < 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_xml_in_the_encoding_it_declares(whole, encoding):
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\r\n<!-- é -->{GOOD}'
    with Spoilt(whole, "ilsvrc", VAL_XML) as spoilt:
        spoilt.path.write_bytes(declared.encode(encoding))
        boxes = spoilt.read(spoilt.root).set_index("image_id")["boxes"]
        assert boxes["ILSVRC2012_val_00000001"] == [(1, 2, 31, 41)]


# Boxes that swap or leave.


def test_corners_beyond_the_image_are_the_annotations_fault(tmp_path):
    """Up to 2^31 a reader takes them, as it does not know the image; `check` does."""
    LAYOUTS["cub"](tmp_path, train=1, test=1)
    for box, refused in {"-1e9 0 2e9 9": False, "0 0 2147483647 2147483647": False, "-1e9 0 1e9 9": True}.items():
        replace_line(tmp_path / "bounding_boxes.txt", 1, f"1 {box}")
        table = layouts.read_cub(tmp_path)
        assert np.isfinite(table["boxes"].tolist()).all()
        if refused:
            with pytest.raises(DatasetError, match=r"bounding_boxes\.txt:1 .*lies outside its image"):
                datasets.check(table, tmp_path)
        else:
            checked = datasets.check(table, tmp_path).iloc[0]
            assert checked["clipped"] >= 1e9 - 1 and checked["boxes"][0][2] == checked["width"]
