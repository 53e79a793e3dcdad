"""Boxes and overlaps as both reference evaluations compute them, one mask and one pair of boxes at a time."""

import cv2
import numpy as np


def contours(mask):
    """Every contour of a mask (H, W), in OpenCV's order: its area, its half-open box, its vertices (M, 2) as x, y."""
    found, _ = cv2.findContours(np.asarray(mask, np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    boxed = ((one, *cv2.boundingRect(one)) for one in found)
    return [(cv2.contourArea(one), [x, y, x + w, y + h], one[:, 0]) for one, x, y, w, h in boxed]


def largest_contour(mask, empty):
    """The box of the contour that encloses most; `empty` where there is none."""
    return max(contours(mask), key=lambda found: found[0], default=(0, empty))[1]


def inclusive_iou(a, b):
    """IoU of two boxes whose corners are their first and last pixels."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(width, 0) * max(height, 0)
    return common / (sum((x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (a, b)) - common)
