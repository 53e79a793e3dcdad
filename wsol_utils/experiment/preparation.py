"""Prepare a data set for notebook 01: read its table of annotations, open its photographs, clip its boxes."""

import pandas as pd

from wsol_utils.data import datasets
from wsol_utils.experiment import handover
from wsol_utils.experiment.experiments import Config
from wsol_utils.network import processes

MANY = 200_000  # images; of so many only those of the evaluated splits are opened
LISTED = 20  # images that `clipping` names


def prepare(config: Config) -> pd.DataFrame:
    """Return the table that notebook 01 writes; write it first if it is missing."""
    path = config.folder / "annotations.csv"
    if not path.is_file() and processes.rank() == 0:
        table, left_out = usable(config, datasets.READERS[config.layout](config.root))
        handover.write_csv(left_out, config.folder / "skipped.csv")
        datasets.write_table(table, path)
    processes.wait()
    return datasets.read_table(path)


def usable(config: Config, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Open a data set's photographs; return the table of the good ones, and those that the run does without.

    Of a table of `MANY` images the train split stays closed, as it takes hours to open, unless the run skips bad
    photographs or evaluates a part of train. Its sizes stay 0 then, and its boxes as they were listed.

    Returns:
        The tables of `datasets.check` and `datasets.leave_out`; the second (image_id, path, split, reason) is empty
        unless the run skips bad photographs.
    """
    skip = config.on_bad_image == "skip"
    opened = len(table) < MANY or skip or config.evaluate_on == "validation"
    splits = ("train", "test") if opened else ("test",)
    left_out = pd.DataFrame(columns=["image_id", "path", "split", "reason"])
    if skip:
        table, left_out = datasets.leave_out(table, config.root, splits)
    return datasets.check(table, config.root, splits), left_out


def clipping(table: pd.DataFrame) -> str:
    """Describe the boxes of a `usable` table that passed their image's edge, the largest overshoots line by line."""
    clipped = table["clipped"]
    beyond = table[clipped > 1].sort_values("clipped", ascending=False, kind="stable")
    counts = f"in {((clipped > 0) & (clipped <= 1)).sum()} images by a pixel or less, in {len(beyond)} by more"
    said = f"boxes clipped to their image: {counts}; the most is {clipped.max():g} px"
    if unopened := int((table["width"] == 0).sum()):
        said += f"; {unopened} images were not opened, and their boxes stay as listed"
    lines = [f"  {row.clipped:g} px: {row.source}, {row.path}" for row in beyond.head(LISTED).itertuples()]
    if len(beyond) > LISTED:
        lines.append(f"  and {len(beyond) - LISTED} more, in the column clipped of annotations.csv")
    return "\n".join([said, *lines])
