"""One forward pass over a split: everything that the later stages need, in one file per network.

A map takes H·W float16 numbers (338 bytes at 13×13); its scale is kept beside it, so nothing overflows.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
FEATURES = ("plain", "weighted", "unrectified")  # P, S⊙P, and P before its ReLU: what a map is made of
PER_IMAGE = ("image_id", "label", "predicted", "logits", "scaled_maps", "scales", "image_size")


@dataclass(frozen=True)
class Predictions:
    """What a network says about the N images of a split, for each image's ground-truth class.

    Attributes:
        image_id: (N,) str.
        label: (N,) int64, the true class.
        predicted: (N,) int64, the class with the highest logit.
        logits: (N, K) float16.
        kinds: (R,) str, which map is which: see `maps_of`.
        scaled_maps: (N, R, H, W) float16, each map divided by its largest magnitude.
        scales: (N, R) float32, those magnitudes.
        box: (M, 4) float32, the true boxes in the network's input frame, half-open pixels.
        box_image: (M,) int64, the image that each box belongs to.
        size: (2,) int64, height and width of that frame.
        image_size: (N, 2) int64, width and height of the original images.
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

    def maps(self, kind: str) -> np.ndarray:
        """(N, H, W) raw maps of one kind, float32 or wider.

        Raises:
            ValueError: if the kind is unknown.
        """
        if kind not in self.kinds:
            raise ValueError(f"these predictions hold no map {kind!r}; choose one of {', '.join(self.kinds)}")
        r = list(self.kinds).index(kind)
        wide = np.promote_types(np.float32, self.scaled_maps.dtype)
        return self.scaled_maps[:, r].astype(wide) * self.scales[:, r, None, None]

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


def predict(
    model: nn.Module, dataset: ImageDataset, image_size: np.ndarray, *,
    batch_size: int = 64, device: str = "cpu", workers: int = 0,
) -> Predictions:  # fmt: skip
    """Run the network once over a split.

    Args:
        model: a network of `models`, `forward(images)` gives logits and features.
        dataset: the split, with a transform that does not augment.
        image_size: (N, 2), width and height of its images.

    Raises:
        FloatingPointError: if features, weights or logits are not finite.
    """
    model.to(device, memory_format=torch.channels_last).eval()
    pool = getattr(model, "pool", lambda features: features.mean(dim=(2, 3)))  # what SqueezeNet's own head takes
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate, pin_memory=device != "cpu")
    parts: dict[str, list] = {name: [] for name in ("label", "logits", "scaled_maps", "scales", "box", "box_image")}
    seen = 0
    for images, labels, boxes in tqdm(loader, desc="predict", unit="batch", disable=QUIET):
        with torch.inference_mode(), _before_relu(model.backbone) as seen_before:
            logits, features = model(images.to(device, memory_format=torch.channels_last, non_blocking=True))
            weights = model.class_weights.float()[labels.to(device)]  # (B, C)
            unrectified = torch.cat(seen_before, dim=1) if seen_before else None
            named = maps_of(features.float(), weights, pool, unrectified)
            maps = torch.stack(list(named.values()), dim=1)  # (B, R, H, W)
        scales = maps.abs().amax(dim=(2, 3))  # (B, R)
        if not (scales.isfinite().all() and logits.isfinite().all()):
            raise FloatingPointError("features, class weights or logits are not finite: lower lr or head_multiplier")
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
        kinds=np.array(list(named)),
        size=np.array(size),
        image_size=np.asarray(image_size),
        **whole | {"logits": whole["logits"].astype(np.float16)},
    )


def maps_of(
    features: Tensor, class_weights: Tensor, pool: Callable[[Tensor], Tensor], unrectified: Tensor | None = None
) -> dict[str, Tensor]:
    """All maps that the notebooks compare, and those of Fig. 2(a).

    Args:
        features: (B, C, H, W), P.
        class_weights: (B, C), of each image's class.
        pool: the network's own pooling; its temperature, if it has one, is that of the spatial softmax S.
        unrectified: (B, C, H, W), the features before the last ReLU, where the network has one there.

    Returns:
        Maps (B, H, W) by name: those that `kind` names, and "strongest_positive" and "strongest_negative",
        the feature maps of the channels with the largest and the smallest contribution to the class score, w_k
        times the pooled F_k.
    """
    image = torch.arange(len(features), device=features.device)
    contribution = class_weights * pool(features)  # (B, C)
    made_of = {"plain": features, "weighted": _softmax_weighted(features, getattr(pool, "temperature", 1.0))}
    if unrectified is not None:
        made_of["unrectified"] = unrectified.float()
    maps = {}
    for name, stack in made_of.items():
        parts = cam.parts(stack, class_weights)
        for recombination, combine in cam.RECOMBINATIONS.items():
            maps.setdefault(kind(recombination, name), combine(*parts))
    maps["strongest_positive"] = features[image, contribution.argmax(dim=1)]
    maps["strongest_negative"] = features[image, contribution.argmin(dim=1)]
    return maps


def kind(recombination: str, features: str = "plain") -> str:
    """The name of a map: of P, of S⊙P ("weighted") or of P before its ReLU ("unrectified").

    Of features that are not negative, both sides of Eq. 3 give the same map: it is kept once, as "absolute".
    """
    if features != "unrectified" and recombination == "absolute_maps":
        recombination = "absolute"
    return recombination if features == "plain" else f"{features}_{recombination}"


def _softmax_weighted(features: Tensor, temperature: float) -> Tensor:
    """S⊙P, the "weighted feature maps" of Sec. 4.1, times H·W so that they keep P's scale."""
    weights = torch.softmax(features.flatten(2) / temperature, dim=2).view_as(features)
    return features * weights * features.shape[2] * features.shape[3]


@contextmanager
def _before_relu(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into the backbone's last ReLU while this lasts; stays empty where the last layer is none.

    SqueezeNet's last layer has two, side by side: their channels follow each other.
    """
    seen: list[Tensor] = []
    last = (list(backbone.children()) or [backbone])[-1]
    halves = [getattr(last, name, None) for name in ("expand1x1_activation", "expand3x3_activation")]
    layers = [last] if isinstance(last, nn.ReLU) else [half for half in halves if half is not None]
    hooks = [  # a copy, as the layer may work in place
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone())) for layer in layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
