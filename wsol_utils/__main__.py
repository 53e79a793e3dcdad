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
TEMPERATURES = (0.5, 2.0)  # of WGAP's softmax, beside the paper's 1
SEED_TABLES = ("history", "channels", "features", "failures", "levels", "conventions", "protocols", "max_box_acc")
RULES = ("fixed", "first_above_mean", "best_fixed", "oracle")  # what `evaluate` shows if nothing else is asked
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


@main.command("reference")
@click.option("--seeds", default=REFERENCE_SEEDS, show_default=True)
@click.option("--poolings", default=REFERENCE_POOLINGS, show_default=True)
def measure_reference(seeds: str, poolings: str) -> None:
    """Measure again what results/reference/sample holds: more poolings and seeds than `make reproduce`."""
    from wsol_utils import reference

    wide = "results/.reference"
    for dataset in ("things", "birds"):  # the old bands are not to judge the new figures
        (reference.folder("sample", dataset) / "bands.csv").unlink(missing_ok=True)
    birds = ROOT / wide / "sample" / "birds"
    run_notebooks(SEEDS=seeds, POOLINGS=poolings, RESULTS=wide)
    for dataset in ("things", "birds"):
        keep_run(ROOT / wide / "sample" / dataset)
    keep_example(birds)
    shutil.copy(ROOT / wide / "sample" / "fig4.png", reference.folder("sample", "birds").with_name("fig4.png"))
    for temperature in TEMPERATURES:
        own = f"{wide}/temperature_{temperature:g}"
        for path in (ROOT / wide / "sample" / "things").glob("seed*/*backbone.safetensors"):
            copied = ROOT / own / path.relative_to(ROOT / wide)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)
            shutil.copy(path.with_name("pretraining.safetensors"), copied.with_name("pretraining.safetensors"))
        run_notebooks(DATASET="birds", SEEDS=seeds, POOLINGS="wgap", TEMPERATURE=temperature, RESULTS=own)
    keep_temperatures(birds, [ROOT / wide / f"temperature_{t:g}" / "sample" / "birds" for t in TEMPERATURES])


def run_notebooks(**values: object) -> None:
    """Notebooks 01 to 06 with these values, through the runner; 00 shows what they measure and is not run."""
    run = [sys.executable, "-m", "doit", "--file", str(ROOT / "dodo.py"), "run"]
    given = [f"{name}={value}" for name, value in values.items()]
    subprocess.run([*run, *given, "notebooks", "manifest"], check=True, cwd=ROOT)


@main.command("tune-heads")
@click.argument("dataset")
@click.option("--profile", default="sample", show_default=True)
@click.option("--rates", multiple=True, required=True, help="values to try, as wgap=50,200,800; for each pooling")
@click.option("--data-root", default="", help="folder of the data set's own files")
@click.option("--weights", default="", help="safetensors file to start from")
@click.option("--epochs", default="", help="of each try, if not the profile's own number")
@click.option("--seed", default=0, show_default=True)
@click.option("--results", default="results", show_default=True)
def tune_heads(dataset: str, profile: str, rates: tuple[str, ...], seed: int, **values: str) -> None:
    """Try several rates of the head for each pooling on a validation part of DATASET's train split."""
    import torch

    from wsol_utils import experiments, runs

    try:
        tried = {name: [float(x) for x in listed.split(",")] for name, listed in (rate.split("=") for rate in rates)}
    except ValueError as error:
        raise click.ClickException(f"{error}: give --rates as wgap=50,200,800, once for each pooling") from error
    try:
        config = experiments.configure(dataset, profile, evaluate_on="validation", poolings=list(tried), **values)
        if config.threads:
            torch.set_num_threads(config.threads)
        found = runs.head_rates(config, seed, tried)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    runs.write_csv(found, config.folder / "head_rates.csv")
    click.echo(found.to_string(index=False))
    click.echo(f"wrote {config.show(config.folder / 'head_rates.csv')}")


@main.command()
@click.option("--maps", required=True, help="folder of score maps, <image id>.npy each")
@click.option("--metadata", "folder", required=True, help="folder of image_ids.txt etc., as in wsolevaluation")
@click.option("--protocol", default="paper", show_default=True, help="or wsolevaluation, rethinkingcam")
@click.option("--rule", "rules", multiple=True, default=RULES, show_default=True, help="may be given several times")
@click.option("--size", type=click.IntRange(min=1), default=224, show_default=True, help="side of the network's input")
@click.option("--predicted", help="file of predicted classes for Top-1, a line <image id>,<class> each")
@click.option("--masks", "mask_root", help="folder of OpenImages' masks, or of CUB's segmentations, for PxAP")
@click.option("--out", type=click.Path(path_type=Path), help="CSV file to write, at full precision")
def evaluate(
    maps: str, folder: str, protocol: str, rules: tuple[str, ...], size: int,
    predicted: str | None, mask_root: str | None, out: Path | None,
) -> None:  # fmt: skip
    """Evaluate score maps of any network, in percent: a row for each threshold rule."""
    import pandas as pd

    from wsol_utils import masks, protocols, runs, score_maps

    try:
        convention, metadata = protocols.get(protocol), score_maps.read_metadata(folder)
        classes = score_maps.read_predicted(predicted, metadata) if predicted else None
        objects = None
        if mask_root and metadata.masks:
            objects = masks.of_openimages(metadata, mask_root, metadata.image_ids, size, convention)
        elif mask_root:
            objects = masks.of_cub(mask_root, pd.DataFrame({"image_id": metadata.image_ids}), size, convention)
        table = score_maps.evaluate(maps, metadata, protocol, rules, size, classes, objects)
        if out:
            runs.write_csv(table, out)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error).replace("\n", " ")) from error
    digits = {"threshold": ".3f", "threshold_sd": ".3f", "p_value": ".2g"}
    formats = {name: f"{{:{digits.get(name, '.1f')}}}".format for name in table.select_dtypes("float")}
    whole = table[["max_box_acc", "max_box_acc_v2", "pxap"]].iloc[0].dropna()
    rows = table.drop(columns=list(whole.index)).dropna(axis=1, how="all")
    click.echo(rows.to_string(index=False, formatters=formats))
    click.echo(", ".join(f"{name} {percent:.1f}" for name, percent in whole.items()))


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
    for name in ("metrics.csv", "seeds.csv", "differences.csv", "table.csv", "table.md", *pictures):
        shutil.copy(run / name, kept / name)
    measured = pd.read_csv(run / "metrics.csv")
    for name in SEED_TABLES:
        tables = [run / f"seed{seed}" / f"{name}.csv" for seed in sorted(set(measured["seed"]))]
        rows = [pd.read_csv(table) for table in tables if table.is_file()]  # nothing was trained: no history
        if rows:
            runs.write_csv(pd.concat(rows).round(4), kept / f"{name}.csv")
    rates = run.with_name(f"{dataset}_validation") / "head_rates.csv"
    if rates.is_file():
        shutil.copy(rates, kept / rates.name)
    if profile == "sample":
        runs.write_csv(reference.bands(measured), kept / "bands.csv")
    reference.write_readme()


def keep_temperatures(usual: Path, others: list[Path]) -> None:
    """WGAP at several temperatures of its softmax, side by side."""
    import pandas as pd

    from wsol_utils import reference, runs

    rows = pd.concat([pd.read_csv(run / "seeds.csv") for run in (usual, *others)])
    rows = rows[rows["pooling"] == "wgap"].sort_values("temperature", kind="stable")
    runs.write_csv(rows, reference.folder("sample", "birds") / "temperatures.csv")


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
