"""Score maps of any network: figures worked out by hand, wsolevaluation's score told a second time, other packages."""

import pickle
import unicodedata
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import cub, lines
from PIL import Image

from wsol_utils import cam, datasets, evaluation, metrics, models, protocols, score_maps
from wsol_utils.__main__ import main
from wsol_utils.data.layouts import DatasetError
from wsol_utils.maps.extract import predict

PAPER, CHOE = protocols.PROTOCOLS["paper"], protocols.PROTOCOLS["wsolevaluation"]
ALL = ("fixed", "first_above_mean", "best_fixed", "oracle")
PERCENT = ["gt_known", "gt_known_low", "gt_known_high", "max_box_acc"]


def on_disk(folder, images, maps):
    """Text files of {id: (label, (width, height), boxes)} and a file for each map; the folder of the maps, metadata."""
    lines(folder / "metadata/image_ids.txt", list(images))
    lines(folder / "metadata/class_labels.txt", [f"{key},{label}" for key, (label, _, _) in images.items()])
    lines(folder / "metadata/image_sizes.txt", [f"{key},{w},{h}" for key, (_, (w, h), _) in images.items()])
    rows = [f"{key},{','.join(map(str, box))}" for key, (_, _, boxes) in images.items() for box in boxes]
    lines(folder / "metadata/localization.txt", rows)
    for key, scores in zip(images, maps, strict=True):
        file = folder / "maps" / f"{key}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, scores)
    return folder / "maps", score_maps.read_metadata(folder / "metadata")


def patch(x0, y0, x1, y1):
    """A map of 224×224, 1 on the half-open rectangle and 0 elsewhere."""
    scores = np.zeros((224, 224), dtype=np.float32)
    scores[y0:y1, x0:x1] = 1
    return scores


def smooth(seed, count=1, side=224, coarse=8):
    """Random hills, each stretched to [0, 1] as wsolevaluation's own maps are."""
    noise = np.random.default_rng(seed).random((count, coarse, coarse)).astype(np.float32)
    hills = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in noise])
    hills -= hills.min(axis=(1, 2), keepdims=True)
    return hills / hills.max(axis=(1, 2), keepdims=True)


def random_images(seed, count):
    """Sizes, labels and one to three boxes in whole numbers."""
    rng = np.random.default_rng(seed)
    images = {}
    for i in range(count):
        width, height = (int(v) for v in rng.integers(100, 600, 2))
        boxes = []
        for _ in range(rng.integers(1, 4)):
            (x0, x1), (y0, y1) = (np.sort(rng.integers(0, side, 2)) for side in (width, height))
            boxes.append((int(x0), int(y0), int(x1), int(y1)))
        images[f"val/{i % 3}/{i}.JPEG"] = (int(rng.integers(0, 5)), (width, height), boxes)
    return images


# By hand. Whether the box of each image is a hit, under each protocol.

BY_HAND = {
    # The file says x 100 to 319 of 2240, y 10 to 20 of 224; the map says [10, 20) both ways.
    # paper: [10, 31.9): 10 of 21.9 pixels wide, 0.46.
    # wsolevaluation: 31.9 is cut to 31; 10 to 20 is 11 pixels, 10 to 31 is 22: 11 / 22, a hit. Uncut it is 11 / 22.9.
    # rethinkingCAM: the frame is 256, of which 16 are cut: y from 10 * 256 / 224 - 16 < 0 to 6.9: above the box.
    "cut to integers": (patch(10, 10, 20, 20), (2240, 224), [(100, 10, 319, 20)], (0, 1, 0)),
    # The corner of 256×256. paper: 50 * 224 / 256 = 43.75: 30² / 43.75² = 0.47. wsolevaluation: 31² / 44² = 0.496.
    # rethinkingCAM: -16 to 49 - 16, clipped to 0 to 33: 31² / 34² = 0.83; unclipped it is 31² / 50² = 0.38.
    "clipped by the crop": (patch(0, 0, 30, 30), (256, 256), [(0, 0, 50, 50)], (0, 0, 1)),
    # Nothing is found. The whole image is 225² pixels for rethinkingCAM, the object 0 to 183, 0 to 223: 0.81 of them.
    "an empty map": (patch(0, 0, 0, 0), (256, 256), [(16, 16, 200, 256)], (0, 0, 1)),
    # The second is right, the first is not. rethinkingCAM: 100 and 149 become 98 and 154: 51² / 57² = 0.80.
    "several boxes": (patch(100, 100, 150, 150), (224, 224), [(0, 0, 20, 20), (100, 100, 150, 150)], (1, 1, 1)),
    # At the right border. paper: 10 of 20 pixels. wsolevaluation: x1 = 224 is clipped to 223: 10 of 204 to 224, 21.
    # rethinkingCAM: x 217 to 223 of 214 to 224, y 98 to 108 against 100 to 110: 63 / (121 + 77 - 63) = 0.47.
    "at the border": (patch(214, 100, 224, 110), (224, 224), [(204, 100, 224, 110)], (1, 0, 0)),
}
NAMES = ("paper", "wsolevaluation", "rethinkingcam")


@pytest.mark.parametrize("protocol", NAMES)
@pytest.mark.parametrize("name", BY_HAND)
def test_each_image_by_hand(tmp_path, name, protocol):
    scores, size, boxes, hits = BY_HAND[name]
    folder, metadata = on_disk(tmp_path, {"val/0.jpg": (0, size, boxes)}, [scores])
    found = score_maps.evaluate(folder, metadata, protocol, ALL)
    assert found["gt_known"].tolist() == [100 * hits[NAMES.index(protocol)]] * 4
    assert found["max_box_acc"].tolist() == found["gt_known"].tolist()


@pytest.mark.parametrize(("protocol", "percent"), [("paper", 40), ("wsolevaluation", 40), ("rethinkingcam", 60)])
def test_all_images_by_hand(tmp_path, protocol, percent):
    images = {f"val/{i}.jpg": (i, size, boxes) for i, (_, size, boxes, _) in enumerate(BY_HAND.values())}
    folder, metadata = on_disk(tmp_path, images, [scores for scores, *_ in BY_HAND.values()])
    found = score_maps.evaluate(folder, metadata, protocol, ALL)
    assert tuple(found.columns) == score_maps.COLUMNS
    assert found["threshold_rule"].tolist() == list(ALL)
    assert found["gt_known"].tolist() == [percent] * 4
    assert found["uses_ground_truth"].tolist() == [False, False, True, True]
    assert found["n_images"].tolist() == [5] * 4
    assert found["p_value"].tolist() == [1] * 4  # no rule differs from the fixed threshold
    assert found[["top1_cls", "top1_loc", "pxap"]].isna().all(axis=None)
    assert found["max_box_acc_v2"].isna().all() == (protocol == "paper")


