"""Tables 1 and 2: the printed rows, typed here a second time from the paper, and the measured ones by hand."""

import math
import re

import pandas as pd
import pytest

from wsol_utils import experiments, handover, statistics, tables

# Zhang et al., Tables 1 (CUB-200-2011) and 2 (ILSVRC), cell by cell.
PRINTED = {
    "cub": """
        | Method                | Top-1 Cls | Top-1 Loc | GT-known Loc |
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
        | Method                | Top-1 Cls | Top-1 Loc | GT-known Loc |
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
# The paper's list of references: which of its numbers a method of the tables has.
REFERENCES = {
    "CAM": 6,  # Learning deep features for discriminative localization
    "SPG": 7,  # Self-produced guidance
    "ACoL": 8,  # Adversarial complementary learning
    "ADL": 9,  # Attention-based dropout layer
    "MEIL": 10,  # Erasing integrated learning
    "ICL": 11,  # In-sample contrastive learning
    "RCAM": 12,  # Rethinking class activation mapping
    "I²C": 13,  # Inter-image communication
    "MCI": 15,  # Mining complementary image regions
    "DANet": 16,  # DANet: Divergent activation
    "CutMix": 17,  # CutMix
}
COLUMNS = ["source", "method", "measured_on", "top1_cls", "top1_loc", "gt_known", "note"]
FILES = {"cub": "table1_cub.csv", "ilsvrc": "table2_ilsvrc.csv"}


def table_cells(text):
    """The cells of a Markdown table's lines, the line under the head left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set(row[0]) <= set(":-")]


def read(name):
    return pd.read_csv(tables.PUBLISHED / name, dtype=str, keep_default_na=False)


def printed(dataset, method, metric):
    table = read(FILES[dataset]).set_index("method")
    return table.loc[method, metric]


def provable(dataset):
    return read(FILES[dataset]).set_index("method")["provable"]


def probable(dataset):
    return read(FILES[dataset]).set_index("method")["probable"]


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


@pytest.mark.parametrize("dataset, rows_, other", [("cub", 13, "birds"), ("ilsvrc", 12, "things")])
def test_every_cell_is_as_printed(dataset, rows_, other):
    head, *expected = table_cells(PRINTED[dataset])
    file = read(FILES[dataset])
    assert list(file.columns) == [
        "method", "top1_cls", "top1_loc", "gt_known", "reference_printed", "reference_right", "provable", "probable",
    ]  # fmt: skip
    found = file[["method", *tables.METRICS]].to_numpy().tolist()
    assert head[1:] == list(tables.METRICS.values())
    assert found == expected and len(found) == rows_ and sum(map(len, found)) == 4 * rows_
    for name in (dataset, other):
        table = tables.published(name)
        assert list(table.columns) == COLUMNS
        assert table[["method", *tables.METRICS]].to_numpy().tolist() == expected
        assert set(table["source"]) == {"paper"}
        assert set(table["measured_on"]) == {{"cub": "all of CUB-200-2011", "ilsvrc": "all of ILSVRC"}[dataset]}


def test_the_paper_has_no_table_of_tiny_imagenet():
    table = tables.published("tiny_imagenet")
    assert table.empty and list(table.columns) == list(tables.published("cub").columns)


# What is wrong in the printed tables: the claims that can be computed are computed.


@pytest.mark.parametrize("dataset", FILES)
def test_references_are_those_of_the_papers_list(dataset):
    wrong = {}
    for row in read(FILES[dataset]).to_dict("records"):
        if row["method"] == "Ours":
            assert row["reference_printed"] == row["reference_right"] == ""
            continue
        name, number = re.fullmatch(r"\w+-(\S+)\[(\d+)\]", row["method"]).groups()
        assert row["reference_printed"] == number and row["reference_right"] == str(REFERENCES[name])
        said = re.search(r"The reference should be \[(\d+)\]", row["provable"])
        assert (said and said[1]) == (row["reference_right"] if row["reference_right"] != number else None)
        if said:
            wrong[row["method"]] = int(said[1])
    assert (
        wrong
        == {
            "cub": {"VGG-DANet[9]": 16},
            "ilsvrc": {"VGG-MEIL[15]": 10, "InceptionV3-CAM[7]": 6},
        }[dataset]
    )


@pytest.mark.parametrize(
    "cub, ilsvrc, metric, value",
    [
        ("InceptionV3-SPG[7]", "InceptionV3-CAM[7]", "top1_cls", "75.50"),
        ("InceptionV3-ADL[9]", "InceptionV3-ADL[9]", "top1_cls", "70.43"),
        ("InceptionV3-DANet[16]", "InceptionV3-ACoL[8]", "top1_cls", "71.20"),
        ("VGG-I²C[13]", "VGG-I²C[13]", "top1_cls", "68.40"),
        ("VGG-ADL[9]", "VGG-ADL[9]", "gt_known", "75.4"),
    ],
)
def test_cells_that_both_tables_print(cub, ilsvrc, metric, value):
    assert printed("cub", cub, metric) == printed("ilsvrc", ilsvrc, metric) == value
    assert value in provable("ilsvrc")[ilsvrc] and "Table 1" in provable("ilsvrc")[ilsvrc]
    if metric == "top1_cls":
        assert value in provable("cub")[cub] and "Table 2" in provable("cub")[cub]


def test_no_other_cell_stands_in_both_tables():
    both = [{(m, row[m]) for row in read(file).to_dict("records") for m in tables.METRICS} for file in FILES.values()]
    both = {cell for cell in both[0] & both[1] if cell[1] != "-"}
    classification = {("top1_cls", value) for value in ("75.50", "70.43", "71.20", "68.40")}
    assert both == classification | {("gt_known", "75.4")}


def shares(dataset):
    """Percent of the rightly and of the wrongly classified images with a right box, where a row has three cells."""
    table = read(FILES[dataset]).set_index("method")[list(tables.METRICS)]
    table = table[(table != "-").all(axis=1)].astype(float)
    wrong = 100 * (table["gt_known"] - table["top1_loc"]) / (100 - table["top1_cls"])
    return pd.DataFrame({"right": 100 * table["top1_loc"] / table["top1_cls"], "wrong": wrong})


def test_rows_where_wrongly_classified_images_are_localised_better():
    """Which is odd, and proves nothing."""
    assert len(shares("cub")) + len(shares("ilsvrc")) == 13
    odd = {(name, method) for name in FILES for method, row in shares(name).iterrows() if row["wrong"] > row["right"]}
    assert odd == {
        ("cub", "VGG-CAM[6]"), ("cub", "Ours"), ("ilsvrc", "VGG-ADL[9]"), ("ilsvrc", "InceptionV3-CAM[7]"),
    }  # fmt: skip
    for name, method in odd:
        right, wrong = shares(name).loc[method]
        assert f"{wrong:.1f} %" in probable(name)[method] and f"{right:.1f} %" in probable(name)[method]
    for name in FILES:
        said = {method for method, doubt in probable(name).items() if "wrongly classified" in doubt}
        assert said == {method for dataset, method in odd if dataset == name}
        assert all("hardly plausible" in probable(name)[method] for method in said)
        assert not provable(name).str.contains("classified|plausible").any()


def test_the_papers_own_cells_are_no_shares_of_the_test_images():
    steps = [100 * k / 5794 for k in range(5795)]  # Sec. 5: 5,794 images
    rounded, cut = {f"{step:.2f}" for step in steps}, {f"{math.floor(100 * step) / 100:.2f}" for step in steps}
    cells = [printed("cub", "Ours", metric) for metric in tables.METRICS]
    assert [cell in rounded for cell in cells] == [True, False, False]
    assert [cell in cut for cell in cells] == [False, True, True]
    assert re.findall(r"\d\d\.\d\d", provable("cub")["Ours"]) == ["61.85", "82.32", "75.82"]


def test_claims_of_section_5():
    table = read(FILES["ilsvrc"]).set_index("method")
    known = pd.to_numeric(table["gt_known"], errors="coerce")
    assert known.idxmax() == "VGG-ADL[9]" and known.drop("VGG-ADL[9]").idxmax() == "Ours"
    accuracy = pd.to_numeric(table["top1_cls"], errors="coerce").drop("Ours")
    better = accuracy.index[accuracy > accuracy["VGG-CAM[6]"]]
    assert len(better) == 8 and sum(method.startswith("VGG-") for method in better) == 5
    text = " ".join(read("doubts.csv")["provable"])
    assert "has 65.4 and VGG-ADL 75.4" in text and "of the eight such rows of Table 2 five" in text


def test_doubts_that_belong_to_no_row():
    table = read("doubts.csv")
    assert list(table.columns) == ["where", "provable", "probable"]
    assert ((table["provable"] != "") | (table["probable"] != "")).all()
    for words in ("[16] and [17]", "[20]", "[23]", "§ 4.1", "Fig. 2(b)", "cites Table 1", "future work", "fine-tuned"):
        assert table["provable"].str.contains(words, regex=False).sum() == 1, words


@pytest.mark.parametrize("dataset", ["cub", "birds", "ilsvrc", "things"])
def test_doubts_are_all_there_and_lettered_in_order(dataset):
    table = tables.doubts(dataset)
    assert list(table.columns) == ["note", "where", "kind", "doubt"]
    expected = []
    for kind in ("provable", "probable"):
        for file, column in ((tables.TABLE_OF[dataset], "method"), ("doubts.csv", "where")):
            expected += [(row[column], kind, row[kind]) for row in read(file).to_dict("records") if row[kind]]
    assert [tuple(row) for row in table[["where", "kind", "doubt"]].to_numpy()] == expected
    letters = [note for note in table["note"] if note]
    assert letters == list("abcdefghijklmnopqrstuvwxyz"[: len(letters)])
    rows_ = set(read(tables.TABLE_OF[dataset])["method"])
    assert ((table["note"] != "") == table["where"].isin(rows_)).all()
    assert (
        table["doubt"].str.endswith(".").all()
        and table["doubt"].is_unique
        and not table["doubt"].str.contains("|", regex=False).any()
    )


@pytest.mark.parametrize("dataset", ["birds", "ilsvrc"])
def test_every_doubt_is_a_footnote_once_and_none_dangles(dataset):
    text = tables.to_markdown(tables.combined(dataset, FOUR), dataset)
    above, below = text.split("\nProvable from the paper:\n\n")
    heading = "\n\nProbable, from secondary lists or because the cells hardly go together:\n\n"
    provable_, probable_ = below.split(heading)
    marks = {}
    for row in table_cells(above)[1:]:
        if mark := re.fullmatch(r"(.+) \[([a-z](?:, [a-z])*)\]", row[1]):
            marks |= dict.fromkeys(mark[2].split(", "), mark[1])
            assert row[0] == "paper"
    footnotes = {"provable": provable_.splitlines(), "probable": probable_.splitlines()}
    for row in tables.doubts(dataset).to_dict("records"):
        line = f"- [{row['note']}] " if row["note"] else "- "
        assert footnotes[row["kind"]].count(f"{line}{row['where']}: {row['doubt']}") == 1
        assert text.count(row["doubt"]) == 1
        if row["note"]:
            assert marks.pop(row["note"]) == row["where"]
    assert not marks  # no letter without a footnote
    assert sum(map(len, footnotes.values())) == len(tables.doubts(dataset))  # no footnote without a doubt


def test_no_doubts_where_the_paper_has_no_table():
    assert tables.doubts("tiny_imagenet").empty
    assert list(tables.doubts("tiny_imagenet").columns) == list(tables.doubts("cub").columns)


def test_measured_rows_by_hand():
    table = tables.measured(FOUR)
    assert list(table["method"]) == [
        "CAM (GAP, Eq. 2, fixed 0.20)", "+ WGAP (Eq. 1)", "+ recombination (Eq. 3)",
        "+ threshold (Sec. 4.3): the paper's method",
    ]  # fmt: skip
    assert set(table["source"]) == {"measured"}
    assert set(table["measured_on"]) == {"birds (sample), small_vgg, 300 images"}
    assert table.loc[3].tolist()[3:] == ["80.0", "40.1", "70.0 [65.0, 74.4]", ""]
    assert list(table["gt_known"].str.split().str[0]) == ["40.0", "45.5", "60.2", "70.0"]


USUAL = {"temperature": math.nan, "features": "plain", "protocol": "paper", "normalization": "max"}
USUAL |= {"resolution": "input", "interpolation": "bilinear", "component": "pixels", "boundary": "8-neighbours"}
USUAL |= {"candidates": 21}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"temperature": 1.0}, ""),
        ({"temperature": 0.5}, ", temperature 0.5"),
        ({"features": "weighted", "candidates": 11}, ", features weighted, candidates 11"),
        ({"resolution": "map", "boundary": "contour"}, ", resolution map, boundary contour"),
        (
            {
                "protocol": "rethinkingcam",
                "normalization": "minmax",
                "interpolation": "bicubic",
                "component": "contour",
            },
            ", protocol rethinkingcam, normalization minmax, interpolation bicubic, component contour",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value or "usual",
)
def test_conventions_that_are_not_the_usual_ones_are_told(changes, said, tmp_path):
    metrics = FOUR.assign(**USUAL | changes)
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    for table in (metrics, pd.read_csv(tmp_path / "metrics.csv")):
        found = tables.measured(table)
        assert set(found["measured_on"]) == {f"birds (sample), small_vgg, 300 images{said}"}
        assert found["method"].tolist() == tables.measured(FOUR)["method"].tolist()


