"""Load batches fast: decode once what fits into memory, and finish a batch on the network's device."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wsol_utils.common.bars import watched
from wsol_utils.common.checks import one_of
from wsol_utils.data.datasets import ImageDataset
from wsol_utils.data.images import DECODERS, opened

Batch = tuple[Tensor, Tensor, list[Tensor]]


class Loader:
    """The batches of a data set on a device: what `datasets.collate` makes of its items, but fast.

    A frame, the resized photograph as uint8, is the same in every epoch. Where all frames fit into `memory`, threads
    decode them once, and they are kept: on the GPU if they take no more than a quarter of what is free there.
    Otherwise every pass decodes them again, in worker processes or with torchvision's decoder. Crop, flip and
    normalisation are done a batch at a time on the device; crops depend on seed, epoch and image alone.

    Args:
        dataset: photographs and their transform.
        device: where the network is.
        workers: processes that decode what is not kept; 0 decodes in this one.
        memory: bytes that kept frames may take; 0 to keep none.
        decoder: "pillow", or "torchvision", which decodes JPEGs a batch at a time, on the device if that is a GPU;
            its pixels differ from Pillow's by a level here and there. Pillow decodes what it cannot.

    Raises:
        ValueError: if the decoder is unknown.
        DatasetError: if a photograph does not decode.
        RuntimeError: if a worker process dies.
    """

    def __init__(
        self, dataset: ImageDataset, device: str = "cpu", workers: int = 0, memory: int = 0, decoder: str = "pillow"
    ) -> None:
        one_of("decoder", decoder, DECODERS)
        self.dataset, self.device, self.workers, self.memory, self.decoder = dataset, device, workers, memory, decoder

    def batches(self, indices: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield images (B, 3, S, S) float32 and labels (B,) on the device, boxes B × (n, 4), per list of indices."""
        for batch, (frames, boxes) in zip(indices, self._frames(indices), strict=True):
            frames = frames.to(self.device, non_blocking=True)
            images, boxes = self.dataset.transform.finish(frames, boxes, [self.dataset.crop(i) for i in batch])
            labels = torch.from_numpy(self.dataset.labels[list(batch)]).to(self.device, non_blocking=True)
            yield images.contiguous(memory_format=torch.channels_last), labels, boxes

    @cached_property
    def kept(self) -> tuple[Tensor, list[Tensor]] | None:
        """All frames (N, 3, F, F) and their boxes if they fit, else None; decoded when first asked for."""
        side, count = self.dataset.transform.frame, len(self.dataset)
        if count * 3 * side**2 > self.memory:
            return None
        frames, boxes = torch.empty((count, 3, side, side), dtype=torch.uint8), []
        with ThreadPoolExecutor() as pool:
            decoded = watched(pool.map(self.dataset.frame, range(count)), count, "decode")
            for index, (frame, some) in enumerate(decoded):
                frames[index] = frame
                boxes.append(some)
        if torch.device(self.device).type == "cuda":
            roomy = frames.nbytes <= torch.cuda.mem_get_info(self.device)[0] // 4
            frames = frames.to(self.device) if roomy else frames.pin_memory()
        return frames, boxes

    def _frames(self, indices: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        if self.kept is not None:
            frames, boxes = self.kept
            yield from ((frames[list(batch)], [boxes[i] for i in batch]) for batch in indices)
        elif self.decoder == "torchvision":
            yield from map(self._decode, indices)
        else:
            pinned = torch.device(self.device).type == "cuda"
            loader = DataLoader(
                _Frames(self.dataset), batch_sampler=indices,  # type: ignore[arg-type]  # ranges do as well as lists
                num_workers=self.workers, collate_fn=_together,
                pin_memory=pinned, prefetch_factor=4 if self.workers else None, generator=torch.Generator(),
            )  # fmt: skip
            ends = self.dataset.ends
            for batch, (frames, joined) in zip(indices, _alive(loader), strict=True):
                yield frames, list(joined.split([int(ends[i + 1] - ends[i]) for i in batch]))

    def _decode(self, batch: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Decode a batch by torchvision; by Pillow where one of its files is no plain JPEG."""
        data = self.dataset
        images = _by_torchvision([data.root / data.paths[i] for i in batch], self.device)
        if images is None:
            found = [data.frame(i) for i in batch]
        else:
            found = [data.transform.resize(image, data.true_boxes(i)) for image, i in zip(images, batch, strict=True)]
        frames, boxes = zip(*found, strict=True)
        return torch.stack(frames), list(boxes)


@contextmanager
def enough_memory(batch_size: int, lower: str) -> Iterator[None]:
    """Say what to lower where memory runs out, on a GPU or here.

    Raises:
        MemoryError: in place of what torch or NumPy raise.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise MemoryError(
            f"batches of {batch_size} images do not fit into memory ({str(error).splitlines()[0]}): lower {lower}, "
            "or close other programs, then run again; what was finished is kept"
        ) from error


def _by_torchvision(files: Sequence[Path], device: str) -> list[Tensor] | None:
    """Decode photographs (3, h, w) uint8; None where one is no plain JPEG, or larger than Pillow's limit."""
    from torchvision.io import ImageReadMode, decode_jpeg  # here, as later releases may be without it

    try:
        for file in files:
            with opened(file) as image:
                if image.format != "JPEG" or image.mode not in ("L", "RGB"):
                    return None
        data = [torch.from_numpy(np.fromfile(file, np.uint8)) for file in files]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision announces another package for it
            return decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # Pillow, which is next, says what is wrong
        return None


class _Frames(Dataset):
    """The frames of a data set, for worker processes."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.dataset.frame(index)


def _alive(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches; where a worker was killed, say what may help."""
    try:
        yield from loader
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:  # it may die while it hands over
        told = str(error)
        if told.startswith("Caught") or (isinstance(error, RuntimeError) and not told.startswith("DataLoader worker")):
            raise  # an error that a living worker met
        raise RuntimeError(
            f"a process that decodes photographs died ({error!r}), as happens when memory runs out: lower workers "
            f"(now {loader.num_workers}), then run again; what was finished is kept"
        ) from error


def _together(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join frames (B, 3, F, F), and all boxes in one tensor: every tensor of a worker takes a file handle."""
    frames, boxes = zip(*items, strict=True)
    return torch.stack(frames), torch.cat(boxes)
