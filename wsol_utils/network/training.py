"""Fine-tune a network with class labels alone (Zhang et al., Sec. 5).

A run keeps a checkpoint after every epoch, and every so many steps. One that was cut off goes on from there to the same
bits: order and augmentation are functions of seed, epoch and image. Under torchrun each process takes its share of
every batch (see the module `processes`).
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from wsol_utils.common.bars import QUIET
from wsol_utils.data.loader import Loader, enough_memory
from wsol_utils.network import checkpoints, models, processes
from wsol_utils.network.method import Key, Method
from wsol_utils.network.recipe import Recipe, rate_factor

LOOK = 20  # steps between two looks at the loss on a GPU, each of which makes it wait


def fit(
    model: nn.Module, loader: Loader, recipe: Recipe, checkpoint: Path, *,
    seed: int = 0, compiled: bool = False, keep_every: int = 0, fingerprint: str = "", about: dict | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Train `model` in place and write it to `checkpoint`; read it from there where the same run wrote it before.

    Args:
        model: a network of `models.build`; it is moved to the loader's device, where a GPU computes in bfloat16 as
            far as that is safe (autocast).
        loader: of the train split.
        recipe: rates, epochs, batch size.
        checkpoint: the safetensors file to write.
        seed: of the order of the images.
        compiled: whether torch compiles the network first: a minute that a long run on a GPU wins back.
        keep_every: steps between two checkpoints within an epoch; 0 for none.
        fingerprint: whatever else must be equal for a finished or interrupted run to count as this one.
        about: what the file is to say of the network, as of `models.save`.

    Returns:
        The history: for each epoch its number, mean loss and accuracy in percent; and its seconds, where this process
        trained it. They are not in the file, so that equal runs write equal files.

    Raises:
        FloatingPointError: if the loss is not finite, naming the batch and its images, or the weights are not.
        MemoryError: if a batch is too large.
        ValueError: if the train split is smaller than one batch.
    """
    if len(loader.dataset) < recipe.batch_size:
        split = f"the train split of {len(loader.dataset)} images"
        raise ValueError(f"batch_size {recipe.batch_size} is larger than {split}: lower it")
    identity = identity_of(recipe, seed, fingerprint)
    model.to(loader.device).to(memory_format=torch.channels_last)  # a quarter faster on CPUs, more on GPUs
    history = checkpoints.finished(checkpoint, identity, model)
    if history is None:
        run = _Run(model, loader, recipe, seed, checkpoint, identity, keep_every)
        with enough_memory(recipe.batch_size, "batch_size or cache_gb"):
            history = run.to_the_end(compiled)
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise FloatingPointError("the weights are not finite after the last batch: lower lr or head_multiplier")
        if processes.rank() == 0:
            timeless = [{name: epoch[name] for name in ("epoch", "loss", "accuracy")} for epoch in history]
            models.save(model, checkpoint, {"identity": identity, "history": json.dumps(timeless)}, about)
            run.resume.unlink(missing_ok=True)
    processes.wait()  # nobody goes on before it is written
    return history