def test_usual_conventions_are_those_of_a_run_that_overrides_nothing(tmp_path):
    config = experiments.configure("cub", "paper", results=str(tmp_path))
    left_out = pd.DataFrame({"image_id": ["a", "b", "c"], "split": ["test", "test", "train"]})
    handover.write_csv(left_out[:0], config.folder / "skipped.csv")
    row = handover.described(
        config, FOUR.assign(method="cam", threshold=0.2, threshold_sd=0.0, uses_ground_truth=False, p_value=1.0)
    )
    assert set(tables.USUAL) <= set(row.columns) and set(experiments.CONVENTIONS) < set(tables.USUAL)
    assert set(tables.measured(row)["measured_on"]) == {"cub (paper), vgg16 from imagenet, 300 images"}
    handover.write_csv(left_out, config.folder / "skipped.csv")
    odd = handover.described(experiments.replace(config, protocol="rethinkingcam", features="weighted"), row)
    assert set(tables.measured(odd)["measured_on"]) == {
        "cub (paper), vgg16 from imagenet, 300 images, features weighted, protocol rethinkingcam, "
        "normalization minmax, interpolation bicubic, component contour, n_skipped 2"
    }


def test_mean_and_deviation():
    found = pd.DataFrame(
        {"n_seeds": [3, 1, 2], "gt_known_mean": [74.66, 50.0, 9.96], "gt_known_std": [4.84, math.nan, 0.0],
         "top1_cls_mean": [1.0, 2.0, 3.0], "top1_cls_std": [0.04, math.nan, 10.0]}
    )  # fmt: skip
    assert tables.mean_and_deviation(found).tolist() == ["74.7 ± 4.8", "50.0", "10.0 ± 0.0"]
    assert tables.mean_and_deviation(found, "top1_cls").tolist() == ["1.0 ± 0.0", "2.0", "3.0 ± 10.0"]
    assert tables.mean_and_deviation(found[found["n_seeds"] == 1]).tolist() == ["50.0"]


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
    assert table["note"].map(type).eq(str).all() and set(table["note"][13:]) == {""}
    assert list(tables.combined("tiny_imagenet", FOUR)["source"]) == ["measured"] * 4


