"""The conventions that an evaluation follows, each a row of values; the paper (Sec. 5) is silent on most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """Everything between a raw map and a hit that is a convention rather than a method.

    Attributes:
        normalization: how `cam.normalize` scales a map before it is thresholded.
        resolution: "input", maps are upsampled bilinearly to the network's input, or "map".
        candidates: the thresholds that are searched, fractions of the maximum.
        iou: a box is right where its IoU with any true box is at least this.
    """

    normalization: str
    resolution: str
    candidates: tuple[float, ...]
    iou: float


PROTOCOLS = {
    # Zhang et al., Secs. 4.3 and 5: map > η · max with η in 0, 0.05, ..., 1; IoU as Russakovsky et al.
    "paper": Protocol("max", "input", tuple(i / 20 for i in range(21)), 0.5),
}


def get(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
