"""Profile `paper` from end to end through the notebooks, on a handful of made-up images in each official layout.

CUB takes VGG-16 at 224 pixels with random weights and one step of fine-tuning: whoever has the full data and a GPU
meets no line for the first time. The other layouts and side roads take cheaper networks.
"""

import ast
import contextlib
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from layouts_on_disk import LAYOUTS, ROOT, cub, ilsvrc, replace_line, run_notebook, run_road, weights_file
from PIL import Image
from safetensors.torch import load_file

from wsol_utils import datasets, experiments, models, protocols
from wsol_utils.maps.predictions import Predictions

COLUMNS = [  # of metrics.csv
    "dataset", "profile", "backbone", "method", "pooling", "temperature", "recombination", "normalization",
    "resolution", "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images", "top1_cls",
    "top1_loc", "gt_known", "gt_known_low", "gt_known_high",
]  # fmt: skip
RULES = [
    "first_above_mean", "argmax", "mean_of_candidates", "nearest_to_mean", "mean_boundary_value", "otsu", "li",
    "triangle", "yen", "isodata", "mean", "percentile", "fixed", "best_fixed", "oracle",
]  # fmt: skip
RECOMBINATIONS = ["signed", "positive", "absolute"]
STEP = {"batch_size": 4, "epochs": 1}
CHEAP = {"backbone": "small_vgg", "image_size": 48, "resize_size": 52, **STEP}
ROADS = {  # values, poolings, seeds, and the side of a map
    "cub": ({"backbone": "vgg16", "batch_size": 2, "epochs": 1}, ("gap", "wgap"), (0,), 14),
    "ilsvrc": ({"seeds": "0,1", **CHEAP}, ("gap", "wgap"), (0, 1), 6),
    "tiny_imagenet": ({"poolings": "gap,wgap,wgap_sum,tap", **CHEAP}, ("gap", "wgap", "wgap_sum", "tap"), (0,), 6),
}
BEYOND = {1: 2, 3: 32, 4: 0.5}  # line of one of CUB's boxes -> pixels that it goes beyond the edge


@pytest.fixture(scope="module")
def vgg16_weights(tmp_path_factory):
    """The convolutions of a VGG-16 in torchvision's keys."""
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            torch.nn.init.zeros_(layer.bias)
    network = torch.nn.ModuleDict({"features": layers})
    return weights_file(tmp_path_factory.mktemp("weights") / "vgg16.safetensors", network)


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    torch.manual_seed(0)
    return weights_file(tmp_path_factory.mktemp("weights") / "small.safetensors", models.SmallVGG(), "features.")


@pytest.fixture(scope="module")
def roads(tmp_path_factory, vgg16_weights, small_weights):
    """All results after notebooks 01 to 06 for each layout, the folder of the photographs, and what was said."""
    root, said = tmp_path_factory.mktemp("roads"), io.StringIO()
    for dataset, (values, *_) in ROADS.items():
        LAYOUTS[dataset](root / dataset, *images(dataset))
        if dataset == "cub":
            for line, pixels in BEYOND.items():
                with Image.open(root / "cub" / "images" / cub_path(root, line)) as image:
                    box = f"{line} 4.0 5.0 {image.width - 4 + pixels} 9.0"
                replace_line(root / "cub" / "bounding_boxes.txt", line, box)
        weights = vgg16_weights if values["backbone"] == "vgg16" else small_weights
        with contextlib.redirect_stdout(said):
            run_road(
                dataset=dataset, profile="paper", data_root=str(root / dataset), weights=str(weights),
                results=str(root / "results"), **values,
            )  # fmt: skip
    return root / "results" / "paper", root, said.getvalue()


def images(dataset):
    """How many there are of each class to train and to test with: VGG-16 takes its time."""
    return (1, 1) if dataset == "cub" else (2, 2)


def cub_path(root, line):
    return (root / "cub" / "images.txt").read_text().splitlines()[line - 1].split()[1]


