"""What we measured ourselves (results/reference), and how a run compares with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsol_utils import files, tables
from wsol_utils.seeds import FIGURES

ROOT = Path(__file__).resolve().parents[1]
KEY = ["pooling", "recombination", "threshold_rule"]


def folder(profile: str, dataset: str) -> Path:
    """results/reference/<profile>/<dataset>."""
    return ROOT / "results" / "reference" / profile / dataset


def read(profile: str, dataset: str, name: str) -> pd.DataFrame:
    """A table of ours, as it was measured; empty where it was not."""
    path = folder(profile, dataset) / name
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def bands(metrics: pd.DataFrame) -> pd.DataFrame:
    """The interval in which a run with another seed, or on another machine, is expected to lie.

    Args:
        metrics: rows of metrics.csv for several seeds, one data set.

    Returns:
        For each pooling, recombination, rule and figure: mean, deviation over the seeds, and
        low and high: the mean ± 4 deviations, but at least ± 3 and at most ± 15 points, and no seed outside.
    """
    long = metrics.melt(id_vars=[*KEY, "seed"], value_vars=FIGURES, var_name="figure")
    found = (
        long.groupby([*KEY, "figure"], sort=False)["value"].agg(["mean", "std", "count", "min", "max"]).reset_index()
    )
    half = (4 * found["std"].fillna(0)).clip(lower=3, upper=15)
    low = np.minimum(found.pop("min"), found["mean"] - half)
    high = np.maximum(found.pop("max"), found["mean"] + half)
    return found.assign(low=low.clip(lower=0), high=high.clip(upper=100))


def compare(metrics: pd.DataFrame, profile: str, dataset: str) -> pd.DataFrame:
    """Every figure of a run that the reference has too, with its band.

    Args:
        metrics: rows with the columns `KEY` and `FIGURES`.

    Returns:
        Columns `KEY`, figure, value, low, high, inside; no rows where there is no reference.
    """
    expected = read(profile, dataset, "bands.csv")
    if expected.empty:
        return pd.DataFrame(columns=[*KEY, "figure", "value", "low", "high", "inside"])
    long = metrics.melt(id_vars=KEY, value_vars=FIGURES, var_name="figure")
    both = long.merge(expected[[*KEY, "figure", "low", "high"]], on=[*KEY, "figure"])
    return both.assign(inside=both["value"].between(both["low"], both["high"]))


def confirm(metrics: pd.DataFrame, config: Any, usual: bool) -> str:
    """A sentence on how a run compares with the reference.

    Args:
        usual: whether the run has the reference's own parameters, so that it must lie within the bands.

    Raises:
        AssertionError: if it must, and does not, naming each figure.
    """
    compared = compare(metrics, config.profile, config.dataset)
    name = f"results/reference/{config.profile}/{config.dataset}"
    if not usual or compared.empty:
        return f"{name} has no bands for this run: nothing to compare with"
    outside = compared[~compared["inside"]].drop(columns="inside")
    assert outside.empty, f"outside the bands of {name}:\n{outside.to_string(index=False)}"
    return f"all {len(compared)} figures lie within the bands of {name}"


# The columns of the README's tables: (profile, dataset, what was measured on what), beside the paper's own.
COLUMNS = {
    "Table 1 as printed: CUB, VGG-16": ("paper", "cub"),
    "CUB, 20 classes": ("light", "cub"),
    "Table 2 as printed: ILSVRC, VGG-16": ("paper", "ilsvrc"),
    "ILSVRC, 800 photographs": ("light", "ilsvrc"),
    "Tiny-ImageNet": ("light", "tiny_imagenet"),
    "birds (sample)": ("sample", "birds"),
    "things (sample)": ("sample", "things"),
}
# GAP and WGAP on the 20 classes of CUB with one rate of the network for both, and what is compared there: a figure of
# a recombination by a rule.
EQUAL_RATES = {"cub_fast": "1e-4, as searched for GAP", "cub_slow": "3e-5, as searched for WGAP"}
COMPARED = {
    "Top-1 Cls": ("top1_cls", "signed", "fixed"),
    "GT-known, original CAM": ("gt_known", "signed", "fixed"),
    "GT-known, recombined": ("gt_known", "absolute", "fixed"),
    "GT-known, recombined, Sec. 4.3": ("gt_known", "absolute", "first_above_mean"),
}
PRINTED = {"CAM (GAP, Eq. 2, fixed 0.20)": "VGG-CAM[6]", "+ threshold (Sec. 4.3): the paper's method": "Ours"}


def overview() -> str:
    """GT-known of every step, the paper's printed figures beside what results/reference holds, as Markdown."""
    columns = {}
    for title, (profile, dataset) in COLUMNS.items():
        path = folder(profile, dataset) / "metrics.csv"
        if profile == "paper":
            printed = tables.published(dataset).set_index("method")["gt_known"]
            columns[title] = {step: printed[PRINTED[step]] if step in PRINTED else "" for step in tables.STEPS}
        elif path.is_file():
            measured = tables.measured(pd.read_csv(path)).set_index("method")["gt_known"]
            columns[title] = {step: measured.get(step, "") for step in tables.STEPS}
        else:
            columns[title] = dict.fromkeys(tables.STEPS, "not run")
    return pd.DataFrame(columns).rename_axis("GT-known Loc, %").to_markdown(disable_numparse=True)


