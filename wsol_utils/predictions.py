"""One forward pass over a split: everything that the later stages need, in one file per network.

A map takes H·W float16 numbers (338 bytes at 13×13); its scale is kept beside it, so nothing overflows.
"""

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from wsol_utils import cam
from wsol_utils.datasets import ImageDataset, collate

QUIET = bool(os.environ.get("TQDM_DISABLE"))  # as in training
KINDS = (*cam.RECOMBINATIONS, "strongest_positive", "strongest_negative")
PER_IMAGE = ("image_id", "label", "predicted", "logits", "scaled_maps", "scales")


@dataclass(frozen=True)
class Predictions:
    """What a network says about the N images of a split, for each image's ground-truth class.

    Attributes:
        image_id: (N,) str.
        label: (N,) int64, the true class.
        predicted: (N,) int64, the class with the highest logit.
        logits: (N, K) float16.
        kinds: (R,) str: the recombinations (Eqs. 2 and 3), then the feature maps of the channels that
            contribute most with positive and with negative weight, w_k · mean(F_k) (Fig. 2a).
        scaled_maps: (N, R, H, W) float16, each map divided by its largest magnitude.
        scales: (N, R) float32, those magnitudes.
        box: (M, 4) float32, the true boxes in the network's input frame, half-open pixels.
        box_image: (M,) int64, the image that each box belongs to.
        size: (2,) int64, height and width of that frame.
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

    def maps(self, kind: str) -> np.ndarray:
        """(N, H, W) float32 raw maps of one kind.

        Raises:
            ValueError: if the kind is unknown.
        """
        if kind not in self.kinds:
            raise ValueError(f"unknown recombination {kind!r}; choose one of {', '.join(self.kinds)}")
        r = list(self.kinds).index(kind)
        return self.scaled_maps[:, r].astype(np.float32) * self.scales[:, r, None, None]

    def true_boxes(self) -> list[np.ndarray]:
        """N arrays (n, 4) of the true boxes of each image."""
        first = np.searchsorted(self.box_image, np.arange(1, len(self.image_id)))
        return np.split(self.box, first)

    def subset(self, images: np.ndarray) -> "Predictions":
        """The images of these indices, in this order."""
        true = self.true_boxes()
        box_image = np.repeat(np.arange(len(images)), [len(true[i]) for i in images])
        picked = {name: getattr(self, name)[images] for name in PER_IMAGE}
        return replace(self, **picked, box=np.concatenate([true[i] for i in images]), box_image=box_image)

    def save(self, path: Path) -> None:
        """Write a NumPy archive (.npz), under a temporary name first."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        with open(temporary, "wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{field.name: archive[field.name] for field in fields(cls)})


@torch.inference_mode()
def predict(
    model: nn.Module, dataset: ImageDataset, *, batch_size: int = 64, device: str = "cpu", workers: int = 0
) -> Predictions:
    """Run the network once over a split.

    Args:
        model: a network of `models`, `forward(images)` gives logits and features.
        dataset: the split, with a transform that does not augment.

    Raises:
        ValueError: if features or weights are not finite.
    """
    model.to(device, memory_format=torch.channels_last).eval()
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate, pin_memory=device != "cpu")
    parts: dict[str, list] = {name: [] for name in ("label", "logits", "scaled_maps", "scales", "box", "box_image")}
    seen = 0
    for images, labels, boxes in tqdm(loader, desc="predict", unit="batch", disable=QUIET):
        logits, features = model(images.to(device, memory_format=torch.channels_last, non_blocking=True))
        maps = maps_of(features.float(), model.class_weights.float()[labels.to(device)])  # (B, R, H, W)
        scales = maps.abs().amax(dim=(2, 3))  # (B, R)
        parts["label"].append(labels.clone())  # not the worker's shared memory, which is a file handle each
        parts["logits"].append(logits.float().cpu())
        parts["scaled_maps"].append((maps / scales.clamp(min=1e-30)[:, :, None, None]).half().cpu())
        parts["scales"].append(scales.cpu())
        parts["box"].append(torch.cat(boxes))
        parts["box_image"] += [torch.full((len(b),), seen + i) for i, b in enumerate(boxes)]
        seen += len(labels)
        size = images.shape[2:]
    whole = {name: torch.cat(tensors).numpy() for name, tensors in parts.items()}
    return Predictions(
        image_id=dataset.image_ids,
        predicted=whole["logits"].argmax(axis=1),
        kinds=np.array(KINDS),
        size=np.array(size),
        **whole | {"logits": whole["logits"].astype(np.float16)},
    )


def maps_of(features: Tensor, class_weights: Tensor) -> Tensor:
    """All maps of Fig. 2 at once.

    Args:
        features: (B, C, H, W).
        class_weights: (B, C), of each image's class.

    Returns:
        (B, R, H, W), in the order of `KINDS`.
    """
    recombined = [cam.activation_map(features, class_weights, name) for name in cam.RECOMBINATIONS]
    contribution = class_weights * features.mean(dim=(2, 3))  # (B, C)
    image = torch.arange(len(features), device=features.device)
    channels = [features[image, contribution.argmax(dim=1)], features[image, contribution.argmin(dim=1)]]
    return torch.stack(recombined + channels, dim=1)
