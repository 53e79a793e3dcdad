"""CONTRIBUTING.md's additions: each is made in a copy of the package, by the blocks of that page, and works there."""

import ast
import os
import re
import shutil
import subprocess
import sys
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


def with_block(source: str, where: str, name: str, block: str) -> str:
    """The source with a block above the assignment of that name, or within the dictionary that it gets."""
    statements = ast.parse(source).body
    found = [
        s for s in statements if isinstance(s, ast.Assign | ast.AnnAssign) and name in ast.unparse(s).split("=")[0]
    ]
    [statement] = [s for s in found if isinstance(s.value, ast.Dict)]
    lines = source.splitlines(keepends=True)
    if where == "above":
        lines[statement.lineno - 1 : statement.lineno - 1] = [block, "\n\n"]
    else:
        lines[statement.end_lineno - 1 : statement.end_lineno - 1] = [
            f"    {line}" for line in block.splitlines(keepends=True)
        ]
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
        file.write_text(
            with_block(file.read_text(encoding="utf-8"), where, name, block) if where else block, encoding="utf-8"
        )
    return folder


def test_the_page_has_an_addition_of_every_kind():
    places = [(path, where, name) for path, where, name, _ in BLOCKS]
    assert PAGE.count("```python\n") == len(places) == len(set(places))
    registered = [(path, name) for path, where, name in places if where == "in"]
    assert registered == [
        ("wsol_utils/network/models.py", "BACKBONES"), ("wsol_utils/network/pooling.py", "POOLINGS"),
        ("wsol_utils/boxes/thresholds.py", "IMAGE_RULES"), ("wsol_utils/data/layouts.py", "READERS"),
    ]  # fmt: skip
    others = {path for path, where, _ in places if where == "above"}
    assert others <= {path for path, _ in registered}  # one file each


def test_nothing_of_it_is_there_yet():
    assert not [name for name, registry in NEW.items() if name in registry]


def test_the_additions_work(copy):
    names = [path for path, where, _, _ in BLOCKS if not where and path.startswith("tests/")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", *names]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(names)} passed" in done.stdout and len(names) == 5


def test_the_copy_is_what_was_tested(copy):
    command = [sys.executable, "-c", "import wsol_utils; print(wsol_utils.__file__)"]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(copy)


def test_the_additions_keep_the_style(copy):
    changed = sorted({str(copy / path) for path, *_ in BLOCKS})
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *changed], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for path in changed:
        assert len(Path(path).read_text(encoding="utf-8").splitlines()) <= 300, path
