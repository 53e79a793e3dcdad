"""The command line: python -m wsol_utils --help."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from wsol_utils import evidence, localize, maintenance, texts

ROOT = Path(__file__).resolve().parents[1]
RULES = ("fixed", "first_above_mean", "best_fixed", "oracle")  # what `evaluate` shows if nothing else is asked


@click.group()
def main() -> None:
    """Weakly supervised object localisation: the commands beside the notebooks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what it cannot show is escaped


@main.command("render-sample")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT / "data" / "sample", help="folder to write to")
@click.option("--seed", default=0, show_default=True, help="of the random drawings")
def render_sample(root: Path, seed: int) -> None:
    """Render the two embedded data sets."""
    from wsol_utils import sample

    sample.render(root, seed)
    click.echo(f"rendered birds and things in {root}")


@main.command()
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT / "data", help="folder to put it in")
@click.option("--keep-archive/--no-keep-archive", default=True, show_default=True, help="once it is unpacked")
def download(name: str, root: Path, keep_archive: bool) -> None:
    """Fetch NAME, a row of data/downloads.csv, verify it and unpack it."""
    from wsol_utils import downloads

    try:
        there, data_root = downloads.get(name, root, keep_archive), downloads.find(name).data_root
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error).replace("\n", " ")) from error
    click.echo(f"{there} is there" + (f"; DATA_ROOT={(root / data_root).resolve()}" if data_root else ""))


@main.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.safetensors", type=click.Path(path_type=Path))
def convert(source: Path, target: Path) -> None:
    """Write the weights in IN, a PyTorch pickle (.pth, .pt, .bin, .ckpt), as safetensors, which all else here reads.

    IN holds a state dict, alone or under a key of its own, and is read without running what it holds. It stays as it
    is; OUT must not exist yet.
    """
    from wsol_utils import models, weights

    try:
        if target.exists():
            raise click.ClickException(f"{target} exists already: name another file")
        key, state = weights.unpickle(source)
        models.write(state, target, {"converted_from": source.name})
    except (ValueError, OSError) as error:
        raise click.ClickException(texts.shown(str(error))) from error
    within = f" under {key!r}" if key else ""
    click.echo(texts.shown(f"wrote {target}: {len(state)} tensors, which {source} holds{within}"))


def run_options(command: Callable) -> Callable:
    """The options of a run, as make and papermill have them."""
    for option in (
        click.option("-p", "others", nargs=2, multiple=True, metavar="NAME VALUE", help="any other value of a run"),
        click.option("--results", default="results", show_default=True),
        click.option("--seeds", default="", help="as 0,1,2"),
        click.option("--poolings", default="", help="as gap,wgap"),
        click.option("--backbone", default="", help="if not the profile's own"),
        click.option("--weights", default="", help="safetensors file to start from"),
        click.option("--data-root", default="", help="folder of the data set's own files"),
        click.option("--profile", default="sample", show_default=True),
        click.argument("dataset"),
    ):
        command = option(command)
    return command


@contextmanager
def one_run(dataset: str, profile: str, others: tuple[tuple[str, str], ...], **values: str) -> Iterator[Any]:
    """The configuration of a run, among the processes of torchrun where it started this one; one line for an error."""
    import torch

    from wsol_utils import distributed, experiments, runs

    try:
        config = experiments.configure(dataset, profile, **values, **dict(others))
        if config.threads:
            torch.set_num_threads(config.threads)
        with distributed.group(runs.device(config)):
            yield config
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@run_options
def train(**values: Any) -> None:
    """Fine-tune the networks of DATASET as notebook 02 does, here or, started by torchrun, on many GPUs and machines.

    The notebooks, run afterwards with the same values, find them finished.
    """
    from wsol_utils import distributed, runs, stages

    with one_run(**values) as config:
        table = runs.prepare(config)
        for seed, name in ((seed, name) for seed in config.seeds for name in runs.poolings(config, table)):
            stages.train(config, table, seed, name, stages.starting_weights(config, seed))
            if distributed.rank() == 0:
                click.echo(f"{config.show(runs.checkpoint(config, seed, name))} is trained")


@main.command()
@run_options
def predict(**values: Any) -> None:
    """Run the networks of `train` over the test photographs as notebook 03 does, here or started by torchrun."""
    from wsol_utils import distributed, runs, stages

    with one_run(**values) as config:
        table = runs.prepare(config)
        own_head = runs.split(config, table, "train").empty
        for seed, name in ((seed, name) for seed in config.seeds for name in runs.poolings(config, table)):
            stages.predicted(config, table, seed, name, own_head, config.conventions)
            if distributed.rank() == 0:
                click.echo(f"{config.show(runs.prediction_file(config, seed, name, config.conventions))} is written")


@main.command("tune-heads")
@click.argument("dataset")
@click.option("--profile", default="sample", show_default=True)
@click.option("--rates", multiple=True, required=True, help="values to try, as wgap=50,200,800; for each pooling")
@click.option("--multipliers", default="1", show_default=True, help="of the network's rate, to try each of them with")
@click.option("--data-root", default="", help="folder of the data set's own files")
@click.option("--weights", default="", help="safetensors file to start from")
@click.option("--epochs", default="", help="of each try, if not the profile's own number")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="", help="cpu, cuda, mps or gpu, if not CUDA where it is")
@click.option("--results", default="results", show_default=True)
def tune_heads(dataset: str, profile: str, rates: tuple[str, ...], multipliers: str, seed: int, **values: str) -> None:
    """Try several rates of the head for each pooling on a validation part of DATASET's train split."""
    import torch

    from wsol_utils import experiments, runs, stages

    try:
        tried = {name: [float(x) for x in listed.split(",")] for name, listed in (rate.split("=") for rate in rates)}
        factors = [float(x) for x in multipliers.split(",")]
    except ValueError as error:
        raise click.ClickException(
            f"{error}: give --rates as wgap=50,200,800, once for each pooling, and --multipliers as 1,0.1"
        ) from error
    try:
        config = experiments.configure(dataset, profile, evaluate_on="validation", poolings=list(tried), **values)
        if config.threads:
            torch.set_num_threads(config.threads)
        found = stages.head_rates(config, seed, tried, factors)
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


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
def verify(results: Path) -> None:
    """Check the runs below RESULTS: their files, and their tables computed again from the predictions."""
    from wsol_utils import experiments, verification

    checked = wrong = 0
    root = experiments.results_root(str(results))
    for folder, findings in verification.verify_all(root):
        errors = sum(not finding.remark for finding in findings)
        click.echo(f"{results / folder.relative_to(root)}: {f'findings: {errors}' if errors else 'all is right'}")
        for finding in findings:
            click.echo(f"  {'remark: ' if finding.remark else ''}{finding.text}")
        checked, wrong = checked + 1, wrong + errors
    if not checked:
        raise click.ClickException(f"there is no run below {results}: nothing to verify")
    click.echo(f"runs checked: {checked}, findings: {wrong}")
    if wrong:
        raise SystemExit(1)


for command in (
    localize.localize, maintenance.notebooks, maintenance.benchmarks, maintenance.measure_reference,
    maintenance.keep_reference, evidence.reference_photographs,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
