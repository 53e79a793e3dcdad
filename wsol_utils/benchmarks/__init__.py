"""How fast the parts are. What is called as `benchmarks.…` lies in `kernels`, which is imported when it is called."""

from importlib import import_module
from typing import Any

__all__ = [
    "EROSIONS",
    "blobs",
    "boxes_by_opencv",
    "compared",
    "disagreements",
    "first_calls",
    "machine",
    "passes",
    "selected_by_erosion",
    "side_by_side",
    "storage",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.kernels"), name)
