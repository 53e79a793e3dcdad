"""How fast the parts are, each beside what one would take instead: in turn, in one run, medians and their ratios.

What notebook 08 measures. Of several ways to do the same thing, each is called once to warm up, then all in turn, so
that whatever else the machine does slows them alike.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import nn

from wsol_utils import boxes
from wsol_utils.boxes import thresholds
from wsol_utils.maps import cam, extract
from wsol_utils.maps.predictions import Predictions
from wsol_utils.network import models

EIGHT = np.ones((3, 3), np.uint8)


def machine() -> str:
    """The processor, its cores, the GPU and torch's version, in words."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    processor = names[0] if names else platform.machine()
    return f"{processor}, {os.cpu_count()} cores; {gpu}; Python {platform.python_version()}, torch {torch.__version__}"


def side_by_side(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """The seconds that each of several functions took, all in turn `repeats` times, after one call of each."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, function in ways.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return taken


def compared(topic: str, taken: dict[str, list[float]], ours: str, per: int, target: float = np.nan) -> list[dict]:
    """A row for each other way: its time as a multiple of ours.

    Args:
        topic: what was done.
        taken: from `side_by_side`.
        ours: the name of our way.
        per: how many things each call did; milliseconds are those of one.
        target: what the ratio should be at least.

    Returns:
        topic, ours, peer, ours_ms, peer_ms, ratio (median of the turns' own), target.
    """
    rows = []
    for peer in (name for name in taken if name != ours):
        ratio = statistics.median(b / a for a, b in zip(taken[ours], taken[peer], strict=True))
        times = [1e3 * statistics.median(taken[name]) / per for name in (ours, peer)]
        row = {"topic": topic, "ours": ours, "peer": peer, "ours_ms": times[0], "peer_ms": times[1], "ratio": ratio}
        rows.append(row | {"target": target})
    return rows


# Boxes and thresholds.


def blobs(count: int, side: int = 224, seed: int = 0) -> np.ndarray:
    """Maps as a network's: three Gaussians and a tenth of noise on 14×14, upsampled; (count, side, side) float32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:14, :14]
    maps = 0.1 * rng.random((count, 14, 14))
    for image in maps:
        for _ in range(3):
            cy, cx, width, height = *rng.uniform(2, 12, 2), rng.uniform(1.5, 4), rng.uniform(0.4, 1)
            image += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2 / width**2)
    return cam.normalize(cam.upsample(maps.astype(np.float32), side))


def boxes_by_opencv(maps: np.ndarray, grid: Sequence[float] | np.ndarray) -> np.ndarray:
    """(B, H, W), (K,) -> (B, K, 4): each mask labelled on its own, a tie broken as `boxes.largest_boxes` does."""
    found = np.zeros((len(maps), len(grid), 4), dtype=np.int64)
    for b, image in enumerate(maps):
        for k, cut in enumerate(np.asarray(grid, image.dtype) * image.max()):
            _, labels, stats, _ = cv2.connectedComponentsWithStats((image > cut).view(np.uint8), connectivity=8)
            if len(stats) > 1:
                x, y, width, height, size = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
                if np.count_nonzero(stats[1:, cv2.CC_STAT_AREA] == size) > 1:
                    tied = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] == size)
                    first = labels.ravel()[np.isin(labels.ravel(), tied).argmax()]
                    x, y, width, height, _ = stats[first]
                found[b, k] = x, y, x + width, y + height
    return found


EROSIONS = {  # of one mask (H, W) bool; beyond the border is outside
    "SciPy": lambda mask: ndimage.binary_erosion(mask, EIGHT.astype(bool), border_value=0),
    "torch": lambda mask: nn.functional.max_pool2d(
        nn.functional.pad(torch.from_numpy(~mask).float()[None], (1, 1, 1, 1), value=1.0), 3, stride=1
    )[0].numpy() < 0.5,
    "OpenCV": lambda mask: cv2.erode(
        mask.view(np.uint8), EIGHT, borderType=cv2.BORDER_CONSTANT, borderValue=0
    ).view(bool),
}  # fmt: skip


