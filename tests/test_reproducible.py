"""Same input, same output: two runs of the sample on one machine write the same tables, byte for byte."""

import os
import subprocess
import sys

import pytest
import torch
from layouts_on_disk import ROOT, weights_file

from wsol_utils import models, sample

COMMAND = "import sys; from layouts_on_disk import run_road; run_road(**eval(sys.argv[1]))"


@pytest.mark.fault(
    "the same run a second time, in another folder and process", "every table and network, byte for byte"
)
def test_two_runs_write_the_same_bytes(tmp_path):
    """All notebooks on a cut-down sample, with the default's own threads and algorithms; a string's hash differs."""
    sample.render(tmp_path / "data", per_class={"things": (3, 1), "birds": (1, 1)})
    torch.manual_seed(0)
    weights = weights_file(tmp_path / "small vgg.safetensors", models.SmallVGG(), "features.")
    written = []
    for seed in ("1", "2"):
        parameters = {
            "dataset": "things", "data_root": str(tmp_path / "data" / "things"), "results": str(tmp_path / seed),
            "weights": str(weights), "epochs": 1, "image_size": 48, "resize_size": 52,
        }  # fmt: skip
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "tests")}
        run = subprocess.run([sys.executable, "-c", COMMAND, repr(parameters)], env=environment, capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
        folder = tmp_path / seed / "sample" / "things"
        kinds = (".csv", ".md", ".safetensors", ".npy", ".npz", ".png")
        files = [path for path in folder.rglob("*") if path.suffix in kinds]
        written.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    first, second = written
    names = {"metrics.csv", "seed0/history.csv", "seed0/wgap.safetensors", "seed0/predictions_gap/scaled_maps.npy"}
    assert names <= first.keys()
    assert [name for name in first | second if first.get(name) != second.get(name)] == []
