"""Notebook 08 runs, cut down, and what it compares with gives the same answers."""

import numpy as np
import pandas as pd
import pytest
from layouts_on_disk import run_notebook

from wsol_utils import boxes, kernels, thresholds

pytestmark = pytest.mark.usefixtures("one_thread")


def test_functions_take_turns_and_are_compared_by_their_medians():
    calls = []
    taken = kernels.side_by_side({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert calls == ["a", "b"] * 3 and [len(times) for times in taken.values()] == [2, 2]  # the first is not timed
    taken = {"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 4.0, 20.0]}  # ratios 3, 2 and 5
    (row,) = kernels.compared("boxes", taken, "ours", 10, 2.5)
    assert row == {"topic": "boxes", "ours": "ours", "peer": "theirs", "ours_ms": 200, "peer_ms": 400, "ratio": 3,
                   "target": 2.5}  # fmt: skip


def test_opencv_gives_the_same_boxes_and_thresholds():
    smooth, noise = kernels.blobs(6, 32), np.random.default_rng(0).random((6, 32, 32), dtype=np.float32)
    for maps in (smooth, noise, np.round(4 * noise)):  # the last have many components of one size
        grid = np.linspace(0, 1, 50)
        np.testing.assert_array_equal(boxes.largest_boxes(maps, grid), kernels.boxes_by_opencv(maps, grid))
    found = kernels.selected_by_opencv(smooth)
    np.testing.assert_allclose(found, thresholds.select(smooth), atol=1e-6)
    assert len(set(found)) > 1


def test_the_notebook_cut_down(tmp_path):
    small = {"repeats": 1, "maps": 2, "networks": {"squeezenet1_1": 2}, "photographs": 4, "steps": 1}
    run_notebook("08_benchmarks", out=str(tmp_path / "benchmarks.csv"), **small)
    record = pd.read_csv(tmp_path / "benchmarks.csv")
    assert set(record["topic"]) == {
        *(f"boxes at {k} thresholds" for k in (1, 21, 101, 1000)), "rule of Sec. 4.3",
        "squeezenet1_1, batch 2, all maps", "input for squeezenet1_1",
    }  # fmt: skip
    assert record["ratio"].gt(0).all() and record["machine"].str.contains("torch").all()
