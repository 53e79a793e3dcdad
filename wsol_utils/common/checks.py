"""Check what callers hand over: arrays of either kind must be finite, and names must be known."""

import difflib
from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)  # of either, and what goes in comes out


def tensor(values: Sequence | np.ndarray | Tensor) -> Tensor:
    """A tensor of the same numbers: torch takes neither read-only arrays nor negative strides."""
    return values if isinstance(values, Tensor) else torch.as_tensor(np.require(values, requirements=("C", "W")))


def floating(values: Array, name: str = "maps") -> Tensor:
    """A tensor of them, on their device; ValueError if they are not floating point, or not finite."""
    given = tensor(values)
    if not given.is_floating_point() or not _finite(given):
        raise ValueError(f"{name} must be floating point without NaN or infinity")
    return given


def floating_maps(maps: Array) -> Tensor:
    """`floating` of (B, H, W), and no other shape; without gradients."""
    given = tensor(maps).detach()
    if given.ndim != 3:
        raise ValueError(f"maps must be (B, H, W), got {tuple(given.shape)}")
    return floating(given)


def like(given: Array, result: Tensor) -> Array:
    """A result as what was given: an array, or a tensor on the same device."""
    return result.to(given.device) if isinstance(given, Tensor) else result.numpy()


def numpy(values: Sequence | np.ndarray | Tensor) -> np.ndarray:
    """An array of the same numbers; half precision as float32, because numpy has no bfloat16."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    given = values.detach().cpu()
    wide = torch.promote_types(given.dtype, torch.float32) if given.is_floating_point() else given.dtype
    return given.to(wide).numpy()


def one_of(what: str, name: str, choices: Collection[str]) -> None:
    """Raise ValueError, naming what there is to choose from, if a name is not among the choices."""
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}{hint(name, choices)}; choose one of {', '.join(choices)}")


def hint(name: str, choices: Collection[str]) -> str:
    """ " (did you mean …?)" where a choice is close to the name, else an empty text."""
    close = difflib.get_close_matches(str(name), list(choices), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _finite(given: Tensor) -> bool:
    """Whether there is neither NaN nor infinity: the extremes tell, in one pass."""
    return given.numel() == 0 or bool(torch.stack(given.aminmax()).isfinite().all())
