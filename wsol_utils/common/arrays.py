"""Scale maps: by their maximum, or between their minimum and maximum."""

import torch
from torch import Tensor


def divided(maps: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """(B, H, W) -> the same, each map divided by its maximum; one whose maximum is not above `noise` becomes 0."""
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(peak > noise, maps / torch.where(peak > noise, peak, 1), 0)


def stretched(maps: Tensor) -> Tensor:
    """(B, H, W), float32 or wider -> in [0, 1], each map between its minimum and maximum.

    One that is constant, up to the rounding of an upsampling, becomes 0.
    """
    noise = 8 * torch.finfo(maps.dtype).eps * maps.abs().amax(dim=(-2, -1), keepdim=True)
    return divided(maps - maps.amin(dim=(-2, -1), keepdim=True), noise)
