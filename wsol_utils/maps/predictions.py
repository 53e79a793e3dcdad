"""Keep what one forward pass over a split gives, a folder for each network: all that the later stages need.

Each field is a file of its own, `<field>.npy`, which any other program reads with `numpy.load`. A map takes H·W float16
numbers (338 bytes at 13×13); its scale is kept beside it, so nothing overflows. Files are written and read a part at a
time: memory is flat in the number of images.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from wsol_utils.common import files

FEATURES = ("plain", "weighted", "unrectified")  # P, S⊙P, and P before its ReLU: what a map is made of
OWN = "own"  # the map that a method makes itself, which is not linear in the features
PER_IMAGE = ("image_id", "label", "predicted", "logits", "scaled_maps", "scales", "image_size")
PER_BOX = ("box", "box_image")


@dataclass(frozen=True)
class Predictions:
    """What a network gives for the N images of a split: maps of each image's true class, and of the predicted one.

    Attributes:
        image_id: (N,) str.
        label: (N,) int64, the true class.
        predicted: (N,) int64, the class with the highest logit.
        logits: (N, K) float16.
        kinds: (R,) str, the maps' names: see `kind` and `extract.maps_of`.
        scaled_maps: (N, R, H, W) float16, each map divided by its largest magnitude.
        scales: (N, R) float32, those magnitudes.
        box: (M, 4) float32, the true boxes in the network's input frame, half-open pixels.
        box_image: (M,) int64, the image that each box belongs to.
        size: (2,) int64, height and width of that frame.
        image_size: (N, 2) int64, width and height of the original images.
        identity: a text that tells what they were made from.
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
        """Pick the images of these indices, in this order."""
        true = self.true_boxes()
        box_image = np.repeat(np.arange(len(images)), [len(true[i]) for i in images])
        picked = {name: getattr(self, name)[images] for name in PER_IMAGE}
        return replace(self, **picked, box=np.concatenate([true[i] for i in images]), box_image=box_image)

    def save(self, path: Path) -> None:
        """Write a folder, as `written` does."""
        with written(path, len(self.image_id), len(self.box)) as put:
            put(**{field.name: np.asarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` or `extract.predict` wrote: arrays that are mapped, not loaded.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if a file of it is missing, cut off or something else, or the files do not go together.
        """
        folder, found = _which(path), dict[str, Any]()
        try:
            found = {field.name: _mapped(path / f"{field.name}.npy") for field in fields(cls)}
        except ValueError:
            if _which(path) == folder:
                raise
        if _which(path) != folder:  # another process has put its own there meanwhile
            return cls.load(path)
        lengths = [{found[name].shape[:1] for name in names} for names in (PER_IMAGE, PER_BOX)]
        lengths.append({found["kinds"].shape, found["scaled_maps"].shape[1:2], found["scales"].shape[1:2]})
        if any(len(some) > 1 for some in lengths):
            raise ValueError(f"{path} holds no whole predictions (they do not go together): delete it and run again")
        return cls(**found | {"identity": str(found["identity"])})


FILES = tuple(f"{field.name}.npy" for field in fields(Predictions))  # of a folder


def made_from(path: Path) -> str:
    """Read the identity of the predictions in a folder; "" where they are not whole, or have none."""
    try:
        return Predictions.load(path).identity
    except (OSError, ValueError):
        return ""


@contextmanager
def written(path: Path, images: int, boxes: int) -> Iterator[Callable[..., None]]:
    """Write a folder of N images and M boxes part by part, whole or not at all; memory does not grow with them.

    Yields:
        A function that takes fields of `Predictions` by name: of those with a row for each image or box the rows that
        follow the earlier ones, of the others the whole.

    Raises:
        OSError: naming the folder and the remedy.
        ValueError: if there are more or fewer rows than N and M.
    """
    totals = dict.fromkeys(PER_IMAGE, images) | dict.fromkeys(PER_BOX, boxes)
    with files.written(path) as folder:
        folder.mkdir()

        def put(**arrays: np.ndarray) -> None:
            for name, rows in arrays.items():
                with open(folder / f"{name}.npy", "ab" if name in totals else "wb") as file:
                    if not file.tell():
                        shape = (totals[name], *rows.shape[1:]) if name in totals else rows.shape
                        header = {"descr": npy.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
                        npy.write_array_header_1_0(file, header)
                    file.write(rows.tobytes())

        yield put
        Predictions.load(folder)


def _which(folder: Path) -> tuple[int, int]:
    """Tell a folder from the next one of its name."""
    about = folder.stat()
    return about.st_ino, about.st_mtime_ns


def _mapped(file: Path) -> np.ndarray:
    """Map an array of a folder, read-only: a part is read when it is looked at."""
    try:
        array = npy.open_memmap(file, "r")
        if file.stat().st_size != array.offset + array.nbytes:
            raise ValueError("it is too long")
        return array
    except Exception as error:  # NumPy's reader raises many kinds
        problem = f"{file.name} is missing, cut off or something else: {error}"
        raise ValueError(f"{file.parent} holds no whole predictions ({problem}): delete it and run again") from error


def recombined(predictions: Predictions, recombinations: Sequence[str], features: str = "plain") -> dict[str, str]:
    """Give each recombination the name of its map; a method that makes its own map has that one alone."""
    own = OWN in predictions.kinds
    return {OWN: OWN} if own else {name: kind(name, features) for name in recombinations}


def kind(recombination: str, features: str = "plain") -> str:
    """Name a map of the true class: of P, of S⊙P ("weighted") or of P before its ReLU ("unrectified").

    "predicted" names a map of P for the class that the network predicts. Of features that are not negative, both sides
    of Eq. 3 give the same map, which is kept once, as "absolute".
    """
    if features != "unrectified" and recombination == "absolute_maps":
        recombination = "absolute"
    return recombination if features == "plain" else f"{features}_{recombination}"
