"""Make every map that is kept in one forward pass over a split, batch by batch (Zhang et al., Eqs. 2 and 3)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from wsol_utils.common.bars import QUIET
from wsol_utils.data.datasets import ImageDataset
from wsol_utils.data.loader import Batch, Loader, enough_memory
from wsol_utils.maps import cam
from wsol_utils.maps.predictions import OWN, Predictions, kind, written
from wsol_utils.network import processes

FEW = 8  # images that a CPU takes at a time: their activations stay in its cache
Arrays = dict[str, np.ndarray]


def predict(
    model: nn.Module, dataset: ImageDataset, image_size: np.ndarray, *,
    batch_size: int = 64, device: str = "cpu", workers: int = 0, decoder: str = "pillow",
    path: Path | None = None, identity: str = "",
) -> Predictions:  # fmt: skip
    """Run the network once over a split, and write what it gives batch by batch: memory is flat in the images.

    With n processes, each takes every n-th batch, and the first process writes them all in order.

    Args:
        model: a network of `models`, `forward(images)` gives logits and features.
        dataset: the split, with a transform that does not augment.
        image_size: (N, 2), width and height of its images.
        workers, decoder: as `loader.Loader` has them.
        path: the folder to write and then to map the predictions from, which several processes need; without it they
            come in memory.
        identity: a text to keep with them, that tells what they are made from; see `made_from`.

    Raises:
        FloatingPointError: if features, weights or logits are not finite, naming the batch and the images.
        MemoryError: if a batch is too large.
        ValueError: if there is no image.
    """
    if not len(dataset):
        raise ValueError("there is no image to predict: the split is empty")
    model.to(device).to(memory_format=torch.channels_last).eval()
    batches = [range(len(dataset))[start : start + batch_size] for start in range(0, len(dataset), batch_size)]
    computed = _computed(model, Loader(dataset, device, workers, decoder=decoder), batches)
    with TemporaryDirectory() as folder:
        target, boxes = path or Path(folder) / "predictions", int(dataset.ends[-1])
        with written(target, len(dataset), boxes) if processes.rank() == 0 else nullcontext() as put:
            with enough_memory(batch_size, "prediction_batch_size"):
                for arrays in computed:  # none in the other processes
                    assert put is not None
                    put(**arrays)
            if put:
                put(image_size=np.asarray(image_size), identity=np.array(identity))
        processes.wait()
        found = Predictions.load(target)
        if path:
            return found
        copies: dict[str, Any] = {name: np.array(value) for name, value in vars(found).items() if name != "identity"}
        return replace(found, **copies)


@torch.inference_mode()
def forward(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[list[str], dict[str, Tensor]]:
    """Run the network on a batch (B, 3, H, W) with labels (B,), on its device; on a CPU, on a few images at a time.

    Returns:
        The R names of the maps; and predicted (B,), logits (B, K) float16, scaled_maps (B, R, H', W') float16 and
        scales (B, R) as `Predictions` has them, and "finite" (B,), whether all of these are finite.
    """
    if images.device.type == "cpu" and len(images) > FEW:
        parts = [forward(model, *some) for some in zip(images.split(FEW), labels.split(FEW), strict=True)]
        return parts[0][0], {name: torch.cat([found[name] for _, found in parts]) for name in parts[0][1]}
    with _before_last_relu(model) as before:
        logits, features, *_ = model(images)
    logits = logits.float()
    predicted = logits.argmax(dim=1)
    method = getattr(model, "method", None)
    if method is None or method.linear:
        pool = getattr(model, "pool", lambda features: features.mean(dim=(2, 3)))  # what SqueezeNet's own head takes
        weights = cast(Tensor, model.class_weights).float()
        unrectified = torch.cat(before, dim=1) if before else None
        named = maps_of(features.float(), weights[labels], pool, unrectified, predicted=weights[predicted])
    else:
        named = {OWN: method.maps(model, images, labels).float()}
    maps = torch.stack(list(named.values()), dim=1)  # (B, R, H', W')
    scales = maps.abs().amax(dim=(2, 3))
    scaled = (maps / scales.clamp(min=1e-30)[:, :, None, None]).half()
    halves = logits.half()  # infinite beyond 65504, which only a network that diverged reaches
    finite = scales.isfinite().all(dim=1) & halves.isfinite().all(dim=1)
    found = {"predicted": predicted, "logits": halves, "scaled_maps": scaled, "scales": scales, "finite": finite}
    return list(named), found


def maps_of(
    features: Tensor, class_weights: Tensor, pool: Callable[[Tensor], Tensor], unrectified: Tensor | None = None, *,
    predicted: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Make all maps that the notebooks compare, and those of Fig. 2(a).

    Args:
        features: (B, C, H, W), P.
        class_weights: (B, C), of each image's class.
        pool: the network's own pooling; its temperature, if it has one, is that of the spatial softmax S.
        unrectified: (B, C, H, W), the features before the last ReLU, where the network has one there.
        predicted: (B, C), the weights of the class that the network predicts.

    Returns:
        Maps (B, H, W) by name: those that `kind` names, and "strongest_positive" and "strongest_negative", the
        feature maps of the channels with the largest and the smallest contribution, w_k times the pooled F_k, to the
        class score.
    """
    image = torch.arange(len(features), device=features.device)
    contribution = class_weights * pool(features)  # (B, C)
    area = features.shape[2] * features.shape[3]  # S⊙P times H·W keeps P's scale
    weighted = _softmax_weighted(features, getattr(pool, "temperature", 1.0))
    classes = [class_weights] if predicted is None else [class_weights, predicted]
    parts = dict(zip(("plain", "predicted"), _parts(features, *classes), strict=False))
    (parts["weighted"],) = _parts(weighted, class_weights * area)
    if unrectified is not None:
        (parts["unrectified"],) = _parts(unrectified.float(), class_weights)
    maps: dict[str, Tensor] = {}
    for name, (m_p, m_n) in parts.items():
        for recombination, combine in cam.RECOMBINATIONS.items():
            maps.setdefault(kind(recombination, name), combine(m_p, m_n))
    maps["strongest_positive"] = features[image, contribution.argmax(dim=1)]
    maps["strongest_negative"] = features[image, contribution.argmin(dim=1)]
    return maps


