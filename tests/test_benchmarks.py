"""Notebook 08 runs, cut down, and what it compares with gives the same answers."""

import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import run_notebook

from wsol_utils import benchmarks, boxes, datasets, thresholds, throughput

pytestmark = pytest.mark.usefixtures("one_thread")


def test_compared_by_hand():
    taken = {"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 4.0, 20.0]}  # ratios 3, 2 and 5
    (row,) = benchmarks.compared("boxes", taken, "ours", 10, 2.5)
    assert row == {"topic": "boxes", "ours": "ours", "peer": "theirs", "ours_ms": 200, "peer_ms": 400, "ratio": 3,
                   "target": 2.5}  # fmt: skip


def test_side_by_side_takes_turns():
    calls = []
    taken = benchmarks.side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3 and [len(times) for times in taken.values()] == [2, 2]


def test_a_wrong_box_is_counted(monkeypatch):
    assert benchmarks.disagreements(9600) == (9600, 0)
    real = boxes.largest_boxes

    def one_is_wrong(maps, grid):
        found = real(maps, grid)
        found[0, 0, 2] += 1
        return found

    monkeypatch.setattr(boxes, "largest_boxes", one_is_wrong)
    assert benchmarks.disagreements(9600) == (9600, 3)  # in each of three kinds of maps


@pytest.mark.parametrize("name", benchmarks.EROSIONS)
def test_erosions_choose_the_same_thresholds(name):
    maps = benchmarks.blobs(6, 32)
    found = benchmarks.selected_by_erosion(maps, benchmarks.EROSIONS[name])
    np.testing.assert_allclose(found, thresholds.select(maps), atol=1e-6)
    assert len(set(found)) > 1


def test_operations_of_vgg16():
    """15.35 · 10⁹ multiplications with an addition each in its convolutions at 224 px (Simonyan and Zisserman), and
    twice as many backward, but for the first layer's gradient of the image."""
    first = 64 * 27 * 224 * 224
    assert throughput.operations("vgg16") == pytest.approx(2 * (3 * 15_346_630_656 - first), rel=1e-3)


def test_generated_frames_are_a_function_of_their_index():
    dataset = throughput.Generated(3, datasets.test_transform(16))
    assert torch.equal(dataset.frame(1)[0], dataset.frame(1)[0]) and not torch.equal(dataset[0][0], dataset[1][0])
    assert dataset[0][0].shape == (3, 16, 16)


def test_plan_by_hand():
    table = throughput.plan({"a": 100.0}, decoding=300.0, epochs=9).set_index("devices")
    assert table.loc[1, "hours"] == pytest.approx(1_281_167 * 9 / 100 / 3600)
    assert table.loc[64, "hours"] == pytest.approx(table.loc[1, "hours"] / 64)
    assert table["cores"].tolist() == [1, 3, 22]


def test_the_notebook_cut_down(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "first_calls", lambda: pd.DataFrame())  # three processes that compile
    small = {"repeats": 1, "maps": 4, "pairs": 1000, "networks": {"squeezenet1_1": 2}, "images": [8, 12],
             "photographs": 8, "steps": 1}  # fmt: skip
    run_notebook("08_benchmarks", out=str(tmp_path / "benchmarks.csv"), **small)
    record = pd.read_csv(tmp_path / "benchmarks.csv")
    topics = " ".join(record["topic"])
    for topic in ("boxes at 1000 thresholds", "rule of Sec. 4.3", "all maps", "memory of predictions", "input for"):
        assert topic in topics
    assert record["ratio"].gt(0).all() and record["machine"].str.contains("torch").all()
