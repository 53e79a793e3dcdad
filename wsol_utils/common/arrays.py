"""Scale maps by their maximum, or between their minimum and maximum."""

import torch
from torch import Tensor


def divided(maps: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Divide each map of (B, H, W) by its maximum; one whose maximum is not above `noise` becomes 0."""
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(peak > noise, maps / torch.where(peak > noise, peak, 1), 0)


def stretched(maps: Tensor) -> Tensor:
    """Stretch each map of (B, H, W), float32 or wider, to [0, 1] between its minimum and maximum.

    A map that is constant, up to the rounding of an upsampling, becomes 0.
    """
    noise = 8 * torch.finfo(maps.dtype).eps * maps.abs().amax(dim=(-2, -1), keepdim=True)
    return divided(maps - maps.amin(dim=(-2, -1), keepdim=True), noise)
