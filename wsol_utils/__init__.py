"""Weakly supervised object localisation after Zhang, Chang and Bui: a folder for each station of the road.

`from wsol_utils import cam` gives the module of that name, whatever folder it lies in, and imports it only then.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the one list of the public modules: editors and mypy follow it, and PLACES is read from it
    from wsol_utils import boxes
    from wsol_utils.benchmarks import kernels, throughput
    from wsol_utils.boxes import thresholds
    from wsol_utils.common import arrays, bars, checks, files, imports
    from wsol_utils.data import datasets, download, images, layouts, loader, text, transforms
    from wsol_utils.data.sample import drawing, shapes
    from wsol_utils.data.sample import render as sample
    from wsol_utils.experiment import experiments, handover, parameters, preparation, profiles, stages
    from wsol_utils.figures import findings, plots, reference, tables
    from wsol_utils.maps import cam, extract, predictions
    from wsol_utils.network import checkpoints, lite, method, models, pooling, processes, recipe, training, weights
    from wsol_utils.own_pictures import command, explorer, locate, networks
    from wsol_utils.runner import commands, execute, keep, manifest, record, report, verify
    from wsol_utils.scores import ablations, evaluation, metrics, protocols, statistics
    from wsol_utils.scores.external import masks, metadata, score_maps

PLACES = {  # a module's short name -> where it lies in the package
    alias.asname or alias.name: f"{node.module}.{alias.name}".removeprefix("wsol_utils.")
    for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and str(node.module).startswith("wsol_utils")
    for alias in node.names
}
__all__ = sorted(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{PLACES[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
