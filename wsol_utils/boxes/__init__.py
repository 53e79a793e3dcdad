"""From maps to boxes: the threshold of each map (Sec. 4.3), and the box of the largest component above it."""

from wsol_utils.boxes.largest import COMPONENTS, contour_boxes, largest_box, largest_boxes

__all__ = ["COMPONENTS", "contour_boxes", "largest_box", "largest_boxes"]