def assert_complete(folder, poolings, seeds=(0,)):
    """Every combination once for each seed, and figures that can be percentages and bounds of each other."""
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics.columns)[: len(COLUMNS)] == COLUMNS
    found = metrics.groupby(["pooling", "recombination", "threshold_rule"]).size()
    assert set(found.index) == {(p, r, t) for p in poolings for r in RECOMBINATIONS for t in RULES}
    assert (found == len(seeds)).all() and set(metrics["seed"]) == set(seeds)
    figures = metrics[["top1_cls", "top1_loc", "gt_known", "gt_known_low", "gt_known_high"]]
    assert figures.notna().all(axis=None) and figures.ge(0).all(axis=None) and figures.le(100).all(axis=None)
    assert (metrics["top1_loc"] <= metrics[["top1_cls", "gt_known"]].min(axis=1)).all()
    assert metrics["gt_known"].between(metrics["gt_known_low"], metrics["gt_known_high"]).all()
    assert set(metrics.loc[metrics["uses_ground_truth"], "threshold_rule"]) == {"best_fixed", "oracle"}
    assert (metrics["uses_ground_truth"] == metrics["threshold_rule"].isin(["best_fixed", "oracle"])).all()
    np.testing.assert_allclose(metrics.loc[metrics["threshold_rule"] == "fixed", "threshold"], 0.2, atol=1e-12)
    by_rule = metrics.pivot_table("gt_known", ["seed", "pooling", "recombination"], "threshold_rule")
    assert (by_rule["fixed"] <= by_rule["best_fixed"]).all() and (by_rule["best_fixed"] <= by_rule["oracle"]).all()
    return metrics


def assert_pictures(folder):
    for name in ("fig2.png", "fig3.png", "fig4.png"):
        with Image.open(folder / name) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert min(pixels.shape[:2]) > 150 and pixels.std() > 10, f"{name} is blank"


# Each layout.


@pytest.mark.parametrize("dataset", ROADS)
def test_metrics_and_figures(roads, dataset):
    values, poolings, seeds, _ = ROADS[dataset]
    metrics = assert_complete(roads[0] / dataset, poolings, seeds)
    for column, value in {
        "dataset": dataset, "profile": "paper", "backbone": values["backbone"], "normalization": "max",
        "resolution": "input", "protocol": "paper", "n_images": 2 * images(dataset)[1],
    }.items():  # fmt: skip
        assert set(metrics[column]) == {value}, column
    weighted = metrics["pooling"].isin(["wgap", "wgap_sum"])
    assert metrics.loc[~weighted, "temperature"].isna().all() and set(metrics.loc[weighted, "temperature"]) == {1.0}
    assert_pictures(roads[0] / dataset)


@pytest.mark.parametrize("dataset", ROADS)
def test_predictions_hold_a_map_for_every_image(roads, dataset):
    values, poolings, _, side = ROADS[dataset]
    table, frame = datasets.read_table(roads[0] / dataset / "annotations.csv"), values.get("image_size", 224)
    test = table[table["split"] == "test"]
    for name in poolings:
        predictions = Predictions.load(roads[0] / dataset / "seed0" / f"predictions_{name}")
        assert predictions.image_id.tolist() == test["image_id"].tolist()
        assert predictions.label.tolist() == ([0, 1] if dataset == "cub" else [0, 0, 1, 1])
        kinds = predictions.kinds.tolist()
        assert kinds[:3] == RECOMBINATIONS and "unrectified_absolute_maps" in kinds  # VGG-16 ends in a ReLU
        assert predictions.scaled_maps.shape == (len(test), len(kinds), side, side)
        assert predictions.logits.shape == (len(test), 2) and predictions.size.tolist() == [frame, frame]
        boxes = predictions.true_boxes()
        assert [len(found) for found in boxes] == ([1, 3, 1, 3] if dataset == "ilsvrc" else [1] * len(test))
        for row, found in zip(test.itertuples(), boxes, strict=True):  # boxes follow the square resize
            scale = np.array([frame / row.width, frame / row.height] * 2)
            np.testing.assert_allclose(found, np.array(row.boxes) * scale, atol=0.01)


