"""The report of a profile on made-up runs: what it shows, and that it opens from the disk alone."""

import base64
import json

import nbformat
import pandas as pd
import pytest
from layouts_on_disk import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pages_on_disk import Page, check

from wsol_utils import experiments, handover, manifest, reference, report, statistics, tables

HOSTILE = "<script>alert('finch')</script><img src=x onerror=alert(1)>"
PIXEL = base64.b64encode((ROOT / "results" / "reference" / "sample" / "fig4.png").read_bytes()).decode()
FORMULA = r"$$S_c(i,j) = \frac{\exp P_c(i,j)}{\sum_{i',j'} \exp P_c(i',j')}$$"


def executed(path, config):
    """A notebook as papermill leaves it, with what a hostile data set could bring into it."""
    frame = pd.DataFrame({"class_name": [HOSTILE]})
    outputs = [
        new_output("stream", name="stdout", text=f"wrote {config.folder}/table.md\n{HOSTILE}\n"),
        new_output("execute_result", {"text/html": frame.to_html(), "text/plain": str(frame)}),
        new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
    ]
    text = (
        "[00](00_overview.ipynb), [05](05_tables.ipynb#x), [09](09_none.ipynb), [a table](../data/README.md), "
        "[the data](https://data.caltech.edu)\n\n![the sample](../results/reference/sample/fig4.png)\n\n"
        f"| | |\n|---|---|\n| reads | `seed<k>/x.csv` |\n\nThe map is $M_p + |M_n|$, {HOSTILE}, and\n\n{FORMULA}\n"
    )
    cells = [new_markdown_cell(text), new_code_cell('names = "<b>" + r"\\frac"', outputs=outputs)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": {"duration": 61.5}}), path)


def finished(results, dataset="birds", profile="sample", worse=0.0):
    """A run that has come to its end: our own figures of one seed, GT-known worse by some points."""
    config = experiments.configure(dataset, profile, results=str(results))
    metrics = reference.read("sample", "birds", "metrics.csv")
    metrics = metrics[(metrics["seed"] == 0) & metrics["pooling"].isin(["gap", "wgap"])]
    metrics = metrics.assign(gt_known=metrics["gt_known"] - worse, dataset=dataset)
    handover.write_csv(metrics, config.folder / "metrics.csv")
    handover.write_csv(statistics.paired_differences(metrics), config.folder / "differences.csv")
    table = tables.combined(dataset, metrics)
    table.loc[0, "measured_on"] = HOSTILE
    (config.folder / "table.md").write_text(tables.to_markdown(table, dataset), encoding="utf-8")
    for name in ("fig2.png", "fig3.png", "fig4.png"):
        (config.folder / name).write_bytes(base64.b64decode(PIXEL))
    for name in ("01_dataset_preparation", "05_tables"):
        executed(config.folder / "notebooks" / f"{name}.ipynb", config)
    executed(config.folder.parent / "notebooks" / "00_overview.ipynb", config)
    manifest.write(config, {"results": config.results, "data_root": "/somewhere/of mine", "epochs": "15"})
    return config


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """Two finished runs of the sample, a third not finished, a damaged one, another profile, and the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WSOL_RESULTS", raising=False)
        results = tmp_path_factory.mktemp("of mine") / "my results"
        config = finished(results)
        finished(results, "things", worse=60)
        finished(results, "cub", "light")
        (config.folder.parent / "begun").mkdir()
        (config.folder.parent / "damaged").mkdir()
        (config.folder.parent / "damaged" / "manifest.json").write_text('{"cut', encoding="utf-8")
        return report.write(config.folder.parent).parent


def test_every_page_opens_from_the_disk_alone(profile):
    found = sorted(profile.rglob("*.html"))
    assert [path.relative_to(profile).as_posix() for path in found] == [
        "birds/notebooks/01_dataset_preparation.html", "birds/notebooks/05_tables.html", "index.html",
        "notebooks/00_overview.html", "things/notebooks/01_dataset_preparation.html", "things/notebooks/05_tables.html",
    ]  # fmt: skip
    for path in found:
        page = check(path)
        assert (path.name == "index.html" or page.all("math")) and "default-src 'none'" in page.source
    assert not [path for path in profile.parent.rglob("*") if path.name.endswith(".part")]


def test_what_the_index_shows(profile):
    page = Page(profile / "index.html")
    text = " ".join(page.text.split())
    table = (profile / "birds" / "table.md").read_text(encoding="utf-8")
    cells = [cell.strip() for line in table.splitlines() if line.startswith("| measured") for cell in line.split("|")]
    assert len(cells) > 50 and all(cell in text for cell in cells) and text.count("<script>") == 2
    assert "GT-known 75.4 is VGG-ADL's cell in Table 1 too" in text, "a doubt below Table 2"
    assert "all three, as the paper prints it" in text, "contributions"
    assert "270 of 270 figures lie within the bands of results/reference/sample/birds" in text
    assert "of 270 figures lie within the bands of results/reference/sample/things; outside: " in text
    assert "damaged is not shown: manifest.json is damaged, or of another release" in text
    assert "begun" not in text and "cub" not in [heading.get("id") for heading in page.all("h2")]
    content = json.loads((profile / "birds" / "manifest.json").read_text(encoding="utf-8"))
    assert content["command"].endswith("DATA_ROOT='/somewhere/of mine' EPOCHS=15")
    assert all(content[name] in text for name in ("command", "git_revision", "device", "written"))


def test_figures_notebooks_and_files_are_linked_relatively(profile):
    page = Page(profile / "index.html")
    assert [image["src"] for image in page.all("img")] == [
        f"{name}/fig{i}.png" for name in ("birds", "things") for i in (2, 3, 4)
    ]
    links = {link["href"] for link in page.all("a")}
    assert {"notebooks/00_overview.html", "birds/notebooks/05_tables.html", "things/metrics.csv"} <= links
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
    assert [image["src"] for image in page.all("img")] == 2 * [f"data:image/png;base64,{PIXEL}"]


def test_hostile_names_are_text(profile):
    """Printed, in a table, in a notebook's text; all that is sanitised by nobody are a notebook's own outputs."""
    page = check(profile / "birds" / "notebooks" / "01_dataset_preparation.html")
    assert page.text.count("<script>") == 3 and "seed<k>/x.csv" in page.text and 'names = "<b>"' in page.text


def test_the_same_runs_give_the_same_bytes(profile):
    before = {path: path.read_bytes() for path in profile.rglob("*.html")}
    report.write(profile)
    assert {path: path.read_bytes() for path in profile.rglob("*.html")} == before


def test_without_a_finished_run_there_is_no_report(tmp_path):
    with pytest.raises(ValueError, match="there is no finished run"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())
