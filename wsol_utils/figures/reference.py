"""Read what we measured ourselves (results/reference), compare a run with it, and show it in documents."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from wsol_utils.common.files import ROOT
from wsol_utils.figures import tables
from wsol_utils.figures.tables import KEY
from wsol_utils.scores.statistics import FIGURES

# The rows of `overview`: one of `tables.STEPS`, and a figure.
SHOWN_OF = {step: (step, "gt_known") for step in tables.STEPS} | {
    "Top-1 Cls with GAP": ("CAM (GAP, Eq. 2, fixed 0.20)", "top1_cls"),
    "Top-1 Cls with WGAP": ("+ WGAP (Eq. 1)", "top1_cls"),
}
# The combination and the figure of each of these rows.
HEADLINE = [(*tables.STEPS[step], figure) for step, figure in SHOWN_OF.values()]
CHANCE = (
    1e-3  # the probability that, on both data sets of the sample, any headline figure of a sound run leaves its band
)
NARROWEST, WIDEST = 3.0, 15.0  # points from a band's mean to either end; a wider band asserts nothing
FEWEST = 8  # the number of runs that a band needs
SHOWN = 10  # `describe` names so many figures outside their bands
ASSERTING = "WSOL_ASSERT_BANDS"  # the variable under which `confirm` may raise: conftest.py sets it


def folder(profile: str, dataset: str) -> Path:
    """The folder results/reference/<profile>/<dataset>."""
    return ROOT / "results" / "reference" / profile / dataset


def read(profile: str, dataset: str, name: str) -> pd.DataFrame:
    """Read a table as it was measured; give an empty one where it was not."""
    path = folder(profile, dataset) / name
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def bands(measured: pd.DataFrame) -> pd.DataFrame:
    """Estimate where one new run is expected, with another seed or on another processor.

    A trained figure depends on the processor's rounding as it does on the seed. A band is the prediction interval for
    one new run by Student's t. The spread is estimated within each rounding, then pooled. It is so wide that all
    `HEADLINE` figures of both data sets of a sound run lie inside but for a chance of `CHANCE`.

    Args:
        measured: rows of metrics.csv for several seeds, one data set; their `rounding` names how torch rounded.

    Returns:
        For each pooling, recombination, rule and figure with at least `FEWEST` runs: mean, std (within a rounding),
        n_runs, low and high in percent, and asserted: whether `confirm` may raise for it. It may for one of
        `HEADLINE` whose band ends at most `WIDEST` points from the mean.
    """
    long = measured.melt(id_vars=[*KEY, "rounding"], value_vars=FIGURES, var_name="figure")
    columns, rows = [*KEY, "figure"], []
    for key, runs in long.groupby(columns, sort=False):
        n_runs, within = len(runs), runs.groupby("rounding")["value"]
        if n_runs < FEWEST:
            continue
        freedom = n_runs - within.ngroups
        std = float(np.sqrt(((runs["value"] - within.transform("mean")) ** 2).sum() / freedom))
        quantile = stats.t.ppf(1 - CHANCE / (2 * 2 * len(HEADLINE)), freedom)  # two-sided, of two data sets
        half, mean = max(NARROWEST, quantile * std * np.sqrt(1 + 1 / n_runs)), runs["value"].mean()
        asserted = half <= WIDEST and key in HEADLINE
        rows.append((*key, mean, std, n_runs, max(mean - half, 0.0), min(mean + half, 100.0), asserted))
    return pd.DataFrame(rows, columns=[*columns, "mean", "std", "n_runs", "low", "high", "asserted"])


def compare(metrics: pd.DataFrame, profile: str, dataset: str) -> pd.DataFrame:
    """Compare every figure of a run that has a band in the reference with that band.

    Args:
        metrics: rows with the columns `KEY`, seed and `FIGURES`.

    Returns:
        Columns `KEY`, seed, figure, value, low, high, asserted, and beyond: by how many points the value is above (+)
        or below (-) the band, 0 inside, NaN where there is no value; no rows where there is no reference.
    """
    expected = read(profile, dataset, "bands.csv")
    if expected.empty:
        return pd.DataFrame(columns=[*KEY, "seed", "figure", "value", "low", "high", "asserted", "beyond"])
    long = tables.of_cam(metrics).melt(id_vars=[*KEY, "seed"], value_vars=FIGURES, var_name="figure")
    both = long.merge(expected[[*KEY, "figure", "low", "high", "asserted"]], on=[*KEY, "figure"])
    return both.assign(beyond=both["value"] - both["value"].clip(both["low"], both["high"]))


def describe(metrics: pd.DataFrame, config: Any, usual: bool) -> str:
    """Say how many figures of a run lie within the reference's bands, and which do not, by how much.

    Args:
        metrics: as of `compare`.
        config: the run's configuration.
        usual: whether the run has the reference's own parameters; otherwise there is nothing to compare.
    """
    compared = compare(metrics, config.profile, config.dataset)
    name = f"results/reference/{config.profile}/{config.dataset}"
    if not usual or compared.empty:
        return f"{name} has no bands for this run"
    outside = [_outside(row) for row in compared[compared["beyond"] != 0].itertuples()]
    more = [f"… and {len(outside) - SHOWN} more"] if len(outside) > SHOWN else []
    text = f"{len(compared) - len(outside)} of {len(compared)} figures lie within the bands of {name}"
    return "\n  ".join([f"{text}; outside:" if outside else text, *outside[:SHOWN], *more])


def confirm(metrics: pd.DataFrame, config: Any, usual: bool) -> str:
    """Return `describe`'s text; under `make test` fail where an asserted figure is outside its band.

    Raises:
        AssertionError: if there is such a figure, and the environment has the variable `ASSERTING`.
    """
    text = describe(metrics, config, usual)
    if usual and os.environ.get(ASSERTING):
        compared = compare(metrics, config.profile, config.dataset)
        if (compared["asserted"] & (compared["beyond"] != 0)).any():
            raise AssertionError(text)
    return text


def _outside(row: Any) -> str:
    """One figure outside its band, and by how much."""
    what = f"{row.pooling}, {row.recombination}, {row.threshold_rule}, seed {row.seed}: {row.figure} {row.value:.1f}"
    side = "above" if row.beyond > 0 else "below"
    return f"{what}, {abs(row.beyond):.1f} points {side} [{row.low:.1f}, {row.high:.1f}]"


# The columns of the README's tables: a profile and a data set that were measured, or the paper's own table.
COLUMNS = {
    "Table 1 as printed: CUB, VGG-16": ("paper", "cub"),
    "CUB, 20 classes": ("light", "cub"),
    "Table 2 as printed: ILSVRC, VGG-16": ("paper", "ilsvrc"),
    "ILSVRC, 800 photographs": ("light", "ilsvrc"),
    "Tiny-ImageNet": ("light", "tiny_imagenet"),
    "birds (sample)": ("sample", "birds"),
    "things (sample)": ("sample", "things"),
}
PRINTED = {"CAM (GAP, Eq. 2, fixed 0.20)": "VGG-CAM[6]", "+ threshold (Sec. 4.3): the paper's method": "Ours"}
# GAP and WGAP on 20 classes of CUB with one rate of the network for both: the runs, and the differences shown of them.
EQUAL_RATES = {"cub_fast": "1e-4, as searched for GAP", "cub_slow": "3e-5, as searched for WGAP"}
COMPARED = {
    "Top-1 Cls": ("top1_cls", ("gap → wgap", "signed", "fixed")),
    "GT-known, original CAM": ("gt_known", ("gap → wgap", "signed", "fixed")),
    "GT-known, recombined": ("gt_known", ("gap → wgap", "absolute", "fixed")),
    "GT-known, recombined, Sec. 4.3": ("gt_known", ("gap → wgap", "absolute", "first_above_mean")),
}


def overview(names: Mapping[str, str] | None = None) -> str:
    """Show GT-known of every step and Top-1 Cls of both poolings, printed and measured, as Markdown.

    Args:
        names: some rows of `SHOWN_OF`, each with the name that it is shown by; all, under their own, if not given.
    """
    steps = {name: step for name, (step, _) in SHOWN_OF.items()}
    printed = PRINTED | {"Top-1 Cls with GAP": "VGG-CAM[6]", "Top-1 Cls with WGAP": "Ours"}
    columns, names = {}, names or {name: name for name in SHOWN_OF}
    for title, (profile, dataset) in COLUMNS.items():
        if profile == "paper":
            found, methods = tables.published(dataset), printed
        else:
            found, methods = tables.measured(read(profile, dataset, "metrics.csv")), steps
        cells = found.set_index("method")
        columns[title] = {shown: cells[SHOWN_OF[name][1]].get(methods.get(name), "") for name, shown in names.items()}
    return pd.DataFrame(columns).rename_axis("GT-known Loc, %").to_markdown(disable_numparse=True)


def contributions(figure: str = "gt_known", profiles: Sequence[str] = ("light", "sample")) -> dict[str, pd.DataFrame]:
    """List `tables.contributions` of each data set that results/reference holds, by its title in the README.

    Data sets of photographs are listed again for WGAP without its second division, where that was measured.

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
            found[f"{title}, WGAP (sum)"] = tables.contributions("", differences, "wgap_sum", figure)
    return found


