"""The report of a profile on made-up runs: what it shows, that it opens from the disk alone, and what it hides."""

import base64
import json

import nbformat
import pandas as pd
import pytest
from layouts_on_disk import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pages_on_disk import Page, check

from wsol_utils import experiments, handover, manifest, pages, reference, report, statistics, tables

HOSTILE = "<script>alert('finch')</script><img src=x onerror=alert(1)>"
PIXEL = base64.b64encode((ROOT / "results" / "reference" / "sample" / "fig4.png").read_bytes()).decode()
FORMULA = r"$$S_c(i,j) = \frac{\exp P_c(i,j)}{\sum_{i',j'} \exp P_c(i',j')}$$"


def executed(path, cells):
    """A notebook as papermill leaves it, with what a hostile data set could bring into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = new_notebook(cells=cells, metadata={"papermill": {"duration": 61.5}})
    nbformat.write(notebook, path)


def cells(name, config):
    frame = pd.DataFrame({"class_name": [HOSTILE]})
    return [
        new_markdown_cell(f"# {name}\n\nThe map is $M_p + |M_n|$, and\n\n{FORMULA}\n"),
        new_markdown_cell(
            "[00](00_overview.ipynb), [05](05_tables.ipynb), [09](09_none.ipynb), [a table](../data/README.md), "
            "[the data](https://data.caltech.edu)\n\n![the sample](../results/reference/sample/fig4.png)\n\n"
            "| | |\n|---|---|\n| reads | `seed<k>/x.csv` |\n"
        ),
        new_code_cell(
            f'results = "{config.results}"\nnames = "<b>" + r"\\frac"',
            outputs=[
                new_output("stream", name="stdout", text=f"wrote {config.folder}/table.md\n{HOSTILE}\n"),
                new_output("stream", name="stderr", text=f"{ROOT}/wsol_utils/x.py:1: a warning\n"),
                new_output("execute_result", {"text/html": frame.to_html(), "text/plain": str(frame)}),
                new_output("display_data", {"text/html": HOSTILE + "<style scoped>p { color: red }</style>"}),
                new_output("display_data", {"application/javascript": "alert(1)", "text/plain": "no script"}),
                new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
            ],
        ),
    ]


def finished(results, dataset="birds", profile="sample", worse=0.0, **others):
    """A run that has come to its end: our own figures of one seed, GT-known worse by some points."""
    config = experiments.configure(dataset, profile, results=str(results), **others)
    metrics = reference.read("sample", "birds", "metrics.csv")
    metrics = metrics[(metrics["seed"] == 0) & metrics["pooling"].isin(["gap", "wgap"])]
    metrics = metrics.assign(gt_known=metrics["gt_known"] - worse, dataset=dataset)
    table = tables.combined(dataset, metrics)
    handover.write_csv(metrics, config.folder / "metrics.csv")
    handover.write_csv(statistics.paired_differences(metrics), config.folder / "differences.csv")
    handover.write_csv(table, config.folder / "table.csv")
    (config.folder / "table.md").write_text(tables.to_markdown(table, dataset), encoding="utf-8")
    for name in ("fig2.png", "fig3.png", "fig4.png"):
        (config.folder / name).write_bytes(base64.b64decode(PIXEL))
    for name in ("01_dataset_preparation", "05_tables"):
        executed(config.folder / "notebooks" / f"{name}.ipynb", cells(name, config))
    executed(config.folder.parent / "notebooks" / "00_overview.ipynb", cells("00", config))
    manifest.write(config, {"results": config.results, "data_root": "/somewhere/of mine", "epochs": "15"})
    return config


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """Two finished runs of the sample, a third that is not finished, another profile beside them, and the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WSOL_RESULTS", raising=False)
        results = tmp_path_factory.mktemp("of mine") / "my results"
        config = finished(results)
        finished(results, "things", worse=60)
        finished(results, "cub", "light")
        (config.folder.parent / "begun").mkdir()
        return report.write(config.folder.parent).parent


@pytest.fixture
def alone_here(monkeypatch):
    monkeypatch.delenv("WSOL_RESULTS", raising=False)


def test_every_page_opens_from_the_disk_alone(profile):
    found = sorted(profile.rglob("*.html"))
    assert [path.relative_to(profile).as_posix() for path in found] == [
        "birds/notebooks/01_dataset_preparation.html", "birds/notebooks/05_tables.html", "index.html",
        "notebooks/00_overview.html", "things/notebooks/01_dataset_preparation.html", "things/notebooks/05_tables.html",
    ]  # fmt: skip
    for path in found:
        page = check(path)
        assert page.all("math") and "default-src 'none'" in page.source
    assert not [path for path in profile.parent.rglob("*") if path.name.endswith(".part")]


def test_tables_stand_in_the_report_cell_by_cell(profile):
    page = Page(profile / "index.html")
    table = pd.read_csv(profile / "birds" / "table.csv", dtype=str, keep_default_na=False)
    assert len(table) == 23 and len(page.text) > 5000
    for row in table.itertuples():
        for cell in (row.method, row.top1_cls, *row.gt_known.split(" [", 1)):
            assert cell in page.text
    assert "Printed in the paper: all of CUB-200-2011" in page.text
    assert "Measured in this run: birds (sample), small_vgg, 300 images" in page.text
    assert "GT-known 75.4 is VGG-ADL's cell in Table 1 too" in page.text, "a doubt below Table 2"
    assert "37.7" in page.text and "all three, as the paper prints it" in page.text, "contributions"
    assert [name["id"] for name in page.all("h2") if "id" in name] == ["birds", "things"], "neither begun nor cub"


