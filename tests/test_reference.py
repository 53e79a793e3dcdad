"""What we measured ourselves and the bands it gives, by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from wsol_utils import reference

KEY = {"pooling": "wgap", "recombination": "absolute", "threshold_rule": "fixed"}
CONFIG = SimpleNamespace(profile="sample", dataset="birds")


def runs(*gt_known, **key):
    """A row for each value, of as many seeds."""
    lines = [KEY | key | {"seed": i, "top1_cls": 80.0, "top1_loc": 99.0, "gt_known": v} for i, v in enumerate(gt_known)]
    return pd.DataFrame(lines)


def measured(own, default, **key):
    """Runs under two roundings."""
    return pd.concat([runs(*own, **key).assign(rounding="own"), runs(*default, **key).assign(rounding="default")])


NARROW = ([50.0, 51.0, 52.0, 51.0], [54.0, 53.0, 52.0, 53.0])  # deviation √(4 / 6) within each, mean 52


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """Bands around 52, in a repository of the test's own."""
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.delenv("WSOL_ASSERT_BANDS")
    folder = reference.folder("sample", "birds")
    folder.mkdir(parents=True)
    reference.bands(measured(*NARROW)).to_csv(folder / "bands.csv", index=False)
    return folder


def test_folder():
    assert reference.folder("sample", "birds").as_posix().endswith("/results/reference/sample/birds")


def test_bands_by_hand():
    """The deviation within the roundings alone, though they lie two points apart; Student's t for one more run."""
    bands = reference.bands(measured(*NARROW)).set_index("figure")
    assert list(bands.index) == ["top1_cls", "top1_loc", "gt_known"]
    deviation, chance = (4 / 6) ** 0.5, 1e-3 / (2 * 12)  # 12 figures on each of two data sets
    half = stats.t.isf(chance / 2, df=6) * deviation * (1 + 1 / 8) ** 0.5
    row = bands.loc["gt_known"]
    assert row[["mean", "std", "n_runs"]].tolist() == pytest.approx([52, deviation, 8])
    assert row[["low", "high"]].tolist() == pytest.approx([52 - half, 52 + half])
    assert row["asserted"] and half < 15
    assert bands.loc["top1_cls", ["low", "high"]].tolist() == [77, 83]  # three points where the runs agree
    assert bands.loc["top1_loc", ["low", "high"]].tolist() == [96, 100]  # no more than 100


def test_a_sound_run_hardly_ever_leaves_its_bands():
    """As often as it is said to: 300 times 16 runs and one more, drawn from one distribution."""
    draws = np.random.default_rng(0)
    left = 0
    for _ in range(300):
        *seen, new = draws.normal(50, 1.5, 17)
        [row] = reference.bands(measured(seen[:8], seen[8:]))[lambda rows: rows["figure"] == "gt_known"].itertuples()
        assert row.asserted
        left += not row.low <= new <= row.high
    assert left <= 2


@pytest.mark.parametrize(
    ("values", "key", "asserted"),
    [
        (NARROW, {}, True),
        (NARROW, {"recombination": "positive"}, False),  # not one of the README's
        (([20.0, 40.0, 60.0, 80.0], [20.0, 40.0, 60.0, 80.0]), {}, False),  # too wide to say anything
    ],
)
def test_what_is_asserted(values, key, asserted):
    bands = reference.bands(measured(*values, **key)).set_index("figure")["asserted"]
    assert bands.to_dict() == {"top1_cls": False, "top1_loc": False, "gt_known": asserted}


def test_too_few_runs_give_no_band():
    assert reference.bands(measured([50.0] * 4, [50.0] * 3)).empty


def test_bands_are_apart_for_each_combination():
    both = reference.bands(pd.concat([measured(*NARROW), measured([9.0] * 4, [9.0] * 4, recombination="signed")]))
    means = both[both["figure"] == "gt_known"].set_index("recombination")["mean"]
    assert means.to_dict() == {"absolute": 52, "signed": 9}
    assert len(both) == 6


@pytest.mark.parametrize("dataset", ["birds", "things"])
def test_the_committed_bands_are_those_of_the_committed_runs(dataset):
    measured = reference.read("sample", dataset, "roundings.csv")
    assert measured.groupby("rounding")["seed"].nunique().to_dict() == {"own": 8, "default": 8}
    pd.testing.assert_frame_equal(
        reference.read("sample", dataset, "bands.csv"), reference.bands(measured), check_exact=False, atol=1e-4
    )
    assert reference.compare(measured, "sample", dataset).query("asserted")["beyond"].eq(0).all()


def test_compare(committed):
    compared = reference.compare(runs(52.0, 70.0), "sample", "birds")
    found = compared[compared["figure"] == "gt_known"]
    high = found["high"].iloc[0]
    assert found[["seed", "value", "beyond"]].to_numpy().tolist() == [[0, 52, 0], [1, 70, pytest.approx(70 - high)]]
    assert (compared[compared["figure"] != "gt_known"]["beyond"] == 0).all()


def test_compare_with_nothing(committed):
    assert reference.compare(runs(52.0), "sample", "things").empty
    assert reference.compare(runs(52.0, pooling="tap"), "sample", "birds").empty
    assert list(reference.compare(runs(52.0), "sample", "things")) == list(
        reference.compare(runs(52.0), "sample", "birds")
    )