def identity_of(recipe: Recipe, seed: int, fingerprint: str) -> str:
    """Give the text that tells one run from another, which its files hold."""
    values = json.dumps({**asdict(recipe), "seed": seed, "fingerprint": fingerprint}, sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()


class _Run:
    """A fine-tuning under way: what a checkpoint holds, and what a step needs.

    `sums` are over the images seen in the present epoch: loss, right answers, number. Each process has its own, until
    `_keep` adds them up in the first one.
    """

    def __init__(
        self, model: nn.Module, loader: Loader, recipe: Recipe, seed: int, checkpoint: Path, identity: str,
        keep_every: int,
    ) -> None:  # fmt: skip
        self.model, self.loader, self.recipe, self.seed = model, loader, recipe, seed
        self.method: Method = cast(models.Localizer, model).method
        self.identity, self.keep_every = identity, keep_every
        self.resume = checkpoint.with_suffix(".resume.pt")
        self.steps = len(loader.dataset) // recipe.batch_size  # in an epoch
        self.on_gpu = torch.device(loader.device).type == "cuda"
        self.optimizer = _optimizer(model, recipe, fused=self.on_gpu)
        self.history: list[dict[str, float]] = []
        self.step = 0  # of the present epoch
        precise = torch.float32 if torch.device(loader.device).type == "mps" else torch.float64  # MPS has no more
        self.sums = torch.zeros(3, dtype=precise, device=loader.device)
        self.losses: dict[int, Tensor] = {}  # of the steps since the last look
        if state := checkpoints.go_on(self.resume, identity, model, self.optimizer):
            self.history, self.step = state["history"], state["step"]
            if processes.rank() == 0:
                self.sums += torch.tensor(state["sums"], dtype=precise, device=loader.device)
        processes.wait()  # nobody writes before everybody has read
        done = len(self.history) * self.steps + self.step
        self.bar = tqdm(
            total=recipe.epochs * self.steps, initial=done, desc=checkpoint.stem, unit="batch",
            disable=QUIET or processes.rank() > 0,
        )  # fmt: skip

    def to_the_end(self, compiled: bool) -> list[dict[str, float]]:
        """Train the epochs that are left; the whole history."""
        network = self.model if processes.size() == 1 else DistributedDataParallel(self.model)
        if compiled:
            network.compile()
        network.train()
        with self.bar:
            while len(self.history) < self.recipe.epochs:
                self._epoch(network)
        return self.history

    def _epoch(self, network: nn.Module) -> None:
        """Make one pass over the train split, or what is left of it."""
        epoch, size = len(self.history), self.recipe.batch_size
        self.start = time.perf_counter()
        self.loader.dataset.set_epoch(epoch)
        order = self.method.order(self.loader.dataset.labels.tolist(), self.seed, epoch, size, processes.size())
        whole = [order[i * size : (i + 1) * size] for i in range(self.step, self.steps)]
        shares = [batch[processes.rank() :: processes.size()] for batch in whole]
        for share, (images, labels, _) in zip(shares, self.loader.batches(shares), strict=True):
            keys = [(self.seed, epoch, image) for image in share]
            self.losses[self.step] = self._step(network, images, labels, keys)
            self.step += 1
            self.bar.update()
            last = self.step == self.steps
            keep = last or (self.keep_every and self.step % self.keep_every == 0)
            if keep or not self.on_gpu or self.step % LOOK == 0:
                self._look(order)
            if keep:
                self._keep(last)

    def _step(self, network: nn.Module, images: Tensor, labels: Tensor, keys: Sequence[Key]) -> Tensor:
        """Take a step on this process's share of a batch, (b, 3, H, W), (b,) and b keys; its loss."""
        progress = (len(self.history) + self.step / self.steps) / self.recipe.epochs
        factor = rate_factor(self.recipe.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor
        dtype = next(self.model.parameters()).dtype
        images, targets = self.method.batch(images.to(dtype), labels, keys)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.on_gpu):
            found = network(images, targets)
        logits = _wide(found.logits)  # (b, K)
        extra = {name: _wide(value) for name, value in found.extra.items()}
        loss = self.method.loss(found._replace(logits=logits, extra=extra), targets, progress)
        self.optimizer.zero_grad()
        # the processes' gradients are averaged: each counts by its share of the batch
        (loss * (len(labels) * processes.size() / self.recipe.batch_size)).backward()
        self.optimizer.step()
        right = (logits.argmax(dim=1) == labels).sum()
        total = loss.detach().to(self.sums.dtype) * len(labels)
        self.sums += torch.stack([total, right, torch.full_like(right, len(labels))])
        return loss.detach()

    def _look(self, order: list[int]) -> None:
        """Show the loss, or raise where it is no number; `order` is the epoch's, for the names of the images."""
        loss, right, seen = self.sums.tolist()
        if not math.isfinite(loss):
            step = next(step for step, loss in self.losses.items() if not loss.isfinite())
            batch = order[step * self.recipe.batch_size : (step + 1) * self.recipe.batch_size]
            raise FloatingPointError(
                f"the loss is {self.losses[step].item()} in epoch {len(self.history) + 1}, batch {step + 1} "
                f"(images {', '.join(self.loader.dataset.image_ids[batch])}): lower lr or head_multiplier"
            )
        self.losses.clear()
        if seen:
            self.bar.set_postfix(loss=f"{loss / seen:.3f}", accuracy=f"{100 * right / seen:.1f} %", refresh=False)

    def _keep(self, last: bool) -> None:
        """Write where the run stands; the sums of all processes become those of the first."""
        processes.add(self.sums)
        loss, right, seen = self.sums.tolist()
        if last:
            figures = {"loss": loss / seen, "accuracy": 100 * right / seen}
            seconds = time.perf_counter() - self.start
            self.history.append({"epoch": len(self.history) + 1, **figures, "seconds": seconds})
            self.step = 0
        if last or processes.rank() > 0:
            self.sums.zero_()
        if processes.rank() == 0:
            state = {"history": self.history, "step": self.step, "sums": self.sums.tolist()}
            checkpoints.keep(self.resume, self.identity, self.model, self.optimizer, state)


def _wide(values: Tensor) -> Tensor:
    """Convert to float32 what autocast left narrower."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _optimizer(model: nn.Module, recipe: Recipe, fused: bool) -> torch.optim.Optimizer:
    """Make an optimiser of two groups, backbone and new layers, each with its full rate under `full_lr`."""
    head = cast(models.Localizer, model).new_parameters()
    body = [p for p in model.parameters() if not any(p is q for q in head)]
    k = recipe.head_multiplier
    groups = [
        {"params": body, "full_lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": head, "full_lr": recipe.lr * k, "weight_decay": recipe.weight_decay / k},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused)
