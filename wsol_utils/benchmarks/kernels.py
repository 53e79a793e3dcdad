"""Time boxes, thresholds and the forward pass, each beside the strongest other way of doing the same (notebook 08)."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from wsol_utils.boxes import thresholds
from wsol_utils.maps import cam, extract
from wsol_utils.network import models


def processor() -> str:
    """Return the processor's name, or "" where the system does not tell it."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine() -> str:
    """Describe the processor, its cores, the GPU, and the versions of Python and torch."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    name = processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores; {gpu}; Python {platform.python_version()}, torch {torch.__version__}"


def side_by_side(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time several functions in turn, so that whatever else the machine does slows them alike.

    Returns:
        The seconds of `repeats` calls of each function, after one call to warm up.
    """
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
    """Give a row for each other way, with its time as a multiple of ours.

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


def blobs(count: int, side: int = 224) -> np.ndarray:
    """Make maps such as a network's: three Gaussians and a tenth of noise on 14×14, upsampled.

    Returns:
        (count, side, side) float32, divided by each map's maximum.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:14, :14]
    maps = 0.1 * rng.random((count, 14, 14))
    for image in maps:
        for _ in range(3):
            cy, cx, width, height = *rng.uniform(2, 12, 2), rng.uniform(1.5, 4), rng.uniform(0.4, 1)
            image += height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2 / width**2)
    return cam.normalize(cam.upsample(maps.astype(np.float32), side))


def boxes_by_opencv(maps: np.ndarray, grid: Sequence[float] | np.ndarray) -> np.ndarray:
    """Label each mask on its own, and break ties as `boxes.largest_boxes` does: (B, H, W), (K,) -> (B, K, 4)."""
    found = np.zeros((len(maps), len(grid), 4), dtype=np.int64)
    for b, image in enumerate(maps):
        for k, cut in enumerate(np.asarray(grid, image.dtype) * image.max()):
            _, labels, stats, _ = cv2.connectedComponentsWithStats((image > cut).view(np.uint8), connectivity=8)
            if len(stats) > 1:
                areas = stats[1:, cv2.CC_STAT_AREA]
                largest = 1 + np.flatnonzero(areas == areas.max())
                label = largest[0] if len(largest) == 1 else labels.ravel()[np.isin(labels, largest).argmax()]
                x, y, width, height, _ = stats[label]
                found[b, k] = x, y, x + width, y + height
    return found


def selected_by_opencv(maps: np.ndarray) -> np.ndarray:
    """Apply Sec. 4.3's rule with a mask, an erosion and a mean for every candidate: (B, H, W) -> (B,)."""
    grid, neighbours = np.array(thresholds.PAPER_GRID), np.ones((3, 3), np.uint8)
    means = np.full((len(maps), len(grid)), np.nan)
    for b, image in enumerate(maps):
        for k, cut in enumerate(grid.astype(image.dtype) * image.max()):
            mask = image > cut
            inner = cv2.erode(mask.view(np.uint8), neighbours, borderType=cv2.BORDER_CONSTANT, borderValue=0)
            edge = mask & ~inner.view(bool)
            if edge.any():
                means[b, k] = image[edge].mean(dtype=np.float64) / image.max()
    d = np.abs(np.diff(means, axis=1))
    above = d > np.nanmean(d, axis=1, keepdims=True)
    return np.where(above.any(axis=1), grid[1:][above.argmax(axis=1)], 0)


def passes(backbone: str, batch: int, device: str = "cpu") -> dict[str, Callable[[], object]]:
    """Pass one batch of 224 px through a network: all our maps, the bare backbone, and one map by torchcam.

    On a CPU the bare backbone takes a few images at a time, as `extract.forward` does: it is faster so.
    """
    from torchcam.methods import CAM

    torch.manual_seed(0)
    network = models.build(backbone, 200, "wgap").eval().to(device).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(200, (batch,), device=device)

    def ours() -> None:
        extract.forward(network, images, labels)

    def bare() -> None:
        with torch.inference_mode():
            for some in images.split(extract.FEW if device == "cpu" else batch):
                network.backbone(some)

    def torchcam() -> None:
        with CAM(network, "backbone", "head") as explain, torch.inference_mode():
            network(images)
            explain(labels.tolist())

    return {"all maps": ours, "bare backbone": bare, "torchcam CAM": torchcam}
