"""The command line: python -m wsol_utils --help."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_SEEDS, REFERENCE_POOLINGS = "0,1,2", "gap,wgap,wgap_sum,tap"
EXAMPLE = 7  # the test image of birds that notebook 00 shows: any would do


@click.group()
def main() -> None:
    """Weakly supervised object localisation: the commands beside the notebooks."""


@main.command("render-sample")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT / "data" / "sample", help="folder to write to")
@click.option("--seed", default=0, show_default=True, help="of the random drawings")
def render_sample(root: Path, seed: int) -> None:
    """Render the two embedded data sets."""
    from wsol_utils import sample

    sample.render(root, seed)
    click.echo(f"rendered birds and things in {root}")


@main.command()
def notebooks() -> None:
    """Execute the committed notebooks again with their defaults, in place."""
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as results:
        os.environ["WSOL_RESULTS"] = results  # so that no earlier run shows in an output
        for path in sorted((ROOT / "notebooks").glob("0[0-6]_*.ipynb")):
            click.echo(path.name)
            execute_in_place(path)


@main.command()
@click.option("--seeds", default=REFERENCE_SEEDS, show_default=True)
@click.option("--poolings", default=REFERENCE_POOLINGS, show_default=True)
def reference(seeds: str, poolings: str) -> None:
    """Measure again what results/reference/sample holds: more poolings and seeds than `make reproduce`."""
    run = [sys.executable, "-m", "doit", "--file", str(ROOT / "dodo.py"), "run"]
    wide = "results/.reference"
    values = [f"SEEDS={seeds}", f"POOLINGS={poolings}", f"RESULTS={wide}"]
    subprocess.run([*run, *values, "notebooks", "manifest"], check=True, cwd=ROOT)  # 00 shows what this measures
    for dataset in ("things", "birds"):
        keep_run(ROOT / wide / "sample" / dataset)
    keep_example(ROOT / wide / "sample" / "birds")
    shutil.copy(ROOT / wide / "sample" / "fig4.png", ROOT / "results" / "reference" / "sample" / "fig4.png")


@main.command("keep-reference")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
def keep_reference(run: Path) -> None:
    """Copy the tables of RUN, a folder <results>/<profile>/<dataset>, to results/reference."""
    keep_run(run)


def keep_run(run: Path) -> None:
    """Tables for every profile; pictures and bands for the sample only, as photographs are not ours to publish."""
    import pandas as pd

    from wsol_utils import reference, runs

    profile, dataset = run.resolve().parts[-2:]
    kept = reference.folder(profile, dataset)
    kept.mkdir(parents=True, exist_ok=True)
    pictures = ("fig2.png", "fig3.png", "fig4.png") if profile == "sample" else ()
    for name in ("metrics.csv", "table.csv", "table.md", *pictures):
        shutil.copy(run / name, kept / name)
    if profile == "sample":
        runs.write_csv(reference.bands(pd.read_csv(run / "metrics.csv")), kept / "bands.csv")
    reference.write_readme()


def keep_example(run: Path) -> None:
    """One test image, and what the network trained with WGAP makes of it: what notebook 00 explains the method on."""
    import numpy as np
    import torch

    from wsol_utils import datasets, experiments, models, reference, runs

    config = experiments.configure("birds", "sample", results=str(run.parents[1]))
    test = runs.split(config, runs.annotations(config), "test")
    classes = int(test["label"].max()) + 1
    model = models.load_into(runs.network(config, "wgap", classes, False), run / "seed0" / "wgap.safetensors").eval()
    photographs = datasets.ImageDataset(test, config.root, datasets.test_transform(config.image_size))
    image, label, truth = photographs[EXAMPLE]
    with torch.inference_mode():
        features = model(image[None]).features[0].half()
    np.savez_compressed(
        reference.folder("sample", "birds") / "example.npz",
        image=datasets.denormalize(image), label=label, truth=truth.numpy(), features=features.numpy(),
        class_weights=model.class_weights.detach().numpy(), bias=model.head.bias.detach().numpy(),
    )  # fmt: skip


def execute_in_place(path: Path) -> None:
    """Run a notebook where it lies and keep its outputs, without the runner's metadata."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": path.parent}}
    quiet = ["--IPKernelApp.log_level=ERROR"]
    options = {"timeout": None, "kernel_name": "python3", "record_timing": False, "extra_arguments": quiet}
    NotebookClient(notebook, resources=folder, **options).execute()
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    temporary = path.with_name(f".{path.name}.part")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


if __name__ == "__main__":
    main()