def test_top_1(tmp_path):
    images = {f"val/{i}.jpg": (i, size, boxes) for i, (_, size, boxes, _) in enumerate(BY_HAND.values())}
    folder, metadata = on_disk(tmp_path, images, [scores for scores, *_ in BY_HAND.values()])
    guess = np.array([0, 1, 7, 3, 7])  # of the classes 0 to 4: three are right, and of those boxes the last (paper)
    (row,) = score_maps.evaluate(folder, metadata, "paper", ["fixed"], predicted=guess).to_dict("records")
    assert (row["top1_cls"], row["top1_loc"], row["gt_known"]) == (pytest.approx(60), 20, 40)
    (same,) = score_maps.evaluate(folder, metadata, "paper", ["otsu"], predicted=guess).to_dict("records")
    assert (same["top1_loc"], same["threshold_rule"]) == (20, "otsu")
    assert np.isnan(same["p_value"])  # there is no fixed threshold to compare with


def test_v2_takes_all_contours_and_three_ious(tmp_path):
    # The larger rectangle is wrong, the smaller is the object: 50 to 60 against 50 to 64, 11² / 15² = 0.54.
    images = {"val/0.jpg": (0, (224, 224), [(50, 50, 64, 64)])}
    folder, metadata = on_disk(tmp_path, images, [patch(50, 50, 60, 60) + patch(150, 150, 200, 200)])
    (row,) = score_maps.evaluate(folder, metadata, "wsolevaluation", ["best_fixed"]).to_dict("records")
    assert row["max_box_acc"] == row["gt_known"] == 0
    assert row["max_box_acc_v2"] == pytest.approx(200 / 3)  # a hit at 0.3 and 0.5, none at 0.7
    assert [row[f"max_box_acc_v2_{iou}"] for iou in (30, 50, 70)] == [100, 100, 0]


def test_rules_choose_thresholds(tmp_path):
    # Levels 1, 0.5, 0.1 from left to right, a third each of 3×3: the object is the left two thirds.
    images = {"0.jpg": (0, (30, 30), [(0, 0, 20, 30)]), "1.jpg": (0, (30, 30), [(0, 0, 10, 30)])}
    folder, metadata = on_disk(tmp_path, images, [np.array([[1, 0.5, 0.1]] * 3)] * 2)
    found = score_maps.evaluate(folder, metadata, "paper", ["oracle", "best_fixed", "fixed"], size=3)
    # fixed, 0.2: two thirds, IoU 1 and 0.5; the first threshold, 0: everything, 2/3 and 1/3; from 0.5 on: 0.5 and 1
    assert found["gt_known"].tolist() == [100, 100, 100]
    assert found["threshold_rule"].tolist() == ["oracle", "best_fixed", "fixed"]
    # oracle: the first of the best thresholds, 0.1 (of 0.1, ..., 0.45) and 0.5; best fixed: 0.1
    assert found["threshold"].tolist() == pytest.approx([0.3, 0.1, 0.2])
    assert found["threshold_sd"].tolist() == pytest.approx([0.2, 0, 0])


# wsolevaluation's box score, told a second time, threshold by threshold and box by box.


def common_over_union(a, b):
    """Boxes whose corners are their first and last pixels."""
    wide = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in (0, 1)]
    common = max(0, wide[0]) * max(0, wide[1])
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return common / (sum(areas) - common)


