"""The commands of those who keep this repository: its committed notebooks and results/reference, made again."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from wsol_utils.common.files import ROOT

DATASETS = ("things", "birds")
SEEDS, FEW_SEEDS = "0,1,2,3,4,5,6,7", "0,1,2"
# As the processor rounds, and as torch rounds without vector instructions: another processor, in effect.
ROUNDINGS: dict[str, dict[str, str]] = {"own": {}, "default": {"ATEN_CPU_CAPABILITY": "default"}}
TEMPERATURES = (0.5, 2.0)  # of WGAP's softmax, beside the paper's 1


@click.command()
def notebooks() -> None:
    """Execute the committed notebooks again with their defaults, in place."""
    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in dodo.py
    with tempfile.TemporaryDirectory() as results:
        os.environ["WSOL_RESULTS"] = results  # so that no earlier run shows in an output
        for path in sorted((ROOT / "notebooks").glob("0[0-7]_*.ipynb")):
            click.echo(path.name)
            execute_in_place(path)


@click.command()
@click.option("--gpu", is_flag=True, help="keep the record as results/reference/gpu/benchmarks.csv, and no notebook")
def benchmarks(gpu: bool) -> None:
    """Measure speed again: execute notebook 08 in place, and keep its record in results/reference."""
    from wsol_utils.figures import reference

    os.environ["TQDM_DISABLE"] = "1"
    notebook, kept = ROOT / "notebooks" / "08_benchmarks.ipynb", ROOT / "results" / "reference"
    if gpu:
        need_gpu()
        kept /= "gpu"
        kept.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            execute_in_place(Path(shutil.copy(notebook, folder)), notebook.parent)
    else:
        execute_in_place(notebook)
    shutil.copy(ROOT / "results" / "benchmarks.csv", kept / "benchmarks.csv")
    reference.write_readme()


@click.command("reference")
def measure_reference() -> None:
    """Measure again what results/reference/sample holds; a run that was cut off goes on where it was.

    GAP and WGAP with eight seeds under each of `ROUNDINGS`, side by side, a thread each; then the other poolings and
    temperatures with three seeds. Tables are kept as soon as they are complete.
    """
    from wsol_utils.data.sample import render as sample
    from wsol_utils.figures import reference
    from wsol_utils.runner import keep

    wide = ROOT / "results" / ".reference"
    sample.render(ROOT / "data" / "sample")
    usual = {"POOLINGS": "gap,wgap", "SEEDS": SEEDS}
    run_notebooks(*(usual | {"RESULTS": wide / name, "environment": own} for name, own in ROUNDINGS.items()))
    for dataset in DATASETS:
        keep.keep_run(wide / "own" / "sample" / dataset)
        keep.keep_bands(dataset, {name: wide / name / "sample" / dataset for name in ROUNDINGS})
    keep.keep_example(wide / "own" / "sample" / "birds")
    shutil.copy(wide / "own" / "sample" / "fig4.png", reference.folder("sample", "birds").with_name("fig4.png"))

    _start_with(wide / "poolings", "*/seed*/*.safetensors")  # what is trained there already is not trained again
    run_notebooks({"POOLINGS": "gap,wgap,wgap_sum,tap", "SEEDS": FEW_SEEDS, "RESULTS": wide / "poolings"})
    for dataset in DATASETS:
        keep.keep_run(wide / "own" / "sample" / dataset, other=wide / "poolings" / "sample" / dataset)

    folders = {temperature: wide / f"temperature_{temperature:g}" for temperature in TEMPERATURES}
    for folder in folders.values():
        _start_with(folder, "things/seed*/backbone.safetensors", "things/seed*/pretraining.safetensors")
    own = {"DATASET": "birds", "POOLINGS": "wgap", "SEEDS": FEW_SEEDS}
    run_notebooks(*(own | {"TEMPERATURE": value, "RESULTS": folder} for value, folder in folders.items()))
    usual_birds = wide / "poolings" / "sample" / "birds"
    keep.keep_temperatures(usual_birds, [folder / "sample" / "birds" for folder in folders.values()])


def _start_with(folder: Path, *patterns: str) -> None:
    """Copy the networks of the first run whose names fit, those of `FEW_SEEDS`, into another results folder."""
    own = ROOT / "results" / ".reference" / "own" / "sample"
    for path in (path for pattern in patterns for path in own.glob(pattern)):
        copied = folder / "sample" / path.relative_to(own)
        if path.parent.name.removeprefix("seed") in FEW_SEEDS.split(",") and not copied.exists():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)


def run_notebooks(*several: Mapping[str, Any]) -> None:
    """Notebooks 01 to 06 through the runner, all runs at once with a thread each; 00 shows what they measure.

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


@click.command("keep-reference")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", default="", help="<folder>/<folder> below results/reference, if not <profile>/<dataset>")
def keep_reference(run: Path, name: str) -> None:
    """Copy the tables of RUN, a folder <results>/<profile>/<dataset>, to results/reference."""
    from wsol_utils.runner import keep

    if name and not re.fullmatch(r"\w+/\w+", name):
        raise click.ClickException(f"--name {name}: give a folder and one in it, as gpu/cub")
    keep.keep_run(run, name)


def need_gpu() -> None:
    """Stop where there is none: its figures are to be a GPU's.

    Raises:
        click.ClickException: saying so.
    """
    import torch

    if not torch.cuda.is_available():
        raise click.ClickException("--gpu is for a machine with a CUDA GPU, and torch finds none here")


def execute_in_place(path: Path, folder: Path | None = None) -> None:
    """Run a notebook where it lies, or as if in that folder, and keep its outputs, without the runner's metadata."""
    import nbformat

    from wsol_utils.common import files
    from wsol_utils.runner.execute import execute

    with tempfile.TemporaryDirectory() as elsewhere:
        execute(path, Path(elsewhere, path.name), folder=folder or path.parent, bar=path.name)
        notebook = nbformat.read(Path(elsewhere, path.name), as_version=4)
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags" and value}
        for output in cell.get("outputs", []):  # a widget lives in its kernel alone
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    with files.written(path) as temporary:
        nbformat.write(notebook, temporary)
