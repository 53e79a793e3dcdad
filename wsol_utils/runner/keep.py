"""Keep a finished run in results/reference: tables for every profile, pictures of the sample only."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from wsol_utils.boxes import thresholds
from wsol_utils.data import datasets
from wsol_utils.experiment import experiments, handover, stages
from wsol_utils.figures import plots, reference
from wsol_utils.maps import cam
from wsol_utils.network import models
from wsol_utils.scores import evaluation, protocols
from wsol_utils.scores.statistics import FIGURES

TABLES = ("metrics.csv", "seeds.csv", "differences.csv", "contributions.csv", "table.csv", "table.md")
SEED_TABLES = ("history", "channels", "features", "failures", "levels", "conventions", "protocols", "max_box_acc")
EXAMPLE = 7  # the test image of birds that notebook 00 shows: any would do


def keep_run(run: Path, name: str = "", other: Path | None = None) -> None:
    """Tables for every profile; pictures for the sample only, as photographs are not ours to publish.

    Args:
        run: a folder <results>/<profile>/<dataset>.
        name: <profile>/<dataset> below results/reference, if not the run's own. Tables of a run on a GPU name it.
        other: a run of the same data set with further poolings, whose rows are kept below the run's own.
    """
    profile, dataset = Path(name).parts if name else run.resolve().parts[-2:]
    kept = reference.folder(profile, dataset)
    kept.mkdir(parents=True, exist_ok=True)
    pictures = ("fig2.png", "fig3.png", "fig4.png") if profile == "sample" else ()
    for file in (*TABLES, *pictures):
        shutil.copy(run / file, kept / file)
    if other:
        for file in ("metrics.csv", "seeds.csv", "differences.csv", "contributions.csv"):
            both = _with_further_poolings(handover.read_csv(run / file), handover.read_csv(other / file))
            handover.write_csv(both, kept / file)
    for file in SEED_TABLES:
        rows = _of_seeds(run, file)
        if other:
            rows = _with_further_poolings(rows, _of_seeds(other, file))
        if len(rows):  # where nothing was trained, there is no history
            handover.write_csv(rows.round(4), kept / f"{file}.csv")
        else:
            (kept / f"{file}.csv").unlink(missing_ok=True)  # an earlier run's
    rates = run.with_name(f"{run.resolve().name}_validation") / "head_rates.csv"
    if rates.is_file():
        shutil.copy(rates, kept / rates.name)
    device = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["device"]
    for path in () if device.startswith("CPU") else sorted(kept.glob("*.csv")):
        handover.write_csv(pd.read_csv(path).assign(device=device), path)
    show()


def _of_seeds(run: Path, file: str) -> pd.DataFrame:
    """The tables of that name of all seeds of a run, one below the other; empty where there is none."""
    seeds = sorted(set(handover.read_csv(run / "metrics.csv")["seed"]))
    paths = [path for seed in seeds if (path := run / f"seed{seed}" / f"{file}.csv").is_file()]
    found = [rows for path in paths if len(rows := handover.read_csv(path))]
    return pd.concat(found) if found else pd.DataFrame()


def _with_further_poolings(own: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows, and those of the other table whose pooling, or form of Eq. 1, they lack."""
    column = next((name for name in ("pooling", "form") if name in own), None)
    return own if column is None else pd.concat([own, other[~other[column].isin(own[column])]], ignore_index=True)


def keep_bands(dataset: str, measured: Mapping[str, Path]) -> None:
    """The figures of every training run, seed by seed under each rounding, and the bands that they give.

    Args:
        dataset: of the sample.
        measured: the run of each rounding, by its name.
    """
    columns = [*reference.KEY, "seed", *FIGURES]
    rows = [handover.read_csv(run / "metrics.csv")[columns].assign(rounding=name) for name, run in measured.items()]
    figures = pd.concat(rows, ignore_index=True).round(4)
    handover.write_csv(figures, reference.folder("sample", dataset) / "roundings.csv")
    handover.write_csv(reference.bands(figures).round(4), reference.folder("sample", dataset) / "bands.csv")


def show() -> None:
    """The README's tables and its picture of them, of what results/reference holds."""
    reference.write_readme()
    plots.save(plots.contributions(reference.contributions()), reference.ROOT / "results/reference/contributions.png")


def keep_temperatures(usual: Path, others: list[Path]) -> None:
    """WGAP at several temperatures of its softmax, side by side."""
    rows = pd.concat([pd.read_csv(run / "seeds.csv") for run in (usual, *others)])
    rows = rows[rows["pooling"] == "wgap"].sort_values("temperature", kind="stable")
    handover.write_csv(rows, reference.folder("sample", "birds") / "temperatures.csv")


def keep_example(run: Path) -> None:
    """One test image, and what the network trained with WGAP makes of it: what notebook 00 explains the method on."""
    config = experiments.configure("birds", "sample", results=str(run.parents[1]))
    test = handover.split(config, handover.annotations(config), "test")
    classes = int(test["label"].max()) + 1
    model = models.load_into(stages.network(config, "wgap", classes, False), run / "seed0" / "wgap.safetensors").eval()
    photographs = datasets.ImageDataset(test, config.root, datasets.test_transform(config.image_size))
    image, label, truth = photographs[EXAMPLE]
    with torch.inference_mode():
        features = model(image[None]).features[0].half()
    np.savez_compressed(
        reference.folder("sample", "birds") / "example.npz",
        image=datasets.denormalize(image), label=label, truth=truth.numpy(), features=features.numpy(),
        class_weights=cast(torch.Tensor, model.class_weights).detach().numpy(),
        bias=model.get_parameter("head.bias").detach().numpy(),
    )  # fmt: skip
    draw_example()
    halves = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    about = {"network": json.dumps(stages.description(config, test, "wgap", classes))}
    models.write(halves, reference.folder("sample", "birds") / "wgap.safetensors", about)  # notebook 07 tries it


def draw_example() -> None:
    """The README's picture of the method, drawn from the image that `keep_example` has kept."""
    with np.load(reference.folder("sample", "birds") / "example.npz") as kept:
        image, truth, label = kept["image"], kept["truth"][0], int(kept["label"])
        features, weights = kept["features"].astype(np.float32), kept["class_weights"][label]
    maps = {how: cam.activation_map(features[None], weights[None], how) for how in ("signed", "absolute")}
    protocol, rule = protocols.PAPER, "first_above_mean"
    upsampled, found = evaluation.localize_maps(maps["absolute"], image.shape[:2], protocol, [rule])
    eta, box = found[rule]
    by_share = np.argsort(weights * features.mean(axis=(1, 2)))  # of the class score
    plots.save(
        plots.pipeline(
            image, [(float(weights[c]), features[c]) for c in (*by_share[:-3:-1], *by_share[:2])],
            maps["signed"][0], maps["absolute"][0], protocol.candidates,
            thresholds.boundary_differences(thresholds.boundary_means(upsampled))[0], float(eta[0]),
            box[0], truth,
        ),
        reference.folder("sample", "birds").with_name("pipeline.png"),
    )  # fmt: skip
