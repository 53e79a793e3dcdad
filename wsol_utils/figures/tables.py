"""Tables 1 and 2: what the paper prints, as printed and with every doubt, beside what this run measured."""

from string import ascii_lowercase

import pandas as pd

from wsol_utils.common.files import ROOT
from wsol_utils.scores.protocols import PAPER

PUBLISHED = ROOT / "data" / "published"
TABLE_OF = {  # the sample's two data sets stand where CUB and ILSVRC stand in the paper
    "cub": "table1_cub.csv", "birds": "table1_cub.csv", "ilsvrc": "table2_ilsvrc.csv", "things": "table2_ilsvrc.csv",
}  # fmt: skip
METRICS = {"top1_cls": "Top-1 Cls", "top1_loc": "Top-1 Loc", "gt_known": "GT-known Loc"}
COLUMNS = ["source", "method", "measured_on", *METRICS, "note"]
KINDS = {
    "provable": "Provable from the paper",
    "probable": "Probable, from secondary lists or because the cells hardly go together",
}
USUAL = {
    "temperature": 1.0, "features": "plain", "protocol": "paper", "candidates": len(PAPER.candidates),
    **{w: getattr(PAPER, w) for w in ("normalization", "resolution", "interpolation", "component", "boundary")},
    "n_skipped": 0,
}  # fmt: skip

SAMPLE = "things"  # what the sample's own weights were trained on

# The steps from the original CAM to the paper's method: pooling, recombination, rule.
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


# What `contributions` shows of the steps of `statistics.CHANGES`: for each, where the rest of the combination stands.
# "WGAP" and "wgap" stand for either form of it.
CONTRIBUTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "WGAP alone": ("WGAP", {"recombination": "signed", "threshold_rule": "fixed"}),
    "recombination alone": ("recombination", {"pooling": "gap", "threshold_rule": "fixed"}),
    "threshold alone": ("threshold", {"pooling": "gap", "recombination": "signed"}),
    "WGAP + recombination": ("WGAP + recombination", {"threshold_rule": "fixed"}),
    "WGAP + threshold": ("WGAP + threshold", {"recombination": "signed"}),
    "recombination + threshold": ("recombination + threshold", {"pooling": "gap"}),
    "all three": ("WGAP + recombination + threshold", {}),
    "WGAP, on top of the others": ("WGAP", {"recombination": "absolute", "threshold_rule": "first_above_mean"}),
    "recombination, on top of the others": ("recombination", {"pooling": "wgap", "threshold_rule": "first_above_mean"}),
    "threshold, on top of the others": ("threshold", {"pooling": "wgap", "recombination": "absolute"}),
    "negative channels added, not left out; GAP, fixed": (
        "negative channels added", {"pooling": "gap", "threshold_rule": "fixed"},
    ),
    "negative channels added, not left out; WGAP, fixed": (
        "negative channels added", {"pooling": "wgap", "threshold_rule": "fixed"},
    ),
    "negative channels added, not left out; WGAP, Sec. 4.3": (
        "negative channels added", {"pooling": "wgap", "threshold_rule": "first_above_mean"},
    ),
    "the map's mean, not Sec. 4.3; GAP, recombined": (
        "mean instead", {"pooling": "gap", "recombination": "absolute"},
    ),
    "the map's mean, not Sec. 4.3; WGAP, recombined": (
        "mean instead", {"pooling": "wgap", "recombination": "absolute"},
    ),
}  # fmt: skip
SHOWN_RULES = ("fixed", "first_above_mean", "percentile", "mean", "best_fixed", "oracle")
FORMS = {"wgap": "WGAP", "wgap_sum": "WGAP (sum)"}  # as printed, and without the second division


