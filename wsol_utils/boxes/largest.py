"""The box of the largest connected component of a thresholded map (Zhang et al., Sec. 4.3).

Largest by pixel count, or by the area of OpenCV's contour as both reference evaluations have it.

Boxes are (x0, y0, x1, y1) in pixels, half-open. Tensors and numpy arrays are accepted, and the same
kind is returned.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from wsol_utils.common.checks import Array, floating_maps, like, numpy, one_of, tensor

COMPONENTS = ("pixels", "contour")  # what makes a component the largest: its pixels, or its contour's area


def largest_boxes(maps: Array, thresholds: Sequence[float] | Array, component: str = "pixels") -> Array:
    """The largest component's box of every map at every threshold.

    Mask: map > η · max, strictly, computed in the map's dtype. Components are 8-connected; the largest
    has the most pixels, ties go to the one whose first pixel comes first in row-major order.

    Args:
        maps: (B, H, W).
        thresholds: (K,), fractions of each map's maximum.
        component: "pixels", or "contour" for the largest by `contours`' area, ties to the first of them.

    Returns:
        (B, K, 4) int64; (0, 0, 0, 0) where nothing is above the threshold.

    Raises:
        ValueError: if a shape is wrong, the component is unknown, or the maps are not floating point or not finite.
    """
    values = floating_maps(maps)
    eta = tensor(thresholds).detach().to(values)  # (K,), in the maps' dtype
    if eta.ndim != 1:
        raise ValueError(f"thresholds must be (K,), got {tuple(eta.shape)}")
    return like(maps, _boxes(values, eta.expand(len(values), -1), component))


def largest_box(maps: Array, thresholds: Sequence[float] | Array, component: str = "pixels") -> Array:
    """The largest component's box of every map, each at its own threshold.

    Args:
        maps: (B, H, W).
        thresholds: (B,), a fraction of its maximum for each map.
        component: as for `largest_boxes`.

    Returns:
        (B, 4) int64, as `largest_boxes` gives them.

    Raises:
        ValueError: if a shape is wrong, the lengths differ, the component is unknown, or the maps are not
            floating point or not finite.
    """
    values = floating_maps(maps)
    eta = tensor(thresholds).detach().to(values)
    if eta.shape != values.shape[:1]:
        raise ValueError(f"{len(values)} maps need as many thresholds, got {tuple(eta.shape)}")
    return like(maps, _boxes(values, eta[:, None], component)[:, 0])


def contours(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All contours of a mask as OpenCV follows them, the outer ones of its components and those of their holes.

    Args:
        mask: (H, W) bool.

    Returns:
        (M, 4) int64 boxes, the largest contour's first, and (M,) the areas that the contours enclose; they run
        through pixel centres, so a line one pixel wide encloses nothing, and a component's holes count as filled.
    """
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = np.array([cv2.boundingRect(contour) for contour in found], dtype=np.int64).reshape(-1, 4)
    rectangles[:, 2:] += rectangles[:, :2]  # x, y, width, height -> half-open corners
    areas = np.array([cv2.contourArea(contour) for contour in found])
    order = np.argsort(-areas, kind="stable")  # equal ones stay in OpenCV's order
    return rectangles[order], areas[order]


def contour_boxes(image: np.ndarray, thresholds: Sequence[float]) -> list[np.ndarray]:
    """The boxes of all contours of one map at every threshold, for MaxBoxAccV2 of Choe et al.

    Args:
        image: (H, W).
        thresholds: (K,), fractions of the map's maximum.

    Returns:
        K arrays (M, 4) int64, the largest contour's box first, one and the same array where two thresholds give the
        same mask; (1, 4) of zeros where nothing is above.
    """
    cuts = np.asarray(thresholds, dtype=image.dtype) * image.max()  # in the map's dtype, as for `largest_boxes`
    return _at_every_threshold(image, cuts, _contour_boxes)


def _boxes(values: Tensor, eta: Tensor, component: str) -> Tensor:
    """(B, H, W) maps and (B, K) thresholds -> (B, K, 4)."""
    one_of("component", component, COMPONENTS)
    cuts = numpy(eta * values.amax(dim=(1, 2))[:, None])  # (B, K), computed in the maps' dtype
    if component == "pixels":
        from wsol_utils.boxes import compiled  # here, because numba takes a moment to import

        boxes = compiled.largest_boxes(numpy(values), cuts, torch.get_num_threads())
    else:
        boxes = np.zeros((*eta.shape, 4), dtype=np.int64)
        for image, levels, found in zip(numpy(values), cuts, boxes, strict=True):
            largest = _at_every_threshold(image, levels, lambda mask: _contour_boxes(mask)[0])
            found[:] = np.reshape(largest, (-1, 4))  # K may be 0
    return torch.from_numpy(boxes).to(values.device)


def _at_every_threshold(image: np.ndarray, cuts: np.ndarray, what: Callable) -> list:
    """`what` of the mask above every cut, computed once for each mask."""
    if len(cuts) == 1:  # nothing to share: no need to sort
        return [what(image > cuts[0])]
    known: dict[int, object] = {}
    below = np.searchsorted(np.unique(image), cuts, side="right")  # as many values below two cuts: the same mask
    for cut, key in zip(cuts, below, strict=True):
        if key not in known:
            known[key] = what(image > cut)
    return [known[key] for key in below]


def _contour_boxes(mask: np.ndarray) -> np.ndarray:
    found, _ = contours(mask)
    return found if len(found) else np.zeros((1, 4), dtype=np.int64)
