"""The embedded sample: the same bytes every time, the layouts complete, the boxes tight, the class in the markings."""

import csv
import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from wsol_utils import sample

FEW = {"things": (2, 3), "birds": (2, 1)}  # things: enough for several objects in some image
BIRDS, THINGS = Path("birds", "CUB_200_2011"), Path("things")


def contents(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered") / "sample"
    sample.render(folder, seed=0, per_class=FEW)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".sample.lock", "sample"]  # nothing temporary
    return folder


def test_an_image_is_a_function_of_seed_and_number_alone(root, tmp_path):
    """Drawn alone, in this thread, it has the bytes that it has among all; other seeds and numbers give others."""
    kept = contents(root)
    for items in (sample.bird_items(tmp_path, *FEW["birds"]), sample.thing_items(tmp_path, *FEW["things"])):
        for item in (items[-1], items[0]):
            name = str(item.path.relative_to(tmp_path))
            sample.draw(item, seed=0)
            assert contents(tmp_path)[name] == kept[name]
            sample.draw(item, seed=1)
            assert contents(tmp_path)[name] not in kept.values()
    images = [digest for name, digest in kept.items() if name.lower().endswith((".jpg", ".jpeg"))]
    assert len(images) == len(set(images)) == 12 * sum(FEW["things"]) + 10 * sum(FEW["birds"])


def test_cub_layout(root):
    top = root / BIRDS
    names = ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    images, labels, split, boxes = (table(top / f"{name}.txt") for name in names)
    classes = dict(table(top / "classes.txt"))
    count = len(sample.BIRDS) * sum(FEW["birds"])
    ids = [str(i) for i in range(1, count + 1)]
    assert all([row[0] for row in rows] == ids for rows in (images, labels, split, boxes))
    assert [row[1] for row in split].count("1") == len(sample.BIRDS) * FEW["birds"][0]
    for (_, file), (_, label) in zip(images, labels, strict=True):
        assert file.split("/")[0] == classes[label]
        with Image.open(top / "images" / file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))
    assert len(list((top / "images").rglob("*.jpg"))) == count


def test_cub_boxes_are_tight_around_the_masks(root):
    top = root / BIRDS
    for (_, file), (_, *numbers) in zip(table(top / "images.txt"), table(top / "bounding_boxes.txt"), strict=True):
        mask = np.asarray(Image.open((top / "segmentations" / file).with_suffix(".png")))
        assert mask.shape == (96, 96) and set(np.unique(mask)) == {0, 255}
        x, y, width, height = (int(float(number)) for number in numbers)
        inside = mask[y : y + height, x : x + width] == 255
        assert inside.sum() == (mask == 255).sum()  # all of the bird, and it touches the four sides
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_ilsvrc_layout(root):
    top = root / THINGS
    wnids = [row[0] for row in table(top / "LOC_synset_mapping.txt")]
    assert len(wnids) == len(set(wnids)) == len(sample.THINGS)
    several = 0
    for split, per_class in zip(("train", "val"), FEW["things"], strict=True):
        with open(top / f"LOC_{split}_solution.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({row["ImageId"] for row in rows}) == len(rows) == per_class * len(wnids)
        for row in rows:
            words = row["PredictionString"].split()
            folder = Path("CLS-LOC", split, words[0] if split == "train" else "")
            tree = ElementTree.parse(top / "ILSVRC" / "Annotations" / folder / f"{row['ImageId']}.xml")
            listed = [[word, *words[i + 1 : i + 5]] for i, word in enumerate(words) if i % 5 == 0]
            fields = ("name", "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
            assert listed == [[thing.findtext(field) for field in fields] for thing in tree.iter("object")]
            assert (tree.findtext("filename"), tree.findtext("size/width")) == (row["ImageId"], "96")
            with Image.open(top / "ILSVRC" / "Data" / folder / f"{row['ImageId']}.JPEG") as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))
            for wnid, *corners in listed:
                x0, y0, x1, y1 = map(int, corners)
                assert wnid == words[0] and 0 <= x0 < x1 <= 95 and 0 <= y0 < y1 <= 95
            several += len(listed) > 1
    assert several >= 3


@pytest.mark.parametrize("thing", sample.THINGS, ids=lambda thing: thing.__name__)
def test_boxes_hold_the_object_and_the_last_pixel_counts_in_xml(thing, tmp_path):
    item = sample.Item("things", 1, sample.THINGS.index(thing), 0, tmp_path / "things" / "ILSVRC" / "Data" / "a.JPEG")
    boxes = sample.draw(item, seed=0)
    sample.write_ilsvrc(tmp_path / "things", [item], [boxes])
    tree = ElementTree.parse(tmp_path / "things" / "ILSVRC" / "Annotations" / "a.xml")
    for (x0, y0, x1, y1), box in zip(boxes, tree.iter("bndbox"), strict=True):
        assert [int(corner.text) for corner in box] == [x0, y0, x1 - 1, y1 - 1]
        assert x1 - x0 >= 8 and y1 - y0 >= 8


def test_tight_box_by_hand():
    mask = np.zeros((96, 96), dtype=bool)
    mask[10, 20:31] = mask[10:41, 25] = True
    assert sample.tight_box(mask) == (20, 10, 31, 41)


def test_the_class_shows_only_in_a_small_part():
    kinds = list(sample.BIRDS.values())
    for nuisance in range(3):
        drawn = [sample.picture_of_bird(np.random.default_rng(nuisance), kind) for kind in kinds]
        first, (mask,) = drawn[0]
        for other, (other_mask,) in drawn[1:]:
            differs = (first != other).any(axis=-1)
            assert 0 < differs.mean() < 0.08
            assert differs.sum() < 0.5 * mask.sum()
            assert (mask != other_mask).sum() < 0.05 * mask.sum()  # only the depth of the beak


def test_a_second_call_does_nothing_and_a_changed_stamp_renders_again(tmp_path, monkeypatch):
    root, tiny = tmp_path / "sample", {"things": (1, 0), "birds": (1, 0)}
    sample.render(root, per_class=tiny)
    before = contents(root)
    (root / "things" / "note.txt").write_text("kept as long as nothing is rendered")
    sample.render(root, per_class=tiny)
    assert (root / "things" / "note.txt").exists()
    stamp = json.loads((root / "stamp.json").read_text())
    (root / "stamp.json").write_text(json.dumps(stamp | {"source": "an older sample.py"}))
    old = contents(root)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(sample, "write_ilsvrc", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sample.render(root, per_class=tiny)
    assert contents(root) == old and sorted(path.name for path in tmp_path.iterdir()) == [".sample.lock", "sample"]
    sample.render(root, per_class=tiny)
    assert contents(root) == before


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear to me")
    with pytest.raises(FileExistsError, match="not rendered here"):
        sample.render(tmp_path)
    assert contents(tmp_path).keys() == {"thesis.txt"}
