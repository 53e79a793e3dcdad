"""CONTRIBUTING.md's additions: each is made in a copy of the package, by the blocks of that page, and works there."""

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from wsol_utils import datasets, method, models, pooling, thresholds

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n# (\S+\.py)(?:, (above|in) (\w+))?\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
NEW = {  # the names that the page registers
    "resnet18": models.BACKBONES, "gem": pooling.POOLINGS, "half": thresholds.RULES, "folders": datasets.READERS,
    "cutout": method.names(),
}  # fmt: skip
TESTS = [path for path, *_ in BLOCKS if path.startswith("tests/")]
RUN = "import sys, pytest, wsol_utils; print(wsol_utils.__file__); sys.exit(pytest.main(sys.argv[1:]))"


def with_block(source: str, where: str, name: str, block: str) -> str:
    """The source with a block above the assignment of that name, or within the dictionary that it gets."""
    statements = ast.parse(source).body
    found = [s for s in statements if isinstance(s, ast.Assign | ast.AnnAssign) and isinstance(s.value, ast.Dict)]
    [statement] = [s for s in found if name in ast.unparse(s).split("=")[0]]
    lines = source.splitlines(keepends=True)
    if where == "above":
        lines.insert(statement.lineno - 1, f"{block}\n\n")
    else:
        lines.insert(statement.end_lineno - 1, textwrap.indent(block, "    "))
    return "".join(lines)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with all additions, and their tests beside it."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "wsol_utils", folder / "wsol_utils", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    for path, where, name, block in BLOCKS:
        file = folder / path
        text = with_block(file.read_text(encoding="utf-8"), where, name, block) if where else block
        file.write_text(text, encoding="utf-8")
    return folder


def test_the_page_has_an_addition_of_every_kind():
    places = [(path, where, name) for path, where, name, _ in BLOCKS]
    assert PAGE.count("```python\n") == len(places) == len(set(places)) and len(TESTS) == 5
    registered = [(path, name) for path, where, name in places if where == "in"]
    assert registered == [
        ("wsol_utils/network/models.py", "BACKBONES"), ("wsol_utils/network/pooling.py", "POOLINGS"),
        ("wsol_utils/boxes/thresholds.py", "IMAGE_RULES"), ("wsol_utils/data/layouts.py", "READERS"),
    ]  # fmt: skip
    assert {path for path, where, _ in places if where == "above"} <= {path for path, _ in registered}  # one file each
    assert not [name for name, registry in NEW.items() if name in registry]  # nothing of it is there yet


def test_the_additions_work(copy):
    command = [sys.executable, "-c", RUN, "-q", "-p", "no:cacheprovider", "-o", "addopts=", *TESTS]
    quick = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # half of the time is plugins'
    environment = os.environ | quick | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(copy) and "5 passed" in done.stdout


def test_the_additions_keep_the_style(copy):
    changed = sorted({str(copy / path) for path, *_ in BLOCKS})
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *changed], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for path in changed:
        assert len(Path(path).read_text(encoding="utf-8").splitlines()) <= 300, path
