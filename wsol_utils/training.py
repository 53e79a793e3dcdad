"""Fine-tuning with class labels alone (Zhang et al., Sec. 5).

A checkpoint is kept after every epoch and a run that was cut off goes on from it; sampling and
augmentation are functions of seed, epoch and image, so it goes on as if nothing had happened.
"""

import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from wsol_utils import models
from wsol_utils.datasets import ImageDataset, collate

QUIET = bool(os.environ.get("TQDM_DISABLE"))  # tqdm's bar in notebooks does not look there itself
SCHEDULES = ("constant", "onecycle", "steps")


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune, a value each.

    Attributes:
        epochs: passes over the train split.
        batch_size: images a step; a last incomplete batch is dropped.
        lr: the backbone's rate (1e-4 in the paper).
        head_multiplier: the head learns at `lr` times this. Eq. 1's second division makes the pooled
            vector W·H times smaller, so `wgap` needs a far larger one than `gap`.
        weight_decay: of the backbone; divided by `head_multiplier` for the head, so that both shrink
            by the same share a step.
        optimizer: "sgd" (Nesterov momentum 0.9) or "adamw".
        schedule: one of `SCHEDULES`: "constant", "onecycle", or "steps" (of rethinkingCAM: a tenth after
            30, 60 and 90 % of the run).
    """

    epochs: int
    batch_size: int
    lr: float
    head_multiplier: float
    weight_decay: float
    optimizer: str = "sgd"
    schedule: str = "constant"

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"unknown optimizer {self.optimizer!r}; choose one of sgd, adamw")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; choose one of {', '.join(SCHEDULES)}")


def fit(
    model: nn.Module,
    dataset: ImageDataset,
    recipe: Recipe,
    checkpoint: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    fingerprint: str = "",
) -> list[dict[str, float]]:
    """Train `model` in place and write it to `checkpoint`; do nothing again where that is there already.

    Args:
        model: a network of `models.build`, on any device; it is moved to `device`.
        dataset: the train split.
        recipe: rates, epochs, batch size.
        checkpoint: the safetensors file to write.
        seed: of the order of the images.
        device: "cpu", "cuda", …; CUDA computes in bfloat16 where that is safe (autocast).
        workers: processes that decode images.
        fingerprint: whatever else must be equal for a finished or interrupted run to count as this one.

    Returns:
        The history: per epoch its number, mean loss, accuracy in percent, seconds.

    Raises:
        FloatingPointError: if the loss is not finite.
        ValueError: if the train split is smaller than one batch.
    """
    if len(dataset) < recipe.batch_size:
        raise ValueError(f"batch_size {recipe.batch_size} is larger than the train split of {len(dataset)} images")
    identity = json.dumps({**asdict(recipe), "seed": seed, "fingerprint": fingerprint}, sort_keys=True)
    identity = hashlib.sha256(identity.encode()).hexdigest()
    model.to(device, memory_format=torch.channels_last)  # a quarter faster on CPUs, more on GPUs
    done = _finished(model, checkpoint, identity)
    if done is not None:
        return done
    optimizer = _optimizer(model, recipe)
    resume = checkpoint.with_suffix(".resume.safetensors")
    history = _resume(model, optimizer, resume, identity)
    steps = len(dataset) // recipe.batch_size
    with tqdm(
        total=recipe.epochs * steps, initial=len(history) * steps, desc=checkpoint.stem, unit="batch", disable=QUIET
    ) as bar:
        for epoch in range(len(history), recipe.epochs):
            dataset.set_epoch(epoch)
            order = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            loader = DataLoader(
                dataset, recipe.batch_size, shuffle=True, generator=order, drop_last=True,
                num_workers=workers, collate_fn=collate, pin_memory=device != "cpu",
            )  # fmt: skip
            start = time.perf_counter()
            loss, accuracy = _epoch(model, loader, optimizer, recipe, epoch, device, bar)
            seconds = time.perf_counter() - start
            history.append({"epoch": epoch + 1, "loss": loss, "accuracy": accuracy, "seconds": seconds})
            _keep(model, optimizer, history, resume, identity)
    models.save(model, checkpoint, {"identity": identity, "history": json.dumps(history)})
    resume.unlink(missing_ok=True)
    return history


def _epoch(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int, device: str,
    bar: tqdm,
) -> tuple[float, float]:  # fmt: skip
    """One pass over the train split -> mean loss, accuracy in percent."""
    model.train()
    losses, right, seen = 0.0, 0, 0
    for step, (images, labels, _) in enumerate(loader):
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        factor = rate_factor(recipe.schedule, (epoch + step / len(loader)) / recipe.epochs)
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=device != "cpu"):
            logits = model(images).logits.float()  # (B, K)
        loss = nn.functional.cross_entropy(logits, labels)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}: lower lr or head_multiplier")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(labels)
        right += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
        bar.update()
        bar.set_postfix(loss=f"{losses / seen:.3f}", accuracy=f"{100 * right / seen:.1f} %", refresh=False)
    return losses / seen, 100 * right / seen


def rate_factor(schedule: str, progress: float) -> float:
    """The share of its rate that a parameter group learns at, `progress` from 0 to 1 through the run.

    "onecycle" rises linearly from 1/25 over the first 30 % and falls along a cosine to 0.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "steps":
        return 0.1 ** sum(progress >= step for step in (0.3, 0.6, 0.9))
    if progress < 0.3:
        return 0.04 + 0.96 * progress / 0.3
    return 0.5 + 0.5 * math.cos(math.pi * (progress - 0.3) / 0.7)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Two groups, backbone and new layers, each with its full rate under `full_lr`."""
    head = model.new_parameters()
    body = [p for p in model.parameters() if not any(p is q for q in head)]
    k = recipe.head_multiplier
    groups = [
        {"params": body, "full_lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": head, "full_lr": recipe.lr * k, "weight_decay": recipe.weight_decay / k},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)


def _finished(model: nn.Module, checkpoint: Path, identity: str) -> list[dict[str, float]] | None:
    if not checkpoint.is_file():
        return None
    metadata = models.read_metadata(checkpoint)
    if metadata.get("identity") != identity:
        return None
    models.load_into(model, checkpoint)
    return json.loads(metadata["history"])


def _keep(model: nn.Module, optimizer: torch.optim.Optimizer, history: list, path: Path, identity: str) -> None:
    """Model and optimiser state as one safetensors file, the rest in its header."""
    tensors = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{key}": value.contiguous() for key, value in state.items() if isinstance(value, Tensor)
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, metadata={"identity": identity, "history": json.dumps(history)})
    temporary.replace(path)


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, identity: str) -> list[dict[str, float]]:
    """Put back what `_keep` wrote; the history so far, empty where there is nothing of this very run."""
    if not path.is_file() or models.read_metadata(path).get("identity") != identity:
        return []
    history, tensors = json.loads(models.read_metadata(path)["history"]), load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return history
