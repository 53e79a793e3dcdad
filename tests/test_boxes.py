"""The largest component's box, against hand-worked maps, SciPy's labels and the rule for a contour's area."""

import numpy as np
import pytest
import torch
from plain_references import contours
from scipy import ndimage

from wsol_utils.boxes import COMPONENTS, contour_boxes, largest_box, largest_boxes
from wsol_utils.boxes.thresholds import boundary_means

GRID = tuple(i / 20 for i in range(21))
NOTHING = [0, 0, 0, 0]
EIGHT = np.ones((3, 3))


def draw(*rows):
    """A map (1, H, W) from a drawing: # is 1, + is 0.5, anything else is 0."""
    return np.array([[[{"#": 1.0, "+": 0.5}.get(c, 0.0) for c in row] for row in rows]])


def by_labelling(image, eta):
    """The mask in the map's dtype, labelled on its own; of a tie, the component that the first pixel belongs to."""
    labels, n = ndimage.label(image > image.dtype.type(eta) * image.max(), EIGHT)
    if n == 0:
        return NOTHING
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = np.isin(labels.ravel(), np.flatnonzero(sizes == sizes.max()))
    y, x = ndimage.find_objects(labels)[labels.ravel()[largest.argmax()] - 1]
    return [x.start, y.start, x.stop, y.stop]