def choe(scores, size, boxes):
    """IoU of the largest contour's box, and the best of any contour's, at each of 1000 thresholds."""
    true = [[int(value * 224.0 / size[i % 2]) for i, value in enumerate(box)] for box in boxes]
    levels = (255 * scores).astype(np.uint8)
    known = {}
    for tau in np.arange(0, 1, 0.001):
        cut = int(tau * levels.max())
        if cut in known:
            known[cut].append(tau)
            continue
        outlines, _ = cv2.findContours((levels > cut).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        boxed = []
        for outline in outlines:
            x, y, width, height = cv2.boundingRect(outline)
            overlap = max(common_over_union((x, y, min(x + width, 223), min(y + height, 223)), box) for box in true)
            boxed.append((cv2.contourArea(outline), overlap))
        if not boxed:
            boxed = [(0, max(common_over_union((0, 0, 0, 0), box) for box in true))]
        known[cut] = [max(boxed, key=lambda pair: pair[0])[1], max(overlap for _, overlap in boxed), tau]
    rows = [(tau, *known[cut][:2]) for cut in known for tau in known[cut][2:]]
    return np.array(sorted(rows))[:, 1:].T  # (2, 1000)


def test_wsolevaluation_to_equality(tmp_path):
    images, maps = random_images(1, 20), smooth(1, 20)
    maps[3] = 0  # one that finds nothing
    folder, metadata = on_disk(tmp_path, images, maps)
    expected = np.array(
        [choe(scores, *of[1:]) for scores, of in zip(maps, images.values(), strict=True)]
    )  # (20, 2, 1000)
    (row,) = score_maps.evaluate(folder, metadata, "wsolevaluation", ["best_fixed"]).to_dict("records")
    assert row["max_box_acc"] == row["gt_known"] == 100 * (expected[:, 0] >= 0.5).mean(axis=0).max()
    v2 = [100 * (expected[:, 1] >= iou).mean(axis=0).max() for iou in (0.3, 0.5, 0.7)]
    assert row["max_box_acc_v2"] == pytest.approx(np.mean(v2), abs=1e-12)
    assert 0 < row["max_box_acc"] < v2[0] < 100  # neither is trivial
    some = score_maps.read(folder, metadata, metadata.image_ids, CHOE)
    np.testing.assert_array_equal(evaluation.iou_on_grid(some, "maps", CHOE), expected[:, 0])
    np.testing.assert_array_equal(evaluation.iou_of_contours(some, "maps", CHOE), expected.swapaxes(0, 1))


@pytest.mark.parametrize(
    ("dtype", "beside"),
    [
        (np.float32, -1), (np.float32, None), (np.float32, 1),
        (np.float64, -1), (np.float64, None), (np.float64, 1),
    ],
)  # fmt: skip
def test_wsolevaluations_conversion_to_uint8_is_exact(tmp_path, dtype, beside):
    # k / 255, or the numbers next to it: where it is hardest to say whether 255 times them reaches k. Each of 256
    # levels is in one place of 16×16.
    places = np.random.default_rng(0).permutation(256).reshape(16, 16)
    scores = (places / 255).astype(dtype)
    if beside is not None:
        scores = np.where((scores > 0) & (scores < 1), np.nextafter(scores, dtype(beside)), scores)
    scores = np.kron(scores, np.ones((14, 14), dtype))
    images = {"0.jpg": (0, (224, 224), [(20, 30, 180, 200)])}
    folder, metadata = on_disk(tmp_path, images, [scores])
    some = score_maps.read(folder, metadata, metadata.image_ids, CHOE)
    (levels,) = next(evaluation.prepared(some.maps("maps"), some.size, CHOE))
    np.testing.assert_array_equal(levels, (scores * 255).astype(np.uint8))
    np.testing.assert_array_equal(evaluation.iou_on_grid(some, "maps", CHOE)[0], choe(scores, *images["0.jpg"][1:])[0])


# rethinkingCAM's box score, told a second time from a file of inclusive corners.


def bae(scores, size, boxes, behind=0):
    """IoU of the largest contour's box at 0.2 of the maximum; `behind`: how far the corners are from the last pixel."""
    true = []
    for x0, y0, x1, y1 in boxes:
        low = [max(int(v / side * 256 - 16), 0) for v, side in zip((x0, y0), size, strict=True)]
        high = [min(int((v - behind) / side * 256 - 16), 223) for v, side in zip((x1, y1), size, strict=True)]
        true.append((*low, *high))
    levels = (255 * scores).astype(np.uint8)
    mask = (levels > int(0.2 * levels.max())).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    x, y, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
    return max(common_over_union((x, y, x + width, y + height), box) for box in true)


CORNERS = ("half-open", "inclusive")


def inner_images(seed, count):
    """As `random_images`, one box each, which the crop of rethinkingCAM does not cut off."""
    rng, images = np.random.default_rng(seed), {}
    for i in range(count):
        size = rng.integers(100, 600, 2)
        low, high = (np.floor(size * rng.uniform(*share, 2)).astype(int) for share in ((0.1, 0.3), (0.5, 0.9)))
        images[f"{i}.JPEG"] = (0, tuple(map(int, size)), [tuple(map(int, (*low, *high)))])
    return images


@pytest.mark.parametrize("corners", CORNERS)
def test_both_codes_to_equality_from_both_kinds_of_files(tmp_path, corners):
    images, maps = inner_images(4, 20), smooth(4, 20)
    folder, _ = on_disk(tmp_path, images, maps)
    metadata = score_maps.read_metadata(tmp_path / "metadata", corners)
    expected = [bae(one, *of[1:], behind=corners == "half-open") for one, of in zip(maps, images.values(), strict=True)]
    row = protocols.get("rethinkingcam")
    some = score_maps.read(folder, metadata, metadata.image_ids, row)
    np.testing.assert_array_equal(evaluation.iou_on_grid(some, "maps", row)[:, 4], expected)  # 0, 0.05, ... 0.2
    # wsolevaluation takes what stands there
    expected = [choe(one, *of[1:])[0] for one, of in zip(maps[:5], list(images.values())[:5], strict=True)]
    some = score_maps.read(folder, metadata, metadata.image_ids[:5], CHOE)
    np.testing.assert_array_equal(evaluation.iou_on_grid(some, "maps", CHOE), expected)


def test_inclusive_corners_by_hand(tmp_path):
    """The object is 3 pixels wide, the last of which the file names."""
    images = {"0.jpg": (0, (224, 224), [(10, 10, 12, 12)])}
    folder, _ = on_disk(tmp_path, images, [patch(10, 10, 13, 13)])
    overlap = {}
    for corners in CORNERS:
        metadata = score_maps.read_metadata(tmp_path / "metadata", corners)
        some = score_maps.read(folder, metadata, ["0.jpg"], PAPER)
        overlap[corners] = evaluation.iou_on_grid(some, "maps", PAPER)[0, 4]
    assert overlap == {"half-open": pytest.approx(4 / 9), "inclusive": 1}


# Reading maps.


def test_read(tmp_path):
    images, maps = random_images(2, 4), smooth(2, 4, side=14)
    folder, metadata = on_disk(tmp_path, images, maps)
    keys = [list(images)[i] for i in (2, 0)]
    some = score_maps.read(folder, metadata, keys, PAPER, 96, np.array([4, 1]))
    assert some.image_id.tolist() == keys
    assert some.label.tolist() == [images[key][0] for key in keys] and some.predicted.tolist() == [4, 1]
    np.testing.assert_array_equal(some.maps("maps"), maps[[2, 0]])
    for key, boxes in zip(keys, some.true_boxes(), strict=True):
        _, (width, height), corners = images[key]
        assert boxes.tolist() == (np.array(corners) * 96 / [width, height, width, height]).tolist()
    assert some.size.tolist() == [96, 96] and some.logits.shape == (2, 0)
    assert some.image_size.tolist() == [list(images[key][1]) for key in keys]
    assert score_maps.read(folder, metadata, keys, PAPER, 96).predicted.tolist() == [-1, -1]
    assert [key for one in (some.subset(np.array([1])),) for key in one.image_id] == keys[1:]


@pytest.mark.parametrize("protocol", NAMES)
def test_maps_of_several_shapes_are_as_each_alone(tmp_path, protocol):
    images, shapes = random_images(3, 4), (7, 14, 224, 96)
    folder, metadata = on_disk(tmp_path, images, [smooth(i, 1, side)[0] - 0.2 for i, side in enumerate(shapes)])
    convention = protocols.get(protocol)
    together = score_maps.read(folder, metadata, metadata.image_ids, convention)
    alone = [score_maps.read(folder, metadata, [key], convention) for key in metadata.image_ids]
    assert together.maps("maps").shape == (4, 224, 224) and alone[0].maps("maps").shape == (1, 7, 7)
    np.testing.assert_array_equal(
        evaluation.iou_on_grid(together, "maps", convention),
        np.concatenate([evaluation.iou_on_grid(one, "maps", convention) for one in alone]),
    )


@pytest.mark.parametrize("protocol", NAMES)
def test_chunks_do_not_matter(tmp_path, monkeypatch, protocol):
    images = random_images(4, 8)
    folder, metadata = on_disk(tmp_path, images, smooth(4, 8, side=32))
    rules, guess = [*ALL, "otsu"], np.arange(8) % 5
    objects = [(scores > 0.5).astype(np.uint8) for scores in smooth(5, 8, side=32)]
    whole = score_maps.evaluate(folder, metadata, protocol, rules, 32, guess, objects)
    monkeypatch.setattr(score_maps, "CHUNK", 3)
    pd.testing.assert_frame_equal(score_maps.evaluate(folder, metadata, protocol, rules, 32, guess, objects), whole)
    assert whole["gt_known"].nunique() > 1


def npz(file):
    with open(file, "wb") as opened:
        np.savez(opened, maps=np.ones((4, 4)))


def cut_off(file):
    np.save(file, np.ones((4, 4)))
    file.write_bytes(file.read_bytes()[:-8])


def enormous(file):
    np.save(file, np.ones((4, 4)))
    file.write_bytes(file.read_bytes().replace(b"(4, 4), }" + b" " * 14, b"(4000000, 4000000), }  "))


BROKEN = {
    "empty": (lambda file: file.write_bytes(b""), "no whole .npy file"),
    "text": (lambda file: file.write_text("0.5"), "no whole .npy file"),
    "cut off": (cut_off, "no whole .npy file"),
    "more than there is": (enormous, "no whole .npy file"),
    "a pickle": (lambda file: file.write_bytes(pickle.dumps(np.ones((4, 4)))), "no whole .npy file"),
    "objects": (lambda file: np.save(file, np.array([["a"]], dtype=object)), "no whole .npy file"),
    "several arrays": (npz, "not an array of floating point"),
    "bytes": (lambda file: np.save(file, np.ones((4, 4), np.uint8)), "not an array of floating point"),
    "three dimensions": (lambda file: np.save(file, np.ones((1, 4, 4))), r"not \(height, width\) but \(1, 4, 4\)"),
    "no pixel": (lambda file: np.save(file, np.ones((0, 4))), r"not \(height, width\) but \(0, 4\)"),
    "NaN": (lambda file: np.save(file, np.array([[0, np.nan]])), "1 values NaN or infinite"),
    "infinity": (lambda file: np.save(file, np.array([[np.inf, -np.inf]])), "2 values NaN or infinite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_map_is_named(tmp_path, name):
    folder, metadata = on_disk(tmp_path, random_images(5, 2), np.ones((2, 4, 4)))
    spoil, message = BROKEN[name]
    spoil(folder / f"{metadata.image_ids[1]}.npy")
    with pytest.raises(DatasetError, match=message) as caught:
        score_maps.evaluate(folder, metadata, "paper", ["fixed"], 4)
    assert str(caught.value).startswith(f"{folder}/{metadata.image_ids[1]}.npy: ")
    assert str(caught.value).endswith("as numpy.save does")


def test_missing_maps_are_refused_before_any_is_read(tmp_path, monkeypatch):
    folder, metadata = on_disk(tmp_path, random_images(5, 5), np.ones((5, 4, 4)))
    monkeypatch.setattr(score_maps, "read", lambda *_: pytest.fail("one was read"))
    for name in ("val/2/2.JPEG", "val/1/4.JPEG"):
        (folder / f"{name}.npy").unlink()
    (folder / "val/1/4.JPEG.npy.part").touch()  # of an interrupted `write_maps`: no map
    with pytest.raises(DatasetError) as caught:
        score_maps.evaluate(folder, metadata)
    assert str(caught.value) == (
        f"{folder}/val/1/4.JPEG.npy: 2 maps missing, this one first; give a map for every id of the metadata"
    )


def test_maps_of_other_images_are_counted_and_not_read(tmp_path):
    folder, metadata = on_disk(tmp_path, random_images(5, 2), np.ones((2, 4, 4)))
    said = []
    (folder / "notes.txt").touch()
    alone = score_maps.evaluate(folder, metadata, rules=["fixed"], size=4, say=said.append)
    assert not said
    for name in ("val/9.JPEG", "train/3/x.JPEG", "0.JPEG"):
        (folder / f"{name}.npy").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.npy").write_text("no map")
    for name in (
        "val/0/._0.JPEG",
        "val/.ipynb_checkpoints/0.JPEG",
        ".old/val/0/0.JPEG",
        "val/0/.x",
    ):  # what systems leave
        (folder / f"{name}.npy").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.npy").write_text("no map")
    found = score_maps.evaluate(folder, metadata, rules=["fixed"], size=4, say=said.append)
    pd.testing.assert_frame_equal(found, alone)
    assert said == [f"{folder}: maps of images that image_ids.txt does not list, not used: 3"]
    (folder / "val/0/0.JPEG.npy").unlink()
    with pytest.raises(DatasetError, match=r"val/0/0\.JPEG\.npy: 1 maps missing"):
        score_maps.evaluate(folder, metadata, rules=["fixed"], size=4)


def test_an_id_may_begin_with_a_dot(tmp_path):
    folder, metadata = on_disk(tmp_path, {".a/b.jpg": (0, (4, 4), [(0, 0, 4, 4)])}, np.ones((1, 4, 4)))
    assert score_maps.find(folder, metadata.image_ids) == ({".a/b.jpg": ".a/b.jpg.npy"}, 0)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_of_another_unicode_form_are_found(tmp_path, forms):
    listed, stored = (unicodedata.normalize(form, "val/é/café.jpg") for form in forms)
    folder, metadata = on_disk(tmp_path, {listed: (0, (224, 224), [(10, 10, 20, 20)])}, [patch(10, 10, 20, 20)])
    (folder / "val").rename(folder / "away")
    (folder / f"{stored}.npy").parent.mkdir(parents=True)
    (folder / "away" / f"{listed[4:]}.npy").rename(folder / f"{stored}.npy")
    said = []
    assert score_maps.evaluate(folder, metadata, say=said.append)["gt_known"].tolist() == [100] * 4
    assert not said
    (folder / f"{listed}.npy").parent.mkdir(parents=True, exist_ok=True)
    (folder / f"{listed}.npy").write_bytes((folder / f"{stored}.npy").read_bytes())
    with pytest.raises(DatasetError, match="2 files have this name, each in another Unicode form; keep one of them"):
        score_maps.evaluate(folder, metadata)


def test_maps_in_a_linked_folder_are_found(tmp_path):
    folder, metadata = on_disk(tmp_path, random_images(5, 3), np.ones((3, 4, 4)))
    (folder / "val").rename(tmp_path / "elsewhere")
    (folder / "val").symlink_to(tmp_path / "elsewhere")
    assert score_maps.evaluate(folder, metadata, rules=["fixed"], size=4)["n_images"].tolist() == [3]


def test_a_single_map_that_is_missing(tmp_path):
    folder, metadata = on_disk(tmp_path, random_images(5, 2), np.ones((2, 4, 4)))
    (folder / "val/1/1.JPEG.npy").unlink()
    with pytest.raises(DatasetError, match=r"val/1/1\.JPEG\.npy: no such file; .*as numpy\.save does$"):
        score_maps.read(folder, metadata, metadata.image_ids, PAPER)


def test_a_protocol_of_ones_own(tmp_path):
    folder, metadata = on_disk(tmp_path, random_images(1, 12), smooth(1, 12, side=32))
    for name in NAMES:
        by_name, by_row = (score_maps.evaluate(folder, metadata, one, ALL, 32) for one in (name, protocols.get(name)))
        pd.testing.assert_frame_equal(by_name, by_row)
    own = replace(PAPER, grid=CHOE.grid, iou=0.3, candidates=tuple(i / 10 for i in range(11)))
    found = score_maps.evaluate(folder, metadata, own, ALL, 32)
    some = score_maps.read(folder, metadata, metadata.image_ids, own, 32)
    grid = evaluation.on_grid(evaluation.iou_on_grid(some, "maps", own), own)
    chosen = evaluation.overlaps(some, "maps", own, ["first_above_mean"]) | grid
    for rule, eta in zip(found["threshold_rule"], found["threshold"], strict=True):
        assert eta == pytest.approx(chosen[rule][0].mean())
    usual = score_maps.evaluate(folder, metadata, "paper", ALL, 32)
    assert (found["gt_known"] >= usual["gt_known"]).all() and found["gt_known"].sum() > usual["gt_known"].sum()


@pytest.mark.parametrize("dtype", [">f4", ">f8", "float16", "float32", "float64", "longdouble"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floating_point_of_every_kind(tmp_path, dtype, order):
    scores = np.array([[0, 0.25, 0.5], [0.5, 1, 0]]).astype(dtype, order=order)
    folder, metadata = on_disk(tmp_path, random_images(6, 1), [scores])
    some = score_maps.read(folder, metadata, metadata.image_ids, PAPER)
    assert some.maps("maps").tolist() == [[[0, 0.25, 0.5], [0.5, 1, 0]]]
    assert some.scaled_maps.dtype == (np.float32 if dtype in (">f4", "float16", "float32") else np.float64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"protocol": "choe"}, "unknown protocol 'choe'; choose one of paper, wsolevaluation"),
        (
            {"rules": ["fixed", "otso"]},
            "unknown threshold rule 'otso'.*; choose one of fixed, first_above_mean.*oracle",
        ),
        ({"rules": []}, "no threshold rule; choose one or more of fixed"),
    ],
)
def test_unknown_names(tmp_path, values, message):
    folder, metadata = on_disk(tmp_path, random_images(7, 1), np.ones((1, 4, 4)))
    with pytest.raises(ValueError, match=message):
        score_maps.evaluate(folder, metadata, **values)


# Maps as they are, and thresholds of one's own.


def test_maps_as_they_are(tmp_path):
    # Levels 0.5, 0.6, 1: stretched they are 0, 0.2, 1, of which 0.2 leaves the last alone; as they are all are above.
    scores = np.repeat(np.array([[0.5, 0.6, 1.0]]), 3, axis=0)
    folder, metadata = on_disk(tmp_path, {"0.jpg": (0, (30, 30), [(0, 0, 30, 30)])}, [scores])
    for how, overlap in (("minmax", 1 / 3), ("none", 1)):
        row = replace(PAPER, normalization=how)
        some = score_maps.read(folder, metadata, ["0.jpg"], row, 3)
        assert evaluation.iou_on_grid(some, "maps", row)[0, 4] == pytest.approx(overlap)
        assert next(evaluation.scores(some, "maps", row)).tolist()[0] == pytest.approx(
            [0.5, 0.6, 1] if how == "none" else [0, 0.2, 1]
        )


@pytest.mark.parametrize("value", [-0.25, 1.0000001])
def test_maps_as_they_are_lie_between_0_and_1(tmp_path, value):
    scores = np.array([[0.5, value], [0, 1]])
    folder, metadata = on_disk(tmp_path, {"0.jpg": (0, (2, 2), [(0, 0, 1, 1)])}, [scores])
    score_maps.evaluate(folder, metadata, size=2)
    problem = (
        rf"0\.jpg\.npy: values from {min(value, 0)} to {max(value, 1)}, but .* lies in \[0, 1\]; .* without --as-is"
    )
    with pytest.raises(DatasetError, match=problem):
        score_maps.evaluate(folder, metadata, replace(PAPER, normalization="none"), size=2)


@pytest.mark.parametrize("protocol", NAMES)
def test_thresholds_of_ones_own_are_rows(tmp_path, protocol):
    folder, metadata = on_disk(tmp_path, random_images(1, 12), smooth(1, 12, side=32))
    own, row = {"eta": 0.2, "tuned": 0.35}, protocols.get(protocol)
    found = score_maps.evaluate(folder, metadata, protocol, ["fixed", "best_fixed"], 32, own=own)
    assert found["threshold_rule"].tolist() == ["fixed", "best_fixed", "eta", "tuned"]
    assert found["uses_ground_truth"].tolist() == [False, True, False, True]
    assert found["threshold"].tolist()[2:] == pytest.approx([0.2, 0.35])
    some = score_maps.read(folder, metadata, metadata.image_ids, row, 32)
    hits = evaluation.iou_on_grid(some, "maps", row) >= 0.5
    for name, eta in own.items():
        [percent] = found.loc[found["threshold_rule"] == name, "gt_known"]
        assert percent == 100 * hits[:, np.abs(np.array(row.grid) - eta).argmin()].mean() > 0
    with pytest.raises(ValueError, match=r"from 0 to 1, got eta 1\.5"):
        score_maps.evaluate(folder, metadata, protocol, own={"eta": 1.5})


def test_the_best_threshold_of_a_split(tmp_path):
    # as in `test_rules_choose_thresholds`: from 0.5 on 1 of the object of the second image, from 0.1 on of the first
    levels = np.array([[1, 0.5, 0.1]] * 3)
    # in c an image is hit at 0 alone; two others come closest at 0.1, and are not hit
    for name, widths, best in (("a", [20], 0.1), ("b", [10], 0.5), ("c", [30, 15, 15], 0.0)):
        images = {f"{i}.jpg": (0, (30, 30), [(0, 0, width, 30)]) for i, width in enumerate(widths)}
        folder, metadata = on_disk(tmp_path / name, images, [levels] * len(widths))
        row = replace(PAPER, iou=0.9)
        assert score_maps.best_threshold(folder, metadata, row, 3) == best


def test_every_rule_runs(tmp_path):
    folder, metadata = on_disk(tmp_path, random_images(8, 3), smooth(8, 3, side=16))
    found = score_maps.evaluate(folder, metadata, "paper", score_maps.RULES, 32)
    assert found["threshold_rule"].tolist() == list(score_maps.RULES)
    assert found["threshold"].between(0, 1).all() and found["threshold"].nunique() > 5


# The boxes.


@pytest.mark.parametrize("protocol", NAMES)
def test_boxes_are_those_that_were_scored(tmp_path, monkeypatch, protocol):
    images, rules = random_images(4, 8), [*ALL, "otsu", "percentile"]
    folder, metadata = on_disk(tmp_path, images, smooth(4, 8, side=32))
    monkeypatch.setattr(score_maps, "CHUNK", 3)
    file = tmp_path / "new/boxes.csv"
    table = score_maps.evaluate(folder, metadata, protocol, rules, 32, own={"eta": 0.7}, boxes=file)
    found = pd.read_csv(file)
    assert list(found.columns) == ["image_id", "threshold_rule", "threshold", "x0", "y0", "x1", "y1", "iou"]
    assert found["image_id"].tolist() == [key for key in images for _ in range(7)]
    assert found["threshold_rule"].tolist() == [*rules, "eta"] * 8
    by_rule = found.groupby("threshold_rule", sort=False)
    assert by_rule["iou"].agg(lambda iou: 100 * (iou >= 0.5).mean()).tolist() == table["gt_known"].tolist()
    assert by_rule["threshold"].mean().tolist() == pytest.approx(table["threshold"].tolist(), abs=1e-6)
    row = protocols.get(protocol)
    some = score_maps.read(folder, metadata, metadata.image_ids, row, 32)
    etas, boxes = evaluation.localize(some, "maps", replace(row, clip=False), ["otsu"])["otsu"]
    ours = found[found["threshold_rule"] == "otsu"]
    for box, back, (_, size, _) in zip(boxes, ours[["x0", "y0", "x1", "y1"]].to_numpy(), images.values(), strict=True):
        assert protocols.to_input([back], size, 32, row)[0] == pytest.approx(box, abs=1e-9)
    np.testing.assert_allclose(ours["threshold"], etas, atol=1e-6)


def test_boxes_by_hand(tmp_path):
    """An image of 448×112 pixels: twice as wide as the input, half as high; and one with nothing to find."""
    images = {"a.jpg": (0, (448, 112), [(20, 5, 40, 10)]), "b.jpg": (0, (448, 112), [(20, 5, 40, 10)])}
    folder, metadata = on_disk(tmp_path, images, [patch(10, 10, 20, 20), patch(0, 0, 0, 0)])
    score_maps.evaluate(folder, metadata, "paper", ["fixed"], boxes=tmp_path / "boxes.csv")
    assert (tmp_path / "boxes.csv").read_text() == (
        "image_id,threshold_rule,threshold,x0,y0,x1,y1,iou\n"
        "a.jpg,fixed,0.2,20.0,5.0,40.0,10.0,1.0\nb.jpg,fixed,0.0,0.0,0.0,0.0,0.0,0.0\n"
    )
    score_maps.evaluate(folder, metadata, "rethinkingcam", ["fixed"], boxes=tmp_path / "boxes.csv")
    found = pd.read_csv(tmp_path / "boxes.csv")[["x0", "y0", "x1", "y1"]].to_numpy().tolist()
    # 26 to 36 of 256 pixels; and, where nothing is found, all of the crop, 16 to 240
    assert found == [[45.5, 11.375, 63.0, 15.75], [28.0, 7.0, 420.0, 105.0]]


# PxAP.


def test_pxap_by_hand(tmp_path):
    folder, metadata = on_disk(
        tmp_path, random_images(9, 2), [np.array([[1, 0.5], [1, -1]]), np.array([[1.0, 0], [0, 0]])]
    )
    objects = [np.array([[0, 1], [255, 0]]), np.array([[1, 0], [0, 0]])]
    # Score 1: an object and a background pixel, the third is ignored; precision 1/2, recall 1/2.
    # Score 0.5: one object more; 2/3, recall 1. What is left, the score below 0 too, adds nothing.
    (row,) = score_maps.evaluate(folder, metadata, "paper", ["fixed"], 2, masks=iter(objects)).to_dict("records")
    assert row["pxap"] == pytest.approx(100 * (1 / 2 * 1 / 2 + 2 / 3 * 1 / 2))
    with pytest.raises(ValueError, match="zip"):
        score_maps.evaluate(folder, metadata, "paper", ["fixed"], 2, masks=objects[:1])


def test_metadata_with_masks_and_no_boxes(tmp_path):
    folder, _ = on_disk(tmp_path, {"0.jpg": (0, (2, 2), [(0, 0, 1, 1)])}, [np.array([[1, 0.5], [0, 0]])])
    lines(tmp_path / "metadata/localization.txt", ["0.jpg,0.png,"])
    (tmp_path / "metadata/image_sizes.txt").unlink()
    metadata = score_maps.read_metadata(tmp_path / "metadata")
    with pytest.raises(ValueError, match="name masks instead of boxes: give the masks"):
        score_maps.evaluate(folder, metadata, size=2)
    with pytest.raises(
        ValueError, match="name masks instead of boxes: ask for no boxes to be written and no thresholds"
    ):
        score_maps.evaluate(folder, metadata, size=2, masks=[], boxes=tmp_path / "boxes.csv")
    with pytest.raises(ValueError, match="tuned on boxes"):
        score_maps.best_threshold(folder, metadata, size=2)
    found = score_maps.evaluate(folder, metadata, size=2, masks=[np.array([[0, 1], [0, 0]])])
    assert tuple(found.columns) == score_maps.COLUMNS
    assert found.dropna(axis=1).to_dict("records") == [{"n_images": 1, "pxap": 50}]


# Maps that were made here, and by other packages.


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Three photographs of each of two classes, and their table."""
    root = tmp_path_factory.mktemp("cub")
    cub(root, train=0, test=3)
    return root, datasets.check(datasets.read_cub(root), root)


def network():
    """A small VGG that has learnt nothing."""
    torch.manual_seed(0)
    return models.build("small_vgg", 2, "gap").eval()


@pytest.mark.parametrize("protocol", NAMES)
def test_our_maps_written_and_read_give_the_same_figures(birds, tmp_path, protocol):
    root, table = birds
    convention = protocols.get(protocol)
    transform = datasets.test_transform(64, protocols.frame_side(64, convention))
    sizes = table[["width", "height"]].to_numpy()
    found = predict(network(), datasets.ImageDataset(table, root, transform), sizes)
    score_maps.write_metadata(tmp_path / "metadata", table)
    score_maps.write_maps(tmp_path / "maps", found.image_id, found.maps("signed"))
    assert not list(tmp_path.rglob("*.part"))
    again = score_maps.read_metadata(tmp_path / "metadata")
    listed = score_maps.evaluate(tmp_path / "maps", again, protocol, ALL, 64, found.predicted)
    grid = evaluation.on_grid(evaluation.iou_on_grid(found, "signed", convention), convention)
    direct = evaluation.overlaps(found, "signed", convention, ALL[:2]) | grid
    expected = pd.DataFrame(evaluation.rows(found, {rule: direct[rule] for rule in ALL}, convention))
    expected = expected.drop(columns=["iou", "class_is_right"])  # of each image: no figures of a table
    pd.testing.assert_frame_equal(listed[expected.columns], expected)
    assert listed["threshold"].nunique() > 1
    if convention.levels:
        v2 = metrics.max_box_acc_v2(evaluation.iou_of_contours(found, "signed", convention)[1])
        assert listed["max_box_acc_v2"].tolist() == [v2] * 4


def test_maps_are_written_as_wsolevaluation_names_them(tmp_path):
    score_maps.write_maps(tmp_path, ["val2/995/0.jpeg"], torch.ones(1, 2, 3))
    scores = np.load(tmp_path / "val2/995/0.jpeg.npy")
    assert scores.dtype == np.float32 and scores.shape == (2, 3)
    for hostile in ("../x", "/x", "a/../../x", ""):
        with pytest.raises(ValueError, match="no path below a folder"):
            score_maps.write_maps(tmp_path / "maps", [hostile], np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="zip"):
        score_maps.write_maps(tmp_path, ["a", "b"], np.ones((1, 2, 2)))


def photographs(birds, model):
    """The images (B, 3, 64, 64), the maps of Eq. 2 (B, 8, 8) of the true classes, and the labels."""
    root, table = birds
    images, labels, _ = datasets.collate([*datasets.ImageDataset(table, root, datasets.test_transform(64))])
    with torch.inference_mode():
        features = model(images).features
    return images, cam.activation_map(features, model.class_weights.detach()[labels], "signed"), labels


def figures(folder, table, maps, protocol):
    """GT-known of some maps of the photographs, by every threshold."""
    score_maps.write_metadata(folder / "metadata", table)
    score_maps.write_maps(folder / "maps", table["image_id"], maps)
    return score_maps.evaluate(folder / "maps", score_maps.read_metadata(folder / "metadata"), protocol, ALL, 64)


class Logits(torch.nn.Module):
    """A network that gives its logits alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        """(B, 3, H, W) -> (B, K)."""
        return self.model(images).logits


def test_maps_of_pytorch_grad_cam(birds, tmp_path):
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is a check from outside, not needed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = network()
    images, ours, labels = photographs(birds, model)
    with grad_cam.GradCAM(Logits(model), [model.backbone[-1]]) as explain:
        theirs = explain(images, [ClassifierOutputTarget(int(label)) for label in labels])
    # After global average pooling, Grad-CAM is the ReLU of Eq. 2; theirs is upsampled and stretched to [0, 1].
    expected = cam.normalize(cam.upsample(ours.clamp(min=0), 64), "minmax").numpy()
    np.testing.assert_allclose(theirs, expected, atol=1e-4)
    found, same = (figures(tmp_path / name, birds[1], maps, "paper") for name, maps in (("a", theirs), ("b", expected)))
    pd.testing.assert_frame_equal(found[["gt_known", "max_box_acc"]], same[["gt_known", "max_box_acc"]])


@pytest.mark.parametrize("protocol", ["wsolevaluation", "rethinkingcam"])
def test_maps_of_torchcam(birds, tmp_path, protocol):
    torchcam = pytest.importorskip("torchcam.methods", reason="torchcam is a check from outside, not needed")
    model = Logits(network()).eval()
    images, ours, labels = photographs(birds, model.model)
    with torchcam.CAM(model, "model.backbone", "model.head") as explain, torch.inference_mode():
        model(images)
        (theirs,) = explain(labels.tolist())
    # Theirs is Eq. 2 at the map's resolution, stretched to [0, 1], which these two protocols do in any case.
    np.testing.assert_allclose(theirs, cam.normalize(ours, "minmax"), atol=1e-4)
    found, same = (figures(tmp_path / name, birds[1], maps, protocol) for name, maps in (("a", theirs), ("b", ours)))
    columns = ["gt_known", "max_box_acc", "max_box_acc_v2"]
    pd.testing.assert_frame_equal(found[columns], same[columns])


# The command.


def command(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments)])
    return stopped.value.code, *capsys.readouterr()


