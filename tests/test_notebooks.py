"""The shape of the committed notebooks: executed, small, one idea per cell, nothing of one person's machine."""

import ast
import json
import re
import statistics
import symtable

import pytest
from layouts_on_disk import NOTEBOOKS

from wsol_utils import experiments

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
FILES, BESIDE = PATHS[:7], PATHS[7:]  # those that `make reproduce` runs, 00 to 06, and the others
READ = {path: json.loads(path.read_text(encoding="utf-8")) for path in PATHS}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|Users|tmp|var|opt|mnt|private)/|(?<!\w)[A-Z]:\\")
IGNORED = "nbval-ignore-output"

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def cells_of(path, kind):
    return [cell for cell in READ[path]["cells"] if cell["cell_type"] == kind]


def nodes_of(cell):
    return list(ast.walk(ast.parse(source(cell))))


def parameters_index(cells):
    [index] = [i for i, cell in enumerate(cells) if "parameters" in tags(cell)]
    return index


def links(text):
    return [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]


# What is committed with them.


@each_notebook
def test_executed_from_the_first_cell_to_the_last(path):
    cells = cells_of(path, "code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs, "no output is committed: run `make notebooks`"
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a warning or a bar is committed"


@each_notebook
def test_small_and_nobodys_own(path):
    assert path.stat().st_size < 300_000
    about = READ[path]["metadata"]
    assert about["kernelspec"]["name"] == "python3" and set(about) == {"kernelspec", "language_info"}
    assert about["language_info"] == {"name": "python"}  # no version
    assert len({cell["id"] for cell in READ[path]["cells"]}) == len(READ[path]["cells"])
    for cell in READ[path]["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, "metadata of a runner or an editor"
        texts = [source(cell)]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert not re.search(r"(application/javascript|widget)", " ".join(data))
            assert {kind for kind in data if kind.startswith("image/")} <= {"image/png"}
            texts += ["".join(text) for kind, text in data.items() if not kind.startswith("image/")]
            texts.append("".join(output.get("text", "")))
        for text in texts:
            assert not MACHINE_PATH.search(text), text
            assert not re.search(r"\bat 0x[0-9a-f]{6}", text), text


# The order of cells.


def test_all_are_there():
    assert [path.name[:3] for path in FILES] == [f"{number:02d}_" for number in range(7)]


@each_notebook
def test_opening_and_closing(path):
    """The title and what it reads, writes and takes; last what we found, and the way on."""
    first, last = (READ[path]["cells"][i] for i in (0, -1))
    assert first["cell_type"] == last["cell_type"] == "markdown"
    assert source(first).startswith(f"# {path.name[:2]} · ")
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", source(first), flags=re.MULTILINE)
    assert [name for name, _ in rows[:3]] == ["reads", "writes", "takes"]
    prose = "\n".join(source(cell) for cell in cells_of(path, "markdown"))
    assert re.findall("^## .*", prose, flags=re.MULTILINE)[-1] == "## What we found"
    following = FILES[0] if path in BESIDE else FILES[(FILES.index(path) + 1) % len(FILES)]
    targets = [link for link in links(source(last)) if link.endswith(".ipynb")]
    assert targets and (NOTEBOOKS / targets[-1]).resolve() == following
    for link in links(prose):
        assert (NOTEBOOKS / link).exists(), link


@each_notebook
def test_imports_then_parameters_then_the_rest(path):
    cells = cells_of(path, "code")
    index = parameters_index(cells)
    importing = {
        i for i, cell in enumerate(cells) for n in nodes_of(cell) if isinstance(n, ast.Import | ast.ImportFrom)
    }
    assert importing == {index - 1}
    text = source(cells[index])  # literals, typed and commented
    for node, line in zip(ast.parse(text).body, text.splitlines(), strict=True):
        assert isinstance(node, ast.AnnAssign) and node.value is not None, line
        ast.literal_eval(node.value)
        assert re.search(r"  # \S", line), f"no comment: {line}"


def test_the_same_parameters_all_along_the_road():
    road = [cells_of(path, "code") for path in FILES[1:]]
    assert len({source(cells[parameters_index(cells)]) for cells in road}) == 1


# The cells themselves.


@each_notebook
def test_cells_are_short_and_plain(path):
    cells = cells_of(path, "code")
    lengths = [len(source(cell).splitlines()) for cell in cells]
    assert max(lengths) <= 25 and statistics.median(lengths) < 8
    for node in (node for cell in cells for node in nodes_of(cell)):
        assert not isinstance(node, ast.ClassDef), node.name
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")
        assert not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 15, node.name


@each_notebook
def test_nothing_that_nbval_stumbles_over(path):
    for cell in cells_of(path, "code"):
        text = source(cell)
        assert not re.search(r";\s*$", text), "a trailing semicolon"
        assert not re.search(r"^\s*[%!]", text, flags=re.MULTILINE), "a magic or a shell command"
        assert "clear_output" not in text and ".style" not in text
        reasons = re.findall(r"^# output not compared: (.+)$", text, flags=re.MULTILINE)
        assert len(reasons) == (IGNORED in tags(cell)), text
        assert all(len(reason.split()) >= 2 for reason in reasons)
        assert set(tags(cell)) <= {"parameters", IGNORED}, "another tag might silence a comparison too"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_configuration_cell_can_be_run_again(path):
    """It takes every variable that has the name of a value of `Config`, so no later cell may assign one."""
    cells = cells_of(path, "code")
    for cell in cells[parameters_index(cells) + 1 :]:
        symbols = symtable.symtable(source(cell), path.name, "exec").get_symbols()
        assigned = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
        assert not assigned & set(experiments.NAMES), source(cell)