def test_both_poolings_were_trained_from_the_weights_given(roads, vgg16_weights):
    folder, start = roads[0] / "cub", load_file(vgg16_weights)
    states = {name: load_file(folder / "seed0" / f"{name}.safetensors") for name in ("gap", "wgap")}
    for name, state in states.items():
        assert state["head.weight"].shape == (2, 512), name
        moved = [key for key in start if not torch.equal(state[key.replace("features", "backbone", 1)], start[key])]
        assert moved, f"one step with {name} changed no convolution"
        largest = max((state[key.replace("features", "backbone", 1)] - start[key]).abs().max() for key in start)
        assert largest < 0.1, f"{name} did not start from the weights given"
    [epoch] = json.loads(models.read_metadata(folder / "seed0" / "wgap.safetensors")["history"])
    assert epoch["epoch"] == 1 and np.isfinite(epoch["loss"])
    networks = pd.read_csv(folder / "seed0" / "networks.csv")
    assert networks["pooling"].tolist() == ["gap", "wgap"] and not networks["own_head"].any()
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("*.resume.pt"))


@pytest.mark.parametrize("dataset", ROADS)
def test_heads_differ_with_pooling_and_seed(roads, dataset):
    _, poolings, seeds, _ = ROADS[dataset]
    files = [roads[0] / dataset / f"seed{seed}" / f"{name}.safetensors" for name in poolings for seed in seeds]
    heads = [load_file(file)["head.weight"] for file in files]
    assert all(not torch.equal(a, b) for i, a in enumerate(heads) for b in heads[:i])


@pytest.mark.parametrize("dataset", ROADS)
def test_tables(roads, dataset):
    folder, (values, _, seeds, _) = roads[0] / dataset, ROADS[dataset]
    table, text = pd.read_csv(folder / "table.csv", dtype=str), (folder / "table.md").read_text(encoding="utf-8")
    measured = table[table["source"] == "measured"]
    on = rf"{dataset} \(paper\), {values['backbone']} from [^,]+, {2 * images(dataset)[1]} images.*"
    assert len(measured) == 10 and measured["measured_on"].str.fullmatch(on).all()
    assert measured["gt_known"].str.contains("±").all() == (len(seeds) > 1)
    printed = table[table["source"] == "paper"]
    if dataset == "tiny_imagenet":  # the paper has no such table
        assert printed.empty
    else:
        number, whole = ("1", "all of CUB-200-2011") if dataset == "cub" else ("2", "all of ILSVRC")
        assert f"Table {number}" in text and set(printed["measured_on"]) == {whole}
        assert {"VGG-CAM[6]", "Ours"} <= set(printed["method"])
    for method in table["method"]:
        assert f"| {method} " in text


def test_both_data_sets_are_joined_in_one_figure_4(roads):
    with Image.open(roads[0] / "fig4.png") as six, Image.open(roads[0] / "cub" / "fig4.png") as three:
        assert six.width > 1.7 * three.width


def test_boxes_beyond_the_edge_are_clipped_and_that_is_said(roads):
    results, root, said = roads
    table = datasets.read_table(results / "cub" / "annotations.csv")
    assert table["clipped"].tolist() == [BEYOND.get(line, 0) for line in range(1, 5)]
    assert table["boxes"][2] == [(4, 5, table["width"][2], 14)]
    assert "boxes clipped to their image: in 1 images by a pixel or less, in 2 by more; the most is 32 px\n" in said
    assert f"  32 px: bounding_boxes.txt:3 (images.txt:3), images/{cub_path(root, 3)}\n" in said
    assert f"  2 px: bounding_boxes.txt:1 (images.txt:1), images/{cub_path(root, 1)}\n" in said


# The values of the configuration that nothing overrides.


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_defaults_are_those_of_the_paper(dataset):
    config = experiments.configure(dataset, "paper")
    assert (config.backbone, config.weights, config.layout) == ("vgg16", "imagenet", dataset)
    assert (config.lr, config.batch_size, config.image_size) == (1e-4, 64, 224)
    assert (config.poolings, config.seeds, config.temperature) == (("gap", "wgap"), (0,), 1.0)
    assert config.evaluate_on == "test" and config.protocol == "paper"
    assert config.rules[0] == "first_above_mean" and set(config.rules) | {"fixed", "best_fixed", "oracle"} == set(RULES)
    assert list(config.recombinations) == RECOMBINATIONS
    protocol = protocols.get(config.protocol)
    assert protocol.candidates == tuple(i / 20 for i in range(21)) and protocol.iou == 0.5
    assert (protocol.normalization, protocol.resolution) == ("max", "input")


