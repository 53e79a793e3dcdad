"""Tables 1 and 2: the printed rows, typed a second time from the paper, and the measured ones by hand."""

import math
import re

import pandas as pd
import pytest

from wsol_utils import experiments, handover, statistics, tables

# Zhang et al., Tables 1 (CUB-200-2011) and 2 (ILSVRC), cell by cell: method, Top-1 Cls, Top-1 Loc, GT-known Loc.
PRINTED = {
    "cub": """
        | VGG-CAM[6]            | 76.14     | 33.95     | 55.1         |
        | VGG-ADL[9]            | 65.27     | 53.36     | 75.4         |
        | VGG-DANet[9]          | 75.40     | 52.52     | 67.7         |
        | VGG-ACoL[8]           | 71.90     | 45.92     | 59.3         |
        | VGG-I²C[13]           | 68.40     | 56.00     | -            |
        | VGG-MEIL[10]          | 75.00     | 57.46     | 73.8         |
        | VGG-MCI[15]           | 72.59     | 58.12     | -            |
        | VGG-ICL[11]           | 73.40     | 57.50     | -            |
        | VGG-RCAM[12]          | 74.91     | 61.30     | -            |
        | InceptionV3-SPG[7]    | 75.50     | 46.46     | -            |
        | InceptionV3-ADL[9]    | 70.43     | 47.74     | -            |
        | InceptionV3-DANet[16] | 71.20     | 50.55     | 67.0         |
        | Ours                  | 75.82     | 61.85     | 82.32        |
    """,
    "ilsvrc": """
        | VGG-CAM[6]            | 66.6      | 42.8      | 59.0         |
        | VGG-ADL[9]            | 69.48     | 44.9      | 75.4         |
        | VGG-ACoL[8]           | 67.5      | 45.8      | 63.0         |
        | VGG-CutMix[17]        | -         | 43.5      | -            |
        | VGG-I²C[13]           | 68.40     | 47.4      | 63.9         |
        | VGG-MEIL[15]          | 73.31     | 46.8      | -            |
        | VGG-ICL[11]           | 64.0      | 47.2      | -            |
        | VGG-RCAM[12]          | 67.28     | 44.69     | -            |
        | InceptionV3-CAM[7]    | 75.50     | 46.3      | 64.7         |
        | InceptionV3-ADL[9]    | 70.43     | 48.7      | -            |
        | InceptionV3-ACoL[8]   | 71.20     | 46.7      | -            |
        | Ours                  | 68.32     | 50.1      | 65.4         |
    """,
}
# The number of each method in the paper's list of references.
REFERENCES = {
    "CAM": 6, "SPG": 7, "ACoL": 8, "ADL": 9, "MEIL": 10, "ICL": 11, "RCAM": 12, "I²C": 13, "MCI": 15, "DANet": 16,
    "CutMix": 17,
}  # fmt: skip
FILES = {"cub": "table1_cub.csv", "ilsvrc": "table2_ilsvrc.csv"}


def read(name):
    return pd.read_csv(tables.PUBLISHED / name, dtype=str, keep_default_na=False)


TABLES = {dataset: read(file).set_index("method") for dataset, file in FILES.items()}
METRICS = list(tables.METRICS)