def random_maps(kind, n=5):
    """Noise, or smooth as a CAM is; sparse ones have many small components of one size."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(n, 17, 19))
    smooth = ndimage.gaussian_filter(maps, (0, 1.5, 1.5))
    return {"noise": maps, "smooth": smooth, "sparse": np.round(rng.uniform(0, 0.7, maps.shape))}[kind]


BY_HAND = {
    "half-open": ("pixels", ["....", ".##.", ".##.", ".##."], [1, 1, 3, 4]),
    "8-connected": ("pixels", ["#....", ".#...", "#....", ".##..", "....#"], [0, 0, 3, 4]),
    "pixels, not box": (
        "pixels",
        ["#.....", ".#....", "..#...", "...#..", "......", "...###", "...###"],
        [3, 5, 6, 7],
    ),
    "pixels, not contour": (
        "pixels",
        ["####...", "#..#...", "#..#...", "####...", ".......", "#######", "#######"],
        [0, 5, 7, 7],
    ),
    "tie: first row of a column": ("pixels", [".....", "...#.", ".#.#.", ".#..."], [3, 1, 4, 3]),
    # 10 pixels each: (0, 1) comes before (0, 6), although the other component's box starts at column 0
    "tie: first pixel, not box": ("pixels", [".####.#", ".###..#", ".###..#", "......#", "######."], [1, 0, 5, 3]),
    # 6 pixels each: the first joins a branch that is met only in row 1, the second starts between
    "tie: joined later": ("pixels", ["...#.#", ".#.#.#", ".#.#.#", "..#..#", ".....#", ".....#"], [1, 0, 4, 4]),
    "nothing": ("pixels", ["....", "...."], NOTHING),
    # What OpenCV's contours enclose, through pixel centres: (w - 1)(h - 1) of a rectangle; boxes are half-open.
    # The ring has 12 pixels and its hole is filled, 3 · 3; the block has 14, and 6 · 1.
    "contour: a hole is filled": (
        "contour",
        ["####...", "#..#...", "#..#...", "####...", ".......", "#######", "#######"],
        [0, 0, 4, 4],
    ),
    # 7 pixels enclose nothing, 4 pixels enclose 1
    "contour: a line encloses nothing": ("contour", ["#######", ".......", "##.....", "##....."], [0, 2, 2, 4]),
    # a tie goes to the first of OpenCV's list, not to the first in row-major order
    "contour: tie": ("contour", ["##.##", "##.##"], [3, 0, 5, 2]),
    "contour: nothing": ("contour", ["....", "...."], NOTHING),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    component, rows, expected = BY_HAND[name]
    assert largest_boxes(draw(*rows), [0.2], component).tolist() == [[expected]]
    assert largest_box(draw(*rows), [0.2], component).tolist() == [expected]
    if component == "contour":
        assert contour_boxes(draw(*rows)[0], [0.2])[0][0].tolist() == expected  # the largest contour's first


@pytest.mark.parametrize("kind", ["noise", "smooth", "sparse"])
def test_contours_at_every_threshold_are_opencvs(kind):
    maps = random_maps(kind)
    for image, boxes in zip(maps, largest_boxes(maps, GRID, "contour"), strict=True):
        several = contour_boxes(image, GRID)
        for eta, box, all_of_them in zip(GRID, boxes.tolist(), several, strict=True):
            areas, rectangles, _ = zip(*contours(image > eta * image.max()) or [(0, NOTHING, [])], strict=True)
            assert box == all_of_them[0].tolist() == rectangles[np.argmax(areas)]
            assert sorted(all_of_them.tolist()) == sorted(rectangles)
    first, second, third = contour_boxes(maps[0], [0.3, 0.3, 0.9])
    assert first is second and (first is third) == (kind == "sparse")  # a mask is looked at once


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"unknown component 'contours'.*; choose one of pixels, contour"):
        largest_boxes(np.ones((1, 2, 2)), [0.2], "contours")
    for function in (largest_box, largest_boxes):
        with pytest.raises(ValueError, match="B, H, W"):
            function(np.ones((3, 3)), [0.1] * 3)
        with pytest.raises(ValueError, match="floating point"):
            function(np.full((1, 2, 2), np.nan), [0.1])
    for thresholds in ([0.1], [0.1] * 3, [[0.1, 0.1]], 0.1):
        with pytest.raises(ValueError, match="2 maps"):
            largest_box(np.ones((2, 3, 3)), thresholds)
    with pytest.raises(ValueError, match=r"thresholds must be \(K,\) or \(B, K\), got \(\)"):
        largest_boxes(np.ones((2, 3, 3)), 0.1)


def test_every_threshold_of_every_map():
    maps = np.concatenate([draw("+++.", "+#+.", "....", "..++"), draw("#...", "....", "...+", "...#") * 7])
    assert largest_boxes(maps, [0, 0.49, 0.5, 1]).tolist() == [
        [[0, 0, 3, 2], [0, 0, 3, 2], [1, 1, 2, 2], NOTHING],  # 0.5 is not above 0.5
        [[3, 2, 4, 4], [3, 2, 4, 4], [0, 0, 1, 1], NOTHING],
    ]
    assert largest_box(maps, [0, 0.5]).tolist() == [[0, 0, 3, 2], [0, 0, 1, 1]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_mask_is_computed_in_the_dtype_of_the_map(dtype):
    image = np.array([[[0.3, 1]]], dtype=dtype)
    assert float(image[0, 0, 0]) > 0.3  # rounding in float16 and in float32 goes up
    for thresholds in ([0.3], np.array([0.3]), torch.tensor([0.3], dtype=torch.float64)):
        assert largest_boxes(image, thresholds).tolist() == [[[1, 0, 2, 1]]]
        assert largest_boxes(image.astype(np.float64), thresholds).tolist() == [[[0, 0, 2, 1]]]
        assert [box.tolist() for box in contour_boxes(image[0], np.asarray(thresholds))] == [[[1, 0, 2, 1]]]
    # 0.3 is 0.30078125 in bfloat16, which numpy does not have
    maps = torch.tensor([[[0.3008, 1]]]).bfloat16()
    assert [largest_boxes(maps, [0.3], component).tolist() for component in COMPONENTS] == [[[[1, 0, 2, 1]]]] * 2


SMALL = {  # (H, W) maps; the maximum is often at many pixels, and some values are exactly at a threshold
    "noise": lambda rng, shape: rng.uniform(-0.2, 1, shape),
    "smooth": lambda rng, shape: ndimage.gaussian_filter(rng.normal(size=shape), 2),
    "coarse": lambda rng, shape: np.round(16 * rng.random(shape)) / 16,
    "sparse": lambda rng, shape: rng.choice([0.0, 0.25, 0.5, 1.0], shape, p=[0.7, 0.1, 0.1, 0.1]),
    "maxima": lambda rng, shape: np.minimum(rng.random(shape), 0.5),
    "plateaus": lambda rng, shape: ndimage.zoom(np.round(8 * rng.normal(size=(3, 3))), np.array(shape) / 3, order=0),
    "negative": lambda rng, shape: -rng.random(shape) - 0.1,
    "constant": lambda rng, shape: np.full(shape, rng.choice([-0.5, 0.0, 0.3, 2.0])),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", SMALL)
def test_agrees_with_labelling_on_maps_of_any_shape(kind, dtype):
    """Hundreds of masks of each kind and dtype, thresholds in any order, some twice, some at the map's values."""
    rng, different = np.random.default_rng(list(SMALL).index(kind)), set()
    for shape in [(1, 1), (1, 2), (2, 1), (1, 23), (24, 1), (2, 24), *rng.integers(2, 25, (18, 2)).tolist()]:
        image = SMALL[kind](rng, shape).astype(dtype)
        values = rng.choice(image.ravel(), 6) / (image.max() or 1)
        eta = rng.permutation([-0.3, 0, 0.2, 0.5, 0.5, 0.8, 1, 1.2, *values, *values[:3], *rng.random(3)])
        found = largest_boxes(image[None], eta)[0].tolist()
        assert found == [by_labelling(image, one) for one in eta]
        different |= set(map(tuple, found))
    assert len(different) > 10


