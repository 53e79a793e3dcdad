"""Make Tables 1 and 2: the paper's cells as printed, with every doubt, beside what a run measured."""

from collections.abc import Sequence
from string import ascii_lowercase

import pandas as pd

from wsol_utils.common.files import ROOT
from wsol_utils.scores.protocols import PAPER

PUBLISHED = ROOT / "data" / "published"
TABLE_1 = ("Table 1", "table1_cub.csv", "all of CUB-200-2011")  # title, file, and the images it was measured on
TABLE_2 = ("Table 2", "table2_ilsvrc.csv", "all of ILSVRC")
# The sample's two data sets stand where CUB and ILSVRC stand in the paper.
TABLE_OF = {"cub": TABLE_1, "birds": TABLE_1, "ilsvrc": TABLE_2, "things": TABLE_2}
METRICS = {"top1_cls": "Top-1 Cls", "top1_loc": "Top-1 Loc", "gt_known": "GT-known Loc"}
COLUMNS = ["source", "method", "measured_on", *METRICS, "note"]
KEY = ["pooling", "recombination", "threshold_rule"]
KINDS = {
    "provable": "Provable from the paper",
    "probable": "Probable, from secondary lists or because the cells hardly go together",
}
USUAL = {
    "temperature": 1.0, "features": "plain", "protocol": "paper", "candidates": len(PAPER.candidates),
    **{w: getattr(PAPER, w) for w in ("normalization", "resolution", "interpolation", "component", "boundary")},
    "n_skipped": 0,
}  # fmt: skip

SAMPLE = "things"  # the data set that the sample's own weights were trained on

# The steps from the original CAM to the paper's method, each a combination: the values of `KEY`.
STEPS = {
    "CAM (GAP, Eq. 2, fixed 0.20)": ("gap", "signed", "fixed"),
    "+ WGAP (Eq. 1)": ("wgap", "signed", "fixed"),
    "+ recombination (Eq. 3)": ("wgap", "absolute", "fixed"),
    "+ threshold (Sec. 4.3): the paper's method": ("wgap", "absolute", "first_above_mean"),
    "CAM + recombination alone": ("gap", "absolute", "fixed"),
    "CAM + threshold alone": ("gap", "signed", "first_above_mean"),
    "CAM + recombination + threshold": ("gap", "absolute", "first_above_mean"),
    "CAM, best fixed threshold (looks at the boxes)": ("gap", "signed", "best_fixed"),
    "the paper's maps, best fixed threshold (looks at the boxes)": ("wgap", "absolute", "best_fixed"),
    "the paper's maps, oracle (looks at the boxes)": ("wgap", "absolute", "oracle"),
}

# The rows of `contributions`: the values of `KEY`, as `statistics.paired_differences` writes a change of them.
CONTRIBUTIONS = {
    "WGAP alone": ("gap → wgap", "signed", "fixed"),
    "recombination alone": ("gap", "signed → absolute", "fixed"),
    "threshold alone": ("gap", "signed", "fixed → first_above_mean"),
    "WGAP + recombination": ("gap → wgap", "signed → absolute", "fixed"),
    "WGAP + threshold": ("gap → wgap", "signed", "fixed → first_above_mean"),
    "recombination + threshold": ("gap", "signed → absolute", "fixed → first_above_mean"),
    "all three": ("gap → wgap", "signed → absolute", "fixed → first_above_mean"),
    "WGAP, on top of the others": ("gap → wgap", "absolute", "first_above_mean"),
    "recombination, on top of the others": ("wgap", "signed → absolute", "first_above_mean"),
    "threshold, on top of the others": ("wgap", "absolute", "fixed → first_above_mean"),
    "negative channels added, not left out; GAP, fixed": ("gap", "positive → absolute", "fixed"),
    "negative channels added, not left out; WGAP, fixed": ("wgap", "positive → absolute", "fixed"),
    "negative channels added, not left out; WGAP, Sec. 4.3": ("wgap", "positive → absolute", "first_above_mean"),
    "the map's mean, not Sec. 4.3; GAP, recombined": ("gap", "absolute", "first_above_mean → mean"),
    "the map's mean, not Sec. 4.3; WGAP, recombined": ("wgap", "absolute", "first_above_mean → mean"),
}
SHOWN_RULES = ("fixed", "first_above_mean", "percentile", "mean", "best_fixed", "oracle")
FORMS = ("wgap", "wgap_sum")  # of Eq. 1: as printed, and without the second division


