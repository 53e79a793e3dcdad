"""The lists of packages agree, the files that a repository needs are there, and modules import what they may."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from importlinter.cli import lint_imports
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import wsol_utils

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
DEPENDENCIES = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "wsol_utils").rglob("*.py"))
}  # wsol_utils.maps.cam -> its file


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
def test_dependency_is_pinned_within_its_requirement_and_has_a_reason(line):
    requirement = Requirement(line)
    assert requirement.specifier, "no lower bound"
    assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)])
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


def test_folders_import_only_from_below(monkeypatch):
    """pyproject.toml has their order."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, "run lint-imports"


def test_every_name_leads_to_its_module():
    for name in wsol_utils.__all__:
        module = getattr(wsol_utils, name)
        assert name in dir(wsol_utils) and module.__name__.split(".")[-1] in (name, "render")
    assert wsol_utils.sample.render and not hasattr(wsol_utils, "nothing")


USED = """
import torch
from wsol_utils import boxes, cam, method, metrics, models, pooling, thresholds

F = torch.rand(2, 5, 4, 4)
poolings = pooling.GlobalAveragePool(), pooling.WeightedGlobalAveragePool(temperature=1.0, divide_by_area=True)
assert all(pool(F).shape == (2, 5) for pool in (*poolings, pooling.ThresholdedAveragePool(threshold=0.1)))
assert method.names()[0] == "cam" and {"has", "acol"} < set(method.names())
network = models.build("small_vgg", 3, poolings[1], weights=None, method="has", method_options={"side": 8})
found = network(torch.rand(2, 3, 32, 32), targets=None)
assert found.logits.shape == (2, 3) and found.features.ndim == 4
assert network.class_weights.shape == (3, found.features.shape[1])
maps = cam.activation_map(F, torch.rand(2, 5), recombination="absolute")
maps = cam.upsample(cam.normalize(maps, how="max"), (8, 6))
assert maps.shape == (2, 8, 6) and maps.max() <= 1
K = len(thresholds.PAPER_GRID)
assert thresholds.boundary_means(maps, candidates=thresholds.PAPER_GRID).shape == (2, K)
eta = thresholds.select(maps, rule="first_above_mean", candidates=thresholds.PAPER_GRID)
assert boxes.largest_boxes(maps, thresholds.PAPER_GRID).shape == (2, K, 4)
overlap = metrics.best_iou(boxes.largest_box(maps, eta), [[(0, 0, 6, 8)], []])
assert overlap.shape == (2,) and overlap[1] == 0
assert set(metrics.localization(overlap, [0, 1], [0, 0], iou=0.5)) == {"top1_cls", "top1_loc", "gt_known"}
"""


def test_what_imports_bring_with_them():
    """In one process, step by step; last, the names that users rely on, before and after every module is imported."""
    everything = f"import {', '.join(MODULES)}"
    script = f"""
import socket, sys
asked = []
socket.socket.connect = socket.getaddrinfo = lambda *a, **k: asked.append(a)
import wsol_utils
assert not {{"torch", "numpy", "pandas", "wsol_utils.common"}} & {{*sys.modules}}, "before a module is asked for"
import wsol_utils.data.sample.render
assert "torch" not in sys.modules, "the sample is rendered without torch"
import wsol_utils.scores.evaluation
assert "numba" not in sys.modules, "it is imported only where boxes are sought"
{USED}
{everything}
{USED}
assert not asked, "a module asked the network"
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_notebooks_import_what_the_package_names():
    places = {getattr(wsol_utils, name).__name__ for name in wsol_utils.__all__}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module == "wsol_utils":
                assert {alias.name for alias in node.names} <= set(wsol_utils.__all__), path.name
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("wsol_utils."):
                assert node.module in places, path.name


@pytest.mark.parametrize("module", MODULES)
def test_module(module):
    """It is short, says what it is, and imports by full names, which `imports` sees."""
    text = MODULES[module].read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 300 and ast.get_docstring(tree)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]


def test_pinned_versions_install_on_every_python_we_support():
    """A pin that asks for a later Python than ours would stop the first command of the README."""
    lowest, versions = PROJECT["requires-python"].removeprefix(">=") + ".0", pinned()
    for distribution in importlib.metadata.distributions():
        name, needed = distribution.metadata["Name"], distribution.metadata.get("Requires-Python") or ""
        if versions.get(canonicalize_name(name)) == distribution.version:
            assert lowest in SpecifierSet(needed), f"{name} {distribution.version} needs Python {needed}"
