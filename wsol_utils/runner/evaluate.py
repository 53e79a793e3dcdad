"""The command that evaluates score maps of any network, with wsolevaluation's metadata."""

from pathlib import Path

import click

RULES = ("fixed", "first_above_mean", "best_fixed", "oracle")  # what is shown if nothing else is asked
WHOLE = ("max_box_acc", "max_box_acc_v2", "max_box_acc_v2_30", "max_box_acc_v2_50", "max_box_acc_v2_70", "pxap")


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

    try:
        convention = protocols.get(protocol)
        metadata = score_maps.read_metadata(folder, corners)
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
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error).replace("\n", " ")) from error
    digits = {"threshold": ".3f", "threshold_sd": ".3f", "p_value": ".2g"}
    formats = {name: f"{{:{digits.get(name, '.1f')}}}".format for name in table.select_dtypes("float")}
    whole = table[list(WHOLE)].iloc[0].dropna()
    rows = table.drop(columns=list(whole.index)).dropna(axis=1, how="all")
    click.echo(rows.to_string(index=False, formatters=formats))
    click.echo(", ".join(f"{name} {percent:.1f}" for name, percent in whole.items()))
