"""Masks of the objects in the network's input, for PxAP (Choe et al. 2020): 1 object, 0 background, 255 ignored."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pandas as pd

from wsol_utils.data.images import eight_bits, opened
from wsol_utils.data.layouts import failure
from wsol_utils.scores.external.metadata import Metadata
from wsol_utils.scores.protocols import PROTOCOLS, Protocol, frame_side


def of_openimages(
    metadata: Metadata,
    mask_root: str | os.PathLike,
    image_ids: Sequence[str],
    size: int = 224,
    protocol: Protocol = PROTOCOLS["wsolevaluation"],
) -> Iterator[np.ndarray]:
    """Join the masks of each image's objects; ignored regions count where no object is.

    Args:
        metadata: with masks, paths below `mask_root`.
        image_ids: of images in the metadata.
        size: side of the network's square input, pixels.
        protocol: whether that is the centre of a larger frame.

    Yields:
        (size, size) uint8 for each image.

    Raises:
        DatasetError: a file is missing or does not decode.
    """
    for image_id in image_ids:
        objects, ignored = (
            np.any([_grey(Path(mask_root), path, size, protocol) > 0.5 for path in paths if path], axis=0)
            for paths in zip(*metadata.masks[image_id], strict=True)
        )
        yield np.where(objects, 1, np.where(ignored, 255, 0)).astype(np.uint8)


def of_cub(
    root: str | os.PathLike, table: pd.DataFrame, size: int = 224, protocol: Protocol = PROTOCOLS["wsolevaluation"]
) -> Iterator[np.ndarray]:
    """Read the pixels that at least half of CUB-200-2011's annotators marked; nothing is ignored.

    Args:
        root: the folder with images.txt. The folder `segmentations`, which its archive unpacks to, lies inside it or
            beside it, and holds a file for each image in the folder of its class.
        table: for image_id, the path below images/.
        size, protocol: as in `of_openimages`.

    Yields:
        (size, size) uint8 for each row.

    Raises:
        DatasetError: a file is missing or does not decode.
    """
    for path in _segmentations(table):
        yield (_grey(_folder(Path(root)), path, size, protocol) >= 128).astype(np.uint8)


def available(root: str | os.PathLike, table: pd.DataFrame) -> bool:
    """Return whether at least one image of the table has a segmentation; `root` as in `of_cub`."""
    return any((_folder(Path(root)) / path).is_file() for path in _segmentations(table))


def _segmentations(table: pd.DataFrame) -> Iterator[str]:
    return (str(PurePosixPath(image_id).with_suffix(".png")) for image_id in table["image_id"])


def _folder(root: Path) -> Path:
    inside = root / "segmentations"
    return inside if inside.is_dir() else root.resolve().parent / "segmentations"


def _grey(root: Path, name: str, size: int, protocol: Protocol) -> np.ndarray:
    """(size, size) uint8: resized by nearest neighbour, as wsolevaluation does, and cropped as the protocol does."""
    remedy = "unpack the masks again, or name the folder that holds them"
    try:
        with opened(root / name) as image:
            grey = np.asarray(eight_bits(image).convert("L"))
    except FileNotFoundError as error:
        raise failure(root, name, "no such file", remedy) from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise failure(root, name, f"a mask that does not decode ({error})", remedy) from error
    frame = frame_side(size, protocol)
    margin = (frame - size) // 2
    resized = cv2.resize(grey, (frame, frame), interpolation=cv2.INTER_NEAREST)
    return resized[margin : margin + size, margin : margin + size]
