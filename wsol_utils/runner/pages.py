"""Write pages that open from the disk: executed notebooks as HTML without scripts, formulas as MathML."""

import base64
import mimetypes
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jinja2
import nbformat
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup, escape
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.sanitize import SanitizeHTML

from wsol_utils.common import files
from wsol_utils.common.files import ROOT

NOTEBOOKS = ROOT / "notebooks"  # where relative links in a notebook's text start
TAGS = ["div", "table", "thead", "tbody", "tr", "th", "td", "p", "b", "i", "em", "strong", "code", "pre", "br", "span"]


def write(path: Path, title: str, **values: object) -> None:
    """Fill report.html.j2 and write it; whatever is no Markup is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    files.write_text(path, environment.get_template("report.html.j2").render(title=title, **values))


def formula(latex: str, display: str = "block") -> Markup:
    """LaTeX as MathML, which browsers show by themselves."""
    made = Markup(to_mathml(latex.strip(), display=display))
    return Markup('<div class="formula">{}</div>').format(made) if display == "block" else made


def title(notebook: Path) -> str:
    """A notebook's first heading, else its name."""
    cells = nbformat.read(notebook, as_version=4).cells
    lines = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.split("\n")]
    return next((line[2:] for line in lines if line.startswith("# ")), notebook.stem)


def convert(notebook: Path, page: Path, pages: Mapping[str, Path], index: Path) -> None:
    """Write an executed notebook as a page.

    Args:
        pages: where a notebook of that name is a page; in the text, links to it lead there.
        index: the page that leads here.
    """
    links = {name: Path(os.path.relpath(there, page.parent)).as_posix() for name, there in pages.items()}
    content, heading = nbformat.read(notebook, as_version=4), notebook.stem
    clean = SanitizeHTML(tags=TAGS, attributes={"*": ["colspan", "rowspan"]}, strip=True)
    for number, cell in enumerate(content.cells, start=1):
        cell.id = f"cell-{number}"
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in cell.source.split("\n") if line.startswith("#")), heading)
        for output in cell.get("outputs", []):
            cell.metadata["alt"] = f"Figure of the section “{heading}”"
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = re.sub(r"<style.*?</style>", "", output.data["text/html"], flags=re.DOTALL)
        clean.sanitize_code_outputs(cell.get("outputs", []))
    body, _ = _Exporter(links).from_notebook_node(content)
    others = [(name, link) for name, link in links.items() if name != notebook.name]
    write(page, title(notebook), body=Markup(body), index=Path(os.path.relpath(index, page.parent)), others=others)


class _Renderer(IPythonRenderer):
    """Markdown with MathML; links that lead to no page become plain text, and pictures part of the page."""

    def __init__(self, links: Mapping[str, str]) -> None:
        super().__init__(escape=True, exclude_anchor_links=True)
        self.links = links

    def block_math(self, body: str) -> str:
        return formula(body)

    def inline_math(self, body: str) -> str:
        return formula(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        there = url if url.startswith(("https://", "http://")) else self.links.get(Path(url).name)
        return super().link(text, there, title) if there else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        path = (NOTEBOOKS / url).resolve()
        if not path.is_relative_to(ROOT) or not path.is_file():
            return str(escape(text))
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return super().image(text, f"data:{mimetypes.guess_type(path)[0]};base64,{data}", title)


class _Exporter(HTMLExporter):
    """A notebook's cells as HTML, without a page around them."""

    def __init__(self, links: Mapping[str, str]) -> None:
        super().__init__(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
        self.links = links

    @jinja2.pass_context
    def markdown2html(self, context: object, source: str) -> str:
        return MarkdownWithMath(renderer=_Renderer(self.links)).render(source)