@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_agrees_with_labelling_at_many_thresholds(kind):
    """Evenly spread, and crowded where a float32 hardly tells them apart."""
    image = SMALL[kind](np.random.default_rng(0), (37, 41)).astype(np.float32)
    image /= image.max()
    eta = np.concatenate([np.linspace(0, 1, 1001), 0.5 + np.arange(-50, 50) * 2.0**-24, image[20]])
    expected = [by_labelling(image, one) for one in eta]
    assert largest_boxes(image[None], eta)[0].tolist() == expected
    assert len(set(map(tuple, expected))) > 20


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_thresholds_beyond_all_numbers(dtype):
    maps = 2 * draw("##.", "...").astype(dtype)
    eta = torch.tensor([0.5, torch.inf, -torch.inf, torch.nan, 1e300, -1e300, 0.2]).to(torch.tensor(maps))
    inside, whole = [0, 0, 2, 1], [0, 0, 3, 2]
    assert largest_boxes(maps, eta).tolist() == [[inside, NOTHING, whole, NOTHING, NOTHING, whole, inside]]


def test_any_number_of_threads(one_thread):
    maps, eta = random_maps("noise"), [0.9, 0.1, 0.5, 0.3, 0.7]
    functions = boundary_means, lambda maps: largest_boxes(maps, GRID), lambda maps: largest_box(maps, eta)
    expected = [function(maps) for function in functions]
    torch.set_num_threads(3)
    for function, alone in zip(functions, expected, strict=True):
        np.testing.assert_array_equal(function(maps), alone)
    assert largest_boxes(maps[:0], GRID).shape == (0, 21, 4)


@pytest.mark.parametrize("thresholds", [(0.1, 0.5), np.array([0.5, 0.1])[::-1], torch.tensor([0.1, 0.5])])
def test_kinds_and_memory_layouts(thresholds):
    maps = random_maps("smooth", n=2)
    one, every = largest_box(maps, thresholds), largest_boxes(maps, thresholds)
    for function, array in ((largest_box, one), (largest_boxes, every)):
        tensor = function(torch.tensor(maps, requires_grad=True), thresholds)
        assert isinstance(array, np.ndarray) and array.dtype == np.int64
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.int64
        assert np.array_equal(array, tensor.numpy()) and array.any()
    assert np.array_equal(one, every[range(2), range(2)])
    assert np.array_equal(largest_boxes(maps, np.array([[0.1, 0.5]] * 2)), every)
    assert largest_boxes(maps, []).shape == (2, 0, 4) and largest_box(maps[:0], []).shape == (0, 4)
    frozen = maps.copy()
    frozen.flags.writeable = False
    for view in (maps[:, ::-1], maps[::2], maps.transpose(0, 2, 1), frozen):
        assert np.array_equal(largest_boxes(view, GRID), largest_boxes(view.copy(), GRID))
