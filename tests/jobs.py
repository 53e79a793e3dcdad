"""What the tests of several processes, and of killed ones, start: functions that a new process can import."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from wsol_utils import datasets, distributed, models, pooling, training
from wsol_utils.loading import Loader
from wsol_utils.training import Recipe


def photographs(root: Path, count: int) -> Path:
    """Noisy 36×36 images of two classes, red above blue and blue above red."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for i in range(count):
        image = rng.integers(0, 120, (36, 36, 3), dtype=np.uint8)
        image[:18, :, 2 * (i % 2)] += 130
        image[18:, :, 2 - 2 * (i % 2)] += 130
        Image.fromarray(image).save(root / f"{i}.png")
    return root


def loader(root: Path, transform: datasets.Transform) -> Loader:
    """All photographs of a folder, kept in memory."""
    paths = sorted(path.name for path in root.glob("*.png"))
    labels = [int(path.split(".")[0]) % 2 for path in paths]
    table = pd.DataFrame({"image_id": paths, "path": paths, "label": labels, "boxes": [[]] * len(paths)})
    return Loader(datasets.ImageDataset(table, root, transform), memory=10**8)


def one_step(root: Path, checkpoint: Path) -> None:
    """One step of float64, without batch normalisation or augmentation, on seven images."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    model = models.Localizer(body, pooling.build("wgap"), nn.Linear(6, 2)).double()
    recipe = Recipe(1, 7, lr=0.5, head_multiplier=64.0, weight_decay=0.1, optimizer="sgd")
    training.fit(model, loader(root, datasets.test_transform(12)), recipe, checkpoint)


def three_epochs(root: Path, checkpoint: Path, keep_every: int = 0) -> list[dict]:
    """Three epochs of four batches of four augmented images."""
    torch.manual_seed(0)
    model = models.build("small_vgg", 2, "wgap")
    recipe = Recipe(3, 4, lr=1e-2, head_multiplier=16.0, weight_decay=1e-2, optimizer="adamw", schedule="onecycle")
    photographs = loader(root, datasets.train_transform(36, 32, 2))
    return training.fit(model, photographs, recipe, checkpoint, keep_every=keep_every)


def killed_in_mid_epoch(root: Path, checkpoint: Path, log: Path) -> None:
    """`three_epochs`; the second of two processes is killed once, after the sixth step; every step is noted."""
    steps, real = 0, nn.functional.cross_entropy

    def noted(logits, labels):
        nonlocal steps
        if distributed.rank() == 1 and steps == 6 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            while not checkpoint.with_suffix(".resume.safetensors").is_file():
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        with open(f"{log}.{distributed.rank()}", "a") as file:
            file.write("step\n")
        return real(logits, labels)

    nn.functional.cross_entropy = noted
    three_epochs(root, checkpoint, keep_every=1)


def one_fails(message: str) -> None:
    """The second process cannot go on."""
    if distributed.rank() == 1:
        raise ValueError(message)
    distributed.wait()


def sums(path: Path) -> None:
    """What the collective functions give, written by the first process."""
    total = torch.tensor([1.0, distributed.rank()])
    distributed.add(total)
    everyone = distributed.gather({"rank": distributed.rank()})
    if distributed.rank() == 0:
        path.write_text(repr((distributed.size(), total.tolist(), everyone)))
    else:
        assert everyone is None


if __name__ == "__main__":  # killed at any moment by its parent
    torch.set_num_threads(1)
    print("started", flush=True)
    three_epochs(Path(sys.argv[1]), Path(sys.argv[2]), keep_every=1)
