"""What a module or a notebook is made of, by its imports: in a package that the test writes."""

import json

import pytest

from wsol_utils import imports

FILES = {
    "__init__.py": "",
    "boxes/__init__.py": "from wsol_utils.boxes.largest import largest_box",
    "boxes/largest.py": "import os\ndef f():\n    from wsol_utils.boxes import compiled",
    "boxes/compiled.py": "import numba",
    "boxes/thresholds.py": "from wsol_utils.boxes import compiled as c",
    "common/files.py": "import wsol_utils.common.bars",
    "common/bars.py": "from wsol_utils.common.files import written",  # a circle
    "maps/cam.py": "x = 1",
    "maps/predictions.py": "from wsol_utils.common import files\nfrom wsol_utils.maps.cam import x",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / "wsol_utils" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "wsol_utils" / name).write_text(text)
    return tmp_path


def named(paths, root):
    return " ".join(path.relative_to(root / "wsol_utils").with_suffix("").as_posix() for path in paths)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("wsol_utils.maps.cam.x", "maps/cam"),
        ("wsol_utils.maps.predictions", "common/bars common/files maps/cam maps/predictions"),
        ("wsol_utils.boxes.thresholds", "boxes/compiled boxes/thresholds"),
        ("wsol_utils.boxes.largest_box", "boxes/__init__ boxes/compiled boxes/largest"),
        ("wsol_utils.__version__", "__init__"),
    ],
)
def test_modules(root, name, files):
    assert named(imports.of_modules([name], root), root) == files


def test_a_module_that_is_not_there(root):
    with pytest.raises(ModuleNotFoundError, match=r"wsol_utils\.maps\.nothing\.x: no such module"):
        imports.of_modules(["wsol_utils.maps.nothing.x"], root)


def test_a_notebook(root):
    code = ["import numpy as np\nfrom wsol_utils import (\n    cam,\n)",
            "from wsol_utils.boxes.thresholds import select\nimport wsol_utils.bars"]  # fmt: skip
    cells = [{"cell_type": "markdown", "source": ["from wsol_utils import boxes"]}]
    cells += [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in code]
    (root / "a.ipynb").write_text(json.dumps({"cells": cells}))
    found = imports.of_notebook(root / "a.ipynb", {"cam": "maps.cam", "bars": "common.bars"}, root)
    assert named(found, root) == "boxes/compiled boxes/thresholds common/bars common/files maps/cam"
