"""A notebook is executed by papermill: its bar on a terminal alone, its target whole or not at all."""

import io
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from wsol_utils.runner.execute import Failed, execute


def notebook(folder, *sources):
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), folder / "in.ipynb")
    return folder / "in.ipynb"


@pytest.mark.parametrize("watched", [True, False])
def test_a_terminal_alone_shows_a_bar(tmp_path, monkeypatch, watched):
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    shown.isatty = lambda: watched
    source = notebook(tmp_path, "a = 1", "import os; print(a, os.path.basename(os.getcwd()))")
    execute(source, tmp_path / "new" / "out.ipynb", bar="02 birds")
    assert ("02 birds" in shown.getvalue() and "1/2" in shown.getvalue()) == watched
    executed = nbformat.read(tmp_path / "new" / "out.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].text == f"1 {tmp_path.name}\n" and executed.metadata.papermill.duration > 0


def test_what_fails_is_told_and_leaves_the_target(tmp_path):
    (target := tmp_path / "out.ipynb").write_text("earlier")
    with pytest.raises(Failed, match=r"cell 2: ValueError: no such thing"):
        execute(notebook(tmp_path, "a = 1", "raise ValueError('no such thing')"), target)
    assert target.read_text() == "earlier"
