"""The command that finds the objects in one's own pictures, and writes their boxes."""

import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from wsol_utils.data.texts import shown


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--recursive", is_flag=True, help="Take the pictures in folders of folders, too.")
@click.option("--checkpoint", default="", help="Network that notebook 02 trained, seed0/wgap.safetensors of its run.")
@click.option("--backbone", default="", help="Instead: a network of torchvision's that knows ImageNet's 1000 classes.")
@click.option("--weights", default="", help="Safetensors file for the backbone. Without it they are downloaded.")
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
      python -m wsol_utils localize holiday/ --backbone resnet50 --out boxes
      python -m wsol_utils localize robin.jpg --checkpoint results/sample/birds/seed0/wgap.safetensors
    """
    if bool(checkpoint) == bool(backbone):
        raise click.UsageError("Give --checkpoint or --backbone, one of the two, as in --backbone resnet50.")
    if checkpoint and weights:
        raise click.UsageError("--weights are of a --backbone; a --checkpoint has its own.")
    if eta is not None and (rule or not 0 <= eta <= 1):
        raise click.UsageError("--eta is a number from 0 to 1, and takes the place of --rule.")

    from wsol_utils.boxes import thresholds  # here, because they take a moment to import
    from wsol_utils.common.checks import one_of
    from wsol_utils.maps import cam
    from wsol_utils.own_pictures import own_images

    rule = rule or "first_above_mean"
    try:
        one_of("--rule", rule, thresholds.RULES)
        one_of("--recombination", recombination, cam.RECOMBINATIONS)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    paths, wrong = _pictures(images, recursive)
    if out and any(path.parent.resolve() == out.resolve() for path in paths):
        raise click.UsageError("--out is the pictures' own folder: name another one, so that none is overwritten.")
    if not paths:
        raise SystemExit(1)
    with _one_line():
        network = own_images.load_network(checkpoint, backbone, weights or "imagenet")
    if class_index is not None and class_index >= len(network.class_names):
        count = len(network.class_names)
        raise click.UsageError(f"--class {class_index}: {network.name} has {count} classes, counted from 0.")
    found, unread, names = [], 0, _png_names(paths)
    for path in _bar(paths):
        try:
            view = own_images.look(network, path, class_index)
            located = own_images.locate(view, recombination, rule, eta)
        except (ValueError, MemoryError, RuntimeError) as error:  # torch's of memory is a RuntimeError
            unread += 1
            why = _text(error) or f"{shown(str(path))}: not enough memory; scale the picture down"
            tqdm.write(f"Error: {why}", file=sys.stderr)
            continue
        tqdm.write(_said(view, located), file=sys.stdout)
        found.append(own_images.light(view, located))
        if out:
            with _one_line():
                own_images.save_drawing(view, located, out / names[path])
    if out:
        with _one_line():
            own_images.write_coco(out / "boxes.json", found)
            own_images.write_csv(out / "boxes.csv", found)
        tqdm.write(f"{len(found)} pictures, boxes.json and boxes.csv are in {shown(str(out))}", file=sys.stdout)
    if unread:
        tqdm.write(f"Error: {unread} of {len(paths)} files are left out, see above", file=sys.stderr)
    if wrong or unread:
        raise SystemExit(1)


def _pictures(images: Iterable[Path], recursive: bool) -> tuple[list[Path], int]:
    """The pictures, each once, and how many of the arguments are none; those are reported."""
    from wsol_utils.own_pictures import own_images

    found, wrong = [], 0
    for image in images:
        try:
            found += own_images.pictures(image, recursive)
        except (ValueError, OSError) as error:
            wrong += 1
            tqdm.write(f"Error: {_text(error)}", file=sys.stderr)
    return list(dict.fromkeys(found)), wrong


def _png_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each, with a number where pictures of several folders have the same."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name.lower())
        names[path] = f"{name}.png"
    return names


def _bar(paths: Sequence[Path]) -> Iterable[Path]:
    """The pictures under a progress bar, where somebody sees it."""
    quiet = bool(os.environ.get("TQDM_DISABLE")) or not sys.stderr.isatty()
    return tqdm(paths, desc="localize", unit="picture", file=sys.stderr, disable=quiet)


def _said(view: Any, located: Any) -> str:
    """What is printed of one picture."""
    x0, y0, x1, y1 = located.box
    box = (
        f"box {x0:.1f} {y0:.1f} {x1:.1f} {y1:.1f}"
        if x1 > x0 and y1 > y0
        else "no box: the map is nowhere above the threshold"
    )
    named = shown(f"{view.path}: {view.class_name} ({view.class_index})")
    return f"{named}, {100 * view.probability:.1f} %, threshold {located.eta:.2f}, {box}"


@contextmanager
def _one_line() -> Iterator[None]:
    """An error that ends the command, in one line."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise click.ClickException(_text(error)) from error


def _text(error: BaseException) -> str:
    return shown(" ".join(map(str.strip, str(error).splitlines())))
