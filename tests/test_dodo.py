"""`make reproduce` without make: doit refuses what cannot work, executes notebooks once, and again only for cause."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from layouts_on_disk import NOTEBOOKS, ROAD, ROOT, tiny_imagenet, weights_file

from wsol_utils import models


def reproduce(**variables: str) -> subprocess.CompletedProcess:
    """Like the Makefile's rule: every variable is handed over, most of them empty."""
    names = ("DATASET", "PROFILE", "DATA_ROOT", "WEIGHTS", "BACKBONE", "SEEDS", "POOLINGS", "RESULTS")
    given = [f"{name}={variables.get(name, '')}" for name in names]
    command = [sys.executable, "-m", "doit", "--file", str(ROOT / "dodo.py"), "run", *given]
    environment = {key: value for key, value in os.environ.items() if key != "WSOL_RESULTS"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def said(finished: subprocess.CompletedProcess) -> str:
    return finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PROFILE": "papers"}, "unknown profile 'papers' (did you mean 'paper'?); choose one of sample, light, paper"),
        ({"PROFILE": "light"}, "PROFILE=light needs DATASET=cub, ilsvrc or tiny_imagenet"),
        ({"DATASET": "cub"}, "unknown dataset of profile 'sample' 'cub'; choose one of things, birds"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_bad_value(tmp_path, variables, message):
    finished = reproduce(**variables, RESULTS=str(tmp_path / "results"))
    assert finished.returncode != 0
    [line] = said(finished).strip().splitlines()
    assert message in line
    assert not (tmp_path / "results").exists()


def modified(folder: Path) -> dict[str, int]:
    """When each file of a run was written; the runner's own records left out."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".doit")}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(variables, results of the data set, what was said) of a whole run, its folders with spaces in their names."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    tiny_imagenet(folder / "the data", train=16, test=2)  # 32 images: one batch of profile `light`
    weights = weights_file(folder / "small vgg.safetensors", models.SmallVGG(), "features.")
    variables = {
        "PROFILE": "light", "DATASET": "tiny_imagenet", "DATA_ROOT": str(folder / "the data"),
        "WEIGHTS": str(weights), "BACKBONE": "small_vgg", "SEEDS": "3", "RESULTS": str(folder / "my results"),
    }  # fmt: skip
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    finished = reproduce(**variables)
    assert finished.returncode == 0, said(finished)
    after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    assert after == before, "a run changed a file that git tracks, or left one beside them"
    return variables, folder / "my results" / "light" / "tiny_imagenet", said(finished)


def test_whole_run(run):
    variables, folder, text = run
    assert [name for name in ["00_overview", *ROAD] if name not in text] == []
    assert "results/reference has no bands for this run" in text
    executed = [path.stem for path in sorted((folder / "notebooks").iterdir())]
    assert executed == ROAD and (folder.parent / "notebooks" / "00_overview.ipynb").is_file()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["seed"]) == {3} and set(metrics["backbone"]) == {"small_vgg"}
    assert set(metrics["pooling"]) == {"gap", "wgap"}
    names = {"table.md", "table.csv", "fig2.png", "fig3.png", "fig4.png", "manifest.json", "annotations.csv"}
    assert names <= {path.name for path in folder.iterdir()}
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part") or path.name.startswith(".running")]
    source = json.loads((NOTEBOOKS / f"{ROAD[0]}.ipynb").read_text(encoding="utf-8"))
    assert all("papermill" not in cell["metadata"] for cell in source["cells"]), "the committed notebook was changed"
    assert variables["RESULTS"] not in (folder / "table.md").read_text(encoding="utf-8")


def test_manifest_is_written_last_and_right(run):
    variables, folder, _ = run
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    times = modified(folder)
    assert times.pop("manifest.json") >= max(times.values())
    assert set(manifest["sha256"]) == set(times)
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    assert manifest["weights_sha256"] == hashlib.sha256(Path(variables["WEIGHTS"]).read_bytes()).hexdigest()
    parameters = manifest["parameters"]
    assert (parameters["dataset"], parameters["profile"], parameters["backbone"]) == (
        "tiny_imagenet", "light", "small_vgg",
    )  # fmt: skip
    assert manifest["seeds"] == [3] and manifest["given"]["seeds"] == "3"
    assert set(manifest["duration_seconds"]) == set(ROAD) and all(v > 0 for v in manifest["duration_seconds"].values())
    assert {"device", "versions", "git_revision", "written"} <= set(manifest)
    assert {"python", "torch", "torchvision", "numpy"} <= set(manifest["versions"])


def test_second_run_does_no_work_again(run):
    variables, folder, _ = run
    before = modified(folder.parent)
    finished = reproduce(**variables)
    assert finished.returncode == 0, said(finished)
    assert modified(folder.parent) == before
    assert not [name for name in ROAD if name in said(finished)]


def test_notebook_that_fails_is_named_with_its_remedy_and_leaves_no_manifest(run):
    """The last test: what it leaves is no whole run any more."""
    variables, folder, _ = run
    finished = reproduce(**variables | {"DATA_ROOT": str(folder / "nowhere")})
    assert finished.returncode != 0
    text = said(finished)
    assert "01_dataset_preparation.ipynb, cell " in text and "nowhere/wnids.txt: no such folder" in text
    assert "DATA_ROOT must be the folder that holds wnids.txt" in text
    assert "Traceback" not in text and "02_finetune_wgap" not in text
    assert not (folder / "manifest.json").exists()
