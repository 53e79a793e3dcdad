"""The annotation table: checked, written, held out; and the torch Dataset that serves it."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wsol_utils import datasets
from wsol_utils.data.datasets import DatasetError, ImageDataset, check, hold_out, leave_out, read_table, write_table

SIZE = (40, 30)  # of every image
SPLITS = ("train", "test", "train", "test")


def table_of(boxes: list[list[tuple]], splits: tuple[str, ...] = SPLITS) -> pd.DataFrame:
    """A row for each list of boxes, as a reader leaves it: image "0.jpg", in line 1 of list.txt, and so on."""
    rows = [
        (str(i), f"{i}.jpg", split, 0, "c", 0, 0, [tuple(map(float, box)) for box in some], f"list.txt:{i + 1}", 0.0)
        for i, (some, split) in enumerate(zip(boxes, splits, strict=True))
    ]
    return pd.DataFrame(rows, columns=datasets.COLUMNS)


INSIDE = (5, 6, 12, 14)


@pytest.fixture
def table(tmp_path):
    """Four images of noise, so that a file cut in half is short of pixels and not of padding only."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(noise).save(tmp_path / f"{i}.jpg")
    return table_of([[INSIDE]] * 4)


# Checking.


def test_check_fills_sizes(tmp_path, table):
    before = table.copy(deep=True)
    checked = check(table, tmp_path)
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(checked, table.assign(width=40, height=30))
    assert check(table, tmp_path, ["test"])["width"].tolist() == [0, 40, 0, 40]
    with pytest.raises(DatasetError, match="unknown split 'val'"):
        check(table, tmp_path, splits=["val"])


@pytest.mark.parametrize(
    ("boxes", "kept", "clipped"),
    [
        ([(-0.5, 0, 8.5, 9)], [(0, 0, 8.5, 9)], 0.5),
        ([(-1, -2, 44, 33)], [(0, 0, 40, 30)], 4),  # by 1, 2, 4 and 3
        ([(0, 0, 41, 31)], [(0, 0, 40, 30)], 1),  # an inclusive corner on the frame, as in ILSVRC
        ([INSIDE, (-3, 5, 42, 9), INSIDE], [INSIDE, (0, 5, 40, 9), INSIDE], 3),
        ([(-1e9, 0, 2e9, 9)], [(0, 0, 40, 9)], 2e9 - 40),
        ([], [], 0),
    ],
)
def test_check_clips_and_says_by_how_much(tmp_path, table, boxes, kept, clipped):
    table["boxes"] = [[INSIDE], [INSIDE], [tuple(map(float, box)) for box in boxes], [INSIDE]]
    checked = check(table, tmp_path)
    assert checked["boxes"].tolist() == [[INSIDE], [INSIDE], kept, [INSIDE]]
    assert checked["clipped"].tolist() == [0, 0, clipped, 0]
    pd.testing.assert_frame_equal(check(checked, tmp_path), checked)  # once clipped it stays counted
    assert check(table, tmp_path, splits=["test"])["boxes"][2] == table["boxes"][2]  # it is a train image


@pytest.mark.parametrize("box", [(40, 0, 41, 9), (0, 30, 9, 31), (-1, 0, 0, 9), (0, -9, 9, 0)])
def test_check_box_outside_its_image(tmp_path, table, box):
    table["boxes"] = [[INSIDE], [INSIDE], [INSIDE, box], [INSIDE]]
    with pytest.raises(DatasetError, match=r"list\.txt:3: box 2, .*, lies outside its image 2\.jpg of 40 x 30 pixels"):
        check(table, tmp_path)
    check(table, tmp_path, splits=["test"])  # it is a train image


def spoil(root: Path, rows: dict[int, bytes | None]) -> None:
    for row, data in rows.items():
        file = root / f"{row}.jpg"
        file.unlink() if data is None else file.write_bytes(data)


# Images left out.


