"""One forward pass over a split: everything that the later stages need, in one file per network.

A map takes H·W float16 numbers (338 bytes at 13×13); its scale is kept beside it, so nothing overflows. The file is
written while the network runs and read a part at a time: memory is flat in the number of images.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from wsol_utils.common.bars import QUIET
from wsol_utils.data.datasets import ImageDataset
from wsol_utils.data.loading import Batch, Loader, enough_memory
from wsol_utils.maps import archive
from wsol_utils.maps.class_maps import forward, kind
from wsol_utils.network import distributed

__all__ = ["Predictions", "kind", "made_from", "predict"]  # a map's name belongs here too

Arrays = dict[str, np.ndarray]
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


def predict(
    model: nn.Module, dataset: ImageDataset, image_size: np.ndarray, *,
    batch_size: int = 64, device: str = "cpu", workers: int = 0, decoder: str = "pillow",
    path: Path | None = None, identity: str = "",
) -> Predictions:  # fmt: skip
    """Run the network once over a split, and write what it says batch by batch: memory is flat in the images.

    Of several processes each takes every so many-th batch, and the first one writes them all, in their order.

    Args:
        model: a network of `models`, `forward(images)` gives logits and features.
        dataset: the split, with a transform that does not augment.
        image_size: (N, 2), width and height of its images.
        workers, decoder: as `loading.Loader` has them.
        path: the file to write, which the predictions are then mapped from; without one they come in memory.
        identity: what they are made from, to be kept with them; see `made_from`.

    Raises:
        FloatingPointError: if features, weights or logits are not finite, naming the batch and the images.
        MemoryError: if a batch is too large.
        ValueError: if there is no image, or several processes have no path.
    """
    if not len(dataset):
        raise ValueError("there is no image to predict: the split is empty")
    if path is None and distributed.size() > 1:
        raise ValueError("several processes hand their predictions on by a file: give a path")
    model.to(device).to(memory_format=torch.channels_last).eval()
    batches = [range(len(dataset))[start : start + batch_size] for start in range(0, len(dataset), batch_size)]
    computed = _computed(model, Loader(dataset, device, workers, decoder=decoder), batches)
    with TemporaryDirectory() as folder:
        file = path or Path(folder) / "predictions.npz"
        with archive.Writer(file) if distributed.rank() == 0 else nullcontext() as writer:
            with enough_memory(batch_size, "prediction_batch_size"):
                for rows, whole in computed:  # the other processes get nothing
                    assert writer is not None
                    writer.append(**rows)
                    writer.put(**whole)
            if writer:
                writer.put(image_size=np.asarray(image_size), identity=np.array(identity))
        distributed.wait()
        found = Predictions.load(file)
        if path:
            return found
        copies: dict[str, Any] = {name: np.array(value) for name, value in vars(found).items() if name != "identity"}
        return replace(found, **copies)


def made_from(path: Path) -> str:
    """The identity of the predictions in a file; "" where there is no whole file, or it has none."""
    try:
        return str(archive.read(path).get("identity", ""))
    except (OSError, ValueError):
        return ""


def _computed(model: nn.Module, loader: Loader, batches: Sequence[range]) -> Iterator[tuple[Arrays, Arrays]]:
    """For the first process, of every batch in order: what grows with the images, and what does not."""
    mine = batches[distributed.rank() :: distributed.size()]
    own = (_of_batch(model, loader, *some) for some in zip(mine, loader.batches(mine), strict=True))
    rounds = range(0, len(batches), distributed.size())
    for _ in tqdm(rounds, desc="predict", unit="batch", disable=QUIET or distributed.rank() > 0):
        yield from filter(None, distributed.gather(next(own, None)) or [])  # the last round may be short


def _of_batch(model: nn.Module, loader: Loader, batch: range, loaded: Batch) -> tuple[Arrays, Arrays]:
    images, labels, boxes = loaded
    kinds, tensors = forward(model, images, labels)
    if not (finite := tensors.pop("finite").cpu().numpy()).all():
        bad = loader.dataset.image_ids[batch.start : batch.stop][~finite]
        raise FloatingPointError(
            "features, class weights or logits are not finite in the batch of images "
            f"{batch.start + 1} to {batch.stop} ({', '.join(bad)}): lower lr or head_multiplier, and train again"
        )
    rows = {name: tensor.cpu().numpy() for name, tensor in tensors.items()} | {
        "image_id": loader.dataset.image_ids[batch.start : batch.stop],
        "label": loader.dataset.labels[batch.start : batch.stop],
        "box": torch.cat(boxes).numpy(),
        "box_image": np.repeat(batch, [len(some) for some in boxes]),
    }
    return rows, {"kinds": np.array(kinds), "size": np.array(images.shape[2:])}
