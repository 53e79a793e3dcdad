"""Tables 1 and 2: what the paper prints, as printed, beside what this run measured."""

from pathlib import Path

import pandas as pd

PUBLISHED = Path(__file__).resolve().parents[1] / "data" / "published"
TABLE_OF = {  # the sample's two data sets stand where CUB and ILSVRC stand in the paper
    "cub": "table1_cub.csv", "birds": "table1_cub.csv", "ilsvrc": "table2_ilsvrc.csv", "things": "table2_ilsvrc.csv",
}  # fmt: skip
METRICS = {"top1_cls": "Top-1 Cls", "top1_loc": "Top-1 Loc", "gt_known": "GT-known Loc"}

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


def published(dataset: str) -> pd.DataFrame:
    """The rows of the paper's table for a data set, every cell as printed ("-" where it prints none).

    Returns:
        Columns source, method, measured_on, then one per metric; no rows where the paper has no such table.
    """
    if dataset not in TABLE_OF:
        return pd.DataFrame(columns=["source", "method", "measured_on", *METRICS])
    rows = pd.read_csv(PUBLISHED / TABLE_OF[dataset], dtype=str)
    name = "all of CUB-200-2011" if "cub" in TABLE_OF[dataset] else "all of ILSVRC"
    return rows.assign(source="paper", measured_on=name)[["source", "method", "measured_on", *METRICS]]


def measured(metrics: pd.DataFrame) -> pd.DataFrame:
    """The combinations of `STEPS` that a run evaluated, with intervals or, for several seeds, mean ± deviation.

    Args:
        metrics: rows of metrics.csv, for one data set.

    Returns:
        The columns of `published`, ready to print.
    """
    rows = []
    for method, key in STEPS.items():
        found = metrics[(metrics[["pooling", "recombination", "threshold_rule"]] == list(key)).all(axis=1)]
        if len(found):
            one = found.iloc[0]
            where = f"{one.dataset} ({one.profile}), {one.backbone}, {one.n_images} images"
            cells = {name: _cell(found, name) for name in METRICS}
            rows.append({"source": "measured", "method": method, "measured_on": where, **cells})
    return pd.DataFrame(rows, columns=["source", "method", "measured_on", *METRICS])


def combined(dataset: str, metrics: pd.DataFrame) -> pd.DataFrame:
    """The published rows, then the measured ones."""
    return pd.concat([published(dataset), measured(metrics)], ignore_index=True)


def contributions(dataset: str, metrics: pd.DataFrame) -> pd.DataFrame:
    """What each of the paper's steps adds to GT-known, in points, mean over the seeds.

    Args:
        metrics: rows of metrics.csv, for one data set.

    Returns:
        A row for each step whose two ends were measured, and one for all three together.
    """
    found = metrics.groupby(["pooling", "recombination", "threshold_rule"])["gt_known"].mean()
    steps = {
        "WGAP": (("gap", "signed", "fixed"), ("wgap", "signed", "fixed")),
        "recombination, after WGAP": (("wgap", "signed", "fixed"), ("wgap", "absolute", "fixed")),
        "recombination alone": (("gap", "signed", "fixed"), ("gap", "absolute", "fixed")),
        "negative channels added rather than left out": (("wgap", "positive", "fixed"), ("wgap", "absolute", "fixed")),
        "threshold, after both": (("wgap", "absolute", "fixed"), ("wgap", "absolute", "first_above_mean")),
        "threshold alone": (("gap", "signed", "fixed"), ("gap", "signed", "first_above_mean")),
        "all three": (("gap", "signed", "fixed"), ("wgap", "absolute", "first_above_mean")),
    }  # fmt: skip
    rows = [
        {"step": step, "from": round(found[a], 1), "to": round(found[b], 1), "points": round(found[b] - found[a], 1)}
        for step, (a, b) in steps.items()
        if a in found.index and b in found.index
    ]
    printed = published(dataset).set_index("method")["gt_known"] if dataset in TABLE_OF else pd.Series(dtype=str)
    if len(printed):
        a, b = float(printed["VGG-CAM[6]"]), float(printed["Ours"])
        rows.append({"step": "all three, as the paper prints it", "from": a, "to": b, "points": round(b - a, 2)})
    return pd.DataFrame(rows, columns=["step", "from", "to", "points"])


def to_markdown(table: pd.DataFrame, dataset: str) -> str:
    """A title that says what stands beside what, and the table."""
    number = {"table1_cub.csv": "Table 1", "table2_ilsvrc.csv": "Table 2"}.get(TABLE_OF.get(dataset), "Measured")
    title = f"# {number}: the paper's figures beside ours\n\n"
    note = (
        'Rows "paper" are printed figures, taken over as they stand. Rows "measured" come from this run, on the data '
        "and with the network named; the two are comparable only where these are the same. Percent; brackets: 95 % "
        "bootstrap interval; ±: standard deviation over seeds.\n\n"
    )
    return title + note + table.rename(columns=METRICS).to_markdown(index=False, disable_numparse=True) + "\n"


def write(path: Path, text: str) -> None:
    """Write a text file under a temporary name first, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _cell(rows: pd.DataFrame, name: str) -> str:
    if len(rows) > 1:
        return f"{rows[name].mean():.1f} ± {rows[name].std():.1f}"
    interval = f" [{rows.gt_known_low.iloc[0]:.1f}, {rows.gt_known_high.iloc[0]:.1f}]" if name == "gt_known" else ""
    return f"{rows[name].iloc[0]:.1f}{interval}"