@pytest.fixture
def folders(tmp_path):
    """The images that were worked out by hand; arguments of the command."""
    images = {f"val/{i}.jpg": (i, size, boxes) for i, (_, size, boxes, _) in enumerate(BY_HAND.values())}
    on_disk(tmp_path, images, [scores for scores, *_ in BY_HAND.values()])
    return ["--maps", tmp_path / "maps", "--metadata", tmp_path / "metadata"]


def test_the_command_prints_a_table(folders, tmp_path, capsys):
    code, out, err = command(capsys, *folders)
    assert (code, err) == (0, "")
    table = out.splitlines()
    assert table[0].split() == [
        "threshold_rule", "threshold", "threshold_sd", "uses_ground_truth", "n_images",
        "gt_known", "gt_known_low", "gt_known_high", "p_value",
    ]  # fmt: skip
    assert [row.split()[0] for row in table[1:-1]] == list(ALL)
    assert table[1].split() == ["fixed", "0.160", "0.080", "False", "5", "40.0", "0.0", "80.0", "1"]  # 0 for no map
    assert table[-1] == "max_box_acc 40.0"


def test_the_commands_options(folders, tmp_path, capsys):
    lines(tmp_path / "guess.txt", [f"val/{i}.jpg,{label}" for i, label in enumerate([0, 1, 7, 3, 7])])
    for i in range(5):
        file = tmp_path / "segmentations" / "val" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(file)
    more = ["--protocol", "wsolevaluation", "--rule", "fixed", "--rule", "oracle", "--size", 224]
    more += [
        "--predicted",
        tmp_path / "guess.txt",
        "--masks",
        tmp_path / "segmentations",
        "--out",
        tmp_path / "new/a.csv",
    ]
    code, out, err = command(capsys, *folders, *more)
    assert (code, err) == (0, "")
    # IoU 0.5, 0.496, 0, 1 and 0.476: 4 hits of 5 at 0.3, 2 at 0.5, 1 at 0.7
    parts = "max_box_acc_v2_30 80.0, max_box_acc_v2_50 40.0, max_box_acc_v2_70 20.0"
    assert out.splitlines()[-1] == f"max_box_acc 40.0, max_box_acc_v2 46.7, {parts}, pxap 100.0"
    written = pd.read_csv(tmp_path / "new/a.csv")
    assert tuple(written.columns) == score_maps.COLUMNS
    assert written["threshold_rule"].tolist() == ["fixed", "oracle"]
    assert written["top1_loc"].tolist() == [40, 40] and written["pxap"].tolist() == [100, 100]