def test_letters_lead_to_their_doubts(profile):
    page = Page(profile / "index.html")
    letters = [link["href"] for link in page.all("a") if link["href"].startswith("#things-")]
    assert letters == ["#things-a", "#things-g", "#things-b", "#things-h", "#things-c", "#things-i", "#things-d",
                       "#things-j", "#things-e", "#things-k", "#things-f"]  # fmt: skip


def test_a_run_is_compared_with_the_bands_and_what_lies_outside_is_told(profile):
    text = " ".join(Page(profile / "index.html").text.split())
    assert "270 of 270 figures lie within the bands of results/reference/sample/birds" in text
    things = text.partition("lie within the bands of results/reference/sample/things.")[2]
    assert things.strip().startswith("Outside the bands:")


def test_manifest_and_command_are_shown(profile):
    page = Page(profile / "index.html")
    content = json.loads((profile / "birds" / "manifest.json").read_text(encoding="utf-8"))
    results, data_root = content["parameters"]["results"], "DATA_ROOT='/somewhere/of mine'"
    assert f"make reproduce DATASET=birds RESULTS='{results}' {data_root} EPOCHS=15" in page.text
    shown = [content["git_revision"], content["device"], *content["versions"].values()]
    assert all(value in page.text for value in shown)
    assert content["written"][:10] in page.text and "2 min" in page.text, "twice 61.5 s"


def test_figures_notebooks_and_files_are_linked_relatively(profile):
    page = Page(profile / "index.html")
    assert [image["src"] for image in page.all("img")] == [
        f"{name}/fig{i}.png" for name in ("birds", "things") for i in (2, 3, 4)
    ]
    assert page.all("img")[0]["alt"].startswith("Fig. 2, birds: ")
    links = {link["href"] for link in page.all("a")}
    assert {"notebooks/00_overview.html", "birds/notebooks/05_tables.html", "things/table.csv"} <= links
    assert "birds/manifest.json" in links


def test_links_of_a_notebook_lead_to_pages_or_are_text(profile):
    page = Page(profile / "birds" / "notebooks" / "05_tables.html")
    links = [link["href"] for link in page.all("a")]
    assert links[0] == "../../index.html" and "../../notebooks/00_overview.html" in links
    assert "05_tables.html" in links and "https://data.caltech.edu" in links
    assert not [link for link in links if "09" in link or "README" in link]
    assert "09" in page.text and "a table" in page.text
    overview = Page(profile / "notebooks" / "00_overview.html")
    assert "../birds/notebooks/05_tables.html" in [link["href"] for link in overview.all("a")]
    assert len(page.all("img")) == 2 and all(
        image["src"] == f"data:image/png;base64,{PIXEL}" for image in page.all("img")
    )


def test_hostile_class_names_are_text(profile):
    page = check(profile / "birds" / "notebooks" / "01_dataset_preparation.html")
    assert page.text.count("<script>alert('finch')</script>") >= 2, "printed, and in a table"
    assert "alert(1)" not in page.source.replace("onerror=alert(1)", ""), "a script of an output"
    assert "color: red" not in page.text and "seed<k>/x.csv" in page.text and 'names = "<b>"' in page.text


def test_hostile_names_in_tables_are_text(tmp_path, alone_here):
    config = finished(tmp_path / "results")
    table = pd.read_csv(config.folder / "table.csv", dtype=str, keep_default_na=False)
    table.loc[0, ["method", "measured_on"]] = HOSTILE
    handover.write_csv(table, config.folder / "table.csv")
    page = check(report.write(config.folder.parent))
    assert page.text.count(HOSTILE) == 2


def test_formulas_are_mathml():
    block, inline = pages.formula(FORMULA.strip("$")), pages.formula("w < 0", "inline")
    assert block.startswith('<div class="formula"><math ') and "<mfrac>" in block and 'display="block"' in block
    assert inline.startswith("<math ") and "<div" not in inline and 'display="inline"' in inline


def test_the_same_runs_give_the_same_bytes(tmp_path, alone_here):
    folder = finished(tmp_path / "results").folder.parent
    report.write(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.html")}
    report.write(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.html")} == before and len(before) == 4


def test_a_run_that_cannot_be_read_is_named_beside_the_others(tmp_path, alone_here):
    folder = finished(tmp_path / "results").folder.parent
    (folder / "things").mkdir()
    (folder / "things" / "manifest.json").write_text('{"cut', encoding="utf-8")
    page = check(report.write(folder))
    assert "things is not shown: manifest.json is cut off" in page.text and "This page shows the run of" in page.text


def test_without_a_finished_run_there_is_no_report(tmp_path):
    with pytest.raises(ValueError, match="there is no finished run"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_was_not_trained_and_a_run_without_bands(tmp_path, alone_here):
    config = finished(tmp_path / "results", epochs=1)
    for name in ("metrics.csv", "table.csv"):
        table = pd.read_csv(config.folder / name, keep_default_na=False)
        wgap = (
            table["pooling"] == "wgap" if "pooling" in table else table["method"].str.contains("WGAP|threshold \\(Sec")
        )
        handover.write_csv(table[~wgap], config.folder / name)
    page = check(report.write(config.folder.parent))
    assert "not run" in page.text and "has no bands for this run" in page.text