def test_contributions_by_hand():
    table = tables.contributions("birds", statistics.paired_differences(FOUR)).set_index("step")
    points = ["from", "to", "points"]
    assert table.loc["WGAP alone", points].tolist() == [40, 45.5, 5.5]
    assert table.loc["WGAP + recombination", points].tolist() == [40, 60.25, 20.25]
    assert table.loc["threshold, on top of the others", points].tolist() == [60.25, 70, 9.75]
    assert table.loc["all three", points].tolist() == [40, 70, 30]
    assert table.loc["all three, as the paper prints it", points].tolist() == [55.1, 82.32, 27.22]
    assert len(table) == 5  # the others were not measured
    printed = tables.contributions("birds", statistics.paired_differences(FOUR), figure="top1_loc").set_index("step")
    assert printed.loc["all three, as the paper prints it", points].tolist() == [33.95, 61.85, 27.9]


def test_contributions_of_other_steps_and_seeds():
    more = rows(
        ("gap", "signed", "fixed", 0, 40.0),
        ("gap", "signed", "fixed", 1, 44.0),
        ("gap", "absolute", "fixed", 0, 50.0),
        ("gap", "absolute", "fixed", 1, 51.0),
        ("gap", "signed", "first_above_mean", 1, 30.0),
        ("wgap", "positive", "fixed", 0, 61.0),
        ("wgap", "absolute", "fixed", 0, 60.0),
        ("wgap_sum", "signed", "fixed", 0, 47.0),
        ("wgap_sum", "absolute", "fixed", 0, 58.0),
        ("wgap_sum", "positive", "fixed", 0, 60.5),
    )
    differences = statistics.paired_differences(more)
    table, points = tables.contributions("ilsvrc", differences).set_index("step"), ["from", "to", "points"]
    assert table.loc["recombination alone", points].tolist() == [42, 50.5, 8.5]  # means over two seeds
    assert table.loc["recombination alone", "low"] < 8.5 < table.loc["recombination alone", "high"]
    assert table.loc["threshold alone", points].tolist() == [44, 30, -14]  # the seed that both have
    assert table.loc["negative channels added, not left out; WGAP, fixed", points].tolist() == [61, 60, -1]
    assert table.loc["WGAP + recombination", points].tolist() == [40, 60, 20]
    assert table.loc["all three, as the paper prints it", points].tolist() == [59.0, 65.4, 6.4]
    assert len(table) == 5
    assert tables.contributions("tiny_imagenet", differences)["step"].tolist() == list(table.index[:-1])
    other = tables.contributions("tiny_imagenet", differences, "wgap_sum").set_index("step")
    assert other.loc["WGAP alone", points].tolist() == [40, 47, 7]
    assert other.loc["recombination alone", points].tolist() == [42, 50.5, 8.5]  # of GAP: the same
    assert other.loc["negative channels added, not left out; WGAP, fixed", points].tolist() == [60.5, 58, -2.5]


