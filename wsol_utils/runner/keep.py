"""Keep finished runs in results/reference, and measure again what it holds of the sample."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from wsol_utils.boxes import thresholds
from wsol_utils.common.files import ROOT
from wsol_utils.data import datasets
from wsol_utils.data.sample import render as sample
from wsol_utils.experiment import experiments, handover, stages
from wsol_utils.figures import findings, plots, reference
from wsol_utils.maps import cam
from wsol_utils.network import models
from wsol_utils.scores import evaluation, protocols
from wsol_utils.scores.statistics import FIGURES

TABLES = ("metrics", "seeds", "differences", "contributions")
SEED_TABLES = ("history", "channels", "features", "failures", "levels", "conventions", "protocols", "max_box_acc")
EXAMPLE = 7  # the test image of birds that notebook 00 shows: any would do

SEEDS, FEW_SEEDS = "0,1,2,3,4,5,6,7", "0,1,2"
# As the processor rounds, and as torch rounds without vector instructions: another processor, in effect.
ROUNDINGS: dict[str, dict[str, str]] = {"own": {}, "default": {"ATEN_CPU_CAPABILITY": "default"}}
TEMPERATURES = (0.5, 2.0)  # of WGAP's softmax, beside the paper's 1


def measure() -> None:
    """Measure again what results/reference/sample holds; what was cut off goes on where it was.

    GAP and WGAP with eight seeds under each of `ROUNDINGS`, side by side, a thread each; then the other poolings and
    temperatures with three seeds. Tables are kept as soon as they are complete.
    """
    wide, datasets_of = ROOT / "results" / ".reference", ("things", "birds")
    sample.render(ROOT / "data" / "sample")
    usual = {"POOLINGS": "gap,wgap", "SEEDS": SEEDS}
    run_notebooks(*(usual | {"RESULTS": wide / name, "environment": own} for name, own in ROUNDINGS.items()))
    for dataset in datasets_of:
        keep_run(wide / "own" / "sample" / dataset)
        keep_bands(dataset, {name: wide / name / "sample" / dataset for name in ROUNDINGS})
    keep_example(wide / "own" / "sample" / "birds")
    shutil.copy(wide / "own" / "sample" / "fig4.png", reference.folder("sample", "birds").with_name("fig4.png"))

    folders = {temperature: wide / f"temperature_{temperature:g}" for temperature in TEMPERATURES}
    for folder in (wide / "poolings", *folders.values()):
        if not folder.exists():  # what is trained is not trained again, nor what a copy that was cut off lacks
            shutil.copytree(wide / "own", folder, ignore=shutil.ignore_patterns(".*", "predictions_*"))
    run_notebooks({"POOLINGS": "gap,wgap,wgap_sum,tap", "SEEDS": FEW_SEEDS, "RESULTS": wide / "poolings"})
    for dataset in datasets_of:
        keep_run(wide / "poolings" / "sample" / dataset, further=True)

    own = {"DATASET": "birds", "POOLINGS": "wgap", "SEEDS": FEW_SEEDS}
    run_notebooks(*(own | {"TEMPERATURE": value, "RESULTS": folder} for value, folder in folders.items()))
    keep_temperatures([folder / "sample" / "birds" for folder in (wide / "poolings", *folders.values())])


def run_notebooks(*several: Mapping[str, Any]) -> None:
    """Run notebooks 01 to 06 through the runner, all runs at once with a thread each.

    Args:
        several: the values of each run; `environment`, if it is among them, overrides variables of this process.

    Raises:
        subprocess.CalledProcessError: if one fails, once all have ended.
    """
    command, started = [sys.executable, "-m", "doit", "--file", str(ROOT / "dodo.py"), "run"], []
    for values in several:
        given = [f"{name}={value}" for name, value in values.items() if name != "environment"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | values.get("environment", {})
        started.append(subprocess.Popen([*command, *given, "notebooks", "manifest"], cwd=ROOT, env=environment))
    for process in started:
        process.wait()
    for process in started:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def keep_run(run: Path, name: str = "", further: bool = False) -> None:
    """Keep the tables of a run; pictures of the sample only, as photographs are not ours to publish.

    Args:
        run: a folder <results>/<profile>/<dataset>.
        name: <profile>/<dataset> below results/reference, if not the run's own. Tables of a run on a GPU name it.
        further: add the rows of poolings that the kept tables lack, and leave all else as it is.
    """
    profile, dataset = Path(name).parts if name else run.resolve().parts[-2:]
    kept = reference.folder(profile, dataset)
    content = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    tables = {file: [run / f"{file}.csv"] for file in TABLES}
    tables |= {file: [run / f"seed{seed}" / f"{file}.csv" for seed in content["seeds"]] for file in SEED_TABLES}
    for file, paths in tables.items():
        found = [handover.read_csv(path) for path in paths if path.is_file()]
        rows = pd.concat([table for table in found if len(table)] or [pd.DataFrame()], ignore_index=True)
        if file in SEED_TABLES:
            rows = rows.round(4)
        if not content["device"].startswith("CPU"):
            rows = rows.assign(device=content["device"])
        path = kept / f"{file}.csv"
        if further and path.is_file():
            rows = _with_further_poolings(pd.read_csv(path), rows)
        if len(rows):
            handover.write_csv(rows, path)
        else:  # where nothing was trained, there is no history; an earlier run may have had one
            path.unlink(missing_ok=True)
    rates = run.with_name(f"{run.resolve().name}_validation") / "head_rates.csv"
    pictures = [run / f"fig{number}.png" for number in (2, 3, 4)] if profile == "sample" else []
    for path in () if further else (run / "table.csv", run / "table.md", *pictures, rates):
        if path != rates or path.is_file():
            shutil.copy(path, kept / path.name)
    show()


def show() -> None:
    """Write the documents' blocks and their picture of the contributions anew, from results/reference."""
    findings.write_documents()
    plots.save(plots.contributions(reference.contributions()), ROOT / "results/reference/contributions.png")


