"""The box of the largest connected component of a thresholded map (Zhang et al., Sec. 4.3).

Largest by pixel count, or by the area of OpenCV's contour, as in both reference evaluations.
Boxes are (x0, y0, x1, y1) in pixels, half-open. Tensors and numpy arrays are accepted, and the same kind is returned.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from wsol_utils.common.checks import Array, floating_maps, like, numpy, one_of, tensor

COMPONENTS = ("pixels", "contour")  # what makes a component the largest: its pixels, or its contour's area


def largest_boxes(maps: Array, thresholds: Sequence[float] | np.ndarray | Tensor, component: str = "pixels") -> Array:
    """Find the largest component's box of every map at every threshold.

    Mask: map > η · max, strictly, computed in the map's dtype. Components are 8-connected; the largest
    has the most pixels, ties go to the one whose first pixel comes first in row-major order.

    Args:
        maps: (B, H, W).
        thresholds: (K,), fractions of each map's maximum; or (B, K), for each map its own.
        component: "pixels", or "contour" for the largest by the area of its contour, as in `contour_boxes`; ties go to
            OpenCV's first.

    Returns:
        (B, K, 4) int64; (0, 0, 0, 0) where nothing is above the threshold.

    Raises:
        ValueError: if a shape is wrong, the component is unknown, or the maps are not floating point or not finite.
    """
    one_of("component", component, COMPONENTS)
    values = floating_maps(maps)
    eta = tensor(thresholds).detach().to(values)  # in the maps' dtype
    if eta.ndim not in (1, 2):
        raise ValueError(f"thresholds must be (K,) or (B, K), got {tuple(eta.shape)}")
    images = numpy(values)
    cuts: np.ndarray = numpy(eta * values.amax(dim=(1, 2))[:, None])  # (B, K)
    if component == "pixels":
        from wsol_utils.boxes import compiled  # here, because numba takes a moment to import

        return like(maps, torch.from_numpy(compiled.largest_boxes(images, cuts, torch.get_num_threads())))
    boxes = np.zeros((*cuts.shape, 4), dtype=np.int64)
    for image, levels, found in zip(images, cuts, boxes, strict=True):
        for k, several in enumerate(_contour_boxes(image, levels)):
            found[k] = several[0]
    return like(maps, torch.from_numpy(boxes))


def largest_box(maps: Array, thresholds: Sequence[float] | np.ndarray | Tensor, component: str = "pixels") -> Array:
    """Find the largest component's box of every map, each at its own threshold.

    Args:
        maps: (B, H, W).
        thresholds: (B,), a fraction of its maximum for each map.
        component: as for `largest_boxes`.

    Returns:
        (B, 4) int64, as `largest_boxes` gives them.

    Raises:
        ValueError: if the lengths differ, or as `largest_boxes`.
    """
    eta = tensor(thresholds)
    if eta.shape != maps.shape[:1]:
        raise ValueError(f"{len(maps)} maps need as many thresholds, got {tuple(eta.shape)}")
    return largest_boxes(maps, eta[:, None], component)[:, 0]


def contour_boxes(image: np.ndarray, thresholds: Sequence[float]) -> list[np.ndarray]:
    """Find the boxes of all contours of one map at every threshold, for MaxBoxAccV2 of Choe et al.

    Contours are OpenCV's: the outer ones of a mask's components, and those of their holes. The largest encloses the
    largest area; contours run through pixel centres, so that a line one pixel wide encloses nothing, and a component's
    holes count as filled.

    Args:
        image: (H, W).
        thresholds: (K,), fractions of the map's maximum.

    Returns:
        K arrays (M, 4) int64, the largest contour's box first, one and the same array where two thresholds give the
        same mask; (1, 4) of zeros where nothing is above.
    """
    return _contour_boxes(image, np.asarray(thresholds, dtype=image.dtype) * image.max())  # as for `largest_boxes`


def _contour_boxes(image: np.ndarray, cuts: np.ndarray) -> list[np.ndarray]:
    """The boxes of the contours of the mask above every cut, of each mask once."""
    # as many values below two cuts: the same mask; a single cut shares nothing, so that sorting is not worth it
    keys = [0] if len(cuts) == 1 else np.searchsorted(np.unique(image), cuts, side="right").tolist()
    known: dict[int, np.ndarray] = {}
    for cut, key in zip(cuts, keys, strict=True):
        if key not in known:
            found, _ = cv2.findContours((image > cut).view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            boxes = np.array([cv2.boundingRect(one) for one in found] or [[0, 0, 0, 0]], dtype=np.int64)
            boxes[:, 2:] += boxes[:, :2]  # x, y, width, height -> half-open corners
            areas = [-cv2.contourArea(one) for one in found] or [0]
            known[key] = boxes[np.argsort(areas, kind="stable")]  # equal ones stay in OpenCV's order
    return [known[key] for key in keys]
