"""What the tests of several processes, and of killed ones, start: functions that a new process can import."""

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from wsol_utils import datasets, handover, models, pooling, processes, sample, training
from wsol_utils.data.loader import Loader
from wsol_utils.maps.extract import predict
from wsol_utils.maps.predictions import Predictions
from wsol_utils.network.recipe import Recipe

ROWS = 20_000  # of a table that takes some time to write
FEW = {"things": (1, 1), "birds": (1, 1)}  # images of each class of the sample, (train, test)


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


def without_rights() -> None:
    """The system's file permissions hold for root too from here on, and in what this process starts."""
    if os.geteuid():
        return
    libc, PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = ctypes.CDLL(None, use_errno=True), 24, 1
    version, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    failed = libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) or libc.capget(version, rights)
    rights[0] &= ~(1 << CAP_DAC_OVERRIDE)
    if failed or libc.capset(version, rights):
        raise OSError(ctypes.get_errno(), "cannot give up root's rights")


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
        if processes.rank() == 1 and steps == 6 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            while not checkpoint.with_suffix(".resume.pt").is_file():
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        with open(f"{log}.{processes.rank()}", "a") as file:
            file.write("step\n")
        return real(logits, labels)

    nn.functional.cross_entropy = noted
    three_epochs(root, checkpoint, keep_every=1)


def one_fails(message: str) -> None:
    """The second process cannot go on."""
    if processes.rank() == 1:
        raise ValueError(message)
    time.sleep(60)  # until it is ended, too


def sums() -> tuple:
    """What the collective functions give."""
    total = torch.tensor([1.0, processes.rank()])
    processes.add(total)
    return processes.size(), total.tolist(), processes.gather({"rank": processes.rank()})


class Generated(datasets.ImageDataset):
    """Photographs that are drawn when they are asked for, and a list of those that were."""

    def __init__(self, count: int) -> None:
        ids = [f"{i:03}" for i in range(count)]
        boxes = [[(float(i % 9), 2.0, 20.0, 9.0 + k) for k in range(i % 3)] for i in range(count)]
        table = pd.DataFrame({"image_id": ids, "path": ids, "label": np.arange(count) % 3, "boxes": boxes})
        super().__init__(table, ".", datasets.test_transform(32))
        self.asked: list[int] = []

    def frame(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(index)
        noise = np.random.default_rng(index).integers(0, 256, (3, 32, 32), dtype=np.uint8)
        return torch.from_numpy(noise), self.true_boxes(index)


def passes(folder: Path, count: int) -> list[int]:
    """A pass over so many drawn photographs, in batches of four; those that this process asked for."""
    torch.manual_seed(0)
    model, drawn = models.build("small_vgg", 3, "wgap"), Generated(count)
    torch.nn.init.normal_(model.head.weight)
    sizes = np.arange(2 * count).reshape(-1, 2)
    found = predict(model, drawn, sizes, batch_size=4, path=folder / f"{count}", identity="the same")
    assert found.image_id.tolist() == drawn.image_ids.tolist()
    return drawn.asked


def everything_together(sixteen: Path, seven: Path, folder: Path) -> None:
    """What several processes do at once, and one alone; each says what it got and did."""
    said = {"sums": sums(), "asked": [passes(folder, 26), passes(folder, 3)]}
    one_step(seven, folder / "step.safetensors")
    three_epochs(sixteen, folder / "epochs.safetensors")
    (folder / f"said.{processes.rank()}").write_text(json.dumps(said))


def render(root: Path) -> None:
    """Draw a few images of each class."""
    sample.render(root, per_class=FEW)


def predictions(root: Path, path: Path, passes: int = 1000) -> None:
    """One network's pass over the photographs, again and again."""
    torch.manual_seed(0)
    model, data = models.build("small_vgg", 2, "wgap"), loader(root, datasets.test_transform(32)).dataset
    for _ in range(passes):
        predict(model, data, np.full((len(data), 2), 36), batch_size=2, path=path)


def two_megabytes(path: Path) -> None:
    """Predictions of that size."""
    n, kinds = 1000, np.array(["signed"])
    each, none, maps = np.arange(n), np.zeros((0, 4), np.float32), np.ones((n, 1, 32, 32), np.float16)
    scales, size = np.ones((n, 1), np.float32), np.ones((n, 2), np.int64)
    Predictions(each.astype(str), each, each, scales, kinds, maps, scales, none, none[:, 0], size[0], size).save(path)


def tables(path: Path) -> None:
    """A table that is overwritten again and again, all of its rows being equal."""
    for n in range(1000):
        handover.write_csv(pd.DataFrame({"n": [n] * ROWS, "name": "a name of some length"}), path)


def too_large(root: Path, checkpoint: Path) -> None:
    """A step on images of 1500×1500 pixels, with 300 MB to spare."""
    data = loader(root, datasets.test_transform(1500))
    data.memory = 0
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 300 * 10**6,) * 2)
    recipe = Recipe(1, 8, lr=1e-2, head_multiplier=1.0, weight_decay=0.0)
    training.fit(models.build("small_vgg", 2, "wgap"), data, recipe, checkpoint)


def runner(results: Path) -> None:
    """Begin as `make reproduce` does."""
    os.environ.pop("WSOL_RESULTS", None)
    sys.argv = ["doit", f"RESULTS={results}"]
    runpy.run_path(str(Path(__file__).parents[1] / "dodo.py"))


def everything(root: Path, results: Path) -> None:
    """Each of these once, without root's rights; the error of each is raised, a line each."""
    without_rights()
    tries, said = {"render": [results], "predictions": [root, results / "a"], "tables": [results / "a.csv"]}, []
    for name, arguments in (tries | {"runner": [results]}).items():
        try:
            globals()[name](*arguments)
        except (OSError, SystemExit) as error:
            said.append(f"{name} ({type(error).__name__}): {error}")
    raise RuntimeError("\n".join(said))


def reporting(end: Connection, function: Callable, *arguments: object) -> None:
    """Call a function; its beginning and its error go through a pipe."""
    torch.set_num_threads(1)
    end.send("started")
    try:
        function(*arguments)
    except Exception as error:
        end.send(f"{type(error).__name__}: {error}")


def train(root: Path, checkpoint: Path) -> None:
    """`three_epochs` with a checkpoint after every step."""
    three_epochs(root, checkpoint, keep_every=1)


if __name__ == "__main__":  # killed at any moment by its parent
    torch.set_num_threads(1)
    print("started", flush=True)
    globals()[sys.argv[1]](*map(Path, sys.argv[2:]))
