"""The commands of those who keep this repository: its committed notebooks and results/reference, made again."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_SEEDS, REFERENCE_POOLINGS = "0,1,2", "gap,wgap,wgap_sum,tap"
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
    from wsol_utils import reference

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
@click.option("--seeds", default=REFERENCE_SEEDS, show_default=True)
@click.option("--poolings", default=REFERENCE_POOLINGS, show_default=True)
def measure_reference(seeds: str, poolings: str) -> None:
    """Measure again what results/reference/sample holds: more poolings and seeds than `make reproduce`."""
    from wsol_utils import keeping, reference

    wide = "results/.reference"
    for dataset in ("things", "birds"):  # the old bands are not to judge the new figures
        (reference.folder("sample", dataset) / "bands.csv").unlink(missing_ok=True)
    birds = ROOT / wide / "sample" / "birds"
    run_notebooks(SEEDS=seeds, POOLINGS=poolings, RESULTS=wide)
    for dataset in ("things", "birds"):
        keeping.keep_run(ROOT / wide / "sample" / dataset)
    keeping.keep_example(birds)
    shutil.copy(ROOT / wide / "sample" / "fig4.png", reference.folder("sample", "birds").with_name("fig4.png"))
    for temperature in TEMPERATURES:
        own = f"{wide}/temperature_{temperature:g}"
        for path in (ROOT / wide / "sample" / "things").glob("seed*/*backbone.safetensors"):
            copied = ROOT / own / path.relative_to(ROOT / wide)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)
            shutil.copy(path.with_name("pretraining.safetensors"), copied.with_name("pretraining.safetensors"))
        run_notebooks(DATASET="birds", SEEDS=seeds, POOLINGS="wgap", TEMPERATURE=temperature, RESULTS=own)
    keeping.keep_temperatures(birds, [ROOT / wide / f"temperature_{t:g}" / "sample" / "birds" for t in TEMPERATURES])


def run_notebooks(**values: object) -> None:
    """Notebooks 01 to 06 with these values, through the runner; 00 shows what they measure and is not run."""
    run = [sys.executable, "-m", "doit", "--file", str(ROOT / "dodo.py"), "run"]
    given = [f"{name}={value}" for name, value in values.items()]
    subprocess.run([*run, *given, "notebooks", "manifest"], check=True, cwd=ROOT)


@click.command("keep-reference")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", default="", help="<folder>/<folder> below results/reference, if not <profile>/<dataset>")
def keep_reference(run: Path, name: str) -> None:
    """Copy the tables of RUN, a folder <results>/<profile>/<dataset>, to results/reference."""
    from wsol_utils import keeping

    if name and not re.fullmatch(r"\w+/\w+", name):
        raise click.ClickException(f"--name {name}: give a folder and one in it, as gpu/cub")
    keeping.keep_run(run, name)


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
    from nbclient import NotebookClient

    from wsol_utils import files

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": folder or path.parent}}
    quiet = ["--IPKernelApp.log_level=ERROR"]
    options: Any = {"timeout": None, "kernel_name": "python3", "record_timing": False, "extra_arguments": quiet}
    NotebookClient(notebook, resources=resources, **options).execute()
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        for output in cell.get("outputs", []):  # a widget lives in its kernel alone
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    with files.written(path) as temporary:
        nbformat.write(notebook, temporary)