def of_cam(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of plain fine-tuning, which the paper's parts are added to; all where a table knows no method."""
    return rows[rows["method"] == "cam"] if "method" in rows else rows


def published(dataset: str) -> pd.DataFrame:
    """The rows of the paper's table for a data set, every cell as printed ("-" where it prints none).

    Returns:
        Columns source, method, measured_on, one per metric, and note: the letters of the row's `doubts`, such
        as "a, g"; no rows where the paper has no such table.
    """
    if dataset not in TABLE_OF:
        return pd.DataFrame(columns=COLUMNS)
    name = "all of CUB-200-2011" if "cub" in TABLE_OF[dataset] else "all of ILSVRC"
    notes = doubts(dataset).groupby("where")["note"].agg(", ".join)
    rows = _read(TABLE_OF[dataset])
    return rows.assign(source="paper", measured_on=name, note=rows["method"].map(notes).fillna(""))[COLUMNS]


def doubts(dataset: str) -> pd.DataFrame:
    """What is wrong, or looks wrong, in the paper's table for a data set and in the text around both tables.

    Returns:
        Columns note (a letter for a doubt about a row, "" for one about the text), where (the row's method, or
        the section), kind ("provable": follows from the paper; "probable": rests on secondary lists, or on cells
        that hardly go together) and doubt; the provable ones first. No rows where the paper has no such table.
    """
    if dataset not in TABLE_OF:
        return pd.DataFrame(columns=["note", "where", "kind", "doubt"])
    rows = _read(TABLE_OF[dataset]).rename(columns={"method": "where"}).assign(in_table=True)
    both = pd.concat([rows, _read("doubts.csv").assign(in_table=False)])
    found = both.melt(["where", "in_table"], list(KINDS), "kind", "doubt").query("doubt != ''").reset_index(drop=True)
    lettered = found.index[found["in_table"]]
    notes = pd.Series(list(ascii_lowercase[: len(lettered)]), index=lettered)
    return found.assign(note=notes.reindex(found.index).fillna(""))[["note", "where", "kind", "doubt"]]


def measured(metrics: pd.DataFrame) -> pd.DataFrame:
    """The combinations of `STEPS` that a run evaluated, with intervals or, for several seeds, mean ± deviation.

    Args:
        metrics: rows of metrics.csv, for one data set.

    Returns:
        The columns of `published`, ready to print; no notes.
    """
    rows, metrics = [], of_cam(metrics)
    for method, key in STEPS.items():
        found = metrics[(metrics[["pooling", "recombination", "threshold_rule"]] == list(key)).all(axis=1)]
        if len(found):
            one = found.iloc[0]
            start = one.get("weights", SAMPLE)
            network = one.backbone if start == SAMPLE else f"{one.backbone} from {start}"
            where = f"{one.dataset} ({one.profile}), {network}, {one.n_images} images{_unusual(one)}"
            cells = {name: _cell(found, name) for name in METRICS}
            rows.append({"source": "measured", "method": method, "measured_on": where, **cells, "note": ""})
    return pd.DataFrame(rows, columns=COLUMNS)


def combined(dataset: str, metrics: pd.DataFrame) -> pd.DataFrame:
    """The published rows, then the measured ones."""
    return pd.concat([published(dataset), measured(metrics)], ignore_index=True)


def contributions(
    dataset: str, differences: pd.DataFrame, form: str = "wgap", figure: str = "gt_known"
) -> pd.DataFrame:
    """What each of the paper's parts adds, alone and together: in points, mean over the seeds that both ends have.

    Args:
        dataset: whose printed table to take the last row from.
        differences: of `statistics.paired_differences`, for one data set.
        form: which of `FORMS`.
        figure: which of `METRICS`.

    Returns:
        Columns step, from, to (percent), points, low and high (the 95 % interval of the points); a row for each of
        `CONTRIBUTIONS` whose two ends were measured, and one for all three as the paper prints it. Not rounded.
    """
    differences, rows = of_cam(differences[differences["figure"] == figure]), []
    for title, (step, rest) in CONTRIBUTIONS.items():
        step = step.replace("WGAP", FORMS[form])
        where = {column: form if word == "wgap" else word for column, word in rest.items()}
        found = differences[(differences[["step", *where]] == [step, *where.values()]).all(axis=1)]
        rows += found.assign(step=title).rename(columns={"difference": "points"}).to_dict("records")
    if dataset in TABLE_OF:
        printed = published(dataset).set_index("method")[figure]
        a, b = float(printed["VGG-CAM[6]"]), float(printed["Ours"])
        rows.append({"step": "all three, as the paper prints it", "from": a, "to": b, "points": round(b - a, 2)})
    return pd.DataFrame(rows, columns=["step", "from", "to", "points", "low", "high"])


def all_contributions(differences: pd.DataFrame) -> pd.DataFrame:
    """`contributions` for each form of WGAP that was measured, or none, in GT-known and Top-1 Loc; nothing printed.

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
    """The rows of `statistics.paired_differences` of the paper's claims: GT-known, GAP and WGAP, its rules."""
    rules = ("fixed", "first_above_mean", "fixed → first_above_mean")
    poolings = ("gap", "wgap", "gap → wgap")
    differences = of_cam(differences)
    chosen = differences["threshold_rule"].isin(rules) & differences["pooling"].isin(poolings)
    return differences[chosen & (differences["figure"] == "gt_known")].reset_index(drop=True)


def mean_and_deviation(rows: pd.DataFrame, figure: str = "gt_known") -> pd.Series:
    """Cells such as "74.7 ± 4.8" of the rows of `statistics.over_seeds`; the mean alone for a single seed."""
    deviation = rows[f"{figure}_std"].map(" ± {:.1f}".format).where(rows["n_seeds"] > 1, "")
    return rows[f"{figure}_mean"].map("{:.1f}".format) + deviation


def grid(found: pd.DataFrame, scores: pd.DataFrame, figure: str = "gt_known") -> pd.DataFrame:
    """Every pooling and recombination by several rules, mean ± deviation over the seeds, beside Choe et al.'s scores.

    Args:
        found: rows of seeds.csv, for one data set.
        scores: rows of max_box_acc.csv.
        figure: which of `METRICS`.

    Returns:
        Rows pooling, Top-1 Cls and recombination; a column for each of `SHOWN_RULES`, MaxBoxAcc and MaxBoxAccV2.
    """
    keys, found, scores = ["pooling", "Top-1 Cls", "recombination"], of_cam(found), of_cam(scores)
    named = found.assign(cell=mean_and_deviation(found, figure))
    named["Top-1 Cls"] = mean_and_deviation(found, "top1_cls")
    cells = named.pivot_table("cell", keys, "threshold_rule", "first", sort=False)
    cells = cells[[rule for rule in SHOWN_RULES if rule in cells]].reset_index()
    several = scores.groupby(["pooling", "recombination"])[["MaxBoxAcc", "MaxBoxAccV2"]].agg(["mean", "std", "size"])
    for name in ("MaxBoxAcc", "MaxBoxAccV2"):
        spread = several[name]["std"].map(" ± {:.1f}".format).where(several[name]["size"] > 1, "")
        cells = cells.merge(
            (several[name]["mean"].map("{:.1f}".format) + spread).rename(name).reset_index(), how="left"
        )
    return cells.set_index(keys).fillna("")


def to_markdown(table: pd.DataFrame, dataset: str) -> str:
    """A title that says what stands beside what, the table, and below it every doubt about the printed rows.

    Args:
        table: from `combined`; the letters of its column note are set after the method, as in "VGG-CAM[6] [a, g]".
    """
    number = {"table1_cub.csv": "Table 1", "table2_ilsvrc.csv": "Table 2"}.get(TABLE_OF.get(dataset, ""), "Measured")
    title, footnotes = f"# {number}: the paper's figures beside ours\n\n", _footnotes(dataset)
    note = (
        'Rows "paper" are printed figures, taken over as they stand. Rows "measured" come from this run, on the data '
        "and with the network named; the two are comparable only where these are the same. Percent; brackets: 95 % "
        "bootstrap interval; ±: standard deviation over seeds."
    )
    note += " A letter after a method points to a doubt below the table.\n\n" if footnotes else "\n\n"
    marked = table["method"].where(table["note"] == "", table["method"] + " [" + table["note"] + "]")
    printed = table.assign(method=marked).drop(columns="note").rename(columns=METRICS)
    return title + note + printed.to_markdown(index=False, disable_numparse=True) + "\n" + footnotes


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / name, dtype=str, keep_default_na=False)


def _footnotes(dataset: str) -> str:
    """The doubts as two Markdown lists, the provable ones first; empty where there are none."""
    text = ""
    for kind, rows in doubts(dataset).groupby("kind", sort=False):
        text += f"\n{KINDS[kind]}:\n\n"
        for row in rows.to_dict("records"):
            text += "- " + (f"[{row['note']}] " if row["note"] else "") + f"{row['where']}: {row['doubt']}\n"
    return text


def _unusual(row: pd.Series) -> str:
    """What sets a row's conventions apart from the usual ones, for a reader of the table."""
    words = {name: row[name] for name in USUAL if name in row and row[name] != USUAL[name] and row[name] == row[name]}
    return "".join(f", {name} {value}" for name, value in words.items())


def _cell(rows: pd.DataFrame, name: str) -> str:
    if len(rows) > 1:
        return f"{rows[name].mean():.1f} ± {rows[name].std():.1f}"
    interval = f" [{rows.gt_known_low.iloc[0]:.1f}, {rows.gt_known_high.iloc[0]:.1f}]" if name == "gt_known" else ""
    return f"{rows[name].iloc[0]:.1f}{interval}"
