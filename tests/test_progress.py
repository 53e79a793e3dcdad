"""The runner's line: on a terminal the cell and the time, written over in place; elsewhere nothing but its text."""

import io
import os
import sys
import time

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from wsol_utils import progress

TEXT = "02_finetune_wgap         birds         "


END = "that was all"


@pytest.fixture
def terminal(monkeypatch):
    """Makes a pseudo-terminal of standard output, and returns a function that reads what was written to it.

    It waits for as much as it is told to be enough; after the block, for all.
    """
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: 100.0)
    monkeypatch.setenv("COLUMNS", "80")
    master, slave = os.openpty()
    with os.fdopen(master, "rb", buffering=0) as shown, os.fdopen(slave, "w", encoding="utf-8") as out:

        def written(enough=None):
            if enough is None:
                out.write(END)
                out.flush()
            data = b""
            while not (enough or (lambda text: text.endswith(END)))(data.decode("utf-8")):
                data += shown.read(1 << 16)  # waits
            return data.decode("utf-8").replace("\r\n", "\n").removesuffix(END)

        def begin():  # in the test itself: pytest gives each phase a standard output of its own
            monkeypatch.setattr(sys, "stdout", out)
            return written

        yield begin


def seen(written):
    """What a terminal shows in the end of what was written to it."""
    screen = []
    for line in written.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        screen.append(shown.rstrip())
    return screen


def test_a_terminal_shows_cell_and_time_in_place(terminal):
    written = terminal()
    with progress.Line(TEXT) as line:
        line.tell(3, 24)
        text = written(lambda text: "cell 3" in text)
        line.tell(4, 24)
        text += written(lambda text: "cell 4" in text)
    print("    12 s")
    text += written()
    assert f"\r{TEXT}  cell 3 of 24, 0:00:00" in text and f"\r{TEXT}  cell 4 of 24, 0:00:00" in text
    assert seen(text) == [f"{TEXT}    12 s".rstrip(), ""]


def test_a_narrow_terminal_keeps_to_one_line(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    written = terminal()
    with progress.Line(TEXT) as line:
        line.tell(3, 24)
        text = written(lambda text: text.count("\r") > 3)
    parts = (text + written()).split("\r")
    assert len(parts) > 3 and max(map(len, parts)) == 49


def test_the_clock_stops_with_the_block_and_after_an_error(terminal):
    written = terminal()
    with pytest.raises(KeyError), progress.Line(TEXT):
        raise KeyError
    assert written().endswith(f"\r{TEXT}")
    time.sleep(0.1)
    assert written() == ""


def test_elsewhere_there_is_the_text_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with progress.Line(TEXT) as line:
        line.tell(3, 24)
        time.sleep(0.1)
    assert sys.stdout.getvalue() == TEXT


def test_papermill_tells_every_cell(tmp_path):
    cells = [new_markdown_cell("# A"), new_code_cell("a = 1"), new_code_cell("print(a)")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "in.ipynb")
    told, paths = [], (tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    papermill.execute_notebook(
        *paths, engine_name=progress.ENGINE, kernel_name="python3", progress_bar=False, tell=lambda *at: told.append(at)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert executed.cells[2].outputs[0].text == "1\n" and executed.metadata.papermill.duration > 0