def contributions(figure: str = "gt_known", profiles: Sequence[str] = ("light", "sample")) -> dict[str, pd.DataFrame]:
    """`tables.contributions` of each data set that results/reference holds, under its title in the README.

    One more for a data set of photographs where WGAP without its second division was measured, too.

    Args:
        figure: which of `tables.METRICS`.
        profiles: whose data sets.
    """
    found = {}
    for title, (profile, dataset) in COLUMNS.items():
        differences = read(profile, dataset, "differences.csv")
        if profile not in profiles or differences.empty:
            continue
        found[title] = tables.contributions("", differences, figure=figure)
        if profile == "light" and "wgap_sum" in set(differences["pooling"]):
            found[f"{title}, {tables.FORMS['wgap_sum']}"] = tables.contributions("", differences, "wgap_sum", figure)
    return found


def steps(figure: str = "gt_known") -> str:
    """`contributions` as Markdown: points with their 95 % interval, bold where that does not hold 0."""
    columns = {}
    for title, found in contributions(figure).items():
        rows = found.set_index("step")
        columns[title] = {step: _points(rows.loc[step]) if step in rows.index else "" for step in tables.CONTRIBUTIONS}
    return pd.DataFrame(columns).rename_axis(f"{tables.METRICS[figure]}, points").to_markdown(disable_numparse=True)


def equal_rates() -> str:
    """What WGAP changes where the network learns at the same rate as with GAP, as Markdown."""
    rows = []
    for name, rate in EQUAL_RATES.items():
        found = read("light", name, "differences.csv")
        found = found[found["step"] == "WGAP"] if len(found) else found
        for what, key in COMPARED.items() if len(found) else ():
            row = found[(found[["figure", "recombination", "threshold_rule"]] == list(key)).all(axis=1)].iloc[0]
            ends = {"GAP": f"{row['from']:.1f}", "WGAP": f"{row['to']:.1f}"}
            points = _points(row.rename({"difference": "points"}))
            rows.append({"the network's rate": rate, "percent": what, **ends, "WGAP − GAP, points": points})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True) if rows else "not run"


def _points(row: pd.Series) -> str:
    """The difference with its interval, where it has one; bold where that does not hold 0."""
    text = f"{row['points']:+.1f}" + (f" [{row['low']:+.1f}, {row['high']:+.1f}]" if row["low"] == row["low"] else "")
    return (f"**{text}**" if row["low"] > 0 or row["high"] < 0 else text).replace("-", "−")


def speed() -> str:
    """The comparisons of notebook 08 that have a target, as Markdown; "not run" where there is no record."""
    path = ROOT / "results" / "reference" / "benchmarks.csv"
    if not path.is_file():
        return "not run"
    record = pd.read_csv(path)
    rows = record[record["target"].notna()]
    shown = {
        "what": rows["topic"], "ours": rows["ours"], "beside": rows["peer"],
        "ratio": rows["ratio"].map("{:.2f}".format),
        "asked for": rows["target"].map("≥ {:.2f}".format),
    }  # fmt: skip
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True) + f"\n\n{record['machine'].iloc[0]}"


def write_readme(path: Path = ROOT / "README.md") -> None:
    """Put `overview`, `steps`, `equal_rates` and `speed` between the README's markers."""
    text = path.read_text(encoding="utf-8")
    for name, table in {"results": overview(), "steps": steps(), "rates": equal_rates(), "speed": speed()}.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{table}\n<!-- /{name} -->{after}"
    files.write_text(path, text)