def test_the_command_says_what_it_puts_up_with(folders, tmp_path, capsys):
    lines(tmp_path / "guess.txt", [f"val/{i}.jpg,0" for i in range(7)])
    np.save(tmp_path / "maps" / "x.npy", np.ones((2, 2)))
    file = tmp_path / "metadata/localization.txt"
    file.write_text(file.read_text().replace("val/0.jpg,100,10,319,20", "val/0.jpg,100,10,319,225"))
    code, _, err = command(capsys, *folders, "--predicted", tmp_path / "guess.txt")
    assert code == 0 and [line.split(": ", 1)[1] for line in err.splitlines()] == [
        "boxes that leave their image, clipped to it: 1 of 6",
        "lines of images that image_ids.txt does not list, not used: 2",
        "maps of images that image_ids.txt does not list, not used: 1",
    ]


def test_the_commands_further_rows_and_boxes(folders, tmp_path, capsys):
    on_disk(tmp_path / "val", {"0.jpg": (0, (30, 30), [(0, 0, 10, 30)])}, [np.array([[1, 0.5, 0.1]] * 3)])
    other = [tmp_path / "val/maps", tmp_path / "val/metadata"]
    more = ["--rule", "fixed", "--eta", 0.35, "--tune-on", *other, "--boxes", tmp_path / "boxes.csv"]
    code, out, _ = command(capsys, *folders, *more)
    rows = [line.split() for line in out.splitlines()[1:-1]]
    # upsampled to 224, the true third alone is above 0.7 of the maximum, and with some of the next from 0.45 on
    assert code == 0 and [row[:4] for row in rows] == [
        ["fixed", "0.160", "0.080", "False"], ["eta", "0.350", "0.000", "False"], ["tuned", rows[2][1], *rows[2][2:4]],
    ]  # fmt: skip
    best = score_maps.best_threshold(other[0], score_maps.read_metadata(other[1]))
    assert rows[2][1:4] == [f"{best:.3f}", "0.000", "True"] and best > 0.2
    assert pd.read_csv(tmp_path / "boxes.csv")["threshold_rule"].tolist() == ["fixed", "eta", "tuned"] * 5


