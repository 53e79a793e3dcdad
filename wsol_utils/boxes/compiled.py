"""Compiled loops over pixels: the largest component's box and the sums along a mask's boundary, at every threshold.

Both start from levels: how many cuts lie below a pixel. One pass over a map then serves all of its masks.
numba makes the machine code at the first call and keeps it beside this file or in the user's cache folder.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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
    _fill([found], _boxes_of_map, maps, cuts, threads)
    return found


def boundary_sums(
    maps: np.ndarray, cuts: np.ndarray, diagonals: bool, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each map, divided by its maximum, over the boundary of the mask above every cut; and its pixels.

    Args:
        maps: (B, H, W), floating point and finite; where the maximum is not positive, nothing is summed.
        cuts: (B, K), in any order; the mask is map > cut.
        diagonals: whether 8 neighbours count, or 4. Beyond the image's border is outside.
        threads: how many share the maps.

    Returns:
        (B, K) float64, and how many pixels the boundary has, (B, K) int64.
    """
    total, count = np.zeros(cuts.shape), np.zeros(cuts.shape, dtype=np.int64)
    _fill([total, count], lambda image, cuts: _sums_of_map(image, cuts, image.max(), diagonals), maps, cuts, threads)
    return total, count


def _fill(results: list[np.ndarray], function: Callable, maps: np.ndarray, cuts: np.ndarray, threads: int) -> None:
    """Fill results, (B, K, …) each, with what the function gives of each map and its cuts in ascending order."""

    def fill(part: np.ndarray) -> None:
        image = np.empty(maps.shape[1:])  # float64, exact; for one map after another
        for b in part:
            order = cuts[b].argsort()
            image[:] = maps[b]
            for result, found in zip(results, function(image, cuts[b, order].astype(np.float64)), strict=True):
                result[b, order] = found

    rows = np.arange(len(maps) if cuts.size else 0)
    if threads == 1:
        fill(rows)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, np.array_split(rows, threads)))


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
    """Compile at the first call; in every process anew where no folder can keep the machine code."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


@_compiled
def _bucket(value, lowest, scale, n):
    return np.uint32(min(max((value - lowest) * scale, 0.0), n - 1.0))


@_compiled
def _find_levels(image, cuts):
    """(H, W), (K,) ascending -> (H + 2, W + 2), how many cuts lie below each pixel; 0 beyond the border."""
    # The cuts' range in equal buckets. A cut in a lower bucket than a value is below it, one in a higher bucket is
    # not, however the arithmetic rounds: what is left are the cuts of the value's own bucket, mostly one or none.
    height, width = image.shape
    levels = np.zeros((height + 2, width + 2), np.int32)
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
    for y in range(height):
        line, row = image[y], levels[y + 1]
        for x in range(width):
            level = before[_bucket(line[x], lowest, scale, n)]
            row[x + 1] = level + np.uint32(following[level] < line[x])  # without a branch
        if crowded:
            for x in range(width):
                while following[row[x + 1]] < line[x]:
                    row[x + 1] += 1
    return levels


@_compiled
def _find_earlier(levels):
    """Which neighbours of each pixel the growing mask reaches before it, a bit for each, (H + 2, W + 2)."""
    # those of a higher level, and those of its own level that come first in row-major order
    earlier = np.zeros(levels.shape, np.uint8)
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
    return earlier


@_compiled
def _sort_runs(levels, n_cuts):
    """The first pixels of all runs of one level along a row, the highest level first."""
    height, width = levels.shape
    runs = np.empty(height * width, np.int32)
    ends = np.zeros(n_cuts + 2, np.int64)  # of each level's runs, at n_cuts - level
    for placing in (False, True):  # counted first
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                if levels[y, x] != levels[y, x - 1]:
                    i = n_cuts - levels[y, x]
                    if placing:
                        runs[ends[i]] = y * width + x
                        ends[i] += 1
                    else:
                        ends[i + 1] += 1
        if not placing:
            ends = ends.cumsum()
    return runs[: ends[n_cuts]]


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
def _boxes_of_map(image, cuts):
    """(H, W), (K,) ascending -> boxes (K, 4), in a tuple."""
    levels = _find_levels(image, cuts)
    earlier, runs = _find_earlier(levels).ravel(), _sort_runs(levels, len(cuts))
    height, width = levels.shape
    levels = levels.ravel()
    boxes, labels = np.zeros((len(cuts), 4), np.int64), np.empty(levels.size, np.int32)
    offsets = AROUND[:, 0] * width + AROUND[:, 1]
    # a component begins at a pixel without earlier neighbours, so no two beginnings touch
    known = np.empty(((height - 1) // 2 * ((width - 1) // 2), 6), np.int32)
    parents = np.empty(len(known), np.int32)
    n, best, i = 0, -1, 0  # components so far, the largest, runs so far
    # The mask grows from the highest pixels down, run by run. A pixel's earlier neighbours are in it already, and
    # those that touch each other in one component: one of each group is enough.
    for k in range(len(cuts) - 1, -1, -1):
        while i < len(runs) and levels[runs[i]] == k + 1:
            start = runs[i]
            root, pixel = -1, start
            while levels[pixel] == k + 1:  # 0 beyond the border
                near = earlier[pixel]
                if root < 0 or not ALONG[near]:
                    for j in GROUPS[near]:
                        if j < 0:
                            break
                        other = _root(parents, labels[pixel + offsets[j]])
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
        if best >= 0:
            boxes[k] = known[best, X0:] - 1  # without the border
    return (boxes,)


@_compiled
def _sums_of_map(image, cuts, peak, diagonals):
    """(H, W), (K,) ascending -> total and count (K,)."""
    # A pixel lies on the boundary from the first cut that reaches its lowest neighbour up to its own value: the
    # pixel is above the cut, the neighbour is not. So every pixel adds its share to a run of cuts.
    shares, pixels = np.zeros(len(cuts) + 1), np.zeros(len(cuts) + 1, np.int64)
    if peak > 0:
        levels = _find_levels(image, cuts)
        height, width = image.shape
        lowest, found = np.empty(width, np.int32), np.empty(width + 1, np.uint32)
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
                shares[lowest[x]] += share
                shares[row[x + 1]] -= share
                pixels[lowest[x]] += 1
                pixels[row[x + 1]] -= 1
    return shares[:-1].cumsum(), pixels[:-1].cumsum()
