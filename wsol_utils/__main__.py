"""The command line: python -m wsol_utils --help."""

import io
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from wsol_utils.common.files import ROOT
from wsol_utils.data.text import shown
from wsol_utils.own_pictures.command import localize
from wsol_utils.runner import evaluate, maintenance


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
    from wsol_utils.data.sample import render as sample

    sample.render(root, seed)
    click.echo(f"rendered birds and things in {root}")


@main.command()
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT / "data", help="folder to put it in")
@click.option("--keep-archive/--no-keep-archive", default=True, show_default=True, help="once it is unpacked")
def download(name: str, root: Path, keep_archive: bool) -> None:
    """Fetch NAME, a row of data/downloads.csv, verify it and unpack it."""
    from wsol_utils.data import download

    try:
        there, data_root = download.get(name, root, keep_archive), download.find(name).data_root
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
    from wsol_utils.network import models, weights

    try:
        if target.exists():
            raise click.ClickException(f"{target} exists already: name another file")
        key, state = weights.unpickle(source)
        models.write(state, target, {"converted_from": source.name})
    except (ValueError, OSError) as error:
        raise click.ClickException(shown(str(error))) from error
    within = f" under {key!r}" if key else ""
    click.echo(shown(f"wrote {target}: {len(state)} tensors, which {source} holds{within}"))


def run_options(command: Callable) -> Callable:
    """The options of a run, as make and papermill have them."""
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
def one_run(dataset: str, profile: str, others: tuple[tuple[str, str], ...], **values: str) -> Iterator[Any]:
    """The configuration of a run, among the processes of torchrun where it started this one; one line for an error."""
    import torch

    from wsol_utils.experiment import experiments, handover
    from wsol_utils.network import processes

    try:
        config = experiments.configure(dataset, profile, **values, **dict(others))
        if config.threads:
            torch.set_num_threads(config.threads)
        with processes.group(handover.device(config)):
            yield config
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@run_options
def train(**values: Any) -> None:
    """Fine-tune the networks of DATASET as notebook 02 does, here or, started by torchrun, on many GPUs and machines.

    The notebooks, run afterwards with the same values, find them finished.
    """
    from wsol_utils.experiment import handover, preparation, stages
    from wsol_utils.network import processes

    with one_run(**values) as config:
        table = preparation.prepare(config)
        for seed, (method, name) in itertools.product(config.seeds, handover.trainings(config, table)):
            stages.train(config, table, seed, name, stages.starting_weights(config, seed), method)
            if processes.rank() == 0:
                click.echo(f"{config.show(handover.checkpoint(config, seed, name, method))} is trained")


@main.command()
@run_options
def predict(**values: Any) -> None:
    """Run the networks of `train` over the test photographs as notebook 03 does, here or started by torchrun."""
    from wsol_utils.experiment import handover, preparation, stages
    from wsol_utils.network import processes

    with one_run(**values) as config:
        table = preparation.prepare(config)
        own_head = handover.split(config, table, "train").empty
        for seed, (method, name) in itertools.product(config.seeds, handover.trainings(config, table)):
            stages.predicted(config, table, seed, name, own_head, config.conventions, method)
            if processes.rank() == 0:
                path = handover.prediction_folder(config, seed, name, config.conventions, method)
                click.echo(f"{config.show(path)} is written")


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

    from wsol_utils.experiment import experiments, handover, stages

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
    handover.write_csv(found, config.folder / "head_rates.csv")
    click.echo(found.to_string(index=False))
    click.echo(f"wrote {config.show(config.folder / 'head_rates.csv')}")


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
def verify(results: Path) -> None:
    """Check the runs below RESULTS: their files, and their tables computed again from the predictions."""
    from wsol_utils.experiment import experiments
    from wsol_utils.runner import verify

    checked = wrong = 0
    root = experiments.results_root(str(results))
    for folder, findings in verify.verify_all(root):
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
    evaluate.evaluate, localize, maintenance.notebooks, maintenance.benchmarks, maintenance.measure_reference,
    maintenance.keep_reference,
):  # fmt: skip
    main.add_command(command)


if __name__ == "__main__":
    main()
