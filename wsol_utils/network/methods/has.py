"""Hide-and-Seek (Singh and Lee 2017): random cells of each training image are hidden.

The network then has to use other parts of the object, too. Values of kkanshul/Hide-and-Seek: cells of 32 pixels in
images of 224, each hidden with probability 0.5.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsol_utils.data.transforms import generator
from wsol_utils.network.method import Key, Method, Targets, register


@register("has")
class HideAndSeek(Method):
    """Cells of training images become 0, ImageNet's mean, before the network sees them; else plain fine-tuning.

    Args:
        side: of a cell, pixels; 0 for a seventh of the image's, 32 at 224. The last row and column may be cut.
        probability: that a cell is hidden.

    Raises:
        ValueError: if the side is negative or the probability is outside [0, 1].
    """

    def __init__(self, side: int = 0, probability: float = 0.5) -> None:
        super().__init__()
        if side < 0 or not 0 <= probability <= 1:
            raise ValueError(f"side must be 0 or more, and probability from 0 to 1, got {side} and {probability}")
        self.side, self.probability = side, probability

    def batch(self, images: Tensor, labels: Tensor, keys: Sequence[Key]) -> tuple[Tensor, Targets]:
        """Hide cells of each image; which ones depends on its own key alone."""
        height, width = images.shape[2:]
        side = self.side or round(height / 7)
        shape = (-(-height // side), -(-width // side))  # cells, the last ones cut
        draws = torch.stack([torch.rand(shape, generator=generator(*key)) for key in keys])  # (B, n, n)
        hidden = (draws < self.probability).repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
        hidden = hidden[:, None, :height, :width].to(images.device)  # (B, 1, H, W)
        return super().batch(images.masked_fill(hidden, 0), labels, keys)
