"""manifest.json: what a run was, and the files that it left."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import datetime

import pandas as pd
import pytest
import torch
from layouts_on_disk import LAYOUTS, ROOT

from wsol_utils import experiments, handover, manifest, reference


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of the sample's birds, with weights of its own."""
    monkeypatch.delenv("WSOL_RESULTS", raising=False)
    monkeypatch.setattr(reference, "ROOT", tmp_path / "repository")
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    config = experiments.configure(
        "birds", results=str(tmp_path / "results"), seeds="0,2", device="cpu", weights=str(tmp_path / "w.safetensors")
    )
    notebook = {"cells": [], "metadata": {"papermill": {"duration": 12.5}}}
    rows = {"pooling": "wgap", "recombination": "absolute", "threshold_rule": "fixed", "seed": [0, 2]}
    metrics = pd.DataFrame(rows | {"top1_cls": 80.0, "top1_loc": 50.0, "gt_known": [60.0, 70.0]})
    for name, text in {
        "notebooks/05_tables.ipynb": json.dumps(notebook), "seed0/predictions_wgap/box.npy": "boxes",
        "seed0/wgap.safetensors": "network", "table.md": "# Table 1\n", "metrics.csv": metrics.to_csv(index=False),
    }.items():  # fmt: skip
        (config.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (config.folder / name).write_text(text, encoding="utf-8")
    return config


def written(config, given=None):
    manifest.write(config, given or {})
    return json.loads((config.folder / "manifest.json").read_text())


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_what_it_holds(run, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # torch has read it long ago
    content = written(experiments.replace(run, threads=3, deterministic=True), {"seeds": "0,2"})
    assert list(content) == [
        "command", "given", "parameters", "seeds", "device", "platform", "versions", "git_revision", "code", "data",
        "written", "duration_seconds", "weights_sha256", "sha256",
    ]  # fmt: skip
    assert content["given"] == {"seeds": "0,2"} and content["seeds"] == [0, 2]
    assert content["parameters"]["lr"] == run.lr and content["parameters"]["poolings"] == ["gap", "wgap"]
    assert content["device"] == f"CPU {platform.machine()}, 3 threads"
    assert content["duration_seconds"] == {"05_tables": 12.5}
    assert datetime.fromisoformat(content["written"]).utcoffset().total_seconds() == 0
    found = content["platform"]
    assert type(found.pop("processor")) is str and found.pop("system").startswith(platform.system())
    assert found == {
        "machine": platform.machine(), "threads": 3, "deterministic_algorithms": True, "ATEN_CPU_CAPABILITY": "default",
    }  # fmt: skip
    python, *names = content["versions"]
    assert python == "python" and names == sorted(names) == [name.lower() for name in names] and len(names) > 30
    assert all(content["versions"][name] == importlib.metadata.version(name) for name in ("torch", "numba"))
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wsol_utils").rglob("*.py")}
    assert set(content["code"]) == modules | {"dodo.py", "notebooks/05_tables.ipynb"}  # the one that was run
    assert content["code"]["dodo.py"] == sha256((ROOT / "dodo.py").read_bytes())


def test_checksums(run):
    """Of all files but itself, hidden ones and the report's pages."""
    for name in ("manifest.json", ".doit.json", "seed0/.gap.safetensors.1.part", "notebooks/05_tables.html"):
        (run.folder / name).write_text("none of the run")
    content = written(run)
    names = ["metrics.csv", "notebooks/05_tables.ipynb", "seed0/predictions_wgap/box.npy", "seed0/wgap.safetensors"]
    assert content["sha256"] == {name: sha256((run.folder / name).read_bytes()) for name in [*names, "table.md"]}
    assert content["weights_sha256"] == sha256(b"weights")
    assert written(experiments.replace(run, weights="imagenet"))["weights_sha256"] == ""
    assert written(run) | {"written": ""} == content | {"written": ""}, "two differ in their time alone"


def test_make_understands_the_command(run, tmp_path):
    given = {"results": "a folder $x it's", "data_root": "/b c/", "seeds": "0,1"}
    assert manifest.command("cub", {"seeds": "0,1"}) == "make reproduce DATASET=cub SEEDS=0,1"
    names = "DATASET RESULTS DATA_ROOT SEEDS"
    (tmp_path / "Makefile").write_text(f'reproduce:\n\t@printf "%s|" $(foreach n,{names},"$($(n))")\n')
    said = subprocess.run(
        written(run, given)["command"], shell=True, cwd=tmp_path, env={"PATH": os.environ["PATH"], "x": "X"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "birds|a folder X it's|/b c/|0,1|"  # the recipe's own shell puts in $x, as in the first run


@pytest.mark.parametrize(
    ("layout", "lists"),
    [
        ("cub", {"images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt"}),
        ("ilsvrc", {"LOC_synset_mapping.txt", "LOC_train_solution.csv", "LOC_val_solution.csv"}),
        ("tiny_imagenet", {"wnids.txt", "words.txt", "val/val_annotations.txt"}),
    ],
)
def test_lists_of_the_data_set(run, tmp_path, layout, lists):
    LAYOUTS[layout](tmp_path / "data")
    data = written(experiments.replace(run, layout=layout, data_root=str(tmp_path / "data")))["data"]
    texts = {name: (tmp_path / "data" / name).read_bytes() for name in lists}
    assert data == {name: {"sha256": sha256(text), "bytes": len(text)} for name, text in texts.items()}


def test_outside_a_git_checkout(run, tmp_path, monkeypatch):
    assert len(written(run)["git_revision"]) >= 40
    monkeypatch.setattr(manifest, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert written(run)["git_revision"] == "not a git checkout"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert written(run)["git_revision"] == "not a git checkout"


def test_a_gpu_is_named(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA X at {device}")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    content = written(experiments.replace(run, device="cuda:1"))
    assert content["device"] == "NVIDIA X at cuda:1"
    assert (content["platform"]["cuda"], content["platform"]["cudnn"]) == ("13.2", 91000)
    assert not {"cuda", "cudnn"} & set(written(run)["platform"])  # it computed on the CPU


def test_summary(run):
    usual = experiments.replace(run, weights="")
    text = manifest.summary(usual)
    assert text.startswith(f"birds: {run.results}/sample/birds/table.md; ")
    assert text.endswith("has no bands for this run")
    metrics = pd.read_csv(run.folder / "metrics.csv").assign(gt_known=70.0)
    several = pd.concat([metrics.assign(rounding="own")] * reference.FEWEST)
    handover.write_csv(reference.bands(several), reference.folder("sample", "birds") / "bands.csv")
    expected = "5 of 6 figures lie within the bands of results/reference/sample/birds; outside:\n  "
    text, _, outside = manifest.summary(usual).partition(expected)
    assert text and len(outside.splitlines()) == 1 and "gt_known 60.0, 7.0 points below [67.0, 73.0]" in outside
    assert manifest.summary(run).endswith("no bands for this run")  # other weights than the reference's
