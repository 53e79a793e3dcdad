"""The lists of packages agree, the files that a repository needs are there, and modules import what they may."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
DEPENDENCIES = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
MODULES = {path.stem: path for path in sorted((ROOT / "wsol_utils").glob("*.py"))}


def pinned():
    """name -> version in constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    rows = [line.split("#")[0].strip() for line in text.splitlines()]
    return {canonicalize_name(name): version for name, version in (row.split("==") for row in rows if row)}


# The lists of packages.


def test_environment_yml_has_the_dependencies_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert [line for line in pip if not line.startswith("-")] == DEPENDENCIES
    assert [line for line in pip if line.startswith("-")] == ["-c constraints.txt", "-e ."]
    assert f"python{PROJECT['requires-python']}" in plain and {"pip", "make"} <= set(plain)


@pytest.mark.parametrize("line", DEPENDENCIES)
def test_dependency_is_pinned_within_its_requirement(line):
    requirement = Requirement(line)
    versions = pinned()
    assert canonicalize_name(requirement.name) in versions, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
    assert requirement.specifier, "no lower bound"


@pytest.mark.parametrize("line", DEPENDENCIES)
def test_dependency_has_a_reason_beside_it(line):
    assert re.search(rf'^ +"{re.escape(line)}",  # \w.+$', PYPROJECT, flags=re.MULTILINE)


# Files.


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CITATION.cff", "data/README.md", "Makefile", ".ci/run"])
def test_file_is_there(name):
    assert (ROOT / name).stat().st_size > 100


def repository_texts():
    """(path, text) of the files that git tracks, or would; the pixels of notebooks' pictures left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for name in filter(None, listed.split("\0")):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; a file removed but still in the index
            continue
        yield name, re.sub(r'"image/\w+": "[^"]*"', "", text)


def test_no_path_of_a_machine():
    folders = "|".join(("work", "root", "home", "Users", "tmp"))
    machine = re.compile(rf"(?<![\w.~)}}>])/(?:{folders})/")
    found = [f"{name}: {match.group()}" for name, text in repository_texts() for match in machine.finditer(text)]
    assert not found


def test_no_package_host():
    """Where packages come from is the user's own affair: pip's configuration, not ours."""
    parts = ("index -url", "INDEX _URL", "find -links", "trusted -host", "py pi.", "py thonhosted", "/sim ple/")
    words = [part.replace(" ", "") for part in parts]  # apart, so that this file does not name them
    found = [f"{name}: {word}" for name, text in repository_texts() for word in words if word in text]
    assert not found


def test_citation_is_yaml_with_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert "Class Activation Map" in str(citation)


# Modules.


def imports(module):
    """The modules of ours that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            if node.module == "wsol_utils":
                found |= {alias.name for alias in node.names}
            elif (node.module or "").startswith("wsol_utils."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("wsol_utils.")}
    return found & set(MODULES)


MAY_IMPORT = {  # the road is one way: who may import whom
    **{module: set() for module in ("files", "pooling", "cam", "components", "metrics", "protocols")},
    **{module: {"components"} for module in ("thresholds", "boxes")},
    "sample": {"drawing", "shapes", "files", "bars"},
    "weights": set(),
    "models": {"pooling", "files", "weights"},
    "checkpoints": {"models", "weights"},
    "training": {"models", "loading", "checkpoints", "distributed", "bars"},
    "class_maps": {"cam"},
    "predictions": {"datasets", "loading", "distributed", "archive", "class_maps", "bars"},
    **{module: set() for module in ("bars", "distributed", "transforms", "texts")},
    "archive": {"files"},
    "pages": {"files"},
    "progress": set(),
    "layouts": {"texts"},
    "photographs": {"layouts"},
    "datasets": {"layouts", "photographs", "texts", "transforms", "files", "bars"},
    "loading": {"datasets", "photographs", "bars"},
    "unpacking": {"files", "layouts"},
    "downloads": {"files", "layouts", "unpacking", "bars"},
    "networks": {"models", "pooling", "transforms", "weights"},
    "views": {"files"},
    "own_images": {"networks", "views", "cam", "thresholds", "boxes", "layouts", "photographs", "transforms", "plots"},
    "localize": {"own_images", "cam", "thresholds", "texts"},
}


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_module_imports_only_what_it_may(module):
    assert imports(module) <= MAY_IMPORT[module]


def test_only_the_top_imports_experiments():
    assert {module for module in MODULES if "experiments" in imports(module)} <= {
        "runs",
        "stages",
        "keeping",
        "manifest",
        "verification",
        "report",
        "__main__",
    }


def test_imports_run_in_no_circle():
    done, rest = set(), set(MODULES)
    while rest:
        free = {module for module in rest if imports(module) <= done}
        assert free, f"a circle among {', '.join(sorted(rest))}"
        done, rest = done | free, rest - free


@pytest.mark.parametrize("module", MODULES)
def test_module_is_short(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("module", MODULES)
def test_module_says_what_it_is(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))


def test_the_sample_is_rendered_without_torch():
    command = "import sys, wsol_utils.sample; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


def test_no_module_asks_the_network_when_it_is_imported():
    command = (
        "import socket; asked = []; socket.socket.connect = socket.getaddrinfo = lambda *a, **k: asked.append(a)\n"
        f"import {', '.join('wsol_utils.' + module for module in MODULES if module != '__init__')}\n"
        "assert not asked, asked"
    )
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


def test_numba_is_imported_only_where_boxes_are_sought():
    command = "import sys, wsol_utils.evaluation; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


def test_pinned_versions_install_on_every_python_we_support():
    """A pin that asks for a later Python than ours would stop the first command of the README."""
    lowest, versions = PROJECT["requires-python"].removeprefix(">=") + ".0", pinned()
    for distribution in importlib.metadata.distributions():
        name, needed = distribution.metadata["Name"], distribution.metadata.get("Requires-Python") or ""
        if versions.get(canonicalize_name(name)) == distribution.version:
            assert lowest in SpecifierSet(needed), f"{name} {distribution.version} needs Python {needed}"