def _with_further_poolings(own: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows, and those of the other table whose pooling, or form of Eq. 1, they lack."""
    column = next((name for name in ("pooling", "form") if name in own), None)
    return own if column is None else pd.concat([own, other[~other[column].isin(own[column])]], ignore_index=True)


def keep_bands(dataset: str, measured: Mapping[str, Path]) -> None:
    """Keep the figures of every training run, seed by seed under each rounding, and the bands that they give.

    Args:
        dataset: of the sample.
        measured: the run of each rounding, by its name.
    """
    columns = [*reference.KEY, "seed", *FIGURES]
    rows = [handover.read_csv(run / "metrics.csv")[columns].assign(rounding=name) for name, run in measured.items()]
    figures = pd.concat(rows, ignore_index=True).round(4)
    handover.write_csv(figures, reference.folder("sample", dataset) / "roundings.csv")
    handover.write_csv(reference.bands(figures).round(4), reference.folder("sample", dataset) / "bands.csv")


def keep_temperatures(runs: list[Path]) -> None:
    """Keep the figures of WGAP at several temperatures of its softmax, side by side."""
    rows = pd.concat([pd.read_csv(run / "seeds.csv") for run in runs])
    rows = rows[rows["pooling"] == "wgap"].sort_values("temperature", kind="stable")
    handover.write_csv(rows, reference.folder("sample", "birds") / "temperatures.csv")


def keep_example(run: Path) -> None:
    """Keep the image that notebook 00 explains the method on, what the network makes of it, and the network itself.

    The picture of the method in docs/results.md is drawn from them.

    Args:
        run: of birds, with the network of seed 0 trained with WGAP.
    """
    config = experiments.configure("birds", "sample", results=str(run.parents[1]))
    test = handover.split(config, handover.annotations(config), "test")
    classes = int(test["label"].max()) + 1
    model = models.load_into(stages.network(config, "wgap", classes, False), run / "seed0" / "wgap.safetensors").eval()
    photographs = datasets.ImageDataset(test, config.root, datasets.test_transform(config.image_size))
    image, label, truth = photographs[EXAMPLE]
    with torch.inference_mode():
        features = model(image[None]).features[0].half().numpy()
    class_weights, picture = cast(torch.Tensor, model.class_weights).detach().numpy(), datasets.denormalize(image)
    kept = reference.folder("sample", "birds")
    np.savez_compressed(
        kept / "example.npz", image=picture, label=label, truth=truth.numpy(), features=features,
        class_weights=class_weights, bias=model.get_parameter("head.bias").detach().numpy(),
    )  # fmt: skip
    halves = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    about = {"network": json.dumps(stages.description(config, test, "wgap", classes))}
    models.write(halves, kept / "wgap.safetensors", about)  # a network for one's own pictures that needs no run

    features, weights = features.astype(np.float32), class_weights[label]
    maps = {how: cam.activation_map(features[None], weights[None], how) for how in ("signed", "absolute")}
    protocol, rule = protocols.PAPER, "first_above_mean"
    upsampled, found = evaluation.localize_maps(maps["absolute"], picture.shape[:2], protocol, [rule])
    eta, box = found[rule]
    by_share = np.argsort(weights * features.mean(axis=(1, 2)))  # of the class score
    plots.save(
        plots.pipeline(
            picture, [(float(weights[c]), features[c]) for c in (*by_share[:-3:-1], *by_share[:2])],
            maps["signed"][0], maps["absolute"][0], protocol.candidates,
            thresholds.boundary_differences(thresholds.boundary_means(upsampled))[0], float(eta[0]),
            box[0], truth.numpy()[0],
        ),
        kept.with_name("pipeline.png"),
    )  # fmt: skip
