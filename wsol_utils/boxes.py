"""The box of the largest connected component of a thresholded map (Zhang et al., Sec. 4.3).

Boxes are (x0, y0, x1, y1) in pixels, half-open. Tensors and numpy arrays are accepted, and the same
kind is returned.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

Array = Tensor | np.ndarray
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def largest_boxes(maps: Array, thresholds: Sequence[float] | Array) -> Array:
    """The largest component's box of every map at every threshold.

    Mask: map > η · max, strictly, computed in the map's dtype. Components are 8-connected; the largest
    has the most pixels, ties go to the one whose first pixel comes first in row-major order.

    Args:
        maps: (B, H, W).
        thresholds: (K,), fractions of each map's maximum.

    Returns:
        (B, K, 4) int64; (0, 0, 0, 0) where nothing is above the threshold.

    Raises:
        ValueError: if a shape is wrong, or the maps are not floating point or not finite.
    """
    values = _floating(maps)
    eta = _tensor(thresholds).to(values)  # (K,), in the maps' dtype
    if eta.ndim != 1:
        raise ValueError(f"thresholds must be (K,), got {tuple(eta.shape)}")
    return _like(maps, _boxes(values, eta.expand(len(values), -1)))


def largest_box(maps: Array, thresholds: Sequence[float] | Array) -> Array:
    """The largest component's box of every map, each at its own threshold.

    Args:
        maps: (B, H, W).
        thresholds: (B,), a fraction of its maximum for each map.

    Returns:
        (B, 4) int64, as `largest_boxes` gives them.

    Raises:
        ValueError: if a shape is wrong or the lengths differ, or the maps are not floating point or not finite.
    """
    values = _floating(maps)
    eta = _tensor(thresholds).to(values)
    if eta.shape != values.shape[:1]:
        raise ValueError(f"{len(values)} maps need as many thresholds, got {tuple(eta.shape)}")
    return _like(maps, _boxes(values, eta[:, None])[:, 0])


def _boxes(values: Tensor, eta: Tensor) -> Tensor:
    """(B, H, W) maps and (B, K) thresholds -> (B, K, 4)."""
    cuts = (eta * values.amax(dim=(1, 2))[:, None]).cpu().numpy()  # (B, K), in the maps' dtype
    boxes = np.zeros((*eta.shape, 4), dtype=np.int64)
    for image, levels, found in zip(values.cpu().numpy(), cuts, boxes, strict=True):
        for k, level in enumerate(levels):
            found[k] = _largest_component(image > level)
    return torch.from_numpy(boxes).to(values.device)


def _largest_component(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    top, left = rows[0], columns[0]  # only the part that holds anything is labelled
    labels, _ = ndimage.label(mask[top : rows[-1] + 1, left : columns[-1] + 1], structure=EIGHT_NEIGHBOURS)
    sizes = np.bincount(labels.ravel())[1:]  # labels are numbered in row-major order
    rows, columns = ndimage.find_objects(labels)[int(sizes.argmax())]  # argmax: the first of a tie
    return left + columns.start, top + rows.start, left + columns.stop, top + rows.stop


def _tensor(values: Sequence[float] | Array) -> Tensor:
    if not isinstance(values, Tensor):  # torch takes neither read-only arrays nor negative strides
        values = np.require(values, requirements=("C", "W"))
    return torch.as_tensor(values).detach()


def _floating(maps: Array) -> Tensor:
    tensor = _tensor(maps)
    if tensor.ndim != 3:
        raise ValueError(f"maps must be (B, H, W), got {tuple(tensor.shape)}")
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise ValueError("maps must be floating point without NaN or infinity")
    return tensor


def _like(given: Array, result: Tensor) -> Array:
    return result if isinstance(given, Tensor) else result.numpy()
