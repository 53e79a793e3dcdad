"""The commands beside the notebooks, but for `localize`. Each imports what it needs only when it runs."""

import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from wsol_utils.common.files import ROOT

RULES = ("fixed", "first_above_mean", "best_fixed", "oracle")  # that `evaluate` shows unless told otherwise
WHOLE = ("max_box_acc", "max_box_acc_v2", "max_box_acc_v2_30", "max_box_acc_v2_50", "max_box_acc_v2_70", "pxap")


@click.command()
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT / "data", help="folder to put it in")
@click.option("--keep-archive/--no-keep-archive", default=True, show_default=True, help="once it is unpacked")
def download(name: str, root: Path, keep_archive: bool) -> None:
    """Fetch NAME, a row of data/downloads.csv, verify it and unpack it."""
    from wsol_utils.data import download

    there, data_root = download.get(name, root, keep_archive), download.find(name).data_root
    click.echo(f"{there} is there" + (f"; DATA_ROOT={(root / data_root).resolve()}" if data_root else ""))


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.safetensors", type=click.Path(path_type=Path))
def convert(source: Path, target: Path) -> None:
    """Write the weights in IN, a PyTorch pickle (.pth, .pt, .bin, .ckpt), as safetensors, which all else here reads.

    IN holds a state dict, alone or under a key of its own, and is read without running what it holds. It stays as it
    is; OUT must not exist yet.
    """
    from wsol_utils.data.text import shown
    from wsol_utils.network import models, weights

    if target.exists():
        raise click.ClickException(f"{target} exists already: name another file")
    key, state = weights.unpickle(source)
    models.write(state, target, {"converted_from": source.name})
    within = f" under {key!r}" if key else ""
    click.echo(shown(f"wrote {target}: {len(state)} tensors, which {source} holds{within}"))


def run_options(command: Callable) -> Callable:
    """Add the options of a run, under the names that make and papermill have for them."""
    for option in (
        click.option("-p", "others", nargs=2, multiple=True, metavar="NAME VALUE", help="any other value of a run"),
        click.option("--results", default="results", show_default=True),
        click.option("--seeds", default="", help="as 0,1,2"),
        click.option("--poolings", default="", help="as gap,wgap"),
        click.option("--methods", default="", help="beside plain fine-tuning, as has,acol"),
        click.option("--backbone", default="", help="if not the profile's own"),
        click.option("--weights", default="", help="safetensors file to start from"),
        click.option("--data-root", default="", help="folder of the data set's own files"),
        click.option("--profile", default="sample", show_default=True),
        click.argument("dataset"),
    ):
        command = option(command)
    return command


@contextmanager
def one_run(others: tuple[tuple[str, str], ...], **values: Any) -> Iterator[Any]:
    """Give the configuration of a run, among the processes of torchrun if it started this one."""
    import torch

    from wsol_utils.experiment import experiments, handover
    from wsol_utils.network import processes

    config = experiments.configure(**values | dict(others))
    if config.threads:
        torch.set_num_threads(config.threads)
    with processes.group(handover.device(config)):
        yield config


def each_network(work: Callable, **values: Any) -> None:
    """Call `work` for every network of a run: with the configuration, the annotations, seed, method and pooling.

    Args:
        work: returns the path of what it wrote.
        values: of the run.
    """
    from wsol_utils.experiment import handover, preparation
    from wsol_utils.network import processes

    with one_run(**values) as config:
        table = preparation.prepare(config)
        for seed, (method, pooling) in itertools.product(config.seeds, handover.trainings(config, table)):
            path = work(config, table, seed, method, pooling)
            if processes.rank() == 0:
                click.echo(f"{config.show(path)} is there")


@click.command()
@run_options
def train(**values: Any) -> None:
    """Fine-tune the networks of DATASET as notebook 02 does, here or, started by torchrun, on many GPUs and machines.

    The notebooks, run afterwards with the same values, find them finished.
    """
    from wsol_utils.experiment import handover, stages

    def work(config: Any, table: Any, seed: int, method: str, pooling: str) -> Path:
        stages.train(config, table, seed, pooling, stages.starting_weights(config, seed), method)
        return handover.checkpoint(config, seed, pooling, method)

    each_network(work, **values)


@click.command()
@run_options
def predict(**values: Any) -> None:
    """Run the networks of `train` over the test photographs as notebook 03 does, here or started by torchrun."""
    from wsol_utils.experiment import handover, stages

    def work(config: Any, table: Any, seed: int, method: str, pooling: str) -> Path:
        own_head = handover.split(config, table, "train").empty
        stages.predicted(config, table, seed, pooling, own_head, config.conventions, method)
        return handover.prediction_folder(config, seed, pooling, config.conventions, method)

    each_network(work, **values)


