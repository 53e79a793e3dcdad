"""The files that notebooks hand on, and what a configuration determines: splits, networks, the device."""

import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import cub, replace_line, table
from PIL import Image

from wsol_utils import datasets, experiments, handover, preparation
from wsol_utils.maps.predictions import Predictions
from wsol_utils.scores.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("alone")


# What a user finds in metrics.csv, first of all.
METRICS_COLUMNS = [
    "dataset", "profile", "backbone", "method", "pooling", "temperature", "recombination", "normalization",
    "resolution", "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images", "top1_cls",
    "top1_loc", "gt_known", "gt_known_low", "gt_known_high",
]  # fmt: skip


# Tables and arrays.


def test_a_table_that_is_cut_off(tmp_path):
    path = tmp_path / "a.csv"
    handover.write_csv(table(2)[["path"]], path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"a\.csv is cut off: delete it, and run the notebook that writes it again"):
        handover.read_csv(path)


def test_panels(tmp_path):
    columns = [
        {"image": np.full((2, 2, 3), i, np.uint8), "truth": np.zeros((i % 3, 4)), "cam_map": np.full((1, 2), i / 7)}
        for i in range(12)
    ]
    handover.save_panels(tmp_path / "deep" / "panels.npz", columns)
    again = handover.load_panels(tmp_path / "deep" / "panels.npz")
    assert len(again) == 12  # in their order, 10 after 9
    for kept, read in zip(columns, again, strict=True):
        assert list(read) == list(kept)
        for key in kept:
            np.testing.assert_array_equal(read[key], kept[key], strict=True)


def test_tables_of_several_seeds(config, capsys):
    rows = pd.DataFrame({"seed": [0, 1, 0, 1], "gt_known": [1 / 3, 2.0, 3.0, 4.0]})
    handover.write_seed_csv(config, rows, "thresholds.csv")
    handover.write_seed_csv(config, rows[:1], "history.csv")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["wrote"] * 4
    again = handover.seed_csv(config, "thresholds.csv", "04_threshold_selection")
    assert again.to_numpy().tolist() == [[0, 1 / 3], [0, 3], [1, 2], [1, 4]]  # to the last bit
    assert list(again.index) == [0, 1, 2, 3]
    assert (config.seed_folder(1) / "history.csv").read_text() == "seed,gt_known\n"  # a seed without rows
    assert handover.seed_csv(config, "history.csv", "02_finetune_wgap")["gt_known"].tolist() == [1 / 3]


# Notebook 01.


def test_the_annotations_are_prepared_once(tmp_path, monkeypatch):
    cub(tmp_path / "cub", train=1, test=1)
    config = experiments.configure("cub", "light", data_root=str(tmp_path / "cub"), results=str(tmp_path / "results"))
    first = preparation.prepare(config)
    assert (first["width"] > 0).all() and set(first["split"]) == {"train", "test"}  # each was opened
    monkeypatch.setattr(datasets, "check", lambda *_: pytest.fail("opened again"))
    pd.testing.assert_frame_equal(preparation.prepare(config), first)
    pd.testing.assert_frame_equal(handover.annotations(config), first)


def test_a_large_train_split_is_opened_only_where_it_is_needed(tmp_path, monkeypatch):
    cub(tmp_path / "data")
    replace_line(tmp_path / "data" / "bounding_boxes.txt", 1, "1 -9 4 5000 9")  # a train image
    given = experiments.configure("cub", "light", data_root=str(tmp_path / "data"), results=str(tmp_path))
    listed = datasets.read_cub(given.root)
    monkeypatch.setattr(preparation, "MANY", 10)
    unopened, _ = preparation.usable(given, listed)
    assert unopened["boxes"][0] == [(-9, 4, 4991, 13)] and (unopened["width"] == 0).sum() == 4
    assert preparation.clipping(unopened).endswith("; 4 images were not opened, and their boxes stay as listed")
    for name, value in {"evaluate_on": "validation", "on_bad_image": "skip"}.items():  # a part of train is evaluated
        opened, _ = preparation.usable(experiments.replace(given, **{name: value}), listed)
        assert (opened["width"] > 0).all() and opened["clipped"][0] == 4991 - opened["width"][0]
    monkeypatch.setattr(preparation, "MANY", 11)
    assert (preparation.usable(given, listed)[0]["width"] > 0).all()


def test_the_largest_overshoots_are_listed(monkeypatch):
    monkeypatch.setattr(preparation, "LISTED", 2)
    assert preparation.clipping(table(5).assign(clipped=[0, 3.5, 1, 7, 1.5])).splitlines() == [
        "boxes clipped to their image: in 1 images by a pixel or less, in 3 by more; the most is 7 px",
        "  7 px: list.txt:1, 3.png",
        "  3.5 px: list.txt:1, 1.png",
        "  and 1 more, in the column clipped of annotations.csv",
    ]


# Splits, networks, the device.


