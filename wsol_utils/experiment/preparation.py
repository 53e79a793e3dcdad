"""Prepare a data set for notebook 01: read its table of annotations, open its photographs, clip its boxes."""

import pandas as pd

from wsol_utils.data import datasets
from wsol_utils.experiment import handover
from wsol_utils.experiment.experiments import Config
from wsol_utils.network import processes

MANY = 200_000  # images, of which only the splits that are evaluated are opened


def prepare(config: Config) -> pd.DataFrame:
    """The table that notebook 01 writes, as it makes it; the one that is there already, if there is."""
    path = config.folder / "annotations.csv"
    if not path.is_file() and processes.rank() == 0:
        table, left_out = usable(config, datasets.READERS[config.layout](config.root))
        handover.write_csv(left_out, config.folder / "skipped.csv")
        datasets.write_table(table, path)
    processes.wait()
    return datasets.read_table(path)


def usable(config: Config, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A data set's table once its photographs have been opened and found good, and those that the run does without.

    Returns:
        As of `datasets.check`, and of `datasets.leave_out` where the run skips what is bad: image_id, path, split,
        reason. Of a table of `MANY` images and more the train split is not opened, as that takes hours, unless the run
        skips what is bad or evaluates a part of train: its sizes stay 0, and its boxes as they were listed.
    """
    opened = len(table) < MANY or config.on_bad_image == "skip" or config.evaluate_on == "validation"
    splits = ("train", "test") if opened else ("test",)
    left_out = pd.DataFrame(columns=["image_id", "path", "split", "reason"])
    if config.on_bad_image == "skip":
        table, left_out = datasets.leave_out(table, config.root, splits)
    return datasets.check(table, config.root, splits), left_out


def clipping(table: pd.DataFrame, most: int = 20) -> str:
    """What a table of `usable` says of boxes that passed their image's edge, a line for each image.

    Args:
        most: images that get a line, those with the largest overshoot first; more than a pixel all of them.
    """
    clipped = table["clipped"]
    beyond = table[clipped > 1].sort_values("clipped", ascending=False, kind="stable")
    counts = f"in {((clipped > 0) & (clipped <= 1)).sum()} images by a pixel or less, in {len(beyond)} by more"
    said = f"boxes clipped to their image: {counts}; the most is {clipped.max():g} px"
    if unopened := int((table["width"] == 0).sum()):
        said += f"; {unopened} images were not opened, and their boxes stay as listed"
    lines = [f"  {row.clipped:g} px: {row.source}, {row.path}" for row in beyond.head(most).itertuples()]
    more = [f"  and {len(beyond) - most} more, in the column clipped of annotations.csv"] if len(beyond) > most else []
    return "\n".join([said, *lines, *more])