def test_all_contributions_has_the_forms_of_wgap_that_were_measured():
    table = tables.all_contributions(statistics.paired_differences(FOUR))
    assert list(table.columns) == ["form", "figure", "step", "from", "to", "points", "low", "high"]
    assert table[["form", "figure"]].drop_duplicates().to_numpy().tolist() == [
        ["wgap", "gt_known"],
        ["wgap", "top1_loc"],
    ]
    as_it_stands = rows(("gap", "signed", "fixed", 0, 40.0), ("gap", "absolute", "fixed", 0, 50.0))
    table = tables.all_contributions(statistics.paired_differences(as_it_stands))
    assert table["step"].tolist() == ["recombination alone"] * 2


def test_where_weights_came_from_stands_in_the_table():
    (row,) = tables.measured(
        rows(("gap", "signed", "fixed", 0, 40.0)).assign(weights="tiny_imagenet, from scratch")
    ).to_dict("records")
    assert "small_vgg from tiny_imagenet, from scratch, 300 images" in row["measured_on"]
    (row,) = tables.measured(rows(("gap", "signed", "fixed", 0, 40.0)).assign(weights="things")).to_dict("records")
    assert "small_vgg, 300 images" in row["measured_on"]  # the sample's own


def test_grid():
    found = statistics.over_seeds(rows(
        ("gap", "signed", "fixed", 0, 40.0), ("gap", "signed", "fixed", 1, 43.0),
        ("gap", "signed", "oracle", 0, 60.0), ("gap", "signed", "oracle", 1, 60.0), ("gap", "signed", "otsu", 0, 1.0),
        ("wgap", "absolute", "fixed", 0, 50.0),
    ).assign(threshold=0.2))  # fmt: skip
    scores = pd.DataFrame(
        [(0, "gap", "signed", 50.0, 44.0), (1, "gap", "signed", 52.0, 44.0)],
        columns=["seed", "pooling", "recombination", "MaxBoxAcc", "MaxBoxAccV2"],
    )
    table = tables.grid(found, scores)
    assert list(table.columns) == ["fixed", "oracle", "MaxBoxAcc", "MaxBoxAccV2"]
    assert table.loc[("gap", "80.0 ± 0.0", "signed")].tolist() == [
        "41.5 ± 2.1",
        "60.0 ± 0.0",
        "51.0 ± 1.4",
        "44.0 ± 0.0",
    ]
    assert table.loc[("wgap", "80.0", "absolute")].tolist() == ["50.0", "", "", ""]
    assert tables.grid(found, scores, "top1_loc").loc[("wgap", "80.0", "absolute"), "fixed"] == "40.1"


@pytest.mark.parametrize(
    "dataset, number", [("birds", "Table 1"), ("ilsvrc", "Table 2"), ("tiny_imagenet", "Measured")]
)
def test_markdown(dataset, number):
    text = tables.to_markdown(tables.combined(dataset, FOUR), dataset)
    assert text.startswith(f"# {number}: ") and text.endswith("|\n" if dataset == "tiny_imagenet" else ".\n")
    assert ("doubt" in text) == (dataset != "tiny_imagenet")
    cells = table_cells(text)
    assert cells[0] == ["source", "method", "measured_on", "Top-1 Cls", "Top-1 Loc", "GT-known Loc"]
    expected = len(tables.published(dataset)) + 4
    assert len(cells) == 1 + expected
    assert cells[-1][3:] == ["80.0", "40.1", "70.0 [65.0, 74.4]"]
    if dataset == "birds":
        assert cells[1] == ["paper", "VGG-CAM[6] [g]", "all of CUB-200-2011", "76.14", "33.95", "55.1"]
        assert cells[5][3:] == ["68.40", "56.00", "-"]  # as printed: neither 68.4 nor nan