@pytest.mark.parametrize("evaluate_on, sizes", [("test", (10, 4)), ("validation", (8, 2))])  # a fifth of each class
def test_split(config, evaluate_on, sizes):
    both = pd.concat([table(10), table(4, "test").assign(image_id=list("abcd"))], ignore_index=True)
    config = experiments.replace(config, evaluate_on=evaluate_on)
    train, test = (handover.split(config, both, name) for name in ("train", "test"))
    assert (len(train), len(test)) == sizes and list(test.index) == list(range(len(test)))
    assert not set(train["image_id"]) & set(test["image_id"])
    assert {*train["image_id"], *test["image_id"]} == set(both["image_id"][: sum(sizes)])  # no test image in validation


def test_every_method_is_trained_with_every_pooling(config):
    several = experiments.replace(config, methods="has,acol")
    pairs = [(method, pooling) for method in ("cam", "has", "acol") for pooling in ("gap", "wgap")]
    assert handover.trainings(several, table(4)) == pairs
    files = [handover.checkpoint(several, 0, pooling, method).stem for method, pooling in pairs]
    assert files == ["gap", "wgap", "has_gap", "has_wgap", "acol_gap", "acol_wgap"]
    assert handover.trainings(config, table(4, "test")) == [("cam", "gap")]
    with pytest.raises(ValueError, match=r"no train split, and has, acol must be trained: leave methods as \['cam'\]"):
        handover.trainings(several, table(4, "test"))


def test_ours_is_wgap_where_it_was_trained(config):
    for names, expected in ((["gap", "wgap", "tap"], "wgap"), (["gap", "wgap_sum"], "wgap_sum"), (["gap"], "gap")):
        for seed in config.seeds:
            rows = pd.DataFrame({"seed": seed, "method": "cam", "pooling": names})
            handover.write_csv(rows, config.seed_folder(seed) / "networks.csv")
        assert handover.ours(config) == expected


