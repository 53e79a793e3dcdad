"""Compiled loops over pixels: the largest component's box and the sums along a mask's boundary, at every threshold.

Both start from levels: how many cuts lie below a pixel. One pass over a map then serves all of its masks.
The machine code is made at the first call and kept beside this file or in the user's cache folder.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numba
import numpy as np

SIZE, FIRST, X0, Y0, X1, Y1 = range(6)  # of a component: how many pixels, the first of them, half-open box


def largest_boxes(maps: np.ndarray, cuts: np.ndarray, threads: int = 1) -> np.ndarray:
    """The box of the largest 8-connected component above every cut; ties as in `boxes.largest_boxes`.

    Args:
        maps: (B, H, W), floating point and finite.
        cuts: (B, K), in any order; the mask is map > cut.
        threads: how many share the maps.

    Returns:
        (B, K, 4) int64, half-open; zeros where nothing is above.
    """
    found = np.zeros((*cuts.shape, 4), dtype=np.int64)
    if found.size:
        order = cuts.argsort(axis=1)
        ascending = np.take_along_axis(cuts, order, axis=1).astype(np.float64)  # exact, as for the maps below
        _share(_boxes_of_maps, threads, maps, ascending, order, found)
    return found


def boundary_sums(
    maps: np.ndarray, cuts: np.ndarray, peaks: np.ndarray, diagonals: bool, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of map / peak over the boundary of the mask above every cut, and how many pixels it has.

    Args:
        maps: (B, H, W), floating point and finite.
        cuts: (B, K), ascending; the mask is map > cut.
        peaks: (B,), each map's maximum; where it is not positive, nothing is summed.
        diagonals: whether 8 neighbours count, or 4. Beyond the image's border is outside.
        threads: how many share the maps.

    Returns:
        (B, K) float64 and (B, K) int64.
    """
    total, count = np.zeros(cuts.shape), np.zeros(cuts.shape, dtype=np.int64)
    if total.size:
        _share(partial(_sums_of_maps, diagonals), threads, maps, cuts.astype(np.float64), peaks, total, count)
    return total, count


def _share(function: Callable, threads: int, *arrays: np.ndarray) -> None:
    """Calls the function on (B, …) arrays, cut along B into as many parts as there are threads."""
    threads = min(threads, len(arrays[0]))
    if threads == 1:
        function(*arrays)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(function, *(np.array_split(array, threads) for array in arrays)))


def _boxes_of_maps(maps: np.ndarray, cuts: np.ndarray, order: np.ndarray, found: np.ndarray) -> None:
    height, width = maps.shape[1:]
    image, boxes = np.empty((height, width)), np.empty((cuts.shape[1], 4), dtype=np.int64)  # for one map after another
    levels = np.zeros((height + 2, width + 2), dtype=np.int32)
    earlier = np.zeros((height + 2, width + 2), dtype=np.uint8)
    runs, labels = np.empty(height * width, dtype=np.int32), np.empty(levels.size, dtype=np.int32)
    # a component begins at a pixel without earlier neighbours, so no two beginnings touch
    known = np.empty(((height + 1) // 2 * ((width + 1) // 2), 6), dtype=np.int32)
    parents = np.empty(len(known), dtype=np.int32)
    steps = np.append(AROUND @ [width + 2, 1], 0)[GROUPS]  # in levels' rows; 0 ends a list
    for given, ascending, places, result in zip(maps, cuts, order, found, strict=True):
        image[:] = given
        _boxes_of_map(image, ascending, steps, levels, earlier, runs, labels, parents, known, boxes)
        result[places] = boxes


def _sums_of_maps(
    diagonals: bool, maps: np.ndarray, cuts: np.ndarray, peaks: np.ndarray, total: np.ndarray, count: np.ndarray
) -> None:
    height, width = maps.shape[1:]
    image, levels = np.empty((height, width)), np.zeros((height + 2, width + 2), dtype=np.int32)
    for given, ascending, peak, sums, pixels in zip(maps, cuts, peaks, total, count, strict=True):
        if peak > 0:
            image[:] = given
            _sums_of_map(image, ascending, float(peak), diagonals, levels, sums, pixels)


def _groups() -> np.ndarray:
    """(256, 5): for every set of neighbours, one of each 8-connected group of them, then -1."""
    groups, places = np.full((256, 5), -1), tuple(AROUND.T + 1)
    for some in range(256):
        block = np.zeros((3, 3), dtype=np.uint8)
        block[places] = some >> np.arange(8) & 1
        n, labels = cv2.connectedComponents(block, connectivity=8)
        groups[some, : n - 1] = [labels[places].tolist().index(k) for k in range(1, n)]
    return groups


AROUND = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])  # a pixel's 8 neighbours
GROUPS = _groups()
# One group, the left neighbour (3) in it: a pixel of a run that follows the one before it, and joins nothing else.
ALONG = np.array([bool(some & 8) and GROUPS[some, 1] < 0 for some in range(256)])


