"""From a photograph to the network's input: a square resize, a crop, perhaps a flip, and ImageNet's normalisation.

The resized photograph is the same in every epoch and can be kept; crop, flip and normalisation are done a batch at a
time, on the network's device. Boxes follow: half-open pixels, clamped to the crop, where they may lose all their area.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (124, 116, 104)  # ImageNet's mean as a pixel


def generator(*key: int) -> torch.Generator:
    """Make a generator on the CPU whose draws depend on the key alone, such as (seed, epoch, image)."""
    state = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


class Renormalize(nn.Module):
    """Turn images that are normalised with ImageNet's mean and deviation into those of another normalisation.

    Args:
        mean, deviation: of the three channels of pixels from 0 to 1.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        ours, theirs = torch.tensor([[*IMAGENET_MEAN], [*IMAGENET_STD]]), torch.tensor([[*mean], [*deviation]])
        self.register_buffer("scale", (ours[1] / theirs[1]).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((ours[0] - theirs[0]) / theirs[1]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W)."""
        return images * self.scale + self.shift


@dataclass(frozen=True)
class Transform:
    """The geometry of the network's input.

    Attributes:
        frame: side that a photograph is resized to, pixels; its aspect is not kept.
        size: side of the crop, the network's input.
        padding: pixels of grey margin that the crop may reach into: small images shift, and keep their scale.
        augmented: a random crop and flip; else the centre.
    """

    frame: int
    size: int
    padding: int = 0
    augmented: bool = False

    def resize(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Resize a photograph (3, h, w) uint8 with its boxes (n, 4) float32: the frame (3, F, F), the boxes in it."""
        height, width = image.shape[1:]
        frame = functional.resize(image, [self.frame, self.frame], antialias=True)
        return frame, boxes * torch.tensor([self.frame / width, self.frame / height] * 2)

    def crop(self, key: Sequence[int]) -> tuple[int, int, bool]:
        """Draw the top and left of an image's crop, and whether it is flipped: a function of the key alone."""
        room = self.frame + 2 * self.padding - self.size
        if not self.augmented:
            return round(room / 2), round(room / 2), False
        draws = generator(*key)
        top, left = (int(torch.randint(room + 1, (), generator=draws)) if room else 0 for _ in "yx")
        return top, left, bool(torch.rand(1, generator=draws) < 0.5)

    def finish(
        self, frames: Tensor, boxes: Sequence[Tensor], crops: Sequence[tuple[int, int, bool]]
    ) -> tuple[Tensor, list[Tensor]]:
        """Crop, flip and normalise a batch, as the network sees it.

        Args:
            frames: (B, 3, F, F) uint8, on any device; the rest is computed there.
            boxes: B of (n, 4), in the frames.
            crops: B, from `crop`.

        Returns:
            (B, 3, S, S) float32, normalised; B of (n, 4) in them.
        """
        if self.padding:
            frames = functional.pad(frames, [self.padding], fill=list(GREY))
        side = self.size
        views = [
            frame[:, top : top + side, left : left + side] for frame, (top, left, _) in zip(frames, crops, strict=True)
        ]
        images = torch.stack(views)  # (B, 3, S, S)
        flips = torch.tensor([flip for _, _, flip in crops])
        if flips.any():
            images = torch.where(flips.to(images.device)[:, None, None, None], images.flip(3), images)
        images = functional.to_dtype(images, torch.float32, scale=True)
        found = [self._follow(some, *crop) for some, crop in zip(boxes, crops, strict=True)]
        return functional.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD)), found

    def _follow(self, boxes: Tensor, top: int, left: int, flip: bool) -> Tensor:
        corner = torch.tensor([left, top, left, top], dtype=boxes.dtype) - self.padding
        x0, y0, x1, y1 = (boxes - corner).clamp(0, self.size).T
        return torch.stack([self.size - x1, y0, self.size - x0, y1] if flip else [x0, y0, x1, y1], dim=1)


def train_transform(resize: int = 256, crop: int = 224, padding: int = 0) -> Transform:
    """Make a square resize, a random crop and a random flip."""
    return Transform(resize, crop, padding, augmented=True)


def test_transform(size: int = 224, resize: int = 0) -> Transform:
    """Make a square resize.

    Args:
        resize: side of the frame whose centre is cropped to `size` (rethinkingCAM: 256); 0 to crop nothing.
    """
    return Transform(resize or size, size)


def denormalize(images: Tensor | np.ndarray) -> np.ndarray:
    """Turn normalised images (..., 3, H, W) into uint8 (..., H, W, 3), to be plotted."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = (torch.as_tensor(images).detach().cpu().float() * std + mean).clamp(0, 1)
    return (images * 255).round().to(torch.uint8).movedim(-3, -1).numpy()