@pytest.mark.parametrize(
    "cuda, mps, there, expected",
    [
        (0, False, "cpu", {"": "cpu"}),
        (2, False, "cpu, cuda:0, cuda:1", {"": "cuda", "cuda": "cuda", "cuda:1": "cuda:1", "gpu": "cuda"}),
        (0, True, "cpu, mps", {"": "cpu", "mps": "mps", "gpu": "mps"}),
    ],
)
def test_device_and_workers(monkeypatch, cuda, mps, there, expected):
    """What there is is used; what there is not is refused in a line that says what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    for word in ("", "cuda", "cuda:1", "cuda:2", "mps", "gpu"):
        config = experiments.configure("cub", "light", device=word)
        if word in expected:
            assert handover.device(config) == expected[word]
            assert handover.workers(config) in ([0] if expected[word] == "cpu" else range(1, 17))
        else:
            with pytest.raises(ValueError, match=f"^device '{word}': torch finds none here; there is {there}$"):
                handover.device(config)
    cpu = experiments.configure("birds")  # where the sample's bands were measured
    assert (handover.device(cpu), handover.workers(cpu)) == ("cpu", 0)
    assert handover.workers(experiments.replace(cpu, workers=3)) == 3


def test_photographs_in_the_geometry_of_a_protocol(config):
    """An image whose left and right eighths are black: the crop of 110 pixels to 96 leaves 1 pixel of each less."""
    pixels = np.full((110, 110, 3), 255, np.uint8)
    pixels[:, :8] = pixels[:, -8:] = 0
    Image.fromarray(pixels).save(config.root / "0.png")
    test = table(1, "test").assign(boxes=[[(8.0, 0.0, 102.0, 110.0)]])
    cropped, _, box = handover.test_set(config, test, PROTOCOLS["rethinkingcam"])[0]
    assert cropped.shape == (3, 96, 96) and box.tolist() == [[1, 0, 95, 96]]
    whole, _, box = handover.test_set(config, test, PROTOCOLS["paper"])[0]
    assert whole.shape == (3, 96, 96)
    np.testing.assert_allclose(box, [[8 * 96 / 110, 0, 102 * 96 / 110, 96]], rtol=1e-6)
    (seen,) = handover.pictures(experiments.replace(config, protocol="rethinkingcam"), test, [0])
    assert seen.shape == (96, 96, 3) and seen.dtype == np.uint8
    assert (seen[:, [0, 95]] == 0).all() and (seen[:, 1:95] == 255).all()


def test_a_crop_of_the_images_is_another_pass(config):
    paths = {name: handover.prediction_folder(config, 1, "wgap", row) for name, row in PROTOCOLS.items()}
    assert paths["paper"] == paths["wsolevaluation"] == config.seed_folder(1) / "predictions_wgap"
    for name in ("paper", "rethinkingcam"):
        Predictions(
            np.array([name]), np.array([1]), np.array([0]), np.zeros((1, 2), np.float16), np.array(["signed"]),
            np.zeros((1, 1, 2, 2), np.float16), np.zeros((1, 1), np.float32), np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64), np.array([8, 8]), np.array([[8, 8]]),
        ).save(paths[name])  # fmt: skip
    bae = experiments.replace(config, protocol="rethinkingcam")
    for run, protocol, expected in (
        (config, None, "paper"), (bae, None, "rethinkingcam"),  # the run's own geometry
        (bae, PROTOCOLS["paper"], "paper"), (config, PROTOCOLS["rethinkingcam"], "rethinkingcam"),
    ):  # fmt: skip
        assert handover.predictions(run, 1, "wgap", protocol).image_id.tolist() == [expected]


# metrics.csv, and what became of each image.


def test_described_rows_have_the_columns_of_metrics_csv(config):
    left = pd.DataFrame({"image_id": list("abc"), "path": "x.png", "split": ["test", "train", "test"], "reason": "-"})
    kinds = ["gap", "wgap", "wgap_sum", "tap"]
    figures = dict.fromkeys(handover.METRICS_COLUMNS, 1.0)
    rows = pd.DataFrame(figures | {"pooling": kinds, "extra": 9})
    words = ["dataset", "profile", "backbone", "features", "protocol", *experiments.CONVENTIONS, "candidates",
             "n_skipped", "weights"]  # fmt: skip
    usual = ["birds", "sample", "small_vgg", "plain", "paper", "max", "input", "bilinear", "pixels", "8-neighbours", 21]
    own = {"features": "weighted", "protocol": "wsolevaluation", "normalization": "max", "resolution": "map",
           "boundary": "contour", "candidates": 11, "temperature": 0.5, "evaluate_on": "validation",
           "weights": "elsewhere/tiny_imagenet_gap_from_scratch.safetensors"}  # fmt: skip
    changed = ["birds", "sample", "small_vgg", "weighted", "wsolevaluation", "max", "map", "bicubic", "contour",
               "contour", 11]  # fmt: skip
    for run, temperature, expected in (
        (config, 1, [*usual, 2, "things"]),
        (experiments.replace(config, **own), 0.5, [*changed, 1, "tiny_imagenet_gap_from_scratch"]),
        (experiments.replace(config, weights="imagenet"), 1, [*usual, 2, "imagenet"]),
    ):
        handover.write_csv(left, run.folder / "skipped.csv")
        found = handover.described(run, rows)
        assert list(found.columns) == handover.METRICS_COLUMNS and list(found.columns[:20]) == METRICS_COLUMNS
        assert found.loc[0, words].tolist() == expected and found["pooling"].tolist() == kinds
        assert found["temperature"].fillna(-1).tolist() == [-1, temperature, temperature, -1]  # empty for others
        assert found.drop(columns="temperature").notna().all(axis=None)


@pytest.fixture
def judged():
    """Rows of `evaluation.rows`: two networks of two seeds, three images, by two rules."""
    rows = []
    for seed, pooling in ((0, "gap"), (1, "gap"), (0, "wgap"), (1, "wgap")):
        for rule, iou in (("fixed", [0.5, 0.4, 0.9]), ("otsu", [0.1, 0.6, 0.7])):
            key = {"seed": seed, "method": "cam", "pooling": pooling, "recombination": "signed", "threshold_rule": rule}
            right = np.array([True, pooling == "wgap", False])
            rows.append(key | {"iou": np.array(iou) + 0.01 * seed, "class_is_right": right})
    return pd.DataFrame(rows)


def test_what_became_of_each_image_is_handed_on(judged, config, capsys):
    fixed = judged["threshold_rule"] == "fixed"
    handover.write_overlaps(config, judged[fixed], "recombination.npz")
    handover.write_overlaps(config, judged[~fixed & (judged["seed"] == 0)], "thresholds.npz")  # seed 1 has no rows
    assert len(handover.overlaps(config)) == 6
    handover.write_overlaps(config, judged[~fixed], "thresholds.npz")
    assert "seed1/thresholds.npz" in capsys.readouterr().out
    found = handover.overlaps(config)
    metrics = judged.sample(frac=1, random_state=0).reset_index(drop=True)  # in any order
    here, there = (handover.outcomes(metrics, rows, 0.5) for rows in (judged, found))
    for figure in ("gt_known", "top1_loc", "top1_cls"):
        assert here[figure].dtype == bool and here[figure].tolist() == there[figure].tolist()
    for row, known, located, right in zip(metrics.itertuples(), *here.values(), strict=True):
        assert known.tolist() == (row.iou >= 0.5).tolist() and right.tolist() == row.class_is_right.tolist()
        assert located.tolist() == (known & right).tolist()
    assert handover.outcomes(metrics, judged, 0.7)["gt_known"].sum() == 8  # another IoU counts
    with pytest.raises(ValueError, match=r"no image's IoU is kept for \(1, 'cam', 'wgap', 'signed', 'otsu'\)"):
        handover.outcomes(metrics, judged[:-1], 0.5)
