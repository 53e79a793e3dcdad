"""Notebooks 03 to 06 under the conventions of others: a reference protocol, and another with words of one's own.

Four made-up images and a small VGG, trained once, at 48 pixels.
"""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import cub, run_road, weights_file

from wsol_utils import experiments, handover, models, protocols
from wsol_utils.maps.predictions import Predictions

OWN = {
    "protocol": "wsolevaluation", "normalization": "max", "resolution": "map", "interpolation": "bilinear",
    "boundary": "contour", "candidates": 11, "features": "weighted",
}  # fmt: skip
GIVEN = {"rethinkingcam": {"protocol": "rethinkingcam"}, "own": OWN | {"recombinations": ["absolute_maps"]}}
WORDS = {  # of metrics.csv
    "rethinkingcam": {
        "protocol": "rethinkingcam", "normalization": "minmax", "resolution": "input", "interpolation": "bicubic",
        "component": "contour", "candidates": 21, "features": "plain",
    },
    "own": {"component": "contour", **OWN},
}  # fmt: skip
RULES = ["first_above_mean", "otsu", "percentile"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(parameters, results) of notebooks 01 and 02."""
    folder = tmp_path_factory.mktemp("trained")
    cub(folder / "data", test=2)
    torch.manual_seed(0)
    weights = weights_file(folder / "small.safetensors", models.SmallVGG(), "features.")
    given = {
        "dataset": "cub", "profile": "paper", "data_root": str(folder / "data"), "weights": str(weights),
        "backbone": "small_vgg", "image_size": 48, "resize_size": 52, "batch_size": 4, "epochs": 1, "device": "cpu",
        "rules": RULES,
    }  # fmt: skip
    run_road(last="02", results=str(folder / "results"), **given)
    return given, folder / "results"


@pytest.fixture(scope="module", params=GIVEN)
def run(request, trained, tmp_path_factory):
    """(which, its configuration, its results folder) after notebooks 03 to 06."""
    given, finished = trained
    results = tmp_path_factory.mktemp(request.param) / "results"
    shutil.copytree(finished, results)
    given = given | GIVEN[request.param] | {"results": str(results)}
    run_road(first="03", **given)
    return request.param, experiments.configure(**given), results / "paper" / "cub"


def test_metrics(run):
    name, config, folder = run
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics.columns) == handover.METRICS_COLUMNS
    for column, value in WORDS[name].items():
        assert set(metrics[column]) == {value}, column
    recombinations = ["absolute_maps"] if name == "own" else ["signed", "positive", "absolute"]
    rules = (*RULES, "fixed", "best_fixed", "oracle")
    key = ["pooling", "recombination", "threshold_rule"]
    found = list(metrics[key].itertuples(index=False, name=None))
    assert sorted(found) == sorted(itertools.product(("gap", "wgap"), recombinations, rules))
    assert set(metrics["n_images"]) == {4} and metrics["threshold"].between(0, 1).all()
    best = metrics.loc[metrics["threshold_rule"] == "best_fixed", "threshold"]
    assert np.isclose(best.to_numpy()[:, None], config.conventions.grid).any(axis=1).all()


def test_photographs_are_seen_in_the_protocols_geometry(run):
    name, config, folder = run
    cropped = sorted(path.name for path in (folder / "seed0").glob("*_cropped"))
    both = ["predictions_gap_cropped", "predictions_wgap_cropped"]
    assert cropped == (both if name == "rethinkingcam" else both[1:])  # one is compared in any case
    table = handover.annotations(config).query("split == 'test'")
    for path in (folder / "seed0").glob("predictions_*"):
        protocol = protocols.get("rethinkingcam" if "cropped" in path.name else "paper")
        found = Predictions.load(path)
        assert found.image_size.tolist() == table[["width", "height"]].to_numpy().tolist()
        for row, boxes in zip(table.itertuples(), found.true_boxes(), strict=True):
            expected = protocols.to_input(row.boxes, (row.width, row.height), 48, protocol)
            np.testing.assert_allclose(boxes, expected, atol=1e-3)


def test_tables_and_comparisons(run):
    name, _, folder = run
    table = pd.read_csv(folder / "table.csv", dtype=str)
    where = table.loc[table["source"] == "measured", "measured_on"]
    assert len(where) == (0 if name == "own" else 10)  # none of the paper's steps takes |M_n| for Σ|w|F
    assert where.str.endswith(f"protocol {name}, normalization minmax, interpolation bicubic, component contour").all()
    compared = pd.read_csv(folder / "seed0" / "protocols.csv")
    assert compared["protocol"].tolist() == list(protocols.PROTOCOLS)
    assert compared["oracle"].between(0, 100).all()
    readings = pd.read_csv(folder / "seed0" / "conventions.csv")
    assert readings["reading"].iloc[0] == "as it stands"
    assert len(readings) == {"rethinkingcam": 6, "own": 5}[name]  # five or six of ten hold already
    differences = pd.read_csv(folder / "differences.csv")
    assert set(differences["figure"]) == {"gt_known", "top1_loc", "top1_cls"}
    assert {"fig2.png", "fig3.png", "fig4.png"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.rglob("*.part"))
