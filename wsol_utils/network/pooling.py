"""Pool the last convolution's features for the linear head (Zhang et al., Sec. 4.1).

Each is a module from feature maps (B, C, H, W) to one vector per image (B, C).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsol_utils.common.checks import one_of


class GlobalAveragePool(nn.Module):
    """The mean over all positions: the pooling of the original CAM (Zhou et al. 2016)."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        return features.mean(dim=(2, 3))


class WeightedGlobalAveragePool(nn.Module):
    """Weighted global average pooling (Zhang et al., Sec. 4.1 and Eq. 1).

    Every channel weighs its own positions by a spatial softmax S_c of its activations. The printed denominator of S_c
    lacks the `exp`; the text says "probability distribution", so we put it back.

    Args:
        temperature: divides the activations before the softmax; 1 in the paper.
        divide_by_area: divide the weighted sum by W·H once more, as Eq. 1 is printed. False gives `wgap_sum`, the
            softmax-weighted mean.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, temperature: float = 1.0, divide_by_area: bool = True):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = float(temperature)
        self.divide_by_area = divide_by_area

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C), in the features' dtype; the softmax is computed in float32 or wider."""
        flat = features.flatten(2)  # (B, C, H·W)
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))  # no overflow in float16
        weights = torch.softmax(wide / self.temperature, dim=2)  # S_c, sums to 1 per channel
        pooled = (wide * weights).sum(dim=2)  # (B, C)
        if self.divide_by_area:
            pooled = pooled / flat.shape[2]
        return pooled.to(features.dtype)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, divide_by_area={self.divide_by_area}"


class ThresholdedAveragePool(nn.Module):
    """The mean over the positions above a share of each channel's maximum (Bae et al. 2020, TAP).

    Args:
        threshold: θ; positions with F > θ · max F count. A channel without such a position gives 0.
    """

    def __init__(self, threshold: float = 0.1):
        super().__init__()
        self.threshold = float(threshold)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        above = features > self.threshold * features.amax(dim=(2, 3), keepdim=True)
        wide = torch.promote_types(features.dtype, torch.float32)  # a float16 sum would overflow
        total = (features * above).sum(dim=(2, 3), dtype=wide)  # (B, C)
        return (total / above.sum(dim=(2, 3)).clamp(min=1)).to(features.dtype)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"


POOLINGS: dict[str, Callable[[float], nn.Module]] = {  # name -> the module for a temperature
    "gap": lambda temperature: GlobalAveragePool(),
    "wgap": lambda temperature: WeightedGlobalAveragePool(temperature),  # Eq. 1 as printed
    "wgap_sum": lambda temperature: WeightedGlobalAveragePool(temperature, divide_by_area=False),
    "tap": lambda temperature: ThresholdedAveragePool(),
}


def build(name: str, temperature: float = 1.0) -> nn.Module:
    """Build the pooling of that name, one of `POOLINGS`.

    Raises:
        ValueError: if the name is unknown.
    """
    one_of("pooling", name, POOLINGS)
    return POOLINGS[name](temperature)
