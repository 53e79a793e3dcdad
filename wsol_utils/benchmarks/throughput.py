"""How many images a second: decoding and augmentation alone, training, prediction; and what a whole data set takes."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wsol_utils.data import datasets
from wsol_utils.data.datasets import ImageDataset, Transform
from wsol_utils.data.loader import Loader
from wsol_utils.network import models, training

ILSVRC_IMAGES = 1_281_167  # of the train split (Russakovsky et al. 2015)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler says nothing on its own
DATASHEET_PEAK = 989e12  # bf16 multiplications and additions a second of an H100 SXM, dense, as its maker states


class Generated(ImageDataset):
    """A data set of so many generated frames, with a box each: no files, no decoding."""

    def __init__(self, count: int, transform: Transform, classes: int = 200) -> None:
        table = pd.DataFrame({"image_id": [str(i) for i in range(count)], "path": "none"})
        boxes = [[(8.0, 8.0, 40.0, 40.0)]] * count
        super().__init__(table.assign(label=np.arange(count) % classes, boxes=boxes), ".", transform)

    def frame(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, F, F) uint8 noise, a function of the index; the box (1, 4)."""
        side, generator = self.transform.frame, torch.Generator().manual_seed(index)
        return torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator), self.true_boxes(index)


def photographs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> ImageDataset:
    """JPEGs of a usual photograph's size and detail, written to a folder, and the data set of them for training."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 12, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)
    table = pd.DataFrame({"image_id": [str(i) for i in range(count)], "path": [f"{i}.jpg" for i in range(count)]})
    table = table.assign(label=np.arange(count) % 200, boxes=[[(0.0, 0.0, 99.0, 99.0)]] * count)
    return ImageDataset(table, folder, datasets.train_transform())


def input_rates(dataset: ImageDataset, batch: int, repeats: int, device: str = "cpu") -> pd.Series:
    """Images a second of the loader alone, each way that it has; medians."""
    everything = 3 * dataset.transform.frame**2 * len(dataset)
    ways = {
        "decoded in every pass, in this process": Loader(dataset, device),
        "decoded in every pass, by a worker process": Loader(dataset, device, workers=1),
        "decoded in every pass, by torchvision": Loader(dataset, device, decoder="torchvision"),
        "decoded once and kept": Loader(dataset, device, memory=everything),
    }
    order = list(range(len(dataset)))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, loader in ways.items():
            start = time.perf_counter()
            for _ in loader.batches(batches):
                pass
            _finish(torch.device(device))
            if turn:  # the first one decodes what is kept
                rates[name].append(len(dataset) / (time.perf_counter() - start))
    return pd.Series({name: statistics.median(values) for name, values in rates.items()}, name="images a second")


def training_rate(backbone: str, batch: int, steps: int, device: str = "cpu", compiled: bool = False) -> float:
    """Images a second of the whole training loop, `training.fit`, at 224 px on frames kept in memory."""
    dataset = Generated(batch * steps, datasets.train_transform())
    loader = Loader(dataset, device, memory=10**11)
    torch.manual_seed(0)
    model = models.build(backbone, 200, "wgap")
    recipe = training.Recipe(2, batch, lr=1e-4, head_multiplier=1.0, weight_decay=5e-4)
    with tempfile.TemporaryDirectory() as folder:
        history = training.fit(model, loader, recipe, Path(folder) / "a.safetensors", compiled=compiled)
    return batch * steps / history[-1]["seconds"]  # of the second epoch: warm, compiled


def operations(backbone: str) -> float:
    """Multiplications and additions of one training step for one image of 224 px, forward and backward."""
    model = models.build(backbone, 200, "wgap")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224)).logits.sum().backward()
    return float(counter.get_total_flops())


def peak(device: str, side: int = 8192, repeats: int = 20) -> float:
    """Multiplications and additions a second of a product of two bf16 matrices: what the device reaches at best."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        _finish(a.device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(times)


def hot_spots(backbone: str, batch: int, device: str = "cpu", rows: int = 6) -> pd.Series:
    """The kinds of operation that one training step spends most of its time in, shares in percent."""
    model = models.build(backbone, 200, "wgap").to(device).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    on_gpu = torch.device(device).type == "cuda"
    with torch.profiler.profile() as profile, torch.autocast(images.device.type, torch.bfloat16, enabled=on_gpu):
        model(images).logits.float().logsumexp(dim=1).sum().backward()
        _finish(images.device)
    events = profile.key_averages()
    times = pd.Series({e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events})
    return (100 * times / times.sum()).nlargest(rows).rename("share, %")


def peak_memory(images: int) -> dict[str, float]:
    """What a new process holds at most while it predicts so many generated images of 96 px, and what it writes."""
    code = f"""if True:
        import tempfile
        from pathlib import Path
        import numpy as np
        import torch
        from wsol_utils import datasets, extract, models, throughput
        torch.manual_seed(0)
        model = models.build("small_vgg", 200, "wgap")
        dataset = throughput.Generated({images}, datasets.test_transform(96))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "predictions"
            extract.predict(model, dataset, np.full(({images}, 2), 96), path=path)
            status = Path("/proc/self/status").read_text()  # getrusage would tell the parent's peak
            written = sum(file.stat().st_size for file in path.iterdir())
            print(status.split("VmHWM:")[1].split()[0] + "000", written)"""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    held, written = (int(size) / 1e6 for size in said.split())
    return {"images": images, "held at most, MB": held, "written, MB": written}


def plan(rates: dict[str, float], decoding: float, epochs: int = 10) -> pd.DataFrame:
    """What fine-tuning on all of ILSVRC takes, on paper: nothing but division.

    Args:
        rates: images a second of one device, by what it is.
        decoding: photographs that one core decodes in a second.
        epochs: passes over the train split.

    Returns:
        For each rate and 1, 8 and 64 devices: hours, and the cores that must decode so that none of them waits.
    """
    rows = []
    for name, rate in rates.items():
        for devices in (1, 8, 64):
            hours = ILSVRC_IMAGES * epochs / (rate * devices) / 3600
            cores = int(np.ceil(rate * devices / decoding))
            rows.append(
                {"device": name, "devices": devices, "images/s": rate * devices, "hours": hours, "cores": cores}
            )
    return pd.DataFrame(rows)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