def steps(figure: str = "gt_known") -> str:
    """Show `contributions` as Markdown: points with their 95 % interval, bold where that does not hold 0."""
    columns = {
        title: found.set_index("step").apply(points, axis=1).reindex(list(tables.CONTRIBUTIONS), fill_value="")
        for title, found in contributions(figure).items()
    }
    return pd.DataFrame(columns).rename_axis(f"{tables.METRICS[figure]}, points").to_markdown(disable_numparse=True)


def equal_rates() -> str:
    """Show what WGAP changes where the network learns at the same rate as with GAP, as Markdown."""
    rows = []
    for name, rate in EQUAL_RATES.items():
        differences = read("light", name, "differences.csv")
        for what, (figure, combination) in COMPARED.items():
            row = tables.matching(differences[differences["figure"] == figure], combination).iloc[0]
            ends = {"GAP": f"{row['from']:.1f}", "WGAP": f"{row['to']:.1f}"}
            gain = points(row.rename({"difference": "points"}))
            rows.append({"the network's rate": rate, "percent": what, **ends, "WGAP − GAP, points": gain})
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def points(row: pd.Series, bold: bool = True) -> str:
    """Show a difference with its interval, where it has one; bold, if at all, where that does not hold 0."""
    text = f"{row['points']:+.1f}" + (f" [{row['low']:+.1f}, {row['high']:+.1f}]" if row["low"] == row["low"] else "")
    excluded = bold and (row["low"] > 0 or row["high"] < 0)
    return (f"**{text}**" if excluded else text).replace("-", "−")


def speed() -> str:
    """Show the comparisons of notebook 08 that have a target, as Markdown."""
    record = pd.read_csv(ROOT / "results" / "reference" / "benchmarks.csv")
    rows = record[record["target"].notna()]
    shown = {
        "what": rows["topic"], "ours": rows["ours"], "beside": rows["peer"],
        "ratio": rows["ratio"].map("{:.2f}".format),
        "asked for": rows["target"].map("≥ {:.2f}".format),
    }  # fmt: skip
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True) + f"\n\n{record['machine'].iloc[0]}"


def filled(text: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """Generate a document's blocks anew, each between the lines `<!-- name -->` and `<!-- /name -->`."""
    for name, generate in blocks.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        text = f"{before}{begin}{generate()}{end}{after}"
    return text
