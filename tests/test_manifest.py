"""manifest.json: what a run was, and the files that it left."""

import hashlib
import importlib.metadata
import json
import platform
from datetime import datetime

import pandas as pd
import pytest
import torch

from wsol_utils import experiments, manifest, reference, runs


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run of the sample's birds, with weights of its own."""
    monkeypatch.delenv("WSOL_RESULTS", raising=False)
    monkeypatch.setattr(reference, "ROOT", tmp_path / "repository")
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    config = experiments.configure(
        "birds", results=str(tmp_path / "results"), seeds="0,2", device="cpu", weights=str(tmp_path / "w.safetensors")
    )
    (config.folder / "notebooks").mkdir(parents=True)
    (config.folder / "seed0").mkdir()
    (config.folder / "seed0" / "wgap.safetensors").write_bytes(b"network")
    (config.folder / "table.md").write_text("# Table 1\n")
    notebook = {"cells": [], "metadata": {"papermill": {"duration": 12.5}}}
    (config.folder / "notebooks" / "05_tables.ipynb").write_text(json.dumps(notebook))
    rows = {"pooling": "wgap", "recombination": "absolute", "threshold_rule": "fixed", "seed": [0, 2]}
    metrics = pd.DataFrame(rows | {"top1_cls": 80.0, "top1_loc": 50.0, "gt_known": [60.0, 70.0]})
    metrics.to_csv(config.folder / "metrics.csv", index=False)
    return config


def written(config, given=None):
    manifest.write(config, given or {})
    return json.loads((config.folder / "manifest.json").read_text())


def test_what_it_holds(run):
    content = written(run, {"seeds": "0,2"})
    assert list(content) == [
        "given", "parameters", "seeds", "device", "versions", "git_revision", "written", "duration_seconds",
        "weights_sha256", "sha256",
    ]  # fmt: skip
    assert content["given"] == {"seeds": "0,2"} and content["seeds"] == [0, 2]
    assert content["parameters"]["lr"] == run.lr and content["parameters"]["poolings"] == ["gap", "wgap"]
    assert content["parameters"]["head_multiplier"] == run.head_multiplier
    assert content["versions"]["torch"] == importlib.metadata.version("torch")
    assert content["versions"]["python"] == platform.python_version()
    assert content["device"].startswith("CPU ") and content["device"].endswith(" threads")
    assert content["duration_seconds"] == {"05_tables": 12.5}
    assert datetime.fromisoformat(content["written"]).utcoffset().total_seconds() == 0
    assert len(content["git_revision"]) >= 7


def test_checksums(run):
    content = written(run)
    assert content["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert sorted(content["sha256"]) == [
        "metrics.csv",
        "notebooks/05_tables.ipynb",
        "seed0/wgap.safetensors",
        "table.md",
    ]
    for name, digest in content["sha256"].items():
        assert digest == hashlib.sha256((run.folder / name).read_bytes()).hexdigest()
    assert content["sha256"]["seed0/wgap.safetensors"] == hashlib.sha256(b"network").hexdigest()


def test_written_again_it_does_not_count_itself(run):
    first = written(run)
    (run.folder / "table.md").write_text("# changed\n")
    again = written(run)
    assert "manifest.json" not in again["sha256"]
    changed = [name for name, digest in again["sha256"].items() if digest != first["sha256"][name]]
    assert changed == ["table.md"]
    assert not list(run.folder.glob("*.part"))


@pytest.mark.parametrize("weights", ["", "imagenet"])
def test_without_a_weights_file(run, weights):
    assert written(experiments.replace(run, weights=weights))["weights_sha256"] == ""


def test_outside_a_git_checkout(run, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert written(run)["git_revision"] == "not a git checkout"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert written(run)["git_revision"] == "not a git checkout"


def test_a_gpu_is_named(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA X at {device}")
    assert written(experiments.replace(run, device="cuda:1"))["device"] == "NVIDIA X at cuda:1"


def test_summary(run, monkeypatch):
    usual = experiments.replace(run, weights="")
    text = manifest.summary(usual)
    assert text.startswith(f"birds: {run.results}/sample/birds/table.md; ")
    assert text.endswith("results/reference has no bands for this run")
    folder = reference.folder("sample", "birds")
    metrics = pd.read_csv(run.folder / "metrics.csv").assign(gt_known=70.0)
    runs.write_csv(reference.bands(metrics), folder / "bands.csv")
    expected = "5 of 6 figures lie within the bands of results/reference/sample/birds"  # 60 does not, beside 70
    assert manifest.summary(usual).endswith(expected)
    assert manifest.summary(run).endswith("no bands for this run")  # other weights than the reference's