def of_cam(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of plain fine-tuning (method "cam"); all rows where there is no column method."""
    return rows[rows["method"] == "cam"] if "method" in rows else rows


def matching(rows: pd.DataFrame, combination: Sequence[str]) -> pd.DataFrame:
    """Select the rows of one combination: the values of `KEY`."""
    return rows[(rows[KEY] == list(combination)).all(axis=1)]


def published(dataset: str) -> pd.DataFrame:
    """Read the rows of the paper's table for a data set, every cell as printed ("-" where it prints none).

    Returns:
        `COLUMNS`, where note holds the letters of the row's `doubts`, such as "a, g"; no rows where the paper has no
        such table.
    """
    if dataset not in TABLE_OF:
        return pd.DataFrame(columns=COLUMNS)
    _, file, images = TABLE_OF[dataset]
    rows, notes = _read(file), doubts(dataset).groupby("where")["note"].agg(", ".join)
    return rows.assign(source="paper", measured_on=images, note=rows["method"].map(notes).fillna(""))[COLUMNS]


def doubts(dataset: str) -> pd.DataFrame:
    """Read what is wrong, or looks wrong, in the paper's table for a data set and in the text around both tables.

    Returns:
        Columns note (a letter for a doubt about a row, "" for one about the text), where (the row's method, or
        the section), kind ("provable": follows from the paper; "probable": rests on secondary lists, or on cells
        that hardly go together) and doubt; the provable ones first. No rows where the paper has no such table.
    """
    columns = ["note", "where", "kind", "doubt"]
    if dataset not in TABLE_OF:
        return pd.DataFrame(columns=columns)
    rows = _read(TABLE_OF[dataset][1]).rename(columns={"method": "where"}).assign(in_table=True)
    both = pd.concat([rows, _read("doubts.csv").assign(in_table=False)])
    found = both.melt(["where", "in_table"], list(KINDS), "kind", "doubt").query("doubt != ''").reset_index(drop=True)
    found["note"] = ""
    found.loc[found["in_table"], "note"] = list(ascii_lowercase[: found["in_table"].sum()])
    return found[columns]


def measured(metrics: pd.DataFrame) -> pd.DataFrame:
    """Make a row of the table for each of `STEPS` that a run evaluated.

    Args:
        metrics: rows of metrics.csv, for one data set.

    Returns:
        `COLUMNS`, ready to print: GT-known with its interval, or each figure as mean ± deviation over several seeds.
    """
    rows, metrics = [], of_cam(metrics)
    for method, combination in STEPS.items():
        found = matching(metrics, combination)
        if len(found):
            one = found.iloc[0]
            start = one.get("weights", SAMPLE)
            network = one.backbone if start == SAMPLE else f"{one.backbone} from {start}"
            where = f"{one.dataset} ({one.profile}), {network}, {one.n_images} images{_unusual(one)}"
            cells = {figure: cell(found, figure) for figure in METRICS}
            rows.append({"source": "measured", "method": method, "measured_on": where, **cells, "note": ""})
    return pd.DataFrame(rows, columns=COLUMNS)


def cell(rows: pd.DataFrame, figure: str) -> str:
    """Print a figure of one combination: "74.7 ± 4.8" for several seeds; for one its value, GT-known with interval.

    Args:
        rows: rows of metrics.csv, one for each seed.
        figure: which of `METRICS`.
    """
    if len(rows) > 1:
        return f"{rows[figure].mean():.1f} ± {rows[figure].std():.1f}"
    one = rows.iloc[0]
    interval = f" [{one['gt_known_low']:.1f}, {one['gt_known_high']:.1f}]" if figure == "gt_known" else ""
    return f"{one[figure]:.1f}{interval}"


def combined(dataset: str, metrics: pd.DataFrame) -> pd.DataFrame:
    """Put the measured rows below the published ones."""
    return pd.concat([published(dataset), measured(metrics)], ignore_index=True)


def contributions(
    dataset: str, differences: pd.DataFrame, form: str = "wgap", figure: str = "gt_known"
) -> pd.DataFrame:
    """List what each of the paper's parts adds, alone and together, in points: the mean over the seeds of both ends.

    Args:
        dataset: whose printed table to take the last row from.
        differences: of `statistics.paired_differences`, for one data set.
        form: which of `FORMS`.
        figure: which of `METRICS`.

    Returns:
        Columns step, from, to (percent), points, low and high (the 95 % interval of the points), not rounded; a row
        for each of `CONTRIBUTIONS` whose two ends were measured, and one for all three as the paper prints it.
    """
    differences, rows = of_cam(differences[differences["figure"] == figure]), []
    for title, (pooling, *rest) in CONTRIBUTIONS.items():
        found = matching(differences, [pooling.replace("wgap", form), *rest])
        rows += found.assign(step=title).rename(columns={"difference": "points"}).to_dict("records")
    if dataset in TABLE_OF:
        printed = published(dataset).set_index("method")[figure]
        a, b = float(printed["VGG-CAM[6]"]), float(printed["Ours"])
        rows.append({"step": "all three, as the paper prints it", "from": a, "to": b, "points": round(b - a, 2)})
    return pd.DataFrame(rows, columns=["step", "from", "to", "points", "low", "high"])


def all_contributions(differences: pd.DataFrame) -> pd.DataFrame:
    """List `contributions` for every form of WGAP that was measured, in GT-known and Top-1 Loc, without the paper's.

    Returns:
        Columns form (a name of a pooling), figure, and those of `contributions`.
    """
    measured = [form for form in FORMS if differences["pooling"].eq(form).any()] or ["wgap"]
    found = [
        contributions("", differences, form, figure).assign(form=form, figure=figure)
        for form in measured for figure in ("gt_known", "top1_loc")
    ]  # fmt: skip
    return pd.concat(found, ignore_index=True)[["form", "figure", "step", "from", "to", "points", "low", "high"]]


def main_steps(differences: pd.DataFrame) -> pd.DataFrame:
    """Select the paper's claims from `statistics.paired_differences`: GT-known, GAP and WGAP, fixed and Sec. 4.3."""
    differences = of_cam(differences)
    rules = differences["threshold_rule"].isin(["fixed", "first_above_mean", "fixed → first_above_mean"])
    poolings = differences["pooling"].isin(["gap", "wgap", "gap → wgap"])
    return differences[rules & poolings & differences["figure"].eq("gt_known")].reset_index(drop=True)


def mean_and_deviation(rows: pd.DataFrame, figure: str = "gt_known") -> pd.Series:
    """Print cells such as "74.7 ± 4.8" of a column <figure>_mean and <figure>_std; the mean alone where std is NaN."""
    deviation = rows[f"{figure}_std"]
    return rows[f"{figure}_mean"].map("{:.1f}".format) + deviation.map(" ± {:.1f}".format).where(deviation.notna(), "")


def grid(found: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Print GT-known of every pooling and recombination by several rules beside Choe et al.'s scores.

    Args:
        found: rows of seeds.csv, for one data set.
        scores: rows of max_box_acc.csv.

    Returns:
        Rows pooling, Top-1 Cls and recombination; a column for each of `SHOWN_RULES`, MaxBoxAcc and MaxBoxAccV2;
        cells as of `mean_and_deviation`, "" where nothing was measured.
    """
    found, scores, maps = of_cam(found), of_cam(scores), ["pooling", "recombination"]
    named = found.assign(cell=mean_and_deviation(found), top1=mean_and_deviation(found, "top1_cls"))
    named = named.rename(columns={"top1": "Top-1 Cls"})
    cells = named.pivot_table("cell", ["pooling", "Top-1 Cls", "recombination"], "threshold_rule", "first", sort=False)
    several = scores.groupby(maps)[["MaxBoxAcc", "MaxBoxAccV2"]].agg(["mean", "std"])
    several.columns = several.columns.map("_".join)
    both = pd.DataFrame({name: mean_and_deviation(several, name) for name in ("MaxBoxAcc", "MaxBoxAccV2")})
    return cells[[rule for rule in SHOWN_RULES if rule in cells]].join(both, on=maps).fillna("")


def to_markdown(table: pd.DataFrame, dataset: str) -> str:
    """Write a title, a note on what stands beside what, the table, and below it every doubt about the printed rows.

    Args:
        table: from `combined`; the letters of its column note are set after the method, as in "VGG-CAM[6] [a, g]".
    """
    number, *_ = TABLE_OF.get(dataset, ["Measured"])
    note = (
        'Rows "paper" are printed figures, taken over as they stand. Rows "measured" come from this run, on the data '
        "and with the network named; the two are comparable only where these are the same. Percent; brackets: 95 % "
        "bootstrap interval; ±: standard deviation over seeds."
    )
    text = ""
    for kind, rows in doubts(dataset).groupby("kind", sort=False):
        text += f"\n{KINDS[kind]}:\n\n"
        for row in rows.itertuples():
            text += f"- [{row.note}] " if row.note else "- "
            text += f"{row.where}: {row.doubt}\n"
    if text:
        note += " A letter after a method points to a doubt below the table."
    marked = table["method"].where(table["note"] == "", table["method"] + " [" + table["note"] + "]")
    cells = table.assign(method=marked).drop(columns="note").rename(columns=METRICS)
    printed = cells.to_markdown(index=False, disable_numparse=True)
    return f"# {number}: the paper's figures beside ours\n\n{note}\n\n{printed}\n{text}"


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / name, dtype=str, keep_default_na=False)


def _unusual(row: pd.Series) -> str:
    """The conventions of a row that are not the usual ones, for a reader of the table."""
    words = {name: row[name] for name in USUAL if name in row and row[name] != USUAL[name] and row[name] == row[name]}
    return "".join(f", {name} {value}" for name, value in words.items())