@pytest.mark.fault(
    "photographs that are missing or do not decode, and on_bad_image is skip",
    "left out and listed with the reason; a split that would be empty, and wrong boxes, still stop",
)
def test_leave_out_lists_what_cannot_be_used(tmp_path, table):
    whole = (tmp_path / "1.jpg").read_bytes()
    spoil(tmp_path, {0: None, 1: whole[:-100]})
    table = table.iloc[[3, 2, 1, 0]].set_axis([7, 7, 7, 8])  # rows count, not the labels of the index
    before = table.copy(deep=True)
    used, left_out = leave_out(table, tmp_path)
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(used, table.assign(width=40, height=30).iloc[:2].reset_index(drop=True))
    assert list(left_out.columns) == ["image_id", "path", "split", "reason"] and list(left_out.index) == [0, 1]
    assert left_out["path"].tolist() == ["1.jpg", "0.jpg"] and left_out["split"].tolist() == ["test", "train"]
    cut, missing = left_out["reason"]
    assert missing == "missing image" and cut.startswith("an image that does not decode (") and "truncated" in cut
    assert str(tmp_path) not in cut and "\n" not in cut
    used, left_out = leave_out(table, tmp_path, splits=["test"])
    assert used["image_id"].tolist() == ["3", "2", "0"] and left_out["image_id"].tolist() == ["1"]


def test_leave_out_of_nothing_decodes_once(tmp_path, table, monkeypatch):
    used, left_out = leave_out(table, tmp_path)
    assert left_out.empty and list(left_out.columns) == ["image_id", "path", "split", "reason"]
    monkeypatch.setattr(Image, "open", None)
    pd.testing.assert_frame_equal(check(used, tmp_path), used)
    with pytest.raises(DatasetError, match="lies outside its image"):  # wrong boxes are left to `check`
        check(leave_out(used.assign(boxes=[[(99.0, 0.0, 100.0, 9.0)]] * 4), tmp_path)[0], tmp_path)


def test_leave_out_of_a_whole_split_stops(tmp_path, table):
    spoil(tmp_path, {1: None, 3: b"a letter"})
    with pytest.raises(DatasetError, match=r"1\.jpg: missing image, as with every image of the test split; .*unpack"):
        leave_out(table, tmp_path)
    leave_out(table, tmp_path, splits=["train"])


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError("all is used")]
)
def test_leave_out_stops_where_the_machine_fails(tmp_path, table, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    told = r"^all is used$|0\.jpg: cannot be read \((Permission denied|Input/output error)\); make it readable"
    with pytest.raises((DatasetError, MemoryError), match=told):
        leave_out(table, tmp_path)


# Table files.


def test_table_round_trip(tmp_path, table):
    table["boxes"] = [[(0.1, 2.0, 3.0, 4.5), INSIDE], [], [INSIDE], [(1 / 3, 0.0, 1e-5 + 1, 2**30)]]
    table["boxes"] = [[tuple(map(float, box)) for box in some] for some in table["boxes"]]
    table.loc[0, "image_id"], table.loc[0, "class_name"], table.loc[1, "class_name"] = "007", "NA", 'a, "quoted"'
    write_table(table, tmp_path / "new folder" / "table.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "new folder" / "table.csv"), table)
    assert os.listdir(tmp_path / "new folder") == ["table.csv"]
    plain = pd.read_csv(tmp_path / "new folder" / "table.csv")  # what another program sees
    assert json.loads(plain["boxes"].iloc[0]) == [list(box) for box in table["boxes"].iloc[0]]


HEADER = ",".join(datasets.COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        f"{HEADER}\na,b,test,0,c,1,1,[[1]],d,0\n",
        f'{HEADER}\na,b,test,0,c,1,1,"[[0,0,NaN,1]]",d,0\n',
        f"{HEADER}\na,b,val,0,c,1,1,[],d,0\n",
        f"{HEADER}\na,../b,test,0,c,1,1,[],d,0\n",
        f"{HEADER}\na,b,test,0,c,1,1,[],d,0",
    ],
)
def test_read_table_of_something_else(tmp_path, text):
    if text is not None:
        (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DatasetError, match=r"table\.csv: .*run notebook 01"):
        read_table(tmp_path / "table.csv")


# The held-out part.


def made_up_table(sizes: list[int], test: int = 3) -> pd.DataFrame:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)] + [0] * test
    splits = ("train",) * sum(sizes) + ("test",) * test
    return table_of([[INSIDE]] * len(labels), splits).assign(label=labels)


