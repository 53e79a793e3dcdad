"""Profile `paper` from end to end through the notebooks, on a handful of made-up images in each official layout.

VGG-16 at 224 pixels with random weights and one step of fine-tuning: whoever has the full data and a GPU meets no
line for the first time. Side roads (seeds, poolings, validation, no train split) take cheaper networks.
"""

import ast
import json

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


@pytest.fixture(scope="module", params=LAYOUTS)
def run(request, tmp_path_factory, vgg16_weights):
    """(data set, its results folder) after notebooks 01 to 06."""
    folder = tmp_path_factory.mktemp(request.param)
    LAYOUTS[request.param](folder / "data", test=2)
    run_road(
        dataset=request.param, profile="paper", data_root=str(folder / "data"), weights=str(vgg16_weights),
        results=str(folder / "results"), **STEP,
    )  # fmt: skip
    return request.param, folder / "results" / "paper" / request.param


def read_metrics(folder):
    return pd.read_csv(folder / "metrics.csv")


def combinations(metrics):
    """How often each pooling, recombination and rule was evaluated."""
    return metrics.groupby(["pooling", "recombination", "threshold_rule"]).size()


def assert_complete(folder, poolings, seeds=(0,)):
    """Every combination once for each seed, and figures that can be percentages and bounds of each other."""
    metrics = read_metrics(folder)
    assert list(metrics.columns)[: len(COLUMNS)] == COLUMNS
    found = combinations(metrics)
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


# VGG-16, in each layout.


def test_metrics(run):
    dataset, folder = run
    metrics = assert_complete(folder, ("gap", "wgap"))
    for column, value in {
        "dataset": dataset, "profile": "paper", "backbone": "vgg16", "normalization": "max", "resolution": "input",
        "protocol": "paper", "n_images": 4,
    }.items():  # fmt: skip
        assert set(metrics[column]) == {value}, column
    assert metrics.loc[metrics["pooling"] == "gap", "temperature"].isna().all()
    assert set(metrics.loc[metrics["pooling"] == "wgap", "temperature"]) == {1.0}


def test_predictions_hold_a_map_of_14_by_14_for_every_image(run):
    dataset, folder = run
    table = datasets.read_table(folder / "annotations.csv")
    test = table[table["split"] == "test"]
    for name in ("gap", "wgap"):
        predictions = Predictions.load(folder / "seed0" / f"predictions_{name}")
        assert predictions.image_id.tolist() == test["image_id"].tolist()
        assert predictions.label.tolist() == [0, 0, 1, 1]
        kinds = predictions.kinds.tolist()
        assert kinds[:3] == RECOMBINATIONS and "unrectified_absolute_maps" in kinds  # VGG-16 ends in a ReLU
        assert predictions.scaled_maps.shape == (4, len(kinds), 14, 14) and predictions.scales.shape == (4, len(kinds))
        assert predictions.logits.shape == (4, 2) and predictions.size.tolist() == [224, 224]
        boxes = predictions.true_boxes()
        assert [len(found) for found in boxes] == ([1, 3, 1, 3] if dataset == "ilsvrc" else [1] * 4)
        for row, found in zip(test.itertuples(), boxes, strict=True):  # boxes follow the square resize
            scale = np.array([224 / row.width, 224 / row.height] * 2)
            np.testing.assert_allclose(found, np.array(row.boxes) * scale, atol=0.01)


def test_both_poolings_were_trained_from_the_weights_given(run, vgg16_weights):
    _, folder = run
    start = load_file(vgg16_weights)
    states = {name: load_file(folder / "seed0" / f"{name}.safetensors") for name in ("gap", "wgap")}
    for name, state in states.items():
        assert state["head.weight"].shape == (2, 512), name
        moved = [key for key in start if not torch.equal(state[key.replace("features", "backbone", 1)], start[key])]
        assert moved, f"one step with {name} changed no convolution"
        largest = max((state[key.replace("features", "backbone", 1)] - start[key]).abs().max() for key in start)
        assert largest < 0.1, f"{name} did not start from the weights given"
    assert not torch.equal(states["gap"]["head.weight"], states["wgap"]["head.weight"])
    networks = pd.read_csv(folder / "seed0" / "networks.csv")
    assert networks["pooling"].tolist() == ["gap", "wgap"] and not networks["own_head"].any()
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("*.resume.pt"))


def test_tables(run):
    dataset, folder = run
    table, text = pd.read_csv(folder / "table.csv", dtype=str), (folder / "table.md").read_text(encoding="utf-8")
    measured = table[table["source"] == "measured"]
    assert (
        len(measured) == 10
        and measured["measured_on"].str.fullmatch(rf"{dataset} \(paper\), vgg16 from [^,]+, 4 images").all()
    )
    printed = table[table["source"] == "paper"]
    if dataset == "tiny_imagenet":  # the paper has no such table
        assert printed.empty
    else:
        number, whole = ("1", "all of CUB-200-2011") if dataset == "cub" else ("2", "all of ILSVRC")
        assert f"Table {number}" in text and set(printed["measured_on"]) == {whole}
        assert {"VGG-CAM[6]", "Ours"} <= set(printed["method"])
    for method in table["method"]:
        assert f"| {method} " in text