def _compiled(function: Callable) -> Callable:
    """Compiled at its first call; where the machine code can be kept nowhere, in every process anew."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


@_compiled
def _bucket(value, lowest, scale, n):
    return np.uint32(min(max((value - lowest) * scale, 0.0), n - 1.0))


@_compiled
def _find_levels(image, cuts, levels):
    """(H, W), (K,) ascending -> levels (H + 2, W + 2), how many cuts lie below each pixel; the border stays 0."""
    # The cuts' range in equal buckets. A cut in a lower bucket than a value is below it, one in a higher bucket is
    # not, however the arithmetic rounds: what is left are the cuts of the value's own bucket, mostly one or none.
    n = 256 + 8 * len(cuts)
    margin = max(cuts[-1] - cuts[0], abs(cuts[0])) / 64  # values below or above all cuts share no bucket with one
    lowest = cuts[0] - margin
    scale = n / (cuts[-1] + margin - lowest)
    before = np.zeros(n + 1, np.uint32)  # how many cuts are in lower buckets
    crowded = not 0 < scale < np.inf  # whether some bucket holds several
    if crowded:  # all cuts are 0, or one overflowed: everything in the first bucket
        lowest, scale = 0.0, 0.0
    else:
        for cut in cuts:
            bucket = _bucket(cut, lowest, scale, n)
            crowded = crowded or before[bucket + 1] > 0
            before[bucket + 1] += 1
        for i in range(n):
            before[i + 1] += before[i]
    following = np.append(cuts, np.inf)
    height, width = image.shape
    for y in range(height):
        line, row = image[y], levels[y + 1]
        for x in range(width):
            level = before[_bucket(line[x], lowest, scale, n)]
            row[x + 1] = level + np.uint32(following[level] < line[x])  # without a branch
        if crowded:
            for x in range(width):
                while following[row[x + 1]] < line[x]:
                    row[x + 1] += 1


@_compiled
def _find_earlier(levels, earlier):
    """Which neighbours of each pixel the growing mask reaches before it, a bit for each, (H + 2, W + 2)."""
    # those of a higher level, and those of its own level that come first in row-major order
    height, width = levels.shape
    for y in range(1, height - 1):
        above, row, below, out = levels[y - 1], levels[y], levels[y + 1], earlier[y]
        for x in range(1, width - 1):
            own = row[x]
            out[x] = (
                np.uint8(above[x - 1] >= own)
                | np.uint8(above[x] >= own) << 1
                | np.uint8(above[x + 1] >= own) << 2
                | np.uint8(row[x - 1] >= own) << 3
                | np.uint8(row[x + 1] > own) << 4
                | np.uint8(below[x - 1] > own) << 5
                | np.uint8(below[x] > own) << 6
                | np.uint8(below[x + 1] > own) << 7
            )


@_compiled
def _sort_runs(levels, k, runs):
    """The first pixels of all runs of one level along a row, the highest level first -> where each level ends."""
    height, width = levels.shape
    ends = np.zeros(k + 2, np.int64)  # at k - level
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if levels[y, x] != levels[y, x - 1]:
                ends[k - levels[y, x] + 1] += 1
    for i in range(k + 1):
        ends[i + 1] += ends[i]
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if levels[y, x] != levels[y, x - 1]:
                i = k - levels[y, x]
                runs[ends[i]] = y * width + x
                ends[i] += 1
    return ends


@_compiled
def _root(parents, i):
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@_compiled
def _add(known, i, size, first, x0, y0, x1, y1):
    known[i, SIZE] += size
    known[i, FIRST] = min(known[i, FIRST], first)
    known[i, X0], known[i, Y0] = min(known[i, X0], x0), min(known[i, Y0], y0)
    known[i, X1], known[i, Y1] = max(known[i, X1], x1), max(known[i, Y1], y1)


@_compiled
def _join(parents, known, i, j):
    """Two roots become one, the larger's, which is returned."""
    if i == j:
        return i
    if known[j, SIZE] > known[i, SIZE]:
        i, j = j, i
    parents[j] = i
    _add(known, i, known[j, SIZE], known[j, FIRST], known[j, X0], known[j, Y0], known[j, X1], known[j, Y1])
    return i


