"""The conventions that an evaluation follows, each a row of values; the paper (Sec. 5) is silent on most."""

from dataclasses import dataclass, replace

import numpy as np

from wsol_utils.boxes.thresholds import PAPER_GRID
from wsol_utils.common.checks import one_of


@dataclass(frozen=True)
class Protocol:
    """Everything between a raw map and a hit that is a convention rather than a method.

    Attributes:
        frame: side of the resized image as a multiple of the network's input, which is its centre; 1: no crop.
        interpolation: "bilinear" or "bicubic", how maps are upsampled.
        normalization: "max" or "minmax", how `cam.normalize` scales a map before it is thresholded.
        resolution: "input", maps are upsampled to the network's input, or "map".
        levels: 0, maps are compared as they are, map > η · max; or 255: uint8(255 · map) > int(η · max of that).
        component: "pixels", the largest 8-connected component by pixel count; or "contour", by the area that
            OpenCV's contour encloses (through pixel centres, holes filled).
        clip: whether x + width and y + height are clipped to the last pixel's index.
        empty: the box of an empty mask: "none", (0, 0, 0, 0), or "image".
        inclusive: whether IoU takes corners as first and last pixel (+1), with true corners cut to integers.
        last_pixel: whether true boxes end at the last pixel of the original image that they hold, and at the input's
            last pixel at most, whatever their file names. Else `inclusive` takes the corners as the file has them, as
            wsolevaluation does: x + width of CUB, the last pixel of ILSVRC.
        boundary: the mask's boundary in Sec. 4.3, one of `thresholds.BOUNDARIES`.
        candidates: the thresholds that the rule of Sec. 4.3 chooses from, fractions of the maximum.
        grid: the thresholds at which boxes are scored, for curves, the best fixed one and the oracle.
        iou: a box is right where its IoU with any true box is at least this.
    """

    frame: float
    interpolation: str
    normalization: str
    resolution: str
    levels: int
    component: str
    clip: bool
    empty: str
    inclusive: bool
    last_pixel: bool
    boundary: str
    candidates: tuple[float, ...]
    grid: tuple[float, ...]
    iou: float


CHOE_GRID = tuple(i / 1000 for i in range(1000))

# Zhang et al., Secs. 4.3 and 5: map > η · max with η in 0, 0.05, ..., 1; IoU as Russakovsky et al.
PAPER = Protocol(
    frame=1, interpolation="bilinear", normalization="max", resolution="input", levels=0, component="pixels",
    clip=False, empty="none", inclusive=False, last_pixel=False, boundary="8-neighbours", candidates=PAPER_GRID,
    grid=PAPER_GRID, iou=0.5,
)  # fmt: skip
# What both reference evaluations share.
REFERENCE = replace(
    PAPER, interpolation="bicubic", normalization="minmax", levels=255, component="contour", inclusive=True
)
PROTOCOLS = {
    "paper": PAPER,
    # clovaai/wsolevaluation, the code of Choe et al. 2020
    "wsolevaluation": replace(REFERENCE, clip=True, grid=CHOE_GRID),
    # won-bae/rethinkingCAM, the code of Bae et al. 2020; its IoU of disjoint boxes can exceed 1, ours is 0
    "rethinkingcam": replace(REFERENCE, frame=256 / 224, empty="image", last_pixel=True),
}


def get(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        ValueError: if the name is unknown.
    """
    one_of("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def for_last_pixels(protocol: Protocol) -> Protocol:
    """Return the protocol for half-open boxes that were made from a file of last pixels, such as ILSVRC's.

    An inclusive protocol gets the last pixels back: wsolevaluation scores the corners that are in the file, and "paper"
    the area that they enclose.
    """
    return replace(protocol, last_pixel=protocol.last_pixel or protocol.inclusive)


def frame_side(side: int, protocol: Protocol) -> int:
    """Side of the resized image whose centre is the network's input of `side` pixels; its margins are whole pixels."""
    return side + 2 * round(side * (protocol.frame - 1) / 2)


def to_input(boxes: np.ndarray, image_size: tuple[int, int], side: int, protocol: Protocol) -> np.ndarray:
    """Move boxes of an original image to the network's square input: scale, shift by the crop, clip.

    Args:
        boxes: (M, 4) pixels of the original image.
        image_size: its width and height.
        side: of the input, pixels.

    Returns:
        (M, 4) float64 pixels of the input.
    """
    frame = frame_side(side, protocol)
    scaled = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * frame / np.tile(image_size, 2)
    return (scaled - (frame - side) // 2).clip(0, side)
