"""Find the objects in one's own pictures from the command line, and write their boxes."""

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from wsol_utils.common.bars import QUIET, watched
from wsol_utils.data.text import DatasetError, shown

UNSURE = 0.5  # below this probability the class is said to be unsure


@click.command()
@click.argument("images", nargs=-1, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--recursive", is_flag=True, help="Take the pictures in folders of folders, too.")
@click.option("--checkpoint", default="", help="Network that notebook 02 trained, seed0/wgap.safetensors of its run.")
@click.option(
    "--backbone",
    default="",
    help="Instead: a network of torchvision's that knows ImageNet's 1000 classes, resnet50 for instance.  "
    "[default: efficientnet_lite0, which needs no download]",
)
@click.option(
    "--weights",
    default="",
    help="Safetensors file for the backbone; torchvision's own are downloaded.",
)
@click.option(
    "--class",
    "class_index",
    type=click.IntRange(min=0),
    help="Number of the class to look for, from 0.  [default: the one that the network predicts]",
)
@click.option(
    "--recombination",
    default="absolute",
    show_default=True,
    help="How the map is made: absolute (the paper's, Eq. 3), signed (the original CAM, Eq. 2) or positive.",
)
@click.option("--rule", default="", help="How the threshold is chosen.  [default: first_above_mean, Sec. 4.3]")
@click.option("--eta", type=float, help="Instead of a rule: your own threshold, a share of the map's maximum, 0 to 1.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write boxes.json (COCO), boxes.csv and a PNG of each picture to.",
)
def localize(
    images: tuple[Path, ...], recursive: bool, checkpoint: str, backbone: str, weights: str, class_index: int | None,
    recombination: str, rule: str, eta: float | None, out: Path | None,
) -> None:  # fmt: skip
    """Find the object in every IMAGE, a picture or a folder of pictures, and print its box.

    A network says what the picture shows, and its class activation map where: the box surrounds the largest part of
    the map above a threshold. Nobody has to draw a box first.

    One line a picture: its path, the class with its number, its probability, the threshold, and the box: left, top,
    right and bottom, in pixels from the picture's upper left corner. Of a folder every file counts, whatever its name
    ends in, but for those that begin with a dot; what is no picture is named, and the command then exits with 1.

    \b
    Examples:
      python -m wsol_utils localize holiday/ --out boxes
      python -m wsol_utils localize cat.jpg --backbone resnet50
      python -m wsol_utils localize robin.jpg --checkpoint results/sample/birds/seed0/wgap.safetensors
    """
    if not images:
        click.echo(click.get_current_context().get_help())
        return
    if checkpoint and backbone:
        raise click.UsageError("Give --checkpoint or --backbone, one of the two.")
    if checkpoint and weights:
        raise click.UsageError("--weights are of a --backbone; a --checkpoint has its own.")
    if eta is not None and (rule or not 0 <= eta <= 1):
        raise click.UsageError("--eta is a number from 0 to 1, and takes the place of --rule.")

    from wsol_utils.boxes import thresholds  # here, because they take a moment to import
    from wsol_utils.common.checks import one_of
    from wsol_utils.figures import plots
    from wsol_utils.maps import cam
    from wsol_utils.own_pictures import locate, networks

    rule = rule or "first_above_mean"
    try:
        one_of("--rule", rule, thresholds.RULES)
        one_of("--recombination", recombination, cam.RECOMBINATIONS)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    paths, problems = locate.pictures(images, recursive)
    for problem in problems:
        print(f"Error: {problem}", file=sys.stderr)  # click would take no notice of the stream's encoding
    if out and any(path.parent.resolve() == out.resolve() for path in paths):
        raise click.UsageError("--out is the pictures' own folder: name another one, so that they stay apart.")
    network = networks.load_network(checkpoint, backbone, weights or "imagenet")
    if network.warning:
        click.echo(f"Warning: {shown(network.warning)}", err=True)
    named, rows = zip(paths, locate.output_names(paths), strict=True), list[dict[str, Any]]()
    for path, name in watched(named, len(paths), "localize", "picture", QUIET or not sys.stderr.isatty()):
        try:
            view = locate.look(network, path, class_index)
            located = locate.locate(view, recombination, rule, eta)
        except (DatasetError, MemoryError, RuntimeError) as error:  # torch's of memory is a RuntimeError
            problems.append(" ".join(str(error).split()) or f"{shown(str(path))}: not enough memory; scale it down")
            print(f"Error: {problems[-1]}", file=sys.stderr)
            continue
        rows.append(locate.row(view, located))
        tqdm.write(_said(rows[-1]), file=sys.stdout)
        if out:
            plots.save(locate.draw(view, located), out / f"{name}.png")
    if out:
        locate.write_coco(out / "boxes.json", rows)
        locate.write_csv(out / "boxes.csv", rows)
        count = "1 picture" if len(rows) == 1 else f"{len(rows)} pictures"
        print(f"{count}, boxes.json and boxes.csv are in {shown(str(out))}")
    if problems:
        total = len(rows) + len(problems)
        raise click.ClickException(f"{len(problems)} of {total} files are left out, see above")


def _said(row: dict[str, Any]) -> str:
    """What is printed of one picture."""
    corners = " ".join(f"{row[side]:.1f}" for side in ("x0", "y0", "x1", "y1"))
    box = f"box {corners}" if row["x1"] > row["x0"] else "no box: the map is nowhere above the threshold"
    named = shown(f"{row['path']}: {row['class_name']} ({row['class_index']})")
    sure = "" if row["probability"] >= UNSURE else ", unsure"
    return f"{named}, {100 * row['probability']:.1f} %{sure}, threshold {row['eta']:.2f}, {box}"
