"""The largest component's box, against hand-worked maps and scikit-image."""

import numpy as np
import pytest
import torch
from skimage import filters, measure

from wsol_utils.boxes import largest_box, largest_boxes

KINDS = [np.asarray, torch.tensor]
GRID = tuple(i / 20 for i in range(21))
NOTHING = [0, 0, 0, 0]


def draw(*rows):
    """A map (1, H, W) from a drawing: # is 1, + is 0.5, anything else is 0."""
    return np.array([[[{"#": 1.0, "+": 0.5}.get(c, 0.0) for c in row] for row in rows]])


def by_scikit_image(image, eta):
    """The mask in the map's dtype, then the component with most pixels, a tie to the first (y, x)."""
    regions = measure.regionprops(measure.label(image > image.dtype.type(eta) * image.max(), connectivity=2))
    if not regions:
        return NOTHING
    y0, x0, y1, x1 = min(regions, key=lambda r: (-len(r.coords), min(map(tuple, r.coords)))).bbox
    return [x0, y0, x1, y1]


def random_maps(kind, n=5):
    """Noise, or smooth as a CAM is; sparse ones have many small components of one size."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(n, 17, 19))
    smooth = filters.gaussian(maps, (0, 1.5, 1.5))
    return {"noise": maps, "smooth": smooth, "sparse": np.round(rng.uniform(0, 0.7, maps.shape))}[kind]


SHAPES = {
    "half-open": (["....", ".##.", ".##.", ".##."], [1, 1, 3, 4]),
    "one pixel": (["...", "..#"], [2, 1, 3, 2]),
    "whole image": (["###", "###"], [0, 0, 3, 2]),
    "8-connected": (["#....", ".#...", "#....", ".##..", "....#"], [0, 0, 3, 4]),
    "not connected": (["##....", "......", "...###"], [3, 2, 6, 3]),
    "pixels, not box": (["#.....", ".#....", "..#...", "...#..", "......", "...###", "...###"], [3, 5, 6, 7]),
    "pixels, not contour": (
        ["####...", "#..#...", "#..#...", "####...", ".......", "#######", "#######"],
        [0, 5, 7, 7],
    ),
    "tie: first row": (["...##", ".....", "##..."], [3, 0, 5, 1]),
    "tie: first row of a column": ([".....", "...#.", ".#.#.", ".#..."], [3, 1, 4, 3]),
    "tie: first column": (["##.##"], [0, 0, 2, 1]),
    # 10 pixels each: (0, 1) comes before (0, 6), although the other component's box starts at column 0
    "tie: first pixel, not box": ([".####.#", ".###..#", ".###..#", "......#", "######."], [1, 0, 5, 3]),
    # 6 pixels each: the first joins a branch that is met only in row 1, the second starts between
    "tie: joined later": (["...#.#", ".#.#.#", ".#.#.#", "..#..#", ".....#", ".....#"], [1, 0, 4, 4]),
    "nothing": (["....", "...."], NOTHING),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_by_hand(name, kind):
    rows, expected = SHAPES[name]
    assert largest_boxes(kind(draw(*rows)), [0.2]).tolist() == [[expected]]
    assert largest_box(kind(draw(*rows)), [0.2]).tolist() == [expected]


def test_every_threshold_of_every_map():
    maps = np.concatenate([draw("+++.", "+#+.", "....", "..++"), draw("#...", "....", "...+", "...#") * 7])
    assert largest_boxes(maps, [0, 0.49, 0.5, 1]).tolist() == [
        [[0, 0, 3, 2], [0, 0, 3, 2], [1, 1, 2, 2], NOTHING],  # 0.5 is not above 0.5
        [[3, 2, 4, 4], [3, 2, 4, 4], [0, 0, 1, 1], NOTHING],
    ]
    assert largest_box(maps, [0, 0.5]).tolist() == [[0, 0, 3, 2], [0, 0, 1, 1]]


@pytest.mark.parametrize("value, at_half", [(0.0, NOTHING), (-1.0, NOTHING), (3.0, [0, 0, 5, 4])])
def test_constant_maps(value, at_half):
    assert largest_boxes(np.full((1, 4, 5), value), [0, 0.5, 1]).tolist() == [[at_half, at_half, NOTHING]]


def test_negative_values_are_never_inside():
    assert largest_boxes(np.array([[[-4.0, 2.0, -0.1, 0.0, 1.0]]]), [0]).tolist() == [[[1, 0, 2, 1]]]
    assert largest_boxes(np.array([[[-4.0, -1.0, -0.1]]]), GRID).tolist() == [[NOTHING] * 21]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("thresholds", [[0.3], np.array([0.3]), torch.tensor([0.3], dtype=torch.float64)])
def test_mask_is_computed_in_the_dtype_of_the_map(dtype, thresholds):
    image = np.array([[[0.3, 1]]], dtype=dtype)
    assert float(image[0, 0, 0]) > 0.3  # rounding in float16 and in float32 goes up
    assert largest_boxes(image, thresholds).tolist() == [[[1, 0, 2, 1]]]
    assert largest_boxes(image.astype(np.float64), thresholds).tolist() == [[[0, 0, 2, 1]]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", ["noise", "smooth", "sparse"])
def test_agrees_with_scikit_image(kind, dtype):
    maps = random_maps(kind).astype(dtype)
    expected = [[by_scikit_image(image, eta) for eta in GRID] for image in maps]
    assert largest_boxes(maps, GRID).tolist() == expected
    flipped = maps.transpose(0, 2, 1)
    assert largest_boxes(flipped, [0.3]).tolist() == [[by_scikit_image(image, 0.3)] for image in flipped]


@pytest.mark.parametrize("kind", ["noise", "smooth", "sparse"])
def test_one_threshold_per_map_agrees_with_all(kind):
    maps, eta = random_maps(kind), [0.9, 0.1, 0.5, 0.3, 0.7]
    everything = largest_boxes(maps, eta)  # (5, 5, 4)
    assert np.array_equal(largest_box(maps, eta), everything[range(5), range(5)])


@pytest.mark.parametrize("function", [largest_box, largest_boxes])
@pytest.mark.parametrize("thresholds", [[0.1, 0.5], (0.1, 0.5), np.array([0.5, 0.1])[::-1], torch.tensor([0.1, 0.5])])
def test_kinds(function, thresholds):
    maps = random_maps("smooth", n=2)
    array, tensor = function(maps, thresholds), function(torch.tensor(maps, requires_grad=True), thresholds)
    assert isinstance(array, np.ndarray) and array.dtype == np.int64
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.int64
    assert np.array_equal(array, tensor.numpy()) and array.any()


def test_empty_batch_and_no_thresholds():
    maps = np.ones((2, 3, 3))
    assert largest_boxes(maps[:0], GRID).shape == (0, 21, 4)
    assert largest_boxes(maps, []).shape == (2, 0, 4)
    assert largest_box(maps[:0], []).shape == (0, 4)


def test_any_memory_layout():
    maps = random_maps("smooth")
    frozen = maps.copy()
    frozen.flags.writeable = False
    for view in (maps[:, ::-1], maps[::2], maps.transpose(0, 2, 1), frozen):
        assert np.array_equal(largest_boxes(view, GRID), largest_boxes(view.copy(), GRID))


@pytest.mark.parametrize("thresholds", [[0.1], [0.1] * 3, [[0.1, 0.1]], 0.1])
def test_as_many_thresholds_as_maps(thresholds):
    with pytest.raises(ValueError, match="2 maps"):
        largest_box(np.ones((2, 3, 3)), thresholds)


@pytest.mark.parametrize("function", [largest_box, largest_boxes])
def test_refuses_wrong_shapes(function):
    with pytest.raises(ValueError, match="B, H, W"):
        function(np.ones((3, 3)), [0.1] * 3)
    with pytest.raises(ValueError, match="thresholds"):
        function(np.ones((2, 3, 3)), [[0.1], [0.2]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", [largest_box, largest_boxes])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "integers"])
def test_refuses_what_is_not_a_finite_float(function, bad, kind):
    maps = np.ones((1, 2, 2), dtype=int if bad == "integers" else float)
    if bad != "integers":
        maps[0, 1, 1] = bad
    with pytest.raises(ValueError, match="floating point"):
        function(kind(maps), [0.1])
