"""Tables 1 and 2: the printed rows, typed here a second time from the paper, and the measured ones by hand."""

import pandas as pd
import pytest

from wsol_utils import tables

# Zhang et al., Table 1: Top-1 Cls, Top-1 Loc, GT-known Loc on CUB-200-2011
TABLE_1 = {
    "VGG-CAM[6]": "76.14 33.95 55.1",
    "VGG-ADL[9]": "65.27 53.36 75.4",
    "VGG-DANet[9]": "75.40 52.52 67.7",
    "VGG-ACoL[8]": "71.90 45.92 59.3",
    "VGG-I²C[13]": "68.40 56.00 -",
    "VGG-MEIL[10]": "75.00 57.46 73.8",
    "VGG-MCI[15]": "72.59 58.12 -",
    "VGG-ICL[11]": "73.40 57.50 -",
    "VGG-RCAM[12]": "74.91 61.30 -",
    "InceptionV3-SPG[7]": "75.50 46.46 -",
    "InceptionV3-ADL[9]": "70.43 47.74 -",
    "InceptionV3-DANet[16]": "71.20 50.55 67.0",
    "Ours": "75.82 61.85 82.32",
}
# Table 2: the same on ILSVRC
TABLE_2 = {
    "VGG-CAM[6]": "66.6 42.8 59.0",
    "VGG-ADL[9]": "69.48 44.9 75.4",
    "VGG-ACoL[8]": "67.5 45.8 63.0",
    "VGG-CutMix[17]": "- 43.5 -",
    "VGG-I²C[13]": "68.40 47.4 63.9",
    "VGG-MEIL[15]": "73.31 46.8 -",
    "VGG-ICL[11]": "64.0 47.2 -",
    "VGG-RCAM[12]": "67.28 44.69 -",
    "InceptionV3-CAM[7]": "75.50 46.3 64.7",
    "InceptionV3-ADL[9]": "70.43 48.7 -",
    "InceptionV3-ACoL[8]": "71.20 46.7 -",
    "Ours": "68.32 50.1 65.4",
}


def rows(*lines, dataset="birds", profile="sample"):
    """Rows of metrics.csv: pooling, recombination, rule, seed, GT-known."""
    names = ["pooling", "recombination", "threshold_rule", "seed", "gt_known"]
    table = pd.DataFrame(lines, columns=names)
    return table.assign(
        dataset=dataset, profile=profile, backbone="small_vgg", n_images=300, top1_cls=80.04, top1_loc=40.06,
        gt_known_low=table["gt_known"] - 5, gt_known_high=table["gt_known"] + 4.44,
    )  # fmt: skip


FOUR = rows(
    ("gap", "signed", "fixed", 0, 40.0),
    ("wgap", "signed", "fixed", 0, 45.5),
    ("wgap", "absolute", "fixed", 0, 60.25),
    ("wgap", "absolute", "first_above_mean", 0, 70.0),
)


@pytest.mark.parametrize(
    "datasets, printed, measured_on",
    [(("cub", "birds"), TABLE_1, "all of CUB-200-2011"), (("ilsvrc", "things"), TABLE_2, "all of ILSVRC")],
)
def test_published_rows_are_as_printed(datasets, printed, measured_on):
    for dataset in datasets:
        table = tables.published(dataset)
        assert list(table.columns) == ["source", "method", "measured_on", "top1_cls", "top1_loc", "gt_known"]
        cells = table[["top1_cls", "top1_loc", "gt_known"]].agg(" ".join, axis=1)
        assert dict(zip(table["method"], cells, strict=True)) == printed
        assert list(table["method"]) == list(printed)  # in the paper's order
        assert set(table["source"]) == {"paper"} and set(table["measured_on"]) == {measured_on}


def test_the_paper_has_no_table_of_tiny_imagenet():
    table = tables.published("tiny_imagenet")
    assert table.empty and list(table.columns) == list(tables.published("cub").columns)


def test_measured_rows_by_hand():
    table = tables.measured(FOUR)
    assert list(table["method"]) == [
        "CAM (GAP, Eq. 2, fixed 0.20)", "+ WGAP (Eq. 1)", "+ recombination (Eq. 3)",
        "+ threshold (Sec. 4.3): the paper's method",
    ]  # fmt: skip
    assert set(table["source"]) == {"measured"}
    assert set(table["measured_on"]) == {"birds (sample), small_vgg, 300 images"}
    assert table.loc[3].tolist()[3:] == ["80.0", "40.1", "70.0 [65.0, 74.4]"]
    assert list(table["gt_known"].str.split().str[0]) == ["40.0", "45.5", "60.2", "70.0"]