@click.command("tune-heads")
@run_options
@click.option("--rates", multiple=True, required=True, help="values to try, as wgap=50,200,800; for each pooling")
@click.option("--multipliers", default="1", show_default=True, help="of the network's rate, to try each of them with")
def tune_heads(rates: tuple[str, ...], multipliers: str, **values: Any) -> None:
    """Try several rates of the head for each pooling on a validation part of DATASET's train split."""
    from wsol_utils.experiment import handover, stages

    try:
        tried = {name: [float(x) for x in listed.split(",")] for name, listed in (rate.split("=") for rate in rates)}
        factors = [float(x) for x in multipliers.split(",")]
    except ValueError as error:
        raise click.ClickException(
            f"{error}: give --rates as wgap=50,200,800, once for each pooling, and --multipliers as 1,0.1"
        ) from error
    with one_run(**values | {"poolings": list(tried), "evaluate_on": "validation"}) as config:
        found = stages.head_rates(config, config.seeds[0], tried, factors)
    handover.write_csv(found, config.folder / "head_rates.csv")
    click.echo(found.to_string(index=False))
    click.echo(f"wrote {config.show(config.folder / 'head_rates.csv')}")


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
def verify(results: Path) -> None:
    """Check the runs below RESULTS: their files, and their tables computed again from the predictions."""
    from wsol_utils.data.text import shown
    from wsol_utils.experiment import experiments
    from wsol_utils.runner import verify

    checked = wrong = 0
    root = experiments.results_root(str(results))
    for folder, findings, unlisted in verify.verify_all(root):
        result = f"findings: {len(findings)}" if findings else "all is right"
        click.echo(f"{results / folder.relative_to(root)}: {result}")
        for line in findings:
            click.echo(f"  {shown(line)}")
        for name in unlisted:
            click.echo(f"  not in the manifest, so not checked: {shown(name)}")
        checked, wrong = checked + 1, wrong + len(findings)
    if not checked:
        raise click.ClickException(f"there is no run below {results}: nothing to verify")
    click.echo(f"runs checked: {checked}, findings: {wrong}")
    if wrong:
        raise SystemExit(1)


@click.command()
@click.option("--maps", required=True, help="Folder of score maps, <image id>.npy each.")
@click.option("--metadata", "folder", required=True, help="Folder of image_ids.txt etc., as in wsolevaluation.")
@click.option(
    "--corners",
    default="half-open",
    show_default=True,
    help="What x1 and y1 of localization.txt name: the pixel behind the box (half-open, as in wsolevaluation's files "
    "for CUB), or its last pixel (inclusive, as in its files for ILSVRC).",
)
@click.option("--protocol", default="paper", show_default=True, help="Or wsolevaluation, rethinkingcam.")
@click.option("--rule", "rules", multiple=True, default=RULES, show_default=True, help="May be given several times.")
@click.option("--size", type=click.IntRange(min=1), default=224, show_default=True, help="Side of the network's input.")
@click.option("--predicted", help="File of predicted classes for Top-1, a line <image id>,<class> each.")
@click.option("--masks", "mask_root", help="Folder of OpenImages' masks, or of CUB's segmentations, for PxAP.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="CSV file to write, at full precision.")
def evaluate(
    maps: str, folder: str, corners: str, protocol: str, rules: tuple[str, ...], size: int, predicted: str | None,
    mask_root: str | None, out: Path | None,
) -> None:  # fmt: skip
    """Evaluate score maps of any network, in percent: a row for each threshold rule.

    Every image of the metadata needs its map. Boxes beyond their image's edge are clipped, and counted on the standard
    error.
    """
    import pandas as pd

    from wsol_utils.experiment import handover
    from wsol_utils.scores import protocols
    from wsol_utils.scores.external import masks, score_maps
    from wsol_utils.scores.external.metadata import read_predicted

    convention, metadata = protocols.get(protocol), score_maps.read_metadata(folder, corners)
    if metadata.clipped:
        click.echo(f"{folder}: boxes that leave their image, clipped to it: {metadata.clipped}", err=True)
    classes = read_predicted(predicted, metadata) if predicted else None
    objects = None
    if mask_root and metadata.masks:
        objects = masks.of_openimages(metadata, mask_root, metadata.image_ids, size, convention)
    elif mask_root:
        objects = masks.of_cub(mask_root, pd.DataFrame({"image_id": metadata.image_ids}), size, convention)
    table = score_maps.evaluate(maps, metadata, convention, rules, size, classes, objects)
    if out:
        handover.write_csv(table, out)
    digits = {"threshold": ".3f", "threshold_sd": ".3f", "p_value": ".2g"}
    formats = {name: f"{{:{digits.get(name, '.1f')}}}".format for name in table.select_dtypes("float")}
    whole = table[list(WHOLE)].iloc[0].dropna()
    rows = table.drop(columns=list(whole.index)).dropna(axis=1, how="all")
    click.echo(rows.to_string(index=False, formatters=formats))
    click.echo(", ".join(f"{name} {percent:.1f}" for name, percent in whole.items()))


@click.command()
def notebooks() -> None:
    """Execute the committed notebooks again with their defaults, in place."""
    from wsol_utils.runner import execute

    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in dodo.py
    with tempfile.TemporaryDirectory() as results:
        os.environ["WSOL_RESULTS"] = results  # so that no earlier run shows in an output
        for path in sorted((ROOT / "notebooks").glob("0[0-7]_*.ipynb")):
            click.echo(path.name)
            execute.in_place(path)
        shutil.copy(Path(results, "own_images", "steps.png"), ROOT / "docs" / "photographs.png")  # the README's first


@click.command()
def benchmarks() -> None:
    """Measure speed again: execute notebook 08 in place, and keep its record in results/reference."""
    from wsol_utils.figures import findings
    from wsol_utils.runner import execute

    os.environ["TQDM_DISABLE"] = "1"
    execute.in_place(ROOT / "notebooks" / "08_benchmarks.ipynb")
    shutil.copy(ROOT / "results" / "benchmarks.csv", ROOT / "results" / "reference")
    findings.write_documents()


@click.command("reference")
def measure_reference() -> None:
    """Measure again what results/reference/sample holds; a run that was cut off goes on where it was."""
    from wsol_utils.runner import keep

    keep.measure()


@click.command("keep-reference")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", default="", help="<folder>/<folder> below results/reference, if not <profile>/<dataset>")
def keep_reference(run: Path, name: str) -> None:
    """Copy the tables of RUN, a folder <results>/<profile>/<dataset>, to results/reference."""
    from wsol_utils.runner import keep

    if name and not re.fullmatch(r"\w+/\w+", name):
        raise click.ClickException(f"--name {name}: give a folder and one in it, as gpu/cub")
    keep.keep_run(run, name)
