"""What we measured ourselves, the bands that it gives, and the README's tables of it."""

from types import SimpleNamespace

import pandas as pd
import pytest
from scipy import stats

from wsol_utils import reference, tables

KEY = {"pooling": "wgap", "recombination": "absolute", "threshold_rule": "fixed"}
CONFIG = SimpleNamespace(profile="sample", dataset="birds")
NARROW = ([50.0, 51.0, 52.0, 51.0], [54.0, 53.0, 52.0, 53.0])  # deviation √(4 / 6) within each, mean 52


def runs(*gt_known, **key):
    """A row for each value, of as many seeds."""
    lines = [KEY | key | {"seed": i, "top1_cls": 80.0, "top1_loc": 99.0, "gt_known": v} for i, v in enumerate(gt_known)]
    return pd.DataFrame(lines)


def measured(own, default, **key):
    """Runs under two roundings."""
    return pd.concat([runs(*own, **key).assign(rounding="own"), runs(*default, **key).assign(rounding="default")])


@pytest.fixture
def band(tmp_path, monkeypatch):
    """The band of GT-known around 52, in a repository of the test's own."""
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.delenv("WSOL_ASSERT_BANDS")
    folder = tmp_path / "results" / "reference" / "sample" / "birds"
    folder.mkdir(parents=True)
    bands = reference.bands(measured(*NARROW))
    bands.to_csv(folder / "bands.csv", index=False)
    return bands.set_index("figure").loc["gt_known", ["low", "high"]]


def test_bands_by_hand():
    """The deviation within the roundings alone, though they lie two points apart; Student's t for one more run."""
    flat = measured([9.0] * 4, [9.0] * 4, recombination="signed")
    few = measured([50.0] * 4, [50.0] * 3, recombination="positive")  # no band
    bands = reference.bands(pd.concat([measured(*NARROW), flat, few])).set_index(["recombination", "figure"])
    assert list(bands.index) == [(how, figure) for figure in tables.METRICS for how in ("absolute", "signed")]
    deviation, chance = (4 / 6) ** 0.5, 1e-3 / (2 * 12)  # 12 figures on each of two data sets
    half = stats.t.isf(chance / 2, df=6) * deviation * (1 + 1 / 8) ** 0.5
    row = bands.loc[("absolute", "gt_known")]
    assert row[["mean", "std", "n_runs"]].tolist() == pytest.approx([52, deviation, 8])
    assert row[["low", "high"]].tolist() == pytest.approx([52 - half, 52 + half])
    assert row["asserted"] and half < 15
    assert bands.loc[("absolute", "top1_cls"), ["low", "high"]].tolist() == [77, 83]  # three points where runs agree
    assert bands.loc[("absolute", "top1_loc"), ["low", "high"]].tolist() == [96, 100]  # no more than 100
    assert bands.loc[("signed", "gt_known"), ["low", "high"]].tolist() == [6, 12]


def test_what_is_asserted():
    def asserted(values, **key):
        return reference.bands(measured(*values, **key)).query("asserted")["figure"].tolist()

    assert asserted(NARROW) == ["gt_known"]
    assert asserted(NARROW, recombination="positive") == []  # not one of the README's
    assert asserted([[20.0, 40.0, 60.0, 80.0]] * 2) == []  # too wide to say anything


@pytest.mark.parametrize("dataset", ["birds", "things"])
def test_the_committed_bands_are_those_of_the_committed_runs(dataset):
    measured = reference.read("sample", dataset, "roundings.csv")
    assert measured.groupby("rounding")["seed"].nunique().to_dict() == {"own": 8, "default": 8}
    pd.testing.assert_frame_equal(
        reference.read("sample", dataset, "bands.csv"), reference.bands(measured), check_exact=False, atol=1e-4
    )
    assert reference.compare(measured, "sample", dataset).query("asserted")["beyond"].eq(0).all()


def test_compare_and_describe(band):
    low, high = band
    several = pd.concat([runs(52.0), runs(70.5, pooling="gap"), runs(70.5, 9.0).assign(seed=[3, 4])])
    compared = reference.compare(several, "sample", "birds").set_index("figure")
    found = compared.loc["gt_known", ["seed", "value", "beyond"]].to_numpy().tolist()  # `gap` has no band
    assert found == [[0, 52, 0], [3, 70.5, pytest.approx(70.5 - high)], [4, 9, pytest.approx(9 - low)]]
    assert compared.drop("gt_known")["beyond"].eq(0).all()
    where = "figures lie within the bands of results/reference/sample/birds"
    assert reference.describe(several, CONFIG, True).splitlines() == [
        f"7 of 9 {where}; outside:",
        f"  wgap, absolute, fixed, seed 3: gt_known 70.5, {70.5 - high:.1f} points above [{low:.1f}, {high:.1f}]",
        f"  wgap, absolute, fixed, seed 4: gt_known 9.0, {low - 9:.1f} points below [{low:.1f}, {high:.1f}]",
    ]
    assert reference.describe(runs(52.0), CONFIG, True) == f"3 of 3 {where}"
    assert reference.describe(runs(*[99.0] * 12), CONFIG, True).splitlines()[-1] == "  … and 2 more"


