"""Make class activation maps with recombined channels (Zhang et al., Eqs. 2 and 3), normalise and upsample them.

All functions take tensors on any device or numpy arrays, and return the same kind.
"""

import numpy as np
import torch

from wsol_utils.common.arrays import divided, stretched
from wsol_utils.common.checks import Array, floating, like, one_of

# M_p and M_n, the maps of the channels with positive and with negative weights, each (B, H, W) -> the map.
RECOMBINATIONS = {
    "signed": lambda m_p, m_n: m_p + m_n,  # Eq. 2, the original CAM
    "positive": lambda m_p, m_n: m_p,  # M_p alone; the NWC of Bae et al.
    "absolute": lambda m_p, m_n: m_p - m_n,  # Eq. 3, right-hand side: the sum of |w_k| times channel k
    "absolute_maps": lambda m_p, m_n: m_p + m_n.abs(),  # Eq. 3, left-hand side: M_p + |M_n|
}


def activation_map(features: Array, class_weights: Array, recombination: str = "absolute") -> Array:
    """Make class activation maps with recombined channel weights (Zhang et al., Eqs. 2 and 3).

    After a ReLU, where no feature is negative, the two sides of Eq. 3 are equal; for signed features
    they are not.

    Args:
        features: (B, C, H, W), last convolutional layer after its ReLU, before pooling.
        class_weights: (B, C), the classifier's row for each image's class.
        recombination: "signed" (Eq. 2), "positive" (M_p alone), "absolute" (Eq. 3) or "absolute_maps"
            (Eq. 3 as M_p + |M_n|).

    Returns:
        (B, H, W), raw scores, not normalised.

    Raises:
        ValueError: if the shapes do not agree, the recombination is unknown, or the features or
            weights are not floating point or not finite.
    """
    one_of("recombination", recombination, RECOMBINATIONS)
    maps, weights = floating(features, "features"), floating(class_weights, "class_weights")
    if maps.ndim != 4 or weights.shape != maps.shape[:2]:
        raise ValueError(
            f"features (B, C, H, W) and class_weights (B, C) do not agree: {tuple(maps.shape)}, {tuple(weights.shape)}"
        )
    signs = torch.stack([weights.clamp(min=0), weights.clamp(max=0)])  # (2, B, C)
    m_p, m_n = torch.einsum("sbc,bchw->sbhw", signs.to(maps.dtype), maps)  # (B, H, W) each, Eq. 2
    return like(features, RECOMBINATIONS[recombination](m_p, m_n))


def normalize(maps: Array, how: str = "max") -> Array:
    """Divide each map by its maximum, or stretch it between its minimum and maximum.

    Args:
        maps: (B, H, W).
        how: "max" (Sec. 4.3, negative values stay negative) or "minmax" (wsolevaluation).

    Returns:
        (B, H, W). A map without a positive maximum ("max") or a constant one ("minmax", up to the rounding
        of an upsampling) becomes 0.

    Raises:
        ValueError: if `how` is unknown, or the maps are not floating point or not finite.
    """
    one_of("normalization", how, ("max", "minmax"))
    values = floating(maps)
    if how == "max":
        return like(maps, divided(values))
    wide = values.to(torch.promote_types(values.dtype, torch.float32))  # float16's range can overflow
    return like(maps, stretched(wide).to(values.dtype))


def upsample(maps: Array, size: int | tuple[int, int], interpolation: str = "bilinear") -> Array:
    """Upsample maps, without aligned corners.

    Args:
        maps: (B, H, W).
        size: the new height and width in pixels, or one number for both.
        interpolation: "bilinear", or "bicubic" as in both reference evaluations (OpenCV's, a = -0.75), which can
            leave the map's range.

    Returns:
        (B, H', W').

    Raises:
        ValueError: if the interpolation is unknown, or the maps are not floating point or not finite.
    """
    one_of("interpolation", interpolation, ("bilinear", "bicubic"))
    shape = [int(side) for side in np.broadcast_to(size, 2)]
    values = floating(maps)
    larger = torch.nn.functional.interpolate(values[:, None], size=shape, mode=interpolation, align_corners=False)
    return like(maps, larger[:, 0])
