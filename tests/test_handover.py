"""What a run does with a configuration: splits, networks, hand-over files, and what counts as the same training."""

import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import cub, replace_line, table
from PIL import Image

from wsol_utils import datasets, experiments, files, handover, preparation
from wsol_utils.maps.predictions import Predictions
from wsol_utils.scores.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("alone")


# What a user finds in metrics.csv, first of all.
METRICS_COLUMNS = [
    "dataset", "profile", "backbone", "method", "pooling", "temperature", "recombination", "normalization",
    "resolution", "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images", "top1_cls",
    "top1_loc", "gt_known", "gt_known_low", "gt_known_high",
]  # fmt: skip

# Files that one notebook hands to the next.


def test_a_later_notebook_names_the_one_before_it(config):
    for call, file, notebook in (
        (lambda: handover.annotations(config), "annotations.csv", "01_dataset_preparation"),
        (lambda: handover.networks(config), "seed0/networks.csv", "02_finetune_wgap"),
        (lambda: handover.predictions(config, 1, "gap"), "seed1/predictions_gap", "03_cam_recombination"),
        (lambda: handover.seed_csv(config, "x.csv", "04_threshold_selection"), "seed0/x.csv", "04_threshold_selection"),
    ):
        with pytest.raises(
            FileNotFoundError, match=rf"sample/birds/{file} is missing: run notebooks/{notebook}\.ipynb"
        ):
            call()


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


def test_the_largest_overshoots_are_listed(config):
    said = preparation.clipping(table(5).assign(clipped=[0, 3.5, 1, 7, 1.5]), most=2).splitlines()
    assert said == [
        "boxes clipped to their image: in 1 images by a pixel or less, in 3 by more; the most is 7 px",
        "  7 px: list.txt:1, 3.png",
        "  3.5 px: list.txt:1, 1.png",
        "  and 1 more, in the column clipped of annotations.csv",
    ]


def test_annotations(config):
    datasets.write_table(table(), config.folder / "annotations.csv")
    pd.testing.assert_frame_equal(handover.annotations(config), table())


def one_image(name):
    return Predictions(
        np.array([name]), np.array([1]), np.array([0]), np.zeros((1, 2), np.float16), np.array(["signed"]),
        np.zeros((1, 1, 2, 2), np.float16), np.zeros((1, 1), np.float32), np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64), np.array([8, 8]), np.array([[8, 8]]),
    )  # fmt: skip


def test_predictions(config):
    one_image("a").save(config.seed_folder(1) / "predictions_wgap")
    assert handover.predictions(config, 1, "wgap").image_id.tolist() == ["a"]


def test_a_crop_of_the_images_is_another_pass(config, tmp_path):
    files = {name: handover.prediction_folder(config, 1, "wgap", row) for name, row in PROTOCOLS.items()}
    assert files["paper"] == files["wsolevaluation"] == config.seed_folder(1) / "predictions_wgap"
    assert files["rethinkingcam"] == config.seed_folder(1) / "predictions_wgap_cropped"
    for name in ("paper", "rethinkingcam"):
        one_image(name).save(files[name])
    bae = experiments.replace(config, protocol="rethinkingcam")
    assert handover.predictions(bae, 1, "wgap").image_id.tolist() == ["rethinkingcam"]  # the run's own geometry
    assert handover.predictions(bae, 1, "wgap", PROTOCOLS["paper"]).image_id.tolist() == ["paper"]
    assert handover.predictions(config, 1, "wgap", PROTOCOLS["rethinkingcam"]).image_id.tolist() == ["rethinkingcam"]
    files["rethinkingcam"].rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"predictions_wgap_cropped is missing: run notebooks/03_"):
        handover.predictions(bae, 1, "wgap")


