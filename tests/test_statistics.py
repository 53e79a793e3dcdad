"""Means over seeds and differences paired by seed, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from wsol_utils import metrics as of_metrics
from wsol_utils import statistics

T2, T1 = 4.302652729911275, 12.706204736432095  # 97.5 % quantile of Student's t, 2 and 1 degrees of freedom


def runs(pooling, recombination, rule, gt_known, top1_loc=None, first_seed=0, threshold=0.2, **more):
    """Rows of metrics.csv: one combination, a figure for each seed."""
    temperature = 1.0 if pooling.startswith("wgap") else math.nan
    top1_loc = top1_loc or [10.0] * len(gt_known)
    row = {"dataset": "birds", "profile": "sample", "backbone": "small_vgg", "pooling": pooling}
    row |= {"temperature": temperature, "recombination": recombination, "normalization": "max"}
    row |= {"resolution": "input", "protocol": "paper", "threshold_rule": rule, "threshold": threshold} | more
    figures = zip(gt_known, top1_loc, strict=True)
    lines = [row | {"seed": first_seed + i, "gt_known": a, "top1_loc": b} for i, (a, b) in enumerate(figures)]
    return pd.DataFrame(lines).assign(n_images=300, top1_cls=80.0)


def of_gt_known(metrics, met=None):
    table = statistics.paired_differences(metrics, None if met is None else dict.fromkeys(statistics.FIGURES, met))
    return table[table["figure"] == "gt_known"]


def only(table, step, figure="gt_known"):
    (row,) = table[(table["step"] == step) & (table["figure"] == figure)].to_dict("records")
    return row


def test_over_seeds_by_hand():
    table = statistics.over_seeds(pd.concat([
        runs("wgap", "absolute", "fixed", [50.0, 54.0], [40.0, 46.0]),
        runs("gap", "signed", "fixed", [31.0]),
        runs("wgap", "absolute", "li", [1.0, 2.0, 6.0]).assign(threshold=[0.1, 0.2, 0.6]),
    ]))  # fmt: skip
    identity = ["dataset", "profile", "backbone", "pooling", "temperature", "recombination", "normalization",
                "resolution", "protocol", "threshold_rule"]  # fmt: skip
    figures = ["top1_cls_mean", "top1_cls_std", "top1_loc_mean", "top1_loc_std", "gt_known_mean", "gt_known_std"]
    assert list(table.columns) == [*identity, "n_seeds", *figures, "threshold_mean"]
    rows = table[["threshold_rule", "n_seeds", "gt_known_mean", "threshold_mean"]].to_numpy().tolist()
    assert rows == [["fixed", 2, 52, 0.2], ["fixed", 1, 31, 0.2], ["li", 3, 3, pytest.approx(0.3)]]  # as in metrics
    assert table["gt_known_std"].tolist() == pytest.approx([8**0.5, math.nan, 7**0.5], nan_ok=True)  # √((4+1+9)/2)
    assert table.loc[0, ["top1_loc_mean", "top1_loc_std", "top1_cls_std"]].tolist() == pytest.approx([43, 18**0.5, 0])
    assert table["temperature"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("column", statistics.IDENTITY)
def test_over_seeds_keeps_apart_what_differs_in_any_word(column):
    one, other = ({column: 0.5}, {column: 2.0}) if column == "temperature" else ({column: "a"}, {column: "b"})
    several = [runs("wgap", "absolute", "fixed", [50.0, 54.0]).assign(**one)]
    several.append(runs("wgap", "absolute", "fixed", [10.0]).assign(**other))
    assert statistics.over_seeds(pd.concat(several))["gt_known_mean"].tolist() == [52, 10]


@pytest.mark.parametrize("function", [statistics.over_seeds, statistics.paired_differences])
def test_two_rows_for_one_seed_are_refused(function):
    metrics = pd.concat([runs("gap", "signed", "fixed", [1.0, 2.0]), runs("gap", "signed", "fixed", [3.0])])
    with pytest.raises(ValueError, match=r"pooling gap.*threshold_rule fixed, seed 0$"):
        function(metrics)


def test_paired_differences_by_hand():
    metrics = pd.concat([
        runs("gap", "signed", "fixed", [40.0, 50.0, 60.0], [30.0, 40.0, 50.0]),
        runs("wgap", "signed", "fixed", [41.0, 53.0, 65.0], [30.0, 39.0, 48.0]).iloc[::-1],  # seeds 2, 1, 0
    ])  # fmt: skip
    table = statistics.paired_differences(metrics)
    assert set(table["step"]) == {"WGAP"} and table["figure"].tolist() == ["gt_known", "top1_loc", "top1_cls"]
    row = only(table, "WGAP")
    assert (row["pooling"], row["recombination"], row["threshold_rule"]) == ("gap → wgap", "signed", "fixed")
    assert (row["temperature"], row["protocol"]) == (1.0, "paper")  # GAP has no temperature
    assert (row["n_seeds"], row["left_out"], row["from"], row["to"]) == (3, 0, 50, 53)
    assert (row["difference"], row["std"]) == pytest.approx((3, 2))  # 1, 3, 5: far less than the seeds' own 10
    assert (row["low"], row["high"]) == pytest.approx((3 - T2 * 2 / 3**0.5, 3 + T2 * 2 / 3**0.5))
    row = only(table, "WGAP", "top1_loc")
    assert (row["difference"], row["std"]) == pytest.approx((-1, 1))  # 0, -1, -2
    assert (row["low"], row["high"]) == pytest.approx((-1 - T2 / 3**0.5, -1 + T2 / 3**0.5))
    row = only(table, "WGAP", "top1_cls")
    assert [row[name] for name in ("from", "to", "difference", "std", "low", "high")] == [80, 80, 0, 0, 0, 0]


def test_seeds_of_one_end_are_left_out_and_counted():
    metrics = pd.concat([
        runs("gap", "signed", "fixed", [10.0, 20.0, 30.0]),  # seeds 0, 1, 2
        runs("gap", "absolute", "fixed", [26.0, 40.0, 90.0, 90.0], first_seed=1),  # 1, 2, 3, 4
        runs("gap", "positive", "fixed", [50.0], first_seed=4),  # 4: with signed it shares none
    ])  # fmt: skip
    table = of_gt_known(metrics)
    assert set(table["step"]) == {"recombination", "negative channels added"}
    assert table["n_images"].tolist() == [0, 0]
    row = only(table, "recombination")
    assert (row["n_seeds"], row["left_out"]) == (2, 3)  # 0, 3 and 4
    assert (row["from"], row["to"], row["difference"]) == (25, 33, 8)
    assert row["std"] == pytest.approx(8**0.5)  # 6 and 10
    assert (row["low"], row["high"]) == pytest.approx((8 - T1 * 2, 8 + T1 * 2))
    row = only(table, "negative channels added")
    assert (row["n_seeds"], row["left_out"], row["difference"]) == (1, 3, 40)
    assert math.isnan(row["std"]) and math.isnan(row["low"]) and math.isnan(row["high"])


def test_every_step_of_the_paper_wherever_both_ends_are():
    grid = [
        runs(pooling, recombination, rule, [value, value + 2])
        for pooling, a in (("gap", 10), ("wgap", 20), ("wgap_sum", 30), ("tap", 15))
        for recombination, b in (("signed", 1.0), ("positive", 3.0), ("absolute", 7.0))
        for rule, value in (("fixed", a + b), ("first_above_mean", a + 4 * b), ("oracle", 90.0))
    ]
    table = of_gt_known(pd.concat(grid))
    assert table["step"].value_counts().to_dict() == {
        "WGAP": 9, "WGAP (sum)": 9,  # recombinations × rules
        "recombination": 12, "negative channels left out": 12, "negative channels added": 12,  # poolings × rules
        "threshold": 12, "oracle instead": 12,  # poolings × recombinations
        "WGAP + recombination": 3, "WGAP (sum) + recombination": 3,  # rules
        "WGAP + threshold": 3, "WGAP (sum) + threshold": 3,  # recombinations
        "recombination + threshold": 4,  # poolings
        "WGAP + recombination + threshold": 1, "WGAP (sum) + recombination + threshold": 1,
    }  # fmt: skip
    assert set(table["n_seeds"]) == {2} and set(table["left_out"]) == {0} and set(table["std"]) == {0}
    threshold = table[table["step"] == "threshold"].set_index(["pooling", "recombination"])["difference"]
    assert threshold["gap", "signed"] == 3 and threshold["tap", "absolute"] == 21  # 3 b
    row = only(table, "WGAP + recombination + threshold")
    assert (row["from"], row["to"]) == (12, 49)  # 10 + 1 + 1, 20 + 28 + 1
    arrows = ("gap → wgap", "signed → absolute", "fixed → first_above_mean")
    assert (row["pooling"], row["recombination"], row["threshold_rule"]) == arrows


def test_only_what_is_otherwise_the_same_is_paired():
    metrics = pd.concat([
        runs("gap", "signed", "fixed", [10.0, 10.0]),
        runs("gap", "signed", "fixed", [50.0, 50.0], protocol="other"),
        runs("wgap", "signed", "fixed", [11.0, 11.0]),
        runs("wgap", "signed", "fixed", [12.0, 12.0], temperature=0.5),
        runs("wgap", "signed", "fixed", [53.0, 53.0], protocol="other"),
        runs("wgap", "signed", "fixed", [99.0, 99.0], dataset="things"),
        runs("wgap", "signed", "first_above_mean", [14.0, 14.0], temperature=0.5),
    ])  # fmt: skip
    table = of_gt_known(metrics)
    found = table[["step", "temperature", "protocol", "difference"]].to_numpy().tolist()
    assert found == [
        ["WGAP", 1.0, "paper", 1], ["WGAP", 0.5, "paper", 2],  # GAP beside each temperature
        ["WGAP", 1.0, "other", 3],
        ["threshold", 0.5, "paper", 2],
        ["WGAP + threshold", 0.5, "paper", 4],
    ]  # fmt: skip


def test_differences_are_paired_by_image_where_images_are_known():
    found = [
        runs("wgap", "signed", "fixed", [50.0, 75.0]),
        runs("gap", "signed", "fixed", [25.0, 50.0]).iloc[::-1],  # seeds 1, 0: pairs follow the seed, not the order
    ]
    metrics = pd.concat(found, ignore_index=True)
    met = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)  # a row each
    table = of_gt_known(metrics, met)
    row = only(table, "WGAP")
    assert (row["n_seeds"], row["n_images"], row["difference"], row["std"]) == (2, 4, 25, 0)
    gains = np.array([[0, 100, 0, 0], [0, 100, 0, 0]])
    assert (row["low"], row["high"]) == pytest.approx(of_metrics.paired_interval(gains))
    one = of_gt_known(metrics[metrics["seed"] == 0], met[[0, 3]])
    row = only(one, "WGAP")
    assert row["n_seeds"] == 1 and row["low"] < 25 < row["high"]  # over the images alone
    with pytest.raises(ValueError, match="a row for each of the 4 of metrics"):
        of_gt_known(metrics, met[:3])


def test_nothing_measured_at_both_ends():
    table = statistics.paired_differences(runs("gap", "signed", "fixed", [1.0, 2.0]))
    assert table.empty and list(table.columns)[-6:] == ["from", "to", "difference", "std", "low", "high"]
