"""Check what callers give: arrays must be finite, and names must be known."""

import difflib
from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)  # a function that takes either returns the same kind


def tensor(values: Sequence | np.ndarray | Tensor) -> Tensor:
    """A tensor of the same numbers; torch alone takes neither read-only arrays nor negative strides."""
    return values if isinstance(values, Tensor) else torch.as_tensor(np.require(values, requirements=("C", "W")))


def floating(values: Array, name: str = "maps") -> Tensor:
    """A tensor of floating-point numbers, on their device.

    Raises:
        ValueError: if they are of another type, NaN or infinite.
    """
    given = tensor(values)
    if not given.is_floating_point() or not given.isfinite().all():
        raise ValueError(f"{name} must be floating point without NaN or infinity")
    return given


def floating_maps(maps: Array) -> Tensor:
    """Maps (B, H, W) as a tensor without gradients.

    Raises:
        ValueError: if they are not floating point, not finite or of another shape.
    """
    given = tensor(maps).detach()
    if given.ndim != 3:
        raise ValueError(f"maps must be (B, H, W), got {tuple(given.shape)}")
    return floating(given)


def like(given: Array, result: Tensor) -> Array:
    """A result of the same kind as what was given: an array, or a tensor on the same device."""
    return result.to(given.device) if isinstance(given, Tensor) else result.numpy()


def numpy(values: Sequence | np.ndarray | Tensor) -> np.ndarray:
    """An array of the same numbers; half precision becomes float32, because numpy has no bfloat16."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    given = values.detach().cpu()
    return (given.float() if given.dtype in (torch.float16, torch.bfloat16) else given).numpy()


def one_of(what: str, name: str, choices: Collection[str]) -> None:
    """Check that a name is among the choices.

    Raises:
        ValueError: if it is not, with the choices.
    """
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}{hint(name, choices)}; choose one of {', '.join(choices)}")


def hint(name: str, choices: Collection[str]) -> str:
    """Return " (did you mean …?)" where a choice resembles the name, else ""."""
    close = difflib.get_close_matches(str(name), list(choices), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