# Side roads.


def test_validation_looks_at_no_test_image(tmp_path, small_weights):
    cub(tmp_path / "data", train=5)
    run_road(
        dataset="cub", profile="paper", data_root=str(tmp_path / "data"), weights=str(small_weights),
        evaluate_on="validation", results=str(tmp_path / "results"), last="03", **CHEAP,
    )  # fmt: skip
    folder = tmp_path / "results" / "paper" / "cub_validation"  # not taken for figures of the test split
    table = datasets.read_table(folder / "annotations.csv").set_index("image_id")
    evaluated = Predictions.load(folder / "seed0" / "predictions_wgap").image_id
    assert table.loc[evaluated, "split"].tolist() == ["train"] * 2  # a fifth of five, of each class


@pytest.fixture(scope="module")
def without_train(tmp_path_factory):
    """ILSVRC's validation images alone, and a SqueezeNet with its own head."""
    folder = tmp_path_factory.mktemp("no train split")
    ilsvrc(folder / "data", train=0, synsets=1000)
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1().eval()
    weights = weights_file(folder / "squeezenet.safetensors", network)
    given = {
        "dataset": "ilsvrc", "profile": "paper", "data_root": str(folder / "data"), "weights": str(weights),
        "backbone": "squeezenet1_1", "results": str(folder / "results"),
    }  # fmt: skip
    return network, given, folder / "results" / "paper" / "ilsvrc"


def test_without_a_train_split_the_networks_own_head_is_evaluated(without_train):
    network, given, folder = without_train
    run_road(**given)
    metrics = assert_complete(folder, ("gap",))
    assert set(metrics["backbone"]) == {"squeezenet1_1"} and set(metrics["n_images"]) == {6}
    assert pd.read_csv(folder / "seed0" / "networks.csv")["own_head"].tolist() == [True]
    predictions = Predictions.load(folder / "seed0" / "predictions_gap")
    table = datasets.read_table(folder / "annotations.csv")
    images = datasets.ImageDataset(table, given["data_root"], datasets.test_transform(224))
    with torch.inference_mode():  # classified exactly as torchvision's network does, its ReLU before pooling included
        logits = network(torch.stack([images[i][0] for i in range(6)])).numpy()
    assert predictions.logits.shape == (6, 1000) and "unrectified_signed" in predictions.kinds
    np.testing.assert_allclose(predictions.logits.astype(np.float32), logits, rtol=1e-3, atol=1e-3 * logits.max())
    assert predictions.predicted.tolist() == logits.argmax(axis=1).tolist()
    assert_pictures(folder)  # although no image may be classified correctly
    [road] = re.findall(r"^ROAD = (\{.*?^\})", (ROOT / "dodo.py").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for name in (name for files in ast.literal_eval(road).values() for name in files):
        assert list(folder.glob(name.format(seed=0))), f"the runner looks for {name}"


def test_without_a_train_split_vgg16_has_no_map(without_train, vgg16_weights, tmp_path):
    _, given, _ = without_train
    given = given | {"backbone": "vgg16", "weights": str(vgg16_weights), "results": str(tmp_path)}
    run_notebook("01_dataset_preparation", **given)
    with pytest.raises(ValueError, match=r"vgg16's own head gives no class activation map.*squeezenet1_1"):
        run_notebook("02_finetune_wgap", **given)


def test_only_ilsvrc_has_the_classes_of_the_networks_own_head(tmp_path, without_train):
    cub(tmp_path / "data", train=0)
    given = without_train[1] | {"dataset": "cub", "data_root": str(tmp_path / "data"), "results": str(tmp_path)}
    run_notebook("01_dataset_preparation", **given)
    with pytest.raises(ValueError, match=r"no train split.*ImageNet.*DATA_ROOT"):
        run_notebook("02_finetune_wgap", **given)