def test_describe(committed):
    where = "figures lie within the bands of results/reference/sample/birds"
    assert reference.describe(runs(52.0), CONFIG, True) == f"3 of 3 {where}"
    low, high = reference.read("sample", "birds", "bands.csv").set_index("figure").loc["gt_known", ["low", "high"]]
    several = pd.concat([runs(52.0), runs(70.5, pooling="gap"), runs(70.5, 9.0).assign(seed=[3, 4])])
    assert reference.describe(several, CONFIG, True).splitlines() == [
        f"7 of 9 {where}; outside:",  # `gap` has no band
        f"  wgap, absolute, fixed, seed 3: gt_known 70.5, {70.5 - high:.1f} points above [{low:.1f}, {high:.1f}]",
        f"  wgap, absolute, fixed, seed 4: gt_known 9.0, {low - 9:.1f} points below [{low:.1f}, {high:.1f}]",
    ]
    assert reference.describe(runs(*[99.0] * 12), CONFIG, True).splitlines()[-1] == "  … and 2 more"


@pytest.mark.parametrize("gt_known", [70.5, float("nan")])
def test_only_the_tests_fail_because_of_a_figure(committed, monkeypatch, gt_known):
    beyond = runs(gt_known)
    assert reference.confirm(beyond, CONFIG, True).startswith("2 of 3 figures lie within")
    monkeypatch.setenv("WSOL_ASSERT_BANDS", "1")
    with pytest.raises(AssertionError, match="wgap, absolute, fixed, seed 0: gt_known"):
        reference.confirm(beyond, CONFIG, True)
    assert reference.confirm(runs(52.0), CONFIG, True).startswith("3 of 3")
    assert reference.confirm(runs(52.0).assign(top1_loc=1.0), CONFIG, True).startswith("2 of 3")  # not the README's
    assert reference.confirm(beyond, CONFIG, False).endswith("has no bands for this run")


def test_nothing_to_compare_with(committed):
    text = "results/reference/sample/birds has no bands for this run"
    assert reference.confirm(runs(99.0), CONFIG, False) == text  # other parameters than the reference's
    assert reference.confirm(runs(99.0, pooling="tap"), CONFIG, True) == text
    elsewhere = SimpleNamespace(profile="light", dataset="cub")
    assert reference.confirm(runs(99.0), elsewhere, True) == text.replace("sample/birds", "light/cub")


def test_the_readme_shows_the_reference_as_it_stands():
    readme = (reference.ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- results -->\n{reference.overview()}\n<!-- /results -->" in readme
    assert f"<!-- steps -->\n{reference.steps()}\n<!-- /steps -->" in readme
    assert f"<!-- speed -->\n{reference.speed()}\n<!-- /speed -->" in readme and "OpenCV" in reference.speed()


def test_a_step_with_and_without_an_interval(monkeypatch):
    row = {"step": "threshold", "pooling": "wgap", "recombination": "absolute", "figure": "gt_known"}
    row |= {"threshold_rule": "fixed → first_above_mean", "from": 70.0, "to": 57.34, "difference": -12.66}
    other = row | {"pooling": "wgap_sum", "difference": 3.0, "low": 1.0, "high": 5.0}
    found = {
        ("sample", "birds"): [row | {"low": -31.0, "high": 5.04}],
        ("light", "cub"): [row | {"low": -31.0, "high": -0.5}, other],
        ("light", "ilsvrc"): [row],
    }
    columns = [
        "step",
        "pooling",
        "recombination",
        "threshold_rule",
        "figure",
        "from",
        "to",
        "difference",
        "low",
        "high",
    ]
    monkeypatch.setattr(
        reference, "read", lambda profile, dataset, _: pd.DataFrame(found.get((profile, dataset), []), columns=columns)
    )
    header, _, *lines = reference.steps().splitlines()
    assert [cell.strip() for cell in header.split("|")[2:-1]] == [
        "CUB, 20 classes", "CUB, 20 classes, WGAP (sum)", "ILSVRC, 800 photographs", "birds (sample)",
    ]  # fmt: skip
    (cells,) = [line.split("|")[2:-1] for line in lines if line.startswith("| threshold, on top of the others ")]
    assert [cell.strip() for cell in cells] == [
        "**−12.7 [−31.0, −0.5]**", "**+3.0 [+1.0, +5.0]**", "−12.7", "−12.7 [−31.0, +5.0]",
    ]  # fmt: skip


def test_equal_rates(monkeypatch):
    row = {"step": "WGAP", "figure": "gt_known", "from": 20.0, "to": 24.0, "difference": 4.0, "low": 1.0, "high": 7.0}
    rows = [row | {"recombination": r, "threshold_rule": t, "figure": f} for f, r, t in reference.COMPARED.values()]
    rows.append(rows[0] | {"step": "threshold", "difference": 99.0})
    found = {"cub_slow": rows}
    monkeypatch.setattr(reference, "read", lambda _, name, file: pd.DataFrame(found.get(name, [])))
    lines = reference.equal_rates().splitlines()
    assert len(lines) == 2 + len(reference.COMPARED) and "99.0" not in "".join(lines)
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "3e-5, as searched for WGAP", "Top-1 Cls", "20.0", "24.0", "**+4.0 [+1.0, +7.0]**",
    ]  # fmt: skip
    found.clear()
    assert reference.equal_rates() == "not run"


def test_what_was_not_run_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "folder", lambda profile, dataset: tmp_path)
    text = reference.overview()
    assert text.count("not run") == 5 * len(reference.HEADLINE)
    assert "82.32" in text and "65.4" in text  # the paper's two figures for its own method


def test_the_sample_tells_methods_apart():
    """What the embedded sample has to be, on its own reference figures: neither hopeless nor solved."""
    birds = pd.read_csv(reference.ROOT / "results" / "reference" / "sample" / "birds" / "metrics.csv")
    mean = birds.groupby(["pooling", "recombination", "threshold_rule"])[["top1_cls", "gt_known"]].mean()
    assert mean["top1_cls"].min() >= 80
    assert 20 <= mean.loc[("gap", "signed", "fixed"), "gt_known"] <= 80
    assert mean["gt_known"].xs("oracle", level="threshold_rule").max() >= 85