@_compiled
def _boxes_of_map(image, cuts, steps, levels, earlier, runs, labels, parents, known, boxes):
    """(H, W), (K,) ascending -> boxes (K, 4); the arrays between are room to work in."""
    _find_levels(image, cuts, levels)
    _find_earlier(levels, earlier)
    ends = _sort_runs(levels, len(cuts), runs)
    height, width = levels.shape
    level_of, earlier_of = levels.ravel(), earlier.ravel()
    n, best, i = 0, -1, 0  # components so far, the largest, runs so far
    # The mask grows from the highest pixels down, run by run. A pixel's earlier neighbours are in it already, and
    # those that touch each other in one component: one of each group is enough.
    for k in range(len(cuts) - 1, -1, -1):
        while i < ends[len(cuts) - 1 - k]:
            start = runs[i]
            root, pixel = -1, start
            while level_of[pixel] == k + 1:  # 0 beyond the border
                near = earlier_of[pixel]
                if root < 0 or not ALONG[near]:
                    for j in range(5):
                        if steps[near, j] == 0:
                            break
                        other = _root(parents, labels[pixel + steps[near, j]])
                        root = other if root < 0 else _join(parents, known, root, other)
                    if root < 0:  # no neighbour yet: a new component
                        root = n
                        n += 1
                        parents[root] = root
                        known[root, SIZE], known[root, FIRST] = 0, pixel
                        known[root, X0], known[root, Y0], known[root, X1], known[root, Y1] = width, height, 0, 0
                labels[pixel] = root
                pixel += 1
            y, x = start // width, start % width
            _add(known, root, pixel - start, start, x, y, x + pixel - start, y + 1)
            # more pixels, also if the best was joined to it; or as many, and the first of them comes first
            if best < 0 or (known[root, SIZE], -known[root, FIRST]) > (known[best, SIZE], -known[best, FIRST]):
                best = root
            i += 1
        for j in range(4):
            boxes[k, j] = known[best, X0 + j] - 1 if best >= 0 else 0  # without the border


@_compiled
def _sums_of_map(image, cuts, peak, diagonals, levels, total, count):
    """(H, W), (K,) ascending -> total and count (K,)."""
    # A pixel lies on the boundary from the first cut that reaches its lowest neighbour up to its own value: the
    # pixel is above the cut, the neighbour is not. So every pixel adds its share to a run of cuts.
    _find_levels(image, cuts, levels)
    height, width = image.shape
    lowest, found = np.empty(width, np.int32), np.empty(width + 1, np.uint32)
    share_steps, pixel_steps = np.zeros(len(cuts) + 1), np.zeros(len(cuts) + 1, np.int64)
    for y in range(height):
        above, row, below, line = levels[y], levels[y + 1], levels[y + 2], image[y]
        for x in range(width):
            lowest[x] = min(min(row[x], row[x + 2]), min(above[x + 1], below[x + 1]))
        if diagonals:
            for x in range(width):
                lowest[x] = min(lowest[x], min(min(above[x], above[x + 2]), min(below[x], below[x + 2])))
        n = 0
        for x in range(width):  # without a branch
            found[n] = x
            n += np.uint32(lowest[x] < row[x + 1])
        for x in found[:n]:
            share = line[x] / peak
            share_steps[lowest[x]] += share
            share_steps[row[x + 1]] -= share
            pixel_steps[lowest[x]] += 1
            pixel_steps[row[x + 1]] -= 1
    shares, pixels = 0.0, 0
    for k in range(len(cuts)):
        shares += share_steps[k]
        pixels += pixel_steps[k]
        total[k], count[k] = shares, pixels