def selected_by_erosion(maps: np.ndarray, erode: Callable) -> np.ndarray:
    """(B, H, W) -> (B,): Sec. 4.3's rule with a mask, an erosion and a mean for every candidate."""
    grid = np.array(thresholds.PAPER_GRID)
    means = np.full((len(maps), len(grid)), np.nan)
    for b, image in enumerate(maps):
        for k, cut in enumerate(grid.astype(image.dtype) * image.max()):
            mask = image > cut
            edge = mask & ~erode(mask)
            if edge.any():
                means[b, k] = image[edge].mean(dtype=np.float64) / image.max()
    d = np.abs(np.diff(means, axis=1))
    above = d > np.nanmean(d, axis=1, keepdims=True)
    return np.where(above.any(axis=1), grid[1:][above.argmax(axis=1)], 0)


def disagreements(pairs: int, side: int = 48, thresholds_each: int = 50, seed: int = 0) -> tuple[int, int]:
    """Of so many (map, threshold) pairs: how many were tried, and at how many the box is not that of `boxes_by_opencv`.

    A third of the maps each are smooth, noise, and rounded to a few levels, which gives many ties.
    """
    rng, tried, wrong = np.random.default_rng(seed), 0, 0
    while tried < pairs:
        noise = rng.random((64, side, side), dtype=np.float32)
        for maps in (blobs(64, side, int(rng.integers(2**31))), noise, np.round(4 * noise)):
            grid = rng.uniform(0, 1, thresholds_each)
            wrong += int((boxes.largest_boxes(maps, grid) != boxes_by_opencv(maps, grid)).any(axis=2).sum())
            tried += len(maps) * thresholds_each
    return tried, wrong


def first_calls() -> pd.DataFrame:
    """Seconds of the first box and the first threshold in a new process, before and after the code is compiled."""
    code = """if True:
        import time
        import numpy as np
        start = time.perf_counter()
        from wsol_utils import boxes, thresholds
        taken = [time.perf_counter() - start]
        maps = np.random.default_rng(0).random((1, 224, 224), dtype=np.float32)
        for call in (lambda: boxes.largest_boxes(maps, thresholds.PAPER_GRID), lambda: thresholds.select(maps)):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        print(*taken)"""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        rows = [
            _said(code, environment=environment).split() for _ in ("once per machine", "in every process afterwards")
        ]
    columns = ["import, without numba, s", "first boxes, s", "first thresholds, s"]
    return pd.DataFrame(np.array(rows, float), ["once per machine", "in every process afterwards"], columns)


# The forward pass.


class Logits(nn.Module):
    """A network of `models` as other packages expect one: images -> logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).logits


def passes(backbone: str, batch: int, device: str = "cpu") -> dict[str, Callable[[], object]]:
    """One batch of 224 px through a network: the bare backbone, all our maps, one map by two other packages.

    On a CPU our maps are made for a few images at a time: the backbone also stands there on its own in that way.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import CAM

    torch.manual_seed(0)
    network = models.build(backbone, 200, "wgap").eval().to(device).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels, explained = torch.randint(200, (batch,), device=device), Logits(network)
    targets = [ClassifierOutputTarget(int(label)) for label in labels]

    def bare() -> None:
        with torch.inference_mode():
            network.backbone(images)

    def few_at_a_time() -> None:
        with torch.inference_mode():
            for some in images.split(extract.FEW):
                network.backbone(some)

    def ours() -> None:
        extract.forward(network, images, labels)

    def torchcam() -> None:
        with CAM(explained, "network.backbone", "network.head") as explain, torch.inference_mode():
            explained(images)
            explain(labels.tolist())

    def gradcam() -> None:
        with GradCAM(explained, [list(network.backbone.children())[-1]]) as explain:
            explain(images, targets)

    ways: dict[str, Callable[[], object]] = {"all maps": ours, "bare backbone": bare}
    if device == "cpu" and batch > extract.FEW:
        ways[f"bare backbone, {extract.FEW} images at a time"] = few_at_a_time
    return ways | {"torchcam CAM": torchcam, "pytorch-grad-cam GradCAM": gradcam}


def storage(found: Predictions) -> float:
    """Bytes that predictions keep for an image and a map, scale included."""
    return (found.scaled_maps.nbytes + found.scales.nbytes) / found.scales.size


def _said(code: str, environment: dict | None = None) -> str:
    """What a new Python process prints last."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