def test_several_seeds_are_a_mean_and_a_deviation():
    lines = [("gap", "signed", "fixed", seed, value) for seed, value in enumerate((40.0, 43.0, 46.0))]
    (row,) = tables.measured(rows(*lines)).to_dict("records")
    assert row["gt_known"] == "43.0 ± 3.0"  # of the sample: √((9 + 0 + 9) / 2)
    assert row["top1_cls"] == "80.0 ± 0.0"


def test_combinations_that_no_step_asks_for_are_left_out():
    other = rows(
        ("tap", "signed", "fixed", 0, 1.0), ("gap", "positive", "fixed", 0, 1.0), ("gap", "signed", "otsu", 0, 1)
    )
    assert tables.measured(other).empty
    assert list(tables.measured(other).columns) == list(tables.published("cub").columns)


def test_every_step_that_looks_at_the_boxes_says_so():
    for method, (_, _, rule) in tables.STEPS.items():
        assert ("looks at the boxes" in method) == (rule in ("best_fixed", "oracle")), method


def test_combined_has_the_published_rows_first():
    table = tables.combined("birds", FOUR)
    assert list(table["source"]) == ["paper"] * 13 + ["measured"] * 4
    assert list(table.index) == list(range(17))
    assert list(tables.combined("tiny_imagenet", FOUR)["source"]) == ["measured"] * 4


def test_contributions_by_hand():
    table = tables.contributions("birds", FOUR).set_index("step")
    assert table.loc["WGAP"].tolist() == [40, 45.5, 5.5]
    assert table.loc["recombination, after WGAP"].tolist() == [45.5, 60.2, 14.8]  # 60.25 - 45.5 = 14.75
    assert table.loc["threshold, after both"].tolist() == [60.2, 70, 9.8]
    assert table.loc["all three"].tolist() == [40, 70, 30]
    assert table.loc["all three, as the paper prints it"].tolist() == [55.1, 82.32, 27.22]
    assert len(table) == 5  # the others were not measured


def test_contributions_of_other_steps_and_seeds():
    more = rows(
        ("gap", "signed", "fixed", 0, 40.0),
        ("gap", "signed", "fixed", 1, 44.0),
        ("gap", "absolute", "fixed", 0, 50.0),
        ("gap", "absolute", "fixed", 1, 51.0),
        ("gap", "signed", "first_above_mean", 0, 30.0),
        ("wgap", "positive", "fixed", 0, 61.0),
        ("wgap", "absolute", "fixed", 0, 60.0),
    )
    table = tables.contributions("ilsvrc", more).set_index("step")
    assert table.loc["recombination alone"].tolist() == [42, 50.5, 8.5]  # means over two seeds
    assert table.loc["threshold alone"].tolist() == [42, 30, -12]
    assert table.loc["negative channels added rather than left out"].tolist() == [61, 60, -1]
    assert table.loc["all three, as the paper prints it"].tolist() == [59.0, 65.4, 6.4]
    assert len(table) == 4
    assert tables.contributions("tiny_imagenet", more)["step"].tolist() == list(table.index[:3])


@pytest.mark.parametrize(
    "dataset, number", [("birds", "Table 1"), ("ilsvrc", "Table 2"), ("tiny_imagenet", "Measured")]
)
def test_markdown(dataset, number):
    text = tables.to_markdown(tables.combined(dataset, FOUR), dataset)
    assert text.startswith(f"# {number}: ") and text.endswith("|\n")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["source", "method", "measured_on", "Top-1 Cls", "Top-1 Loc", "GT-known Loc"]
    expected = len(tables.published(dataset)) + 4
    assert len(cells) == 2 + expected
    assert cells[-1][3:] == ["80.0", "40.1", "70.0 [65.0, 74.4]"]
    if dataset == "birds":
        assert cells[2] == ["paper", "VGG-CAM[6]", "all of CUB-200-2011", "76.14", "33.95", "55.1"]
        assert cells[6][3:] == ["68.40", "56.00", "-"]  # as printed: neither 68.4 nor nan


def test_write_replaces_only_what_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "table.md"
    tables.write(path, "I²C ± η\n")
    assert path.read_bytes() == "I²C ± η\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["table.md"]
    with pytest.raises(UnicodeEncodeError):
        tables.write(path, "half\ud800")
    assert path.read_text(encoding="utf-8") == "I²C ± η\n"
