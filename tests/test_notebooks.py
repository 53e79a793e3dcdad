"""The shape of the committed notebooks: executed, small, one idea per cell, nothing of one person's machine."""

import ast
import json
import re
import statistics
import symtable
from dataclasses import fields

import pytest
from layouts_on_disk import NOTEBOOKS

from wsol_utils.experiment.experiments import Config

FILES = sorted(NOTEBOOKS.glob("0[0-6]_*.ipynb"))
ROAD = FILES[1:]
BESIDE = sorted(NOTEBOOKS.glob("0[7-9]_*.ipynb"))  # not on the road of `make reproduce`
each_notebook = pytest.mark.parametrize("path", FILES + BESIDE, ids=lambda path: path.stem)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users|tmp|var|opt|mnt|private)/|(?<!\w)[A-Z]:\\")
IGNORED = "nbval-ignore-output"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def parameters_index(cells):
    [index] = [i for i, cell in enumerate(cells) if "parameters" in tags(cell)]
    return index


def link_targets(text):
    return [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]


def test_all_are_there():
    assert [path.name[:3] for path in FILES] == [f"{number:02d}_" for number in range(7)]


# What is committed with them.


@each_notebook
def test_executed_from_the_first_cell_to_the_last(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs, "no output is committed: run `make notebooks`"
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a warning or a bar is committed"


@each_notebook
def test_size(path):
    assert path.stat().st_size < 300_000


@each_notebook
def test_kernel_and_metadata_are_nobodys_own(path):
    notebook = read(path)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}  # no version
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, "metadata of a runner or an editor"
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@each_notebook
def test_no_path_of_a_machine_and_no_address_of_an_object(path):
    for cell in read(path)["cells"]:
        texts = [source(cell)]
        for output in cell.get("outputs", []):
            assert not re.search(r"(application/javascript|widget)", " ".join(output.get("data", {})))
            data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
            texts += ["".join(text) for text in [output.get("text", ""), *data.values()]]
        for text in texts:
            assert not MACHINE_PATH.search(text), text
            assert not re.search(r"\bat 0x[0-9a-f]{6}", text), text


@each_notebook
def test_pictures_are_png(path):
    kinds = {kind for cell in code_cells(path) for output in cell["outputs"] for kind in output.get("data", {})}
    assert {kind for kind in kinds if kind.startswith("image/")} <= {"image/png"}


# The order of cells.


@each_notebook
def test_opening_cell(path):
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown" and source(first).startswith(f"# {path.name[:2]} · ")
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", source(first), flags=re.MULTILINE)
    assert [name for name, _ in rows[:3]] == ["reads", "writes", "takes"]


@each_notebook
def test_imports_then_parameters_then_the_rest(path):
    cells = code_cells(path)
    index = parameters_index(cells)
    importing = [
        i for i, cell in enumerate(cells)
        for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Import | ast.ImportFrom)
    ]  # fmt: skip
    assert importing and set(importing) == {index - 1}


@each_notebook
def test_parameters_are_literals_typed_and_commented(path):
    cell = source(code_cells(path)[parameters_index(code_cells(path))])
    for node, line in zip(ast.parse(cell).body, cell.splitlines(), strict=True):
        assert isinstance(node, ast.AnnAssign) and node.value is not None, line
        ast.literal_eval(node.value)
        assert re.search(r"  # \S", line), f"no comment: {line}"


def test_the_same_parameters_all_along_the_road():
    assert len({source(code_cells(path)[parameters_index(code_cells(path))]) for path in ROAD}) == 1


@each_notebook
def test_last_cell_leads_on(path):
    last = read(path)["cells"][-1]
    assert last["cell_type"] == "markdown"
    targets = [link for link in link_targets(source(last)) if link.endswith(".ipynb")]
    following = FILES[0] if path in BESIDE else FILES[(FILES.index(path) + 1) % len(FILES)]
    assert targets and (NOTEBOOKS / targets[-1]).resolve() == following


@each_notebook
def test_relative_links_resolve(path):
    for cell in read(path)["cells"]:
        for link in link_targets(source(cell)) if cell["cell_type"] == "markdown" else []:
            assert (NOTEBOOKS / link).exists(), link


@each_notebook
def test_what_we_found_stands_near_the_end(path):
    headings = [line for cell in read(path)["cells"] if cell["cell_type"] == "markdown"
                for line in source(cell).splitlines() if line.startswith("## ")]  # fmt: skip
    assert headings[-1] == "## What we found"


# The cells themselves.


@each_notebook
def test_cells_are_short(path):
    lengths = [len(source(cell).splitlines()) for cell in code_cells(path)]
    assert max(lengths) <= 25
    assert statistics.median(lengths) < 8


@each_notebook
def test_no_classes_no_long_functions_no_star_imports(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            assert not isinstance(node, ast.ClassDef), node.name
            assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 15, node.name


@each_notebook
def test_nothing_that_nbval_stumbles_over(path):
    for cell in code_cells(path):
        text = source(cell)
        assert not re.search(r";\s*$", text), "a trailing semicolon"
        assert not re.search(r"^\s*[%!]", text, flags=re.MULTILINE), "a magic or a shell command"
        assert "clear_output" not in text and ".style" not in text


@each_notebook
def test_an_output_that_is_not_compared_says_why(path):
    for cell in code_cells(path):
        reasons = re.findall(r"^# output not compared: (.+)$", source(cell), flags=re.MULTILINE)
        assert len(reasons) == (IGNORED in tags(cell)), source(cell)
        assert all(len(reason.split()) >= 2 for reason in reasons)
        assert set(tags(cell)) <= {"parameters", IGNORED}, "another tag might silence a comparison too"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_configuration_cell_can_be_run_again(path):
    """It takes every variable that has the name of a value of `Config`, so no later cell may assign one."""
    cells, names = code_cells(path), {field.name for field in fields(Config)}
    for cell in cells[parameters_index(cells) + 1 :]:
        symbols = symtable.symtable(source(cell), path.name, "exec").get_symbols()
        assert not {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()} & names, source(cell)