def test_the_commands_conventions(folders, tmp_path, capsys):
    """Corners and normalisation reach the evaluation: its figures are those of Python."""
    code, _, _ = command(capsys, *folders, "--corners", "inclusive", "--as-is", "--out", tmp_path / "a.csv")
    metadata = score_maps.read_metadata(tmp_path / "metadata", "inclusive")
    row = replace(PAPER, normalization="none")
    expected = score_maps.evaluate(tmp_path / "maps", metadata, row)
    assert code == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), expected, check_dtype=False)
    np.save(tmp_path / "maps/val/0.jpg.npy", np.full((2, 2), 2.0))
    assert command(capsys, *folders)[0] == 0
    code, _, err = command(capsys, *folders, "--as-is")
    assert code == 1 and "val/0.jpg.npy: values from 2 to 2, but a map that is taken as it is lies in [0, 1]" in err


def test_the_command_on_openimages(tmp_path, capsys):
    on_disk(tmp_path, {"0.jpg": (0, (2, 2), [(0, 0, 1, 1)])}, [np.array([[1, 0.5], [0, 0]])])
    lines(tmp_path / "metadata/localization.txt", ["0.jpg,m/0.png,"])
    (tmp_path / "m").mkdir()
    Image.fromarray(np.array([[0, 255], [0, 0]], np.uint8)).save(tmp_path / "m/0.png")
    folders = ["--maps", tmp_path / "maps", "--metadata", tmp_path / "metadata", "--size", 2]
    code, out, _ = command(capsys, *folders, "--masks", tmp_path)
    assert (code, out.split()) == (0, ["n_images", "1", "pxap", "50.0"])
    code, out, err = command(capsys, *folders)
    assert (code, out) == (1, "") and err == "Error: these metadata name masks instead of boxes: give the masks\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--protocol", "papers"], "unknown protocol 'papers' (did you mean 'paper'?); choose one of paper"),
        (["--rule", "otso"], "unknown threshold rule 'otso' (did you mean 'otsu'?); choose one of fixed"),
        (["--corners", "closed"], "unknown corners 'closed'; choose one of half-open, inclusive"),
        (["--eta", "1.5"], "a threshold is a share of the map's maximum, from 0 to 1, got eta 1.5"),
        (["--eta", "nan"], "from 0 to 1, got eta nan"),
        (["--tune-on", "nowhere", "elsewhere"], "elsewhere/image_ids.txt: no such file"),
        (["--boxes", "image_ids.txt/a.csv"], "image_ids.txt"),
        (["--metadata", "nowhere"], "nowhere/image_ids.txt: no such file"),
        (["--maps", "nowhere"], "nowhere/val/0.jpg.npy: 5 maps missing, this one first"),
        (["--predicted", "nowhere/guess.txt"], "nowhere/guess.txt: no such file"),
        (["--masks", "nowhere"], "val/0.png: no such file"),
        (["--out", "image_ids.txt/a.csv"], "image_ids.txt"),  # below a file
    ],
)
def test_the_command_fails_in_one_line(folders, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path / "metadata")
    code, out, err = command(capsys, *folders, *change)
    assert code == 1 and out == ""
    assert err.startswith("Error: ") and message in err
    assert err.count("\n") == 1