def test_tables_of_several_seeds(config, capsys):
    rows = pd.DataFrame({"seed": [0, 1, 0, 1], "gt_known": [1 / 3, 2.0, 3.0, 4.0]})
    handover.write_seed_csv(config, rows, "thresholds.csv")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["wrote", "wrote"]
    assert pd.read_csv(config.seed_folder(1) / "thresholds.csv")["gt_known"].tolist() == [2, 4]
    again = handover.seed_csv(config, "thresholds.csv", "04_threshold_selection")
    assert again.to_numpy().tolist() == [[0, 1 / 3], [0, 3], [1, 2], [1, 4]]  # to the last bit
    assert list(again.index) == [0, 1, 2, 3]
    (config.seed_folder(1) / "thresholds.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"seed1/thresholds\.csv is missing"):
        handover.seed_csv(config, "thresholds.csv", "04_threshold_selection")


def test_a_seed_without_rows_has_an_empty_table(config):
    handover.write_seed_csv(config, pd.DataFrame({"seed": [1], "loss": [0.5]}), "history.csv")
    assert (config.seed_folder(0) / "history.csv").read_text() == "seed,loss\n"
    assert handover.seed_csv(config, "history.csv", "02_finetune_wgap")["loss"].tolist() == [0.5]


def test_an_interrupted_csv_leaves_the_old_file(tmp_path, monkeypatch):
    handover.write_csv(table(2)[["path"]], tmp_path / "a.csv")

    def cut_off(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_to_disk", cut_off)
    with pytest.raises(KeyboardInterrupt):
        handover.write_csv(table(3)[["path"]], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "path\n0.png\n1.png\n"


def left_out(config, *splits):
    """Notebook 01's list of photographs that a run does without."""
    rows = {"image_id": [f"{i}" for i in range(len(splits))], "path": "x.png", "split": splits, "reason": "missing"}
    handover.write_csv(pd.DataFrame(rows), config.folder / "skipped.csv")


@pytest.mark.parametrize("evaluate_on, counted", [("test", 2), ("validation", 1)])
def test_photographs_that_were_left_out_are_counted(config, evaluate_on, counted):
    config = experiments.replace(config, evaluate_on=evaluate_on)
    left_out(config, "test", "train", "test")
    found = handover.described(
        config, pd.DataFrame(columns=handover.METRICS_COLUMNS, data=[["wgap"] * len(handover.METRICS_COLUMNS)])
    )
    assert found["n_skipped"].tolist() == [counted]


def test_a_table_that_is_cut_off_is_named(config):
    handover.write_csv(table(3)[["path"]], config.folder / "a.csv")
    assert list(handover.read_csv(config.folder / "a.csv")["path"]) == ["0.png", "1.png", "2.png"]
    content = (config.folder / "a.csv").read_bytes()
    (config.folder / "a.csv").write_bytes(content[:-3])
    with pytest.raises(ValueError, match=r"a\.csv is cut off: delete it, and run the notebook that writes it again"):
        handover.read_csv(config.folder / "a.csv")


def test_described_rows_have_the_columns_of_metrics_csv(config):
    left_out(config)
    kinds = ["gap", "wgap", "wgap_sum", "tap"]
    rows = pd.DataFrame({"method": "cam", "pooling": kinds, "seed": 0, "recombination": "absolute",
                         "threshold_rule": "fixed",
                         "threshold": 0.2, "threshold_sd": 0.0, "uses_ground_truth": False, "n_images": 3,
                         "top1_cls": 1.0, "top1_loc": 1.0, "gt_known": 1.0, "gt_known_low": 0.0, "gt_known_high": 2.0,
                         "p_value": 1.0, "extra": 9})  # fmt: skip
    found = handover.described(config, rows)
    assert list(found.columns) == handover.METRICS_COLUMNS
    assert list(found.columns[:20]) == METRICS_COLUMNS and found.columns.is_unique
    assert found.drop(columns="temperature").notna().all(axis=None)
    words = ["dataset", "profile", "backbone", "features", "protocol", *experiments.CONVENTIONS, "candidates"]
    assert found.loc[0, words].tolist() == [
        "birds", "sample", "small_vgg", "plain", "paper", "max", "input", "bilinear", "pixels", "8-neighbours", 21,
    ]  # fmt: skip
    own = {"features": "weighted", "protocol": "wsolevaluation", "normalization": "max", "resolution": "map",
           "boundary": "contour", "candidates": 11}  # fmt: skip
    found = handover.described(experiments.replace(config, temperature=0.5, **own), rows)
    assert found.loc[0, words].tolist() == [
        "birds", "sample", "small_vgg", "weighted", "wsolevaluation", "max", "map", "bicubic", "contour", "contour", 11,
    ]  # fmt: skip
    assert found["temperature"].fillna(-1).tolist() == [-1, 0.5, 0.5, -1]
    found = handover.described(config, rows)
    assert found["temperature"].fillna(-1).tolist() == [-1, 1, 1, -1]  # a cell that does not apply is empty
    assert found["pooling"].tolist() == kinds


def test_panels(tmp_path):
    columns = [
        {"image": np.full((2, 2, 3), i, np.uint8), "truth": np.zeros((i % 3, 4)), "cam_map": np.full((1, 2), i / 7)}
        for i in range(12)
    ]
    handover.save_panels(tmp_path / "deep" / "panels.npz", columns)
    again = handover.load_panels(tmp_path / "deep" / "panels.npz")
    assert len(again) == 12  # in their order, 10 after 9
    for kept, read in zip(columns, again, strict=True):
        assert list(read) == ["image", "truth", "cam_map"]
        for key in kept:
            np.testing.assert_array_equal(read[key], kept[key])
            assert read[key].dtype == kept[key].dtype
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["panels.npz"]


# Splits and networks.


def test_the_annotations_are_prepared_once(tmp_path, monkeypatch):
    cub(tmp_path / "cub", train=1, test=1)
    config = experiments.configure("cub", "light", data_root=str(tmp_path / "cub"), results=str(tmp_path / "results"))
    first = preparation.prepare(config)
    assert (first["width"] > 0).all() and set(first["split"]) == {"train", "test"}  # each was opened
    monkeypatch.setattr(datasets, "check", lambda *_: pytest.fail("opened again"))
    pd.testing.assert_frame_equal(preparation.prepare(config), first)
    pd.testing.assert_frame_equal(handover.annotations(config), first)


def test_every_method_is_trained_with_every_pooling(config):
    several = experiments.configure("cub", "light", methods="has,acol", results=config.results)
    pairs = [(method, pooling) for method in ("cam", "has", "acol") for pooling in ("gap", "wgap")]
    assert handover.trainings(several, table(4)) == pairs
    assert handover.trainings(config, table(4, "test")) == [("cam", "gap")]
    with pytest.raises(ValueError, match=r"no train split, and has, acol must be trained: leave methods as \['cam'\]"):
        handover.trainings(several, table(4, "test"))
    files = {handover.checkpoint(several, 0, pooling, method).stem for method, pooling in pairs}
    assert files == {"gap", "wgap", "has_gap", "has_wgap", "acol_gap", "acol_wgap"}


@pytest.fixture
def gpus(monkeypatch):
    """A function: this machine has so many CUDA GPUs, and Apple's or not."""

    def have(cuda, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


@pytest.mark.parametrize(
    "cuda, mps, expected",
    [
        (0, False, {"": "cpu", "cpu": "cpu"}),
        (2, False, {"": "cuda", "cpu": "cpu", "cuda": "cuda", "cuda:1": "cuda:1", "gpu": "cuda"}),
        (0, True, {"": "cpu", "cpu": "cpu", "mps": "mps", "gpu": "mps"}),
    ],
)
def test_device(gpus, cuda, mps, expected):
    """What there is is used; what there is not is refused in a line that says what there is."""
    gpus(cuda, mps)
    there = {(0, False): "cpu", (2, False): "cpu, cuda:0, cuda:1", (0, True): "cpu, mps"}[cuda, mps]
    for word in ("", "cpu", "cuda", "cuda:1", "cuda:2", "mps", "gpu"):
        config = experiments.configure("cub", "light", device=word)
        if word in expected:
            assert handover.device(config) == expected[word]
        else:
            with pytest.raises(ValueError, match=f"^device '{word}': torch finds none here; there is {there}$"):
                handover.device(config)
    assert handover.device(experiments.configure("birds")) == "cpu"  # where the sample's bands were measured


def test_workers(gpus):
    gpus(1)
    assert handover.workers(experiments.configure("cub", "light", device="cpu")) == 0
    assert 1 <= handover.workers(experiments.configure("cub", "light", device="cuda")) <= 16
    assert handover.workers(experiments.configure("cub", "light", device="cuda", workers=3)) == 3


def test_split(config):
    both = pd.concat([table(10), table(4, "test")], ignore_index=True)
    assert handover.split(config, both, "train")["image_id"].tolist() == [str(i) for i in range(10)]
    test = handover.split(config, both, "test")
    assert list(test.index) == [0, 1, 2, 3] and set(test["split"]) == {"test"}


def test_a_validation_part_is_held_out_of_the_train_split(tmp_path):
    config = experiments.configure(results=str(tmp_path), evaluate_on="validation")
    both = pd.concat([table(10), table(4, "test").assign(image_id="never")], ignore_index=True)
    train, held = handover.split(config, both, "train"), handover.split(config, both, "test")
    assert len(train) == 8 and len(held) == 2  # a fifth of each class
    assert sorted([*train["image_id"], *held["image_id"]]) == [str(i) for i in range(10)]


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
    (seen,) = handover.pictures(config, test, [0])
    assert (seen[:, [0, 5, 90, 95]] == 0).all() and (seen[:, 9:87] == 255).all()


def test_ours_is_wgap_where_it_was_trained(config):
    for names, expected in ((["gap", "wgap", "tap"], "wgap"), (["gap", "wgap_sum"], "wgap_sum"), (["gap"], "gap")):
        for seed in config.seeds:
            rows = pd.DataFrame({"seed": seed, "method": "cam", "pooling": names})
            handover.write_csv(rows, config.seed_folder(seed) / "networks.csv")
        assert handover.ours(config) == expected


# What became of each image.


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
    config = experiments.replace(config, seeds=(0, 1))
    fixed = judged["threshold_rule"] == "fixed"
    handover.write_overlaps(config, judged[fixed], "recombination.npz")
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


def test_a_run_that_compares_no_rules_keeps_an_empty_list(judged, config):
    handover.write_overlaps(config, judged[judged["seed"] == 0], "recombination.npz")
    handover.write_overlaps(config, judged[:0], "thresholds.npz")
    assert len(handover.overlaps(config)) == 4


def test_a_missing_list_names_the_notebook_and_one_that_is_cut_off_itself(judged, config):
    with pytest.raises(FileNotFoundError, match=r"recombination\.npz is missing: run notebooks/03_cam_recombination"):
        handover.overlaps(config)
    handover.write_overlaps(config, judged[judged["seed"] == 0], "recombination.npz")
    path = config.seed_folder(0) / "recombination.npz"
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:100], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"seed0/recombination\.npz is no whole \.npz file \(.*: delete it"):
            handover.overlaps(config)


@pytest.mark.parametrize(
    "weights, expected",
    [("", "things"), ("imagenet", "imagenet"), ("scratch", "scratch"),
     ("elsewhere/tiny_imagenet_gap_from_scratch.safetensors", "tiny_imagenet_gap_from_scratch")],
)  # fmt: skip
def test_tables_call_the_starting_weights_by_their_name(config, weights, expected):
    """No file is opened: a run can be verified where its weights are not."""
    assert handover.starting_point(experiments.replace(config, weights=weights)) == expected
