"""Predictions of plain maps, which several tests follow by hand."""

import numpy as np

from wsol_utils.maps.predictions import Predictions


def predictions(maps, true, size, labels=None, predicted=None, image_size=None):
    """Of maps (N, H, W) by name, for images (width, height) as large as the input or of another size, and N lists of
    boxes in the input, (height, width).
    """
    named = np.stack([np.asarray(values, np.float32) for values in maps.values()], axis=1)  # (N, R, H, W)
    n, scales = len(named), np.abs(named).max(axis=(2, 3))
    labels = np.zeros(n, dtype=np.int64) if labels is None else np.array(labels)
    return Predictions(
        image_id=np.arange(n).astype(str), label=labels, predicted=labels if predicted is None else np.array(predicted),
        logits=np.zeros((n, 2), np.float16), kinds=np.array(list(maps)),
        scaled_maps=(named / np.where(scales > 0, scales, 1)[:, :, None, None]).astype(np.float16), scales=scales,
        box=np.concatenate([np.asarray(b, np.float32).reshape(-1, 4) for b in true]),
        box_image=np.repeat(np.arange(n), [len(b) for b in true]), size=np.array(size),
        image_size=np.broadcast_to(size[::-1] if image_size is None else image_size, (n, 2)),
    )  # fmt: skip
