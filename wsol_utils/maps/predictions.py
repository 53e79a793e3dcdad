"""What one forward pass over a split says, as one file per network: everything that the later stages need.

A map takes H·W float16 numbers (338 bytes at 13×13); its scale is kept beside it, so nothing overflows. The file is
read a part at a time: memory is flat in the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsol_utils.maps import archive

FEATURES = ("plain", "weighted", "unrectified")  # P, S⊙P, and P before its ReLU: what a map is made of
OWN = "own"  # the map that a method makes itself, which is not linear in the features
PER_IMAGE = ("image_id", "label", "predicted", "logits", "scaled_maps", "scales", "image_size")


@dataclass(frozen=True)
class Predictions:
    """What a network says about the N images of a split: maps of each image's true class, and of the predicted one.

    Attributes:
        image_id: (N,) str.
        label: (N,) int64, the true class.
        predicted: (N,) int64, the class with the highest logit.
        logits: (N, K) float16.
        kinds: (R,) str, which map is which: see `kind` and `maps_of`.
        scaled_maps: (N, R, H, W) float16, each map divided by its largest magnitude.
        scales: (N, R) float32, those magnitudes.
        box: (M, 4) float32, the true boxes in the network's input frame, half-open pixels.
        box_image: (M,) int64, the image that each box belongs to.
        size: (2,) int64, height and width of that frame.
        image_size: (N, 2) int64, width and height of the original images.
        identity: what they were made from, in the words of whoever made them.
    """

    image_id: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray
    kinds: np.ndarray
    scaled_maps: np.ndarray
    scales: np.ndarray
    box: np.ndarray
    box_image: np.ndarray
    size: np.ndarray
    image_size: np.ndarray
    identity: str = ""

    def maps(self, kind: str, rows: slice = slice(None)) -> np.ndarray:
        """(n, H, W) raw maps of one kind, float32 or wider: of all images, or of some rows.

        Raises:
            ValueError: if the kind is unknown.
        """
        if kind not in self.kinds:
            raise ValueError(f"these predictions hold no map {kind!r}; choose one of {', '.join(self.kinds)}")
        r = list(self.kinds).index(kind)
        wide = np.promote_types(np.float32, self.scaled_maps.dtype)
        return np.asarray(self.scaled_maps[rows, r], dtype=wide) * np.asarray(self.scales[rows, r, None, None])

    def true_boxes(self) -> list[np.ndarray]:
        """N arrays (n, 4) of the true boxes of each image."""
        first = np.searchsorted(self.box_image, np.arange(1, len(self.image_id)))
        return np.split(np.asarray(self.box), first)

    def subset(self, images: np.ndarray) -> "Predictions":
        """The images of these indices, in this order."""
        true = self.true_boxes()
        box_image = np.repeat(np.arange(len(images)), [len(true[i]) for i in images])
        picked = {name: getattr(self, name)[images] for name in PER_IMAGE}
        return replace(self, **picked, box=np.concatenate([true[i] for i in images]), box_image=box_image)

    def save(self, path: Path) -> None:
        """Write a NumPy archive (.npz), under a temporary name first."""
        with archive.Writer(path) as writer:
            writer.put(**{field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` or `predict` wrote: arrays that are mapped, not loaded.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is cut off, or holds something else.
        """
        arrays = archive.read(path)
        if missing := {field.name for field in fields(cls)} - {"identity"} - arrays.keys():
            raise ValueError(f"{path} holds no predictions ({min(missing)!r} is missing): delete it and run again")
        identity = str(arrays.get("identity", ""))
        values: dict[str, Any] = {field.name: arrays.get(field.name) for field in fields(cls)}
        return cls(**values | {"identity": identity})


def made_from(path: Path) -> str:
    """The identity of the predictions in a file; "" where there is no whole file, or it has none."""
    try:
        return str(archive.read(path).get("identity", ""))
    except (OSError, ValueError):
        return ""


def recombined(predictions: Predictions, recombinations: Sequence[str], features: str = "plain") -> dict[str, str]:
    """Each recombination with the name of its map; of a method that makes its own map, that one alone."""
    own = OWN in predictions.kinds
    return {OWN: OWN} if own else {name: kind(name, features) for name in recombinations}


def kind(recombination: str, features: str = "plain") -> str:
    """The name of a map of the true class: of P, of S⊙P ("weighted") or of P before its ReLU ("unrectified").

    One of P for the class that the network predicts is named by "predicted". Of features that are not negative, both
    sides of Eq. 3 give the same map: it is kept once, as "absolute".
    """
    if features != "unrectified" and recombination == "absolute_maps":
        recombination = "absolute"
    return recombination if features == "plain" else f"{features}_{recombination}"
