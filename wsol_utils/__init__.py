"""Weakly supervised object localisation after Zhang, Chang and Bui: a folder for each station of the road.

`from wsol_utils import cam` gives the module of that name, whatever folder it lies in, and imports it only then.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_FOLDERS = {
    "common": "arrays bars checks files imports",
    "data": "datasets download layouts loader photographs texts transforms unpacking",
    "data.sample": "drawing shapes",
    "network": "checkpoints method models pooling processes recipe training weights",
    "maps": "cam extract predictions",
    "boxes": "thresholds",
    "scores": "ablations evaluation metrics protocols statistics",
    "scores.external": "masks metadata score_maps",
    "figures": "plots reference tables",
    "experiment": "experiments handover parameters preparation profiles stages",
    "runner": "commands execute keep manifest record report verify",
    "own_pictures": "command explorer locate networks",
    "benchmarks": "kernels throughput",
}
PLACES = {name: f"{folder}.{name}" for folder, names in _FOLDERS.items() for name in names.split()}
PLACES |= {"boxes": "boxes", "sample": "data.sample.render"}
__all__ = sorted(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{PLACES[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # the same for editors and mypy
    from wsol_utils import boxes
    from wsol_utils.benchmarks import kernels, throughput
    from wsol_utils.boxes import thresholds
    from wsol_utils.common import arrays, bars, checks, files, imports
    from wsol_utils.data import datasets, download, layouts, loader, photographs, texts, transforms, unpacking
    from wsol_utils.data.sample import drawing, shapes
    from wsol_utils.data.sample import render as sample
    from wsol_utils.experiment import experiments, handover, parameters, preparation, profiles, stages
    from wsol_utils.figures import plots, reference, tables
    from wsol_utils.maps import cam, extract, predictions
    from wsol_utils.network import checkpoints, method, models, pooling, processes, recipe, training, weights
    from wsol_utils.own_pictures import command, explorer, locate, networks
    from wsol_utils.runner import commands, execute, keep, manifest, record, report, verify
    from wsol_utils.scores import ablations, evaluation, metrics, protocols, statistics
    from wsol_utils.scores.external import masks, metadata, score_maps