def test_nothing_to_compare_with(band):
    text = "results/reference/sample/birds has no bands for this run"
    assert reference.confirm(runs(99.0), CONFIG, False) == text  # other parameters than the reference's
    assert reference.confirm(runs(99.0, pooling="tap"), CONFIG, True) == text
    elsewhere = SimpleNamespace(profile="light", dataset="cub")
    assert reference.confirm(runs(99.0), elsewhere, True) == text.replace("sample/birds", "light/cub")


@pytest.mark.parametrize("gt_known", [70.5, float("nan")])
def test_only_the_tests_fail_because_of_a_figure(band, monkeypatch, gt_known):
    beyond = runs(gt_known)
    assert reference.confirm(beyond, CONFIG, True).startswith("2 of 3 figures lie within")
    monkeypatch.setenv("WSOL_ASSERT_BANDS", "1")
    with pytest.raises(AssertionError, match="wgap, absolute, fixed, seed 0: gt_known"):
        reference.confirm(beyond, CONFIG, True)
    assert reference.confirm(runs(52.0).assign(top1_loc=1.0), CONFIG, True).startswith("2 of 3")  # not the README's
    assert reference.confirm(beyond, CONFIG, False).endswith("has no bands for this run")


def cells(table, row):
    """The cells of a Markdown table's first row of that name."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_step_with_and_without_an_interval(monkeypatch):
    row = {"step": "threshold", "pooling": "wgap", "recombination": "absolute", "figure": "gt_known"}
    row |= {"threshold_rule": "fixed → first_above_mean", "from": 70.0, "to": 57.34, "difference": -12.66}
    found = {
        "birds": [row | {"low": -31.0, "high": 5.04}],
        "cub": [row | {"low": -31.0, "high": -0.5},
                row | {"pooling": "wgap_sum", "difference": 3.0, "low": 1.0, "high": 5.0}],
        "ilsvrc": [row | {"low": float("nan"), "high": float("nan")}],
    }  # fmt: skip
    monkeypatch.setattr(reference, "read", lambda profile, dataset, _: pd.DataFrame(found.get(dataset, [])))
    table = reference.steps()
    assert cells(table, "GT-known Loc, points") == [
        "CUB, 20 classes", "CUB, 20 classes, WGAP (sum)", "ILSVRC, 800 photographs", "birds (sample)",
    ]  # fmt: skip
    assert cells(table, "threshold, on top of the others") == [
        "**−12.7 [−31.0, −0.5]**", "**+3.0 [+1.0, +5.0]**", "−12.7", "−12.7 [−31.0, +5.0]",
    ]  # fmt: skip


def test_the_readmes_tables_by_hand():
    """A cell of each, from the file that it comes from."""
    metrics = reference.read("sample", "birds", "metrics.csv")
    values = tables.matching(metrics, ("wgap", "absolute", "fixed"))["gt_known"]
    shown = cells(reference.overview(), "+ recombination (Eq. 3)")
    assert shown[0] == "" and shown[5] == f"{values.mean():.1f} ± {values.std():.1f}"
    assert cells(reference.overview(), "Top-1 Cls with WGAP")[:3:2] == ["75.82", "68.32"]
    differences = reference.read("light", "cub_fast", "differences.csv")
    row = tables.matching(differences, ("gap → wgap", "signed", "fixed")).query("figure == 'top1_cls'").iloc[0]
    what, gap, wgap, points = cells(reference.equal_rates(), "1e-4, as searched for GAP")
    assert what == "Top-1 Cls" and f"{row['difference']:+.1f}".replace("-", "−") in points
    assert [gap, wgap] == [f"{row['from']:.1f}", f"{row['to']:.1f}"]


def test_the_sample_tells_methods_apart():
    """What the embedded sample has to be, on its own reference figures: neither hopeless nor solved."""
    birds = reference.read("sample", "birds", "metrics.csv")
    mean = birds.groupby(tables.KEY)[["top1_cls", "gt_known"]].mean()
    assert mean["top1_cls"].min() >= 80
    assert 20 <= mean.loc[("gap", "signed", "fixed"), "gt_known"] <= 80
    assert mean["gt_known"].xs("oracle", level="threshold_rule").max() >= 85
