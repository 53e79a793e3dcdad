"""Sec. 4.3 and the rules it is compared with, against hand-worked maps and loops over pixels."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from plain_references import contours
from scipy import ndimage
from skimage import filters

from wsol_utils import thresholds
from wsol_utils.boxes.thresholds import BOUNDARIES, PAPER_GRID, boundary_means, select

BOUNDARY = ["first_above_mean", "argmax", "mean_of_candidates", "nearest_to_mean", "mean_boundary_value"]
SKIMAGE = ["otsu", "li", "triangle", "yen", "isodata", "mean"]
RULES = [*BOUNDARY, *SKIMAGE, "percentile", "fixed"]

# One row: every pixel is at the border, so V is the mean of what is above η.
ROW = 2 * np.array([[[0.1, 0.1, 0.5, 0.5, 0.5, 0.7, 1, 1]]])
ROW_GRID = (0, 0.2, 0.4, 0.6, 0.8, 1)
ROW_V = [0.55, 0.7, 0.7, 0.9, 1.0, math.nan]  # D = 0.15, 0, 0.2, 0.1; their mean is 0.1125
ROW_CHOICE = {
    "first_above_mean": 0.2,
    "argmax": 0.6,
    "mean_of_candidates": 0.4,
    "nearest_to_mean": 0.8,
    "mean_boundary_value": 0.77,
}


def pixels_by_loops(mask):
    """The boundary of 8 neighbours, pixel by pixel."""
    inside = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return [(y, x) for y, x in inside if any((y + dy, x + dx) not in inside for dy, dx in around)]


def pixels_by_erosion(mask):
    cross = ndimage.generate_binary_structure(2, 1)
    return np.argwhere(mask & ~ndimage.binary_erosion(mask, cross, border_value=0)).tolist()


def vertices(mask):
    return [(y, x) for _, _, points in contours(mask) for x, y in points]


BOUNDARY_OF = dict(zip(BOUNDARIES, (pixels_by_loops, pixels_by_erosion, vertices), strict=True))


def means_by_loops(image, grid, boundary="8-neighbours"):
    """V of one map (H, W), mask by mask."""
    peak, means = image.max(), []
    for eta in grid:
        edge = BOUNDARY_OF[boundary](image > eta * peak) if peak > 0 else []
        means.append(sum(image[y, x] / peak for y, x in edge) / len(edge) if edge else math.nan)
    return means


def select_by_loops(v, rule, grid):
    """The readings of Sec. 4.3, for V of one map."""
    steps = [(grid[i], abs(v[i] - v[i - 1])) for i in range(1, len(grid))]
    steps = [(eta, d) for eta, d in steps if not math.isnan(d)]
    mean = sum(d for _, d in steps) / len(steps) if steps else math.inf
    above = [eta for eta, d in steps if d > mean]
    if not above:
        return 0.0
    defined = [value for value in v if not math.isnan(value)]
    return {
        "first_above_mean": min(above),
        "argmax": max(steps, key=lambda step: step[1])[0],
        "mean_of_candidates": sum(above) / len(above),
        "nearest_to_mean": min(steps, key=lambda step: abs(step[1] - mean))[0],
        "mean_boundary_value": sum(defined) / len(defined),
    }[rule]


def random_maps(kind, n=6, seed=0):
    """(n, 11, 13): noise, or smooth as a CAM is."""
    maps = np.random.default_rng(seed).normal(size=(n, 11, 13))
    return maps if kind == "noise" else filters.gaussian(maps, (0, 2, 2))


def test_boundary_by_hand():
    image = np.array([[[1, 0, 1], [0, 0.5, 0]]])  # there and back: the contour turns at 0.5 twice, at each 1 once
    assert boundary_means(image, (0,), "contour").item() == (1 + 1 + 0.5 + 0.5) / 4
    filled = np.full((1, 5, 5), 0.5)
    filled[0, 1:-1, 1:-1] = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]  # inside all but the centre
    # the image's rim, 16 pixels, and that of the hole: its 8 neighbours, the default, or those that share a side
    assert boundary_means(filled, (0,)).item() == pytest.approx((16 * 0.5 + 8) / 24)
    assert boundary_means(filled, (0,), "4-neighbours").item() == pytest.approx((16 * 0.5 + 4) / 20)
    assert math.isnan(boundary_means(filled, (1,)).item())  # nothing is above the maximum


@settings(deadline=None)
@given(
    arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-2, 8).map(float)),
    st.lists(st.sampled_from([-0.5, 0, 0.125, 0.3, 0.5, 0.75, 0.9, 1, 1.5]), max_size=6),
    st.sampled_from(BOUNDARIES),
)
def test_boundary_means_against_loops_whatever_the_map(image, grid, boundary):
    v = boundary_means(image[None], grid, boundary)[0]
    expected = np.minimum(means_by_loops(image, grid, boundary), 1)
    np.testing.assert_allclose(v, expected, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_mask_is_taken_in_the_dtype_of_the_map(boundary):
    image = np.array([[[1, 0.3, 0.1]]], dtype=np.float32)  # as a double, float32's 0.3 is above 0.3
    assert boundary_means(image, (0.3,), boundary).item() == 1
    assert boundary_means(image.astype(np.float64), (0.3,), boundary).item() == pytest.approx(0.65)


def test_rules_by_hand():
    np.testing.assert_allclose(boundary_means(ROW, ROW_GRID), [ROW_V])
    d = thresholds.boundary_differences(boundary_means(ROW, ROW_GRID))
    np.testing.assert_allclose(d, [[math.nan, 0.15, 0, 0.2, 0.1, math.nan]], atol=1e-12)
    for grid in (ROW_GRID, np.array(ROW_GRID[::-1])[::-1], torch.tensor(ROW_GRID, dtype=torch.float64)):
        chosen = {rule: select(ROW, rule, grid).item() for rule in ROW_CHOICE}
        assert chosen == pytest.approx(ROW_CHOICE)


def test_a_difference_equal_to_the_mean_is_not_above_it():
    row = np.array([[[1, 0.875, 0.5625, 0.5625, 0.5, 0.5, 0.5, 0.5]]])  # V = 0.625, 0.75, 0.9375, 1
    grid = (0, 0.53, 0.6, 0.9)  # D = 0.125, 0.1875, 0.0625, exactly; their mean is 0.125
    assert select(row, "first_above_mean", grid).tolist() == [0.6]
    assert select(row, "mean_of_candidates", grid).tolist() == [0.6]
    assert select(row, "nearest_to_mean", grid).tolist() == [0.53]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_means_and_rules_against_loops(kind, boundary):
    maps = random_maps(kind, n=12, seed=1)
    for grid in (PAPER_GRID, [0.03 * i for i in range(5, 30)]):
        for some in (maps.astype(np.float32), maps):
            means = [means_by_loops(image, grid, boundary) for image in some]
            np.testing.assert_allclose(boundary_means(some, grid, boundary), means, rtol=1e-6)
        chosen = thresholds.select_all(maps, BOUNDARY, grid, boundary)
        for rule in BOUNDARY:
            expected = [select_by_loops(v, rule, grid) for v in means]
            assert len(set(expected)) > 2  # else the maps would test nothing
            np.testing.assert_allclose(chosen[rule], expected, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_to_choose_gives_zero(rule):
    for image in (np.zeros((4, 4)), np.full((4, 4), -2.0), -np.eye(4)):
        assert select(image[None], rule).tolist() == [0]
    for boundary in BOUNDARIES:
        if rule != "fixed":
            image = np.full((1, 4, 4), 0.7)  # every D is 0: none is above their mean
            assert select(image, rule, boundary=boundary).tolist() == [0]
        if rule in BOUNDARY:  # of two values, every threshold gives the same mask, and 0 keeps it
            assert select(np.eye(5)[None], rule, boundary=boundary).tolist() == [0]
    if rule in BOUNDARY:
        assert select(ROW, rule, (0.2,)).tolist() == [0]  # a single candidate has no difference


@pytest.mark.parametrize("rule", SKIMAGE)
def test_rules_of_scikit_image(rule):
    maps = np.abs(random_maps("smooth", seed=2))
    expected = [getattr(filters, f"threshold_{rule}")(image / image.max()) for image in maps]
    np.testing.assert_allclose(select(maps, rule), expected)


def test_fixed_mean_and_percentile_by_hand():
    image = np.arange(11.0)[None, None] ** 2  # 0, 1, 4 … 100: of a ramp, 0.9 of the 35th percentile would be the same
    assert select(image, "fixed").tolist() == [0.2]
    assert select(image, "mean").tolist() == pytest.approx([0.35])
    assert select(image, "percentile").tolist() == pytest.approx([0.35 * 0.81])


@pytest.mark.parametrize("rule", RULES)
def test_neither_scale_nor_the_maps_beside_matter(rule):
    smooth = random_maps("smooth")
    np.testing.assert_allclose(select(smooth / 1024, rule), select(smooth, rule), rtol=1e-12)
    maps = np.concatenate([smooth, np.zeros((1, 11, 13)), random_maps("noise"), np.ones((1, 11, 13))])
    assert select(maps, rule).tolist() == [select(image[None], rule).item() for image in maps]


KINDS_OF_RESULTS = {rule: partial(select, rule=rule) for rule in RULES}
KINDS_OF_RESULTS |= {boundary: partial(boundary_means, boundary=boundary) for boundary in BOUNDARIES}


@pytest.mark.parametrize("name", KINDS_OF_RESULTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_kinds_dtypes_and_memory_layouts(name, dtype):
    function, maps = KINDS_OF_RESULTS[name], random_maps("smooth").astype(dtype)
    array, tensor = function(maps), function(torch.tensor(maps, requires_grad=True))
    assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
    assert array.shape == tensor.shape == ((6,) if name in RULES else (6, 21))
    assert array.dtype == tensor.numpy().dtype == ("float64" if dtype == "float64" else "float32")
    assert np.nanmin(array) >= 0 and np.nanmax(array) <= 1
    assert np.array_equal(array, tensor.numpy(), equal_nan=True)
    assert function(maps[:0]).shape == (0, *array.shape[1:])
    frozen = maps.copy()
    frozen.flags.writeable = False
    for view in (maps[:, ::-1], maps[::2], maps.transpose(0, 2, 1), frozen):
        assert np.array_equal(function(view), function(view.copy()), equal_nan=True)
    turned = function(torch.tensor(maps).mT)
    np.testing.assert_allclose(turned, function(maps.transpose(0, 2, 1)), rtol=1e-12)  # sums go another way


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"rule 'median'.*first_above_mean"):
        select(ROW, "median")
    for function in (boundary_means, select, partial(select, rule="fixed")):  # even where it plays no part
        with pytest.raises(ValueError, match=r"boundary '8-neighbors'.*; choose one of 8-neighbours, 4-neighbours"):
            function(ROW, boundary="8-neighbors")
        with pytest.raises(ValueError, match="B, H, W"):
            function(ROW[0])
        with pytest.raises(ValueError, match="floating point"):
            function(np.full((1, 2, 2), np.nan))
