"""Find the modules that a module or a notebook depends on, from its import statements and theirs in turn."""

import ast
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from wsol_utils.common.files import ROOT


def of_modules(names: Iterable[str], root: Path = ROOT) -> list[Path]:
    """The files of modules and of all modules of the package that they import, sorted.

    Args:
        names: as in an import statement: "wsol_utils.maps.cam", or something in it.
        root: the folder that holds the package.

    Raises:
        ModuleNotFoundError: if a module is missing.
    """
    found: set[Path] = set()
    rest = set(names)
    while rest:
        path = _file(rest.pop(), root)
        if path not in found:
            found.add(path)
            rest |= _imported(path.read_text(encoding="utf-8"))
    return sorted(found)


def of_notebook(path: Path, places: Mapping[str, str], root: Path = ROOT) -> list[Path]:
    """The files of all modules that a notebook's code depends on, as `of_modules`.

    Args:
        places: where the modules lie that have a short name, `wsol_utils.PLACES`.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names = _imported("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    parts = [name.split(".") for name in names]
    return of_modules([".".join([package, places.get(first, first), *rest]) for package, first, *rest in parts], root)


@cache
def _imported(source: str) -> frozenset[str]:
    """What a source imports of the package, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in found if name.startswith("wsol_utils."))


def _file(name: str, root: Path) -> Path:
    """The file of a module, or of the module that defines a name."""
    path = root.joinpath(*name.split("."))
    for place in (path, path.parent):
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    raise ModuleNotFoundError(f"{name}: no such module below {root}")
