"""Summarise several training runs: mean, deviation, and what each step changes, paired by seed and image."""

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from wsol_utils.scores.metrics import paired_interval

# The columns of metrics.csv that tell one combination from another; the rows of one differ in the seed alone.
IDENTITY = [
    "dataset", "profile", "backbone", "weights", "method", "pooling", "temperature", "features", "recombination",
    "normalization", "resolution", "interpolation", "component", "boundary", "candidates", "protocol", "threshold_rule",
]  # fmt: skip
FIGURES = ["top1_cls", "top1_loc", "gt_known"]  # in percent

Change = Mapping[str, tuple]

# The parts of the paper's method: the columns that each changes, from and to. All else of a combination stays.
PARTS: dict[str, Change] = {
    "WGAP": {"pooling": ("gap", "wgap")},  # Sec. 4.1, Eq. 1
    "recombination": {"recombination": ("signed", "absolute")},  # Sec. 4.2, Eqs. 2 and 3
    "threshold": {"threshold_rule": ("fixed", "first_above_mean")},  # Sec. 4.3
}
SUM_FORM: dict[str, Change] = {"WGAP (sum)": {"pooling": ("gap", "wgap_sum")}}  # Eq. 1 without its second division
# Beside that of Sec. 4.3; the last two look at the boxes of the very images that the interval takes as drawn by chance.
OTHER_RULES = ("percentile", "mean", "best_fixed", "oracle")


def together(parts: Mapping[str, Change]) -> dict[str, Change]:
    """Each part alone, every two of them, and so on to all, as "WGAP + threshold"."""
    several = [some for count in range(1, len(parts) + 1) for some in combinations(parts, count)]
    return {
        " + ".join(some): {column: ends for part in some for column, ends in parts[part].items()} for some in several
    }


CHANGES: dict[str, Change] = {
    **together(PARTS),
    **together(SUM_FORM | {name: change for name, change in PARTS.items() if name != "WGAP"}),
    "negative channels left out": {"recombination": ("signed", "positive")},
    "negative channels added": {"recombination": ("positive", "absolute")},
    **{f"{rule} instead": {"threshold_rule": ("first_above_mean", rule)} for rule in OTHER_RULES},
}


def over_seeds(metrics: pd.DataFrame) -> pd.DataFrame:
    """The mean over the seeds, and how far they lie apart, for each combination.

    Args:
        metrics: rows of metrics.csv; figures in percent, thresholds as shares of the map's maximum.

    Returns:
        `IDENTITY`, n_seeds, for each of `FIGURES` the mean and the standard deviation (ddof = 1, NaN for one
        seed) in percent, such as gt_known_mean and gt_known_std, and threshold_mean; in the order of metrics.

    Raises:
        ValueError: if a combination has two rows for one seed.
    """
    columns = {f"{figure}_{name}": (figure, name) for figure in FIGURES for name in ("mean", "std")}
    groups = metrics.groupby(_identity(metrics), dropna=False, sort=False)
    return groups.agg(n_seeds=("seed", "size"), **columns, threshold_mean=("threshold", "mean")).reset_index()


def paired_differences(metrics: pd.DataFrame, outcomes: Mapping[str, np.ndarray] | None = None) -> pd.DataFrame:
    """What each of `CHANGES` changes, wherever both of its ends were measured with the same seeds.

    The difference is taken within each seed, and where they are known within each image, then its mean: what makes
    a seed or an image easy or hard for both ends drops out.

    Args:
        metrics: rows of metrics.csv; figures in percent.
        outcomes: for each of `FIGURES`, (rows of metrics, N images) bool, whether it was met.

    Returns:
        A row for each step, combination and figure: step; `IDENTITY`, where a changed column reads "gap → wgap"
        and the temperature is that of the end which has one; figure; n_seeds, the seeds that both ends have;
        left_out, those of one end alone; n_images, the N of outcomes, else 0; from and to, the means of the two ends
        in percent, and difference, to - from, in points, all over n_seeds; std, the deviation of the difference over
        them (ddof = 1); low and high, its 95 % `metrics.paired_interval` over seeds and images. For one seed std is
        NaN, and the interval is over the images alone; without outcomes over the seeds alone, NaN for one.

    Raises:
        ValueError: if a combination has two rows for one seed, or outcomes have other rows than metrics.
    """
    if any(len(met) != len(metrics) for met in (outcomes or {}).values()):
        raise ValueError(f"outcomes need a row for each of the {len(metrics)} of metrics")
    rows, identity = [], _identity(metrics)
    runs = metrics.assign(
        row=range(len(metrics)), n_runs=metrics.groupby(identity, dropna=False)["seed"].transform("size")
    )
    for step, change in CHANGES.items():
        arrows = {column: f"{a} → {b}" for column, (a, b) in change.items()}
        for key, both in _paired(runs, identity, change):
            left_out = both["n_runs_a"].iloc[0] + both["n_runs_b"].iloc[0] - 2 * len(both)
            for figure in reversed(FIGURES):
                before, after = both[f"{figure}_a"], both[f"{figure}_b"]
                gain = after - before  # (n_seeds,)
                gains = gain.to_numpy()
                if outcomes:
                    met = outcomes[figure]
                    gains = 100.0 * met[both["row_b"]] - 100.0 * met[both["row_a"]]  # (n_seeds, N)
                low, high = paired_interval(gains)
                rows.append(
                    {"step": step, **key, **arrows, "figure": figure, "n_seeds": len(both), "left_out": left_out}
                    | {"n_images": gains.shape[1] if outcomes else 0, "from": before.mean(), "to": after.mean()}
                    | {"difference": gain.mean(), "std": gain.std(), "low": low, "high": high}
                )
    numbers = ["n_seeds", "left_out", "n_images", "from", "to", "difference", "std", "low", "high"]
    return pd.DataFrame(rows, columns=["step", *identity, "figure", *numbers])


def _paired(runs: pd.DataFrame, identity: list[str], change: Change) -> Iterator[tuple[dict, pd.DataFrame]]:
    """For each combination with both ends: what they share, and a row for each common seed."""
    a, b = (runs[(runs[list(change)] == list(end)).all(axis=1)] for end in zip(*change.values(), strict=True))
    shared = [column for column in identity if column not in change and column != "temperature"]
    both = a.merge(b, on=[*shared, "seed"], suffixes=("_a", "_b"))
    if "temperature" in identity:  # GAP has none: it goes with every WGAP
        before, after = both["temperature_a"], both["temperature_b"]
        both = both.assign(temperature=after.fillna(before))[before.isna() | after.isna() | (before == after)]
        shared.append("temperature")
    for key, rows in both.groupby(shared, dropna=False, sort=False):
        yield dict(zip(shared, key, strict=True)), rows


def _identity(metrics: pd.DataFrame) -> list[str]:
    """The columns of `IDENTITY` that metrics has, where they tell its rows apart but for the seed."""
    identity = [column for column in IDENTITY if column in metrics]
    twice = metrics[metrics.duplicated([*identity, "seed"])]
    if len(twice):
        first = ", ".join(f"{column} {twice.iloc[0][column]}" for column in [*identity, "seed"])
        raise ValueError(f"two rows for one combination and seed: {first}")
    return identity
