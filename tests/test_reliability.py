"""docs/reliability.md lists each fault that a test provokes: `python tests/test_reliability.py` writes its list."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->\n", "<!-- /faults -->"
GROUPS = {  # the page's headings -> the test files below each
    "Runs": ("dodo", "faults", "processes", "training"),
    "Downloads and archives": ("download", "unpacking"),
    "Annotations, photographs, weights": (
        "hostile_annotations",
        "hostile_images",
        "datasets",
        "fuzz",
        "models",
        "command_line",
    ),
    "Numbers": ("predictions", "pooling", "evaluation"),
    "Finished runs": ("verify", "reproducible"),
}


def marked(file: Path) -> list[tuple[str, str, str]]:
    """(what happens, what survives, name of the test) of every test that is marked so, in the file's order."""
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        for mark in getattr(node, "decorator_list", []):
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                what, survives = map(ast.literal_eval, mark.args)
                found.append((what, survives, node.name))
    return found


def listed() -> str:
    """The tables of the page, as Markdown."""
    text = ""
    for title, names in GROUPS.items():
        rows = [(*row, f"tests/test_{name}.py") for name in names for row in marked(TESTS / f"test_{name}.py")]
        text += f"\n### {title}\n\n| what happens | what survives, or is said | tested by |\n|---|---|---|\n"
        text += "".join(f"| {what} | {survives} | [`{test}`](../{file}) |\n" for what, survives, test, file in rows)
    return text + "\n"


def test_the_page_lists_what_is_tested():
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == listed(), "run python tests/test_reliability.py"


def test_every_fault_has_a_heading():
    files = {file.stem.removeprefix("test_") for file in TESTS.glob("test_*.py") if marked(file)}
    assert files == {name for names in GROUPS.values() for name in names}


@pytest.mark.parametrize(
    "row", [row for names in GROUPS.values() for n in names for row in marked(TESTS / f"test_{n}.py")]
)
def test_a_row_can_be_read(row):
    assert all(text and len(text) < 130 and "|" not in text for text in row)


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + listed() + END + rest.partition(END)[2], encoding="utf-8")