def _parts(stack: Tensor, *weights: Tensor) -> Tensor:
    """M_p and M_n (Eq. 2) for G classes of each image in one product: (B, C, H, W), G × (B, C) -> (G, 2, B, H, W)."""
    signs = torch.stack([part for of in weights for part in (of.clamp(min=0), of.clamp(max=0))], dim=1)  # (B, 2·G, C)
    both = stack.permute(0, 2, 3, 1).flatten(1, 2) @ signs.transpose(1, 2)  # (B, H·W, C), a view, with (B, C, 2·G)
    return both.permute(2, 0, 1).reshape(-1, 2, len(stack), *stack.shape[2:])


def _softmax_weighted(features: Tensor, temperature: float) -> Tensor:
    """S⊙P, the "weighted feature maps" of Sec. 4.1: (B, C, H, W) -> the same, channels last."""
    flat = features.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H·W, C): as it lies in memory, channels last
    weights = torch.softmax(flat if temperature == 1 else flat / temperature, dim=1)
    return weights.mul_(flat).unflatten(1, features.shape[2:]).permute(0, 3, 1, 2)


@contextmanager
def _before_last_relu(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what goes into the backbone's last ReLU in the next pass; nothing where the last layer is no ReLU.

    SqueezeNet's last layer has two ReLUs, side by side: their channels follow each other.
    """
    backbone, before = model.get_submodule("backbone"), list[Tensor]()
    last = [backbone, *backbone.children()][-1]
    halves = (getattr(last, name, None) for name in ("expand1x1_activation", "expand3x3_activation"))
    layers = [layer for layer in (last, *halves) if isinstance(layer, nn.ReLU)]
    in_place = [layer.inplace for layer in layers]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0])) for layer in layers]
    try:
        for layer in layers:
            layer.inplace = False  # so that what went in is still there, uncopied
        yield before
    finally:
        for layer, hook, was in zip(layers, hooks, in_place, strict=True):
            hook.remove()
            layer.inplace = was


def _computed(model: nn.Module, loader: Loader, batches: Sequence[range]) -> Iterator[Arrays]:
    """Give the first process the fields of `Predictions` for every batch, in order; the other processes nothing."""
    mine = batches[processes.rank() :: processes.size()]
    own = (_of_batch(model, loader, *some) for some in zip(mine, loader.batches(mine), strict=True))
    rounds = range(0, len(batches), processes.size())
    for _ in tqdm(rounds, desc="predict", unit="batch", disable=QUIET or processes.rank() > 0):
        yield from filter(None, processes.gather(next(own, None)) or [])  # the last round may be short


def _of_batch(model: nn.Module, loader: Loader, batch: range, loaded: Batch) -> Arrays:
    images, labels, boxes = loaded
    kinds, tensors = forward(model, images, labels)
    if not (finite := tensors.pop("finite").cpu().numpy()).all():
        bad = loader.dataset.image_ids[batch.start : batch.stop][~finite]
        raise FloatingPointError(
            "features, class weights or logits are not finite in the batch of images "
            f"{batch.start + 1} to {batch.stop} ({', '.join(bad)}): lower lr or head_multiplier, and train again"
        )
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()} | {
        "image_id": loader.dataset.image_ids[batch.start : batch.stop],
        "label": loader.dataset.labels[batch.start : batch.stop],
        "box": torch.cat(boxes).numpy(),
        "box_image": np.repeat(batch, [len(some) for some in boxes]),
        "kinds": np.array(kinds),
        "size": np.array(images.shape[2:]),
    }
