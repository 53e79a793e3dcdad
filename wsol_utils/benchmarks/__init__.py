"""How fast the parts are. What is called as `benchmarks.…` lies in `kernels`, which is imported only then."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("kernels", "throughput"):  # modules of this folder
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.kernels"), name)