def test_figures(run):
    assert_pictures(run[1])


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


def test_seeds_as_make_hands_them_over_and_boxes_beyond_the_edge(tmp_path, small_weights, capsys):
    cub(tmp_path / "data")
    beyond = {1: 2, 3: 32, 4: 0.5}  # line of a box -> pixels
    paths = [line.split()[1] for line in (tmp_path / "data" / "images.txt").read_text().splitlines()]
    for line, pixels in beyond.items():
        with Image.open(tmp_path / "data" / "images" / paths[line - 1]) as image:
            replace_line(
                tmp_path / "data" / "bounding_boxes.txt", line, f"{line} 4.0 5.0 {image.width - 4 + pixels} 9.0"
            )
    run_road(
        dataset="cub", profile="paper", data_root=str(tmp_path / "data"), weights=str(small_weights), seeds="0,1",
        results=str(tmp_path / "results"), **CHEAP,
    )  # fmt: skip
    folder = tmp_path / "results" / "paper" / "cub"
    metrics = assert_complete(folder, ("gap", "wgap"), seeds=(0, 1))
    assert set(metrics["backbone"]) == {"small_vgg"}
    table = datasets.read_table(folder / "annotations.csv")
    assert table["clipped"].tolist() == [beyond.get(line, 0) for line in range(1, 11)]
    assert table["boxes"][2] == [(4, 5, table["width"][2], 14)]
    said = "boxes clipped to their image: in 1 images by a pixel or less, in 2 by more; the most is 32 px\n"
    said += f"  32 px: bounding_boxes.txt:3 (images.txt:3), images/{paths[2]}\n"
    assert said + f"  2 px: bounding_boxes.txt:1 (images.txt:1), images/{paths[0]}\n" in capsys.readouterr().out
    heads = [load_file(folder / f"seed{seed}" / "gap.safetensors")["head.weight"] for seed in (0, 1)]
    assert not torch.equal(*heads)
    measured = pd.read_csv(folder / "table.csv", dtype=str).query("source == 'measured'")
    assert measured["gt_known"].str.contains("±").all()
    assert_pictures(folder)


def test_all_poolings(tmp_path, small_weights):
    cub(tmp_path / "data")
    run_road(
        dataset="cub", profile="paper", data_root=str(tmp_path / "data"), weights=str(small_weights),
        poolings="gap,wgap,wgap_sum,tap", results=str(tmp_path / "results"), **CHEAP,
    )  # fmt: skip
    folder = tmp_path / "results" / "paper" / "cub"
    metrics = assert_complete(folder, ("gap", "wgap", "wgap_sum", "tap"))
    assert set(metrics.loc[metrics["temperature"].notna(), "pooling"]) == {"wgap", "wgap_sum"}
    heads = [load_file(folder / "seed0" / f"{name}.safetensors")["head.weight"] for name in set(metrics["pooling"])]
    assert all(not torch.equal(a, b) for i, a in enumerate(heads) for b in heads[:i])


def test_validation_looks_at_no_test_image(tmp_path, small_weights):
    cub(tmp_path / "data", train=5)
    run_road(
        dataset="cub", profile="paper", data_root=str(tmp_path / "data"), weights=str(small_weights),
        evaluate_on="validation", results=str(tmp_path / "results"), **CHEAP,
    )  # fmt: skip
    folder = tmp_path / "results" / "paper" / "cub_validation"  # not taken for figures of the test split
    assert set(assert_complete(folder, ("gap", "wgap"))["n_images"]) == {2}  # a fifth of five, of each class
    table = datasets.read_table(folder / "annotations.csv").set_index("image_id")
    evaluated = Predictions.load(folder / "seed0" / "predictions_wgap").image_id
    assert set(table.loc[evaluated, "split"]) == {"train"}
    assert_pictures(folder)


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
    source = (ROOT / "dodo.py").read_text(encoding="utf-8").partition("\nROAD = ")[2].partition("\nINDEX_FILES")[0]
    for name in (name for files in ast.literal_eval(source.strip()).values() for name in files):
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


def test_both_data_sets_are_joined_in_one_figure_4(tmp_path, small_weights):
    for dataset, layout in (("ilsvrc", ilsvrc), ("cub", cub)):
        layout(tmp_path / dataset)
        run_road(
            dataset=dataset, profile="paper", data_root=str(tmp_path / dataset), weights=str(small_weights),
            results=str(tmp_path / "results"), poolings="gap,wgap", rules="first_above_mean,argmax", **CHEAP,
        )  # fmt: skip
        joined = tmp_path / "results" / "paper" / "fig4.png"
        assert joined.is_file() == (dataset == "cub")
    with Image.open(joined) as six, Image.open(tmp_path / "results" / "paper" / "cub" / "fig4.png") as three:
        assert six.width > 1.7 * three.width


def test_history_of_training_is_kept_in_the_checkpoint(run):
    metadata = models.read_metadata(run[1] / "seed0" / "wgap.safetensors")
    [epoch] = json.loads(metadata["history"])
    assert epoch["epoch"] == 1 and np.isfinite(epoch["loss"])
