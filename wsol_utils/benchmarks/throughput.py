"""Measure how many images a second the loader hands on, and the training loop takes."""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from wsol_utils.benchmarks.kernels import side_by_side
from wsol_utils.data import datasets
from wsol_utils.data.datasets import ImageDataset, Transform
from wsol_utils.data.loader import Loader
from wsol_utils.network import models, training


class Generated(ImageDataset):
    """A data set of so many frames of noise, with a box each: no files, no decoding."""

    def __init__(self, count: int, transform: Transform) -> None:
        super().__init__(_table([str(i) for i in range(count)]), ".", transform)

    def frame(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, F, F) uint8 noise, a function of the index; the box (1, 4)."""
        side, generator = self.transform.frame, torch.Generator().manual_seed(index)
        return torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator), self.true_boxes(index)


def photographs(folder: Path, count: int) -> ImageDataset:
    """Write JPEGs of a usual photograph's size and detail, 500×375 px, and return the data set of them for training."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        noise = rng.normal(0, 12, (375, 500, 1))
        pixels = np.clip(np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + noise, 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
    return ImageDataset(_table([f"{i}.jpg" for i in range(count)]), folder, datasets.train_transform())


def input_rates(dataset: ImageDataset, batch: int, repeats: int, device: str = "cpu") -> pd.Series:
    """Measure the images a second of the loader alone, each way that it has; medians."""
    loaders = {
        "decoded in every pass, in this process": Loader(dataset, device),
        "decoded in every pass, by a worker process": Loader(dataset, device, workers=1),
        "decoded in every pass, by torchvision": Loader(dataset, device, decoder="torchvision"),
        "decoded once and kept": Loader(dataset, device, memory=3 * dataset.transform.frame**2 * len(dataset)),
    }
    batches = [list(range(len(dataset)))[i : i + batch] for i in range(0, len(dataset), batch)]
    taken = side_by_side({name: partial(_pass, loader, batches) for name, loader in loaders.items()}, repeats)
    rates = {name: len(dataset) / statistics.median(times) for name, times in taken.items()}
    return pd.Series(rates, name="images a second")


def training_rate(backbone: str, batch: int, steps: int, device: str = "cpu", compiled: bool = False) -> float:
    """Measure the images a second of the training loop, `training.fit`, at 224 px on frames kept in memory."""
    loader = Loader(Generated(batch * steps, datasets.train_transform()), device, memory=10**11)
    torch.manual_seed(0)
    model = models.build(backbone, 200, "wgap")
    recipe = training.Recipe(2, batch, lr=1e-4, head_multiplier=1.0, weight_decay=5e-4)
    with tempfile.TemporaryDirectory() as folder:
        history = training.fit(model, loader, recipe, Path(folder) / "a.safetensors", compiled=compiled)
    return batch * steps / history[-1]["seconds"]  # of the second epoch: warm, compiled


def _pass(loader: Loader, batches: list[list[int]]) -> None:
    for _ in loader.batches(batches):
        pass


def _table(paths: list[str]) -> pd.DataFrame:
    """The annotations of so many images of 200 classes, with one box each."""
    boxes = [[(8.0, 8.0, 40.0, 40.0)]] * len(paths)
    return pd.DataFrame({"image_id": paths, "path": paths, "label": np.arange(len(paths)) % 200, "boxes": boxes})
