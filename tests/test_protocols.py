"""The conventions of an evaluation."""

import numpy as np
import pytest

from wsol_utils import cam, protocols, thresholds


def test_the_papers():
    paper = protocols.get("paper")
    assert paper.normalization == "max"  # Sec. 4.3: pixel values > η · max
    assert paper.resolution == "input"
    assert len(paper.candidates) == 21 and paper.candidates[:3] == (0, 0.05, 0.1) and paper.candidates[-1] == 1
    assert paper.candidates == thresholds.PAPER_GRID
    assert paper.iou == 0.5


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_row_holds_words_that_the_modules_know(name):
    row = protocols.get(name)
    cam.normalize(np.ones((1, 2, 2)), row.normalization)
    assert row.resolution in ("input", "map")
    assert list(row.candidates) == sorted(set(row.candidates)) and 0 <= row.candidates[0] <= row.candidates[-1] <= 1
    assert 0 < row.iou <= 1


def test_unknown():
    with pytest.raises(ValueError, match="unknown protocol 'papers'; choose one of paper"):
        protocols.get("papers")
