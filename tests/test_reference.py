"""What we measured ourselves and the bands it gives, by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest

from wsol_utils import reference

KEY = {"pooling": "wgap", "recombination": "absolute", "threshold_rule": "fixed"}
CONFIG = SimpleNamespace(profile="sample", dataset="birds")


def runs(*gt_known, **key):
    lines = [KEY | key | {"seed": i, "top1_cls": 80.0, "top1_loc": 99.0, "gt_known": v} for i, v in enumerate(gt_known)]
    return pd.DataFrame(lines)


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """Bands of two seeds at 50 and 54, in a repository of the test's own."""
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    folder = reference.folder("sample", "birds")
    folder.mkdir(parents=True)
    reference.bands(runs(50.0, 54.0)).to_csv(folder / "bands.csv", index=False)
    return folder


def test_folder():
    assert reference.folder("sample", "birds").as_posix().endswith("/results/reference/sample/birds")


def test_bands_by_hand():
    bands = reference.bands(runs(50.0, 54.0)).set_index("figure")
    assert list(bands.index) == ["top1_cls", "top1_loc", "gt_known"]
    deviation = 8**0.5  # √((4 + 4) / 1)
    assert bands.loc["gt_known", ["mean", "std", "count"]].tolist() == pytest.approx([52, deviation, 2])
    assert bands.loc["gt_known", ["low", "high"]].tolist() == pytest.approx([52 - 4 * deviation, 52 + 4 * deviation])
    assert bands.loc["top1_cls", ["low", "high"]].tolist() == [77, 83]  # three points where the seeds agree
    assert bands.loc["top1_loc", ["low", "high"]].tolist() == [96, 100]  # no more than 100


def test_bands_end_at_nought_and_one_seed_has_no_deviation():
    bands = reference.bands(runs(1.0)).set_index("figure")
    assert bands.loc["gt_known", ["low", "high"]].tolist() == [0, 4]
    assert bands.loc["gt_known", "count"] == 1


def test_bands_are_apart_for_each_combination():
    both = reference.bands(pd.concat([runs(10.0, 10.0), runs(60.0, 60.0, recombination="signed")]))
    means = both[both["figure"] == "gt_known"].set_index("recombination")["mean"]
    assert means.to_dict() == {"absolute": 10, "signed": 60}
    assert len(both) == 6


def test_compare(committed):
    compared = reference.compare(runs(52.0, 70.0), "sample", "birds")
    assert list(compared.columns) == [*KEY, "figure", "value", "low", "high", "inside"]
    found = compared[compared["figure"] == "gt_known"]
    assert found[["value", "inside"]].to_numpy().tolist() == [[52, True], [70, False]]
    assert compared[compared["figure"] != "gt_known"]["inside"].all()


def test_compare_with_nothing(committed):
    assert reference.compare(runs(52.0), "sample", "things").empty
    assert reference.compare(runs(52.0, pooling="tap"), "sample", "birds").empty
    assert list(reference.compare(runs(52.0), "sample", "things").columns) == [
        *KEY, "figure", "value", "low", "high", "inside",
    ]  # fmt: skip


def test_confirm(committed):
    assert reference.confirm(runs(52.0), CONFIG, True) == (
        "all 3 figures lie within the bands of results/reference/sample/birds"
    )


def test_confirm_names_what_lies_outside(committed):
    with pytest.raises(AssertionError) as caught:
        reference.confirm(pd.concat([runs(52.0), runs(70.5, pooling="gap"), runs(70.5)]), CONFIG, True)
    lines = str(caught.value).splitlines()
    assert lines[0] == "outside the bands of results/reference/sample/birds:"
    assert len(lines) == 3  # a heading and the one figure; `gap` has no band
    assert lines[2].split()[:5] == ["wgap", "absolute", "fixed", "gt_known", "70.5"]


def test_a_figure_that_is_missing_lies_outside(committed):
    with pytest.raises(AssertionError, match="gt_known"):
        reference.confirm(runs(float("nan")), CONFIG, True)


def test_nothing_to_confirm(committed):
    text = "results/reference/sample/birds has no bands for this run: nothing to compare with"
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
    assert text.count("not run") == 5 * len(reference.tables.STEPS)
    assert "82.32" in text and "65.4" in text  # the paper's two figures for its own method


def test_the_sample_tells_methods_apart():
    """What the embedded sample has to be, on its own reference figures: neither hopeless nor solved."""
    birds = pd.read_csv(reference.ROOT / "results" / "reference" / "sample" / "birds" / "metrics.csv")
    mean = birds.groupby(["pooling", "recombination", "threshold_rule"])[["top1_cls", "gt_known"]].mean()
    assert mean["top1_cls"].min() >= 80
    assert 20 <= mean.loc[("gap", "signed", "fixed"), "gt_known"] <= 80
    assert mean["gt_known"].xs("oracle", level="threshold_rule").max() >= 85
