"""The threshold of each map without ground truth (Zhang et al., Sec. 4.3), and the rules it is compared with.

A threshold η is a fraction of the map's maximum: the mask is map > η · max, strictly.
Tensors on any device and numpy arrays are accepted, and the same kind is returned.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from skimage import filters
from torch import Tensor

from wsol_utils.common.checks import Array, floating_maps, like, numpy, one_of, tensor

PAPER_GRID = tuple(i / 20 for i in range(21))  # Sec. 5: "from the set of [0, 0.05, ..., 1]"
FIXED = 0.20  # the usual share of the maximum (Zhou et al. 2016)

# What counts as the mask's boundary; the paper does not say. Beyond the image's border is outside.
BOUNDARIES = (
    "8-neighbours",  # the default: its pixels with one of their 8 neighbours outside
    "4-neighbours",  # its pixels with one of their 4 neighbours outside
    "contour",  # the vertices of OpenCV's contours, as Choe et al. 2020 and Bae et al. 2020 extract them
)

# The readings of Sec. 4.3 and Fig. 3: D (N, K), mean of D (N, 1; the blue line), V (N, K), candidates (K,) -> η (N,).
# D and V are NaN where they are undefined; at least one D exceeds the mean.
BOUNDARY_RULES = {
    "first_above_mean": lambda d, mu, v, eta: eta[(d > mu).argmax(axis=1)],
    "argmax": lambda d, mu, v, eta: eta[np.nanargmax(d, axis=1)],
    "mean_of_candidates": lambda d, mu, v, eta: np.nanmean(np.where(d > mu, eta, np.nan), axis=1),
    "nearest_to_mean": lambda d, mu, v, eta: eta[np.nanargmin(np.abs(d - mu), axis=1)],
    "mean_boundary_value": lambda d, mu, v, eta: np.nanmean(v, axis=1),
}
# Histogram rules of scikit-image on one map divided by its maximum (H, W) -> η.
IMAGE_RULES: dict[str, Callable[[np.ndarray], float]] = {
    "otsu": filters.threshold_otsu,
    "li": filters.threshold_li,
    "triangle": filters.threshold_triangle,
    "yen": filters.threshold_yen,
    "isodata": filters.threshold_isodata,
    "mean": filters.threshold_mean,
    "percentile": lambda values: 0.35 * np.percentile(values, 90),  # Bae et al. 2020, "PaS"
}
LOWEST = -1e6  # shares of the maximum are cut off here: further down, rounding would swallow what is positive
RULES = ("fixed", *BOUNDARY_RULES, *IMAGE_RULES)


def boundary_means(maps: Array, candidates: Sequence[float] = PAPER_GRID, boundary: str = BOUNDARIES[0]) -> Array:
    """V: the mean of each map on the boundary of its mask, for every candidate threshold (Sec. 4.3).

    All components count, and the rims of holes. A vertex counts once for every time a contour turns there.

    Args:
        maps: (B, H, W).
        candidates: K thresholds, fractions of each map's maximum.
        boundary: one of `BOUNDARIES`; "contour" takes the masks one by one.

    Returns:
        (B, K), of maps divided by their maximum, hence in [0, 1]; NaN where the mask is empty.

    Raises:
        ValueError: if the boundary is unknown, or the maps are not (B, H, W), floating point and finite.
    """
    one_of("boundary", boundary, BOUNDARIES)
    values = floating_maps(maps)
    grid = torch.tensor([float(eta) for eta in candidates], dtype=values.dtype, device=values.device)
    images, cuts = numpy(values), numpy(grid * values.amax(dim=(1, 2))[:, None])  # (B, K), in the maps' dtype
    if boundary == "contour":
        total, count = _over_vertices(images, cuts)
    else:
        from wsol_utils.boxes import compiled  # here, because numba takes a moment to import

        total, count = compiled.boundary_sums(images, cuts, boundary == "8-neighbours", torch.get_num_threads())
    means = np.full(cuts.shape, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    wide = torch.promote_types(values.dtype, torch.float32)
    return like(maps, torch.from_numpy(means.clip(max=1)).to(wide))


def boundary_differences(means: Array) -> Array:
    """D: the step of V from one candidate to the next, |V_l - V_(l-1)| (Sec. 4.3 and Fig. 3).

    Args:
        means: (B, K), from `boundary_means`.

    Returns:
        (B, K); NaN at the first candidate and wherever one of the two V is undefined.
    """
    v = tensor(means)
    return like(means, torch.cat([torch.full_like(v[:, :1], torch.nan), v.diff(dim=1).abs()], dim=1))


def select(
    maps: Array, rule: str = "first_above_mean", candidates: Sequence[float] = PAPER_GRID, boundary: str = BOUNDARIES[0]
) -> Array:
    """Choose one threshold per map without ground truth (Sec. 4.3).

    Args:
        maps: (B, H, W).
        rule: "first_above_mean", the default reading of Fig. 3's blue line: the smallest η whose D
            exceeds the mean of D; or another of `RULES`.
        candidates: K thresholds in ascending order; only the rules of Sec. 4.3 use them.
        boundary: one of `BOUNDARIES`; only the rules of Sec. 4.3 use it.

    Returns:
        (B,), fractions of each map's maximum; 0 where nothing can be chosen (no positive value, no D
        above the mean).

    Raises:
        ValueError: if the rule or the boundary is unknown, or the maps are not (B, H, W), floating point and finite.
    """
    return select_all(maps, [rule], candidates, boundary)[rule]


def select_all(
    maps: Array, rules: Sequence[str], candidates: Sequence[float] = PAPER_GRID, boundary: str = BOUNDARIES[0]
) -> dict[str, Array]:
    """Choose thresholds as `select` does, by each of several rules; those of Sec. 4.3 share one computation of V."""
    for rule in rules:
        one_of("threshold rule", rule, RULES)
    one_of("boundary", boundary, BOUNDARIES)
    values = floating_maps(maps)
    wide = torch.promote_types(values.dtype, torch.float32)
    means = boundary_means(values, candidates, boundary) if set(rules) & set(BOUNDARY_RULES) else values[:, 0]
    chosen: dict[str, Array] = {}
    for rule in rules:
        eta: Sequence[float] | np.ndarray
        if rule == "fixed":
            eta = [FIXED if peak > 0 else 0.0 for peak in values.amax(dim=(1, 2)).tolist()]
        elif rule in BOUNDARY_RULES:
            eta = _by_boundary(means, rule, candidates)
        else:
            noise = 8 * torch.finfo(wide).eps  # of an upsampling
            eta = [_by_histogram(image, IMAGE_RULES[rule], noise) for image in values.cpu().double().numpy()]
        chosen[rule] = like(maps, torch.tensor(eta, dtype=wide))
    return chosen


def _over_vertices(maps: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, H, W), (B, K) -> (B, K) twice, the sum of the shares at the contours' vertices and their number."""
    total, count = np.zeros(cuts.shape), np.zeros(cuts.shape, dtype=np.int64)
    for b in np.flatnonzero(maps.max(axis=(1, 2)) > 0):
        share = maps[b].astype(np.float64) / maps[b].max()
        for k, cut in enumerate(cuts[b]):
            contours, _ = cv2.findContours((maps[b] > cut).view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            if contours:
                x, y = np.concatenate(contours).reshape(-1, 2).T
                total[b, k], count[b, k] = share[y, x].sum(), len(x)
    return total, count


def _by_boundary(means: Tensor, rule: str, candidates: Sequence[float]) -> np.ndarray:
    grid, v = np.array([float(eta) for eta in candidates]), means.cpu().double().numpy()
    d = boundary_differences(v)  # (B, K)
    mu = np.nansum(d, axis=1, keepdims=True) / np.maximum(np.isfinite(d).sum(axis=1, keepdims=True), 1)
    above = (d > mu).any(axis=1)  # else all D are equal (a map of one level), and 0 keeps what is positive
    chosen = np.zeros(len(v))
    if above.any():
        chosen[above] = BOUNDARY_RULES[rule](d[above], mu[above], v[above], grid)
    return chosen


def _by_histogram(image: np.ndarray, rule: Callable[[np.ndarray], float], noise: float) -> float:
    peak = image.max()
    if peak <= 0 or image.min() >= (1 - noise) * peak:  # nothing positive, or constant: nothing is separated
        return 0.0
    with np.errstate(over="ignore"):
        shares = np.maximum(image / peak, LOWEST)
    return float(np.clip(rule(shares), 0, 1))