def table_cells(text):
    """The cells of a Markdown table's lines, without the line under the head."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set(row[0]) <= set(":-")]


def rows(*lines):
    """Rows of metrics.csv: pooling, recombination, rule, seed, GT-known."""
    table = pd.DataFrame(lines, columns=[*tables.KEY, "seed", "gt_known"])
    return table.assign(
        dataset="birds", profile="sample", backbone="small_vgg", n_images=300, top1_cls=80.04, top1_loc=40.06,
        gt_known_low=table["gt_known"] - 5, gt_known_high=table["gt_known"] + 4.44,
    )  # fmt: skip


FOUR = rows(
    ("gap", "signed", "fixed", 0, 40.0),
    ("wgap", "signed", "fixed", 0, 45.5),
    ("wgap", "absolute", "fixed", 0, 60.25),
    ("wgap", "absolute", "first_above_mean", 0, 70.0),
)


@pytest.mark.parametrize(
    ("dataset", "count", "other", "images"),
    [("cub", 13, "birds", "all of CUB-200-2011"), ("ilsvrc", 12, "things", "all of ILSVRC")],
)
def test_every_cell_is_as_printed(dataset, count, other, images):
    expected = table_cells(PRINTED[dataset])
    assert len(expected) == count
    for name in (dataset, other):
        table = tables.published(name)
        assert list(table.columns) == ["source", "method", "measured_on", *METRICS, "note"]
        assert table[["method", *METRICS]].to_numpy().tolist() == expected
        assert set(table["source"]) == {"paper"} and set(table["measured_on"]) == {images}


# What is wrong in the printed tables: what can be computed is computed.


@pytest.mark.parametrize(
    ("dataset", "wrong"),
    [("cub", {"VGG-DANet[9]": "16"}), ("ilsvrc", {"VGG-MEIL[15]": "10", "InceptionV3-CAM[7]": "6"})],
)
def test_references_are_those_of_the_papers_list(dataset, wrong):
    table = TABLES[dataset].drop("Ours")
    names = table.index.to_series().str.extract(r"\w+-(\S+)\[(\d+)\]")
    assert table["reference_printed"].tolist() == names[1].tolist()
    assert table["reference_right"].tolist() == [str(REFERENCES[name]) for name in names[0]]
    said = table["provable"].str.extract(r"The reference should be \[(\d+)\]")[0].dropna()
    assert said.to_dict() == wrong
    assert set(table.index[table["reference_printed"] != table["reference_right"]]) == set(wrong)


def test_cells_that_both_tables_print():
    cub, ilsvrc = (
        table[METRICS].reset_index().melt("method", var_name="metric", value_name="cell").query("cell != '-'")
        for table in TABLES.values()
    )
    both = cub.merge(ilsvrc, on=["metric", "cell"], suffixes=("", "_other"))
    assert sorted(both["cell"]) == ["68.40", "70.43", "71.20", "75.4", "75.50"]
    for row in both.itertuples():
        doubts = TABLES["cub"].loc[row.method, "provable"], TABLES["ilsvrc"].loc[row.method_other, "provable"]
        assert row.cell in doubts[1] and "Table 1" in doubts[1]
        assert row.metric == "gt_known" or (row.cell in doubts[0] and "Table 2" in doubts[0])


def test_rows_where_wrongly_classified_images_are_localised_better():
    """Which is odd, and proves nothing."""
    odd = set()
    for dataset, table in TABLES.items():
        cells = table[(table[METRICS] != "-").all(axis=1)][METRICS].astype(float)
        right = 100 * cells["top1_loc"] / cells["top1_cls"]
        wrong = 100 * (cells["gt_known"] - cells["top1_loc"]) / (100 - cells["top1_cls"])
        for method in cells.index[wrong > right]:
            odd.add((dataset, method))
            doubt = table.loc[method, "probable"]
            assert f"{wrong[method]:.1f} %" in doubt and f"{right[method]:.1f} %" in doubt and "hardly" in doubt
        assert set(table.index[table["probable"].str.contains("wrongly classified")]) == set(cells.index[wrong > right])
    assert odd == {
        ("cub", "VGG-CAM[6]"), ("cub", "Ours"), ("ilsvrc", "VGG-ADL[9]"), ("ilsvrc", "InceptionV3-CAM[7]"),
    }  # fmt: skip


def test_the_papers_own_cells_are_no_shares_of_the_test_images():
    steps = [100 * k / 5794 for k in range(5795)]  # Sec. 5: 5,794 images
    rounded, cut = {f"{step:.2f}" for step in steps}, {f"{math.floor(100 * step) / 100:.2f}" for step in steps}
    cells = TABLES["cub"].loc["Ours", METRICS]
    assert [cell in rounded for cell in cells] == [True, False, False]
    assert [cell in cut for cell in cells] == [False, True, True]
    assert re.findall(r"\d\d\.\d\d", TABLES["cub"].loc["Ours", "provable"]) == ["61.85", "82.32", "75.82"]


def test_claims_of_section_5():
    table = TABLES["ilsvrc"][METRICS].apply(pd.to_numeric, errors="coerce")
    assert table["gt_known"].nlargest(2).index.tolist() == ["VGG-ADL[9]", "Ours"]
    better = table.index[table["top1_cls"] > table.loc["VGG-CAM[6]", "top1_cls"]].drop("Ours")
    assert len(better) == 8 and better.str.startswith("VGG-").sum() == 5
    text = " ".join(read("doubts.csv")["provable"])
    assert "has 65.4 and VGG-ADL 75.4" in text and "of the eight such rows of Table 2 five" in text


@pytest.mark.parametrize("dataset", ["birds", "ilsvrc"])
def test_every_doubt_is_lettered_and_a_footnote(dataset):
    file = FILES["cub" if dataset == "birds" else dataset]
    expected = [
        (row[column], kind, row[kind])
        for kind in ("provable", "probable")
        for name, column in ((file, "method"), ("doubts.csv", "where"))
        for row in read(name).to_dict("records") if row[kind]
    ]  # fmt: skip
    doubts = tables.doubts(dataset)
    assert list(doubts.columns) == ["note", "where", "kind", "doubt"]
    assert [tuple(row) for row in doubts[["where", "kind", "doubt"]].to_numpy()] == expected
    lettered = doubts[doubts["note"] != ""]
    assert "".join(lettered["note"]) == "abcdefghijklmnopqrstuvwxyz"[: len(lettered)]

    above, *below = re.split(r"\nProvable from the paper:\n\n|\n\nProbable, .*:\n\n",
                             tables.to_markdown(tables.combined(dataset, FOUR), dataset))  # fmt: skip
    marks = [re.fullmatch(r"(.+?)(?: \[([a-z](?:, [a-z])*)\])?", row[1]).groups() for row in table_cells(above)[1:]]
    marks = {letter: method for method, letters in marks if letters for letter in letters.split(", ")}
    assert marks == dict(zip(lettered["note"], lettered["where"], strict=True))
    for kind, text in zip(("provable", "probable"), below, strict=True):
        found = doubts[doubts["kind"] == kind].to_dict("records")
        lines = [(f"- [{row['note']}] " if row["note"] else "- ") + f"{row['where']}: {row['doubt']}" for row in found]
        assert text.splitlines() == lines


# What was measured.


def test_measured_rows_by_hand():
    other = rows(("tap", "signed", "fixed", 0, 1.0), ("gap", "positive", "fixed", 0, 1.0))  # which no step asks for
    compared = FOUR.assign(method="has", gt_known=1.0)
    table = tables.measured(pd.concat([other.assign(method="cam"), compared, FOUR.assign(method="cam")]))
    assert list(table["method"]) == list(tables.STEPS)[:4]
    assert set(table["source"]) == {"measured"} and set(table["note"]) == {""}
    assert set(table["measured_on"]) == {"birds (sample), small_vgg, 300 images"}
    assert table.loc[3].tolist()[3:] == ["80.0", "40.1", "70.0 [65.0, 74.4]", ""]
    assert list(table["gt_known"].str.split().str[0]) == ["40.0", "45.5", "60.2", "70.0"]
    assert tables.measured(other).empty and list(tables.measured(other)) == list(tables.published("cub"))


def test_what_is_unusual_stands_in_the_table(tmp_path):
    """A run that overrides nothing is usual in all; what starts from other weights says so."""
    config = experiments.configure("cub", "paper", results=str(tmp_path))
    left_out = pd.DataFrame({"image_id": ["a", "b", "c"], "split": ["test", "test", "train"]})
    handover.write_csv(left_out[:0], config.folder / "skipped.csv")
    row = handover.described(
        config, FOUR.assign(method="cam", threshold=0.2, threshold_sd=0.0, uses_ground_truth=False, p_value=1.0)
    )
    assert set(tables.USUAL) <= set(row.columns) and set(experiments.CONVENTIONS) < set(tables.USUAL)
    usual = "cub (paper), vgg16 from imagenet, 300 images"
    handover.write_csv(left_out, config.folder / "skipped.csv")
    odd = handover.described(experiments.replace(config, protocol="rethinkingcam", features="weighted"), row)
    for where, metrics in {
        usual: row,
        f"{usual}, temperature 0.5": row.assign(temperature=0.5),
        usual.replace("imagenet", "tiny, from scratch"): row.assign(weights="tiny, from scratch"),
        usual.replace(" from imagenet", ""): row.assign(weights="things"),  # the sample's own
        f"{usual}, features weighted, protocol rethinkingcam, normalization minmax, interpolation bicubic, "
        "component contour, n_skipped 2": odd,
    }.items():
        metrics.to_csv(tmp_path / "metrics.csv", index=False)
        assert set(tables.measured(pd.read_csv(tmp_path / "metrics.csv"))["measured_on"]) == {where}


def test_contributions_by_hand():
    more = rows(
        ("gap", "signed", "fixed", 0, 40.0), ("gap", "signed", "fixed", 1, 44.0), ("gap", "absolute", "fixed", 0, 50.0),
        ("gap", "absolute", "fixed", 1, 51.0), ("gap", "signed", "first_above_mean", 1, 30.0),
        ("wgap", "positive", "fixed", 0, 61.0), ("wgap", "absolute", "fixed", 0, 60.0),
        ("wgap", "absolute", "first_above_mean", 0, 70.0), ("wgap_sum", "signed", "fixed", 0, 47.0),
        ("wgap_sum", "absolute", "fixed", 0, 58.0), ("wgap_sum", "positive", "fixed", 0, 60.5),
    )  # fmt: skip
    differences = statistics.paired_differences(more)
    table, points = tables.contributions("ilsvrc", differences).set_index("step"), ["from", "to", "points"]
    assert {step: row[points].tolist() for step, row in table.iterrows()} == {
        "recombination alone": [42, 50.5, 8.5],  # means over two seeds
        "threshold alone": [44, 30, -14],  # the seed that both have
        "WGAP + recombination": [40, 60, 20],
        "all three": [40, 70, 30],
        "threshold, on top of the others": [60, 70, 10],
        "negative channels added, not left out; WGAP, fixed": [61, 60, -1],
        "all three, as the paper prints it": [59.0, 65.4, 6.4],
    }
    assert table.loc["recombination alone", "low"] < 8.5 < table.loc["recombination alone", "high"]
    printed = tables.contributions("birds", differences, figure="top1_loc").set_index("step")
    assert printed.loc["all three, as the paper prints it", points].tolist() == [33.95, 61.85, 27.9]

    every = tables.all_contributions(differences)
    assert list(every.columns) == ["form", "figure", "step", "from", "to", "points", "low", "high"]
    assert set(every["form"]) == set(tables.FORMS) and set(every["figure"]) == {"gt_known", "top1_loc"}
    other = every[(every["form"] == "wgap_sum") & (every["figure"] == "gt_known")].set_index("step")["points"]
    assert other["WGAP alone"] == 7 and other["recombination alone"] == 8.5  # the latter of GAP: the same
    assert other["negative channels added, not left out; WGAP, fixed"] == -2.5
    alone = tables.all_contributions(differences[~differences["pooling"].str.contains("wgap")])  # a network as it is
    assert set(alone["form"]) == {"wgap"} and set(alone["step"]) == {"recombination alone", "threshold alone"}


def test_grid():
    lines = rows(
        ("gap", "signed", "fixed", 0, 40.0), ("gap", "signed", "fixed", 1, 43.0),
        ("gap", "signed", "oracle", 0, 60.0), ("gap", "signed", "oracle", 1, 60.0), ("gap", "signed", "otsu", 0, 1.0),
        ("wgap", "absolute", "fixed", 0, 50.0),
    )  # fmt: skip
    scores = pd.DataFrame(
        [(0, "gap", "signed", 50.0, 44.0), (1, "gap", "signed", 52.0, 44.0)],
        columns=["seed", "pooling", "recombination", "MaxBoxAcc", "MaxBoxAccV2"],
    )
    table = tables.grid(statistics.over_seeds(lines.assign(threshold=0.2)), scores)
    assert list(table.columns) == ["fixed", "oracle", "MaxBoxAcc", "MaxBoxAccV2"]
    cells = ["41.5 ± 2.1", "60.0 ± 0.0", "51.0 ± 1.4", "44.0 ± 0.0"]
    assert table.loc[("gap", "80.0 ± 0.0", "signed")].tolist() == cells
    assert table.loc[("wgap", "80.0", "absolute")].tolist() == ["50.0", "", "", ""]


@pytest.mark.parametrize(("dataset", "title"), [("birds", "Table 1"), ("ilsvrc", "Table 2"), ("mine", "Measured")])
def test_markdown(dataset, title):
    table = tables.combined(dataset, FOUR)
    count = len(tables.published(dataset))
    assert list(table["source"]) == ["paper"] * count + ["measured"] * 4
    text = tables.to_markdown(table, dataset)
    assert text.startswith(f"# {title}: ") and text.endswith(".\n" if count else "|\n")
    cells = table_cells(text)
    assert cells[0] == ["source", "method", "measured_on", *tables.METRICS.values()] and len(cells) == 1 + count + 4
    if dataset == "birds":
        assert cells[1] == ["paper", "VGG-CAM[6] [g]", "all of CUB-200-2011", "76.14", "33.95", "55.1"]
