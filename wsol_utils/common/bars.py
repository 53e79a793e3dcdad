"""Show progress, rate and remaining time in JupyterLab and in a terminal, unless TQDM_DISABLE is set."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

QUIET = bool(os.environ.get("TQDM_DISABLE"))  # tqdm's bar in notebooks does not read the variable itself
T = TypeVar("T")


def watched(things: Iterable[T], total: int, what: str, unit: str = "image", quiet: bool = QUIET) -> Iterator[T]:
    """Yield the things under a bar, which appears after a second and goes when they are done."""
    return iter(tqdm(things, total=total, desc=what, unit=unit, disable=quiet, delay=1, leave=False))
