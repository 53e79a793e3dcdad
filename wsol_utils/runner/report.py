"""Write the report of a profile: index.html with the tables and figures of its runs, and their notebooks as pages.

nbconvert makes the pages, index.html from Markdown. They open from the disk, without a network and without scripts:
links are relative, formulas are MathML.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from latex2mathml.converter import convert as to_mathml
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.v4 import new_markdown_cell, new_notebook

from wsol_utils.common import files
from wsol_utils.common.files import ROOT
from wsol_utils.experiment import experiments
from wsol_utils.figures import reference, tables
from wsol_utils.runner import verify

TITLE = "Improving Class Activation Map for Weakly Supervised Object Localization: what was measured"
FIGURES = {
    "fig2.png": "Fig. 2: photographs; their strongest positive and negative channel; original and recombined CAM",
    "fig3.png": "Fig. 3: a photograph, its CAM, the steps D against the threshold η, and the boxes of two rules",
    "fig4.png": "Fig. 4: the original CAM above the paper's method; predicted boxes green, true boxes red",
}


def write(folder: Path) -> Path:
    """Write index.html of RESULTS/<profile>, and notebooks/*.html there and in every finished run.

    Returns:
        The path of index.html.

    Raises:
        ValueError: if no finished run can be read.
    """
    texts, runs, unread = [], [], []
    for path in sorted(folder.glob("*/manifest.json")):
        try:
            texts.append(_section(path.parent))
            runs.append(path.parent)
        except (OSError, ValueError, LookupError) as error:  # damaged, or of another release
            unread.append(f"**{path.parent.name}** is not shown: {' '.join(str(error).split())}")
    if not runs:
        raise ValueError("; ".join(unread) or "there is no finished run")
    overview = _notebooks(folder)
    for place in (folder, *runs):
        road = [*overview, *_notebooks(runs[0] if place == folder else place)]
        for path in _notebooks(place):
            _write_page(path, folder / "index.html", road)
    links = [f"[{path.stem}](notebooks/{path.stem}.html)" for path in overview]
    whole = [f"# {TITLE}", f"Profile **{folder.name}**. The method, shown on one image: {', '.join(links)}.", *unread]
    source = "\n\n".join([*whole, *_figures(folder, ""), *texts])
    index = new_notebook(cells=[new_markdown_cell(source, id="results")])
    files.write_text(folder / "index.html", _Exporter(None).page(index, f"Results: {folder.name}"))
    return folder / "index.html"


def _section(folder: Path) -> str:
    """Describe a run for index.html, as Markdown."""
    content, config = verify.read(folder)
    name, took = folder.name, content["duration_seconds"]
    compared = reference.describe(pd.read_csv(folder / "metrics.csv"), config, experiments.is_usual(config))
    table = re.sub("^# ", "### ", (folder / "table.md").read_text(encoding="utf-8"))
    steps = tables.contributions(config.dataset, pd.read_csv(folder / "differences.csv"))
    pages = [path.stem for path in _notebooks(folder)]
    links = [f"[{page}]({name}/notebooks/{page}.html) {took.get(page, 0):.0f} s" for page in pages]
    kept = [file for file in content["sha256"] if "/" not in file and file.endswith((".csv", ".md"))]
    return "\n\n".join(
        [
            f"## {name}",
            f"{content['device']}; {sum(took.values()) / 60:.0f} minutes; written {content['written']}; "
            f"git revision {content['git_revision']}. What to type to repeat the run, and how it compares:",
            f"```\n{content['command']}\n{compared}\n```",
            table,
            "### What each step of the paper changes",
            "GT-known in percent, from and to, and the difference in points with its 95 % interval over images and "
            "seeds; where there are several seeds, their mean.",
            steps.to_markdown(index=False, floatfmt=".1f"),
            "### Figures",
            *_figures(folder, f"{name}/"),
            "### Notebooks and files",
            ", ".join(links),
            ", ".join(f"[{file}]({name}/{file})" for file in [*kept, "manifest.json"]),
        ]
    )


def _figures(folder: Path, where: str) -> list[str]:
    return [f"![{what}]({where}{name})\n\n{what}." for name, what in FIGURES.items() if (folder / name).is_file()]


def _notebooks(folder: Path) -> list[Path]:
    return sorted((folder / "notebooks").glob("[!.]*.ipynb"))


def _write_page(notebook: Path, index: Path, road: list[Path]) -> None:
    """Write an executed notebook as a page beside it, with links to index.html and to the other pages of the road."""
    pages = {path.name: path.with_suffix(".html") for path in road} | {index.name: index}
    links = {name: Path(os.path.relpath(page, notebook.parent)).as_posix() for name, page in pages.items()}
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        cell.metadata["alt"] = f"A figure of {notebook.stem}"
    named = ["[Results](index.html)", *(f"[{path.stem}]({path.name})" for path in road)]
    content.cells.insert(0, new_markdown_cell(" · ".join(named), id="road"))
    files.write_text(notebook.with_suffix(".html"), _Exporter(links).page(content, notebook.stem))


class _Renderer(IPythonRenderer):
    """Markdown with MathML. Links of a notebook that lead to no page become plain text."""

    def __init__(self, links: Mapping[str, str] | None) -> None:
        super().__init__(escape=True, exclude_anchor_links=True, embed_images=True, path=str(ROOT))
        self.links = links

    def block_math(self, body: str) -> str:
        return f'<div class="formula">{to_mathml(body.strip(), display="block")}</div>'

    def inline_math(self, body: str) -> str:
        return to_mathml(body.strip())

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if self.links is None or url.startswith("https://"):
            return super().link(text, url, title)
        there = self.links.get(Path(url).name)
        return super().link(text, there, title) if there else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super().image(text, url.removeprefix("../"), title)  # of the repository, above notebooks/


class _Exporter(HTMLExporter):
    """A notebook as a page by report.html.j2."""

    def __init__(self, links: Mapping[str, str] | None) -> None:
        super().__init__(
            template_file=str(Path(__file__).with_name("report.html.j2")),
            exclude_input_prompt=True, exclude_output_prompt=True,
        )  # fmt: skip
        self.links = links

    def page(self, notebook: nbformat.NotebookNode, title: str) -> str:
        return self.from_notebook_node(notebook, {"metadata": {"name": title}})[0]

    @jinja2.pass_context
    def markdown2html(self, context: object, source: str) -> str:
        return MarkdownWithMath(renderer=_Renderer(self.links)).render(source)