def test_hold_out_is_stratified_and_disjoint():
    table = made_up_table([10, 20, 5, 1, 2])
    part = hold_out(table)
    assert part["image_id"].tolist() == table["image_id"].tolist()[:38]  # every train row once, no test row
    assert part[part["split"] == "test"].groupby("label").size().to_dict() == {0: 2, 1: 4, 2: 1, 4: 1}
    pd.testing.assert_frame_equal(part, hold_out(table))
    assert (hold_out(table, seed=1)["split"] != part["split"]).any()
    assert (hold_out(table, fraction=0.5)["split"] == "test").sum() == 5 + 10 + 2 + 1
    assert set(table["split"]) == {"train", "test"}  # untouched


def test_hold_out_takes_images_with_boxes():
    table = made_up_table([10], test=0)
    table["boxes"] = [[] if row % 2 else boxes for row, boxes in enumerate(table["boxes"])]
    part = hold_out(table, fraction=0.9)
    assert part.index[part["split"] == "test"].tolist() == [0, 2, 4, 6, 8]
    with pytest.raises(DatasetError, match="no train image with a box"):
        hold_out(made_up_table([], test=3))
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(DatasetError, match="fraction must lie between 0 and 1"):
            hold_out(made_up_table([3]), fraction)


# The Dataset: boxes follow the image. `test_transforms` has the transforms themselves.


def painted(root: Path, size: tuple[int, int], boxes: list[tuple]) -> pd.DataFrame:
    """One black image of (width, height), red within the boxes."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = (255, 0, 0)
    Image.fromarray(pixels).save(root / "image.png")
    return table_of([boxes], ("train",)).assign(path="image.png", label=3)


def test_augmentation_is_a_function_of_seed_epoch_and_index(tmp_path, table):
    def epoch_of(dataset: ImageDataset, epoch: int) -> torch.Tensor:
        dataset.set_epoch(epoch)
        return torch.stack([image for image, _, _ in dataset])

    dataset = ImageDataset(table, tmp_path, datasets.train_transform(34, 24), seed=5)
    first, second = epoch_of(dataset, 0), epoch_of(dataset, 1)
    assert not torch.equal(first, second)
    assert len({image.numpy().tobytes() for image in first}) > 1  # the same photograph, another crop at each index
    torch.manual_seed(99)  # neither what was drawn before nor the number of workers matters
    before = torch.get_rng_state()
    dataset.set_epoch(0)
    assert torch.equal(dataset[3][0], first[3]) and torch.equal(dataset[-1][0], first[3])
    assert torch.equal(torch.get_rng_state(), before)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=3, collate_fn=datasets.collate, num_workers=2, persistent_workers=True
    )
    for epoch, expected in ((0, first), (1, second)):  # persistent workers see the new epoch
        dataset.set_epoch(epoch)
        assert torch.equal(torch.cat([images for images, _, _ in loader]), expected)
    assert not torch.equal(epoch_of(ImageDataset(table, tmp_path, dataset.transform, seed=6), 0), first)


def test_items_without_boxes_and_collate(tmp_path):
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


def test_normalisation_and_its_inverse(tmp_path):
    table = painted(tmp_path, (9, 9), [(0, 0, 9, 9)])
    Image.new("RGB", (9, 9), (255, 0, 51)).save(tmp_path / "image.png")
    image, _, boxes = ImageDataset(table, tmp_path, datasets.test_transform(18))[0]
    # (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225
    assert image[:, 1, 2].tolist() == pytest.approx([2.248908, -2.035714, -0.915556], abs=1e-5)
    assert boxes.tolist() == [[0, 0, 18, 18]]
    pixels = datasets.denormalize(image[None])
    assert pixels.shape == (1, 18, 18, 3) and pixels.dtype == np.uint8
    assert (pixels == (255, 0, 51)).all() and (datasets.denormalize(image.numpy()) == (255, 0, 51)).all()
