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

from wsol_utils import datasets, experiments, handover, manifest, reference


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
    (config.folder / "seed0" / "predictions_wgap").mkdir(parents=True)
    (config.folder / "seed0" / "wgap.safetensors").write_bytes(b"network")
    (config.folder / "seed0" / "predictions_wgap" / "box.npy").write_bytes(b"boxes")
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
        "command", "given", "parameters", "seeds", "device", "platform", "versions", "packages", "git_revision",
        "code", "data", "written", "duration_seconds", "weights_sha256", "sha256",
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
        "seed0/predictions_wgap/box.npy",
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


def test_pages_of_the_report_are_no_files_of_the_run(run):
    first = written(run)
    (run.folder / "notebooks" / "05_tables.html").write_text("<!DOCTYPE html>")
    assert written(run)["sha256"] == first["sha256"]
    (run.folder / "mine.html").write_text("<!DOCTYPE html>")
    assert set(written(run)["sha256"]) - set(first["sha256"]) == {"mine.html"}


@pytest.mark.parametrize("weights", ["", "imagenet"])
def test_without_a_weights_file(run, weights):
    assert written(experiments.replace(run, weights=weights))["weights_sha256"] == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "make reproduce DATASET=cub"),
        ({"seeds": "0,1", "results": "results"}, "make reproduce DATASET=cub SEEDS=0,1 RESULTS=results"),
        ({"data_root": "~/the data"}, "make reproduce DATASET=cub DATA_ROOT='~/the data'"),
        ({"results": "it's$5"}, """make reproduce DATASET=cub RESULTS='it'"'"'s$$5'"""),
    ],
)
def test_the_command_that_repeats_the_run(given, expected):
    assert manifest.command("cub", given) == expected


def test_make_understands_the_command(run, tmp_path):
    given = {"results": "a folder $x it's", "data_root": "/b c/"}
    (tmp_path / "Makefile").write_text('reproduce:\n\t@printf "%s|" $(foreach n,DATASET RESULTS DATA_ROOT,"$($(n))")\n')
    said = subprocess.run(
        written(run, given)["command"], shell=True, cwd=tmp_path, env={"PATH": os.environ["PATH"], "x": "X"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "birds|a folder X it's|/b c/|"  # the recipe's own shell puts in $x, as in the first run


def test_every_package_is_listed(run):
    packages = written(run)["packages"]
    assert list(packages) == sorted(packages) and list(packages) == [name.lower() for name in packages]
    assert packages["numba"] == importlib.metadata.version("numba")
    assert len(packages) > len(manifest.PACKAGES)


def test_platform(run, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # torch has read it long ago
    found = written(experiments.replace(run, threads=3))["platform"]
    assert list(found) == ["system", "machine", "processor", "threads", "deterministic_algorithms",
                           "ATEN_CPU_CAPABILITY"]  # fmt: skip
    assert found["system"].startswith(platform.system()) and found["machine"] == platform.machine()
    assert found["threads"] == 3 and type(found["processor"]) is str
    assert written(run)["platform"]["threads"] in (run.threads, torch.get_num_threads())


@pytest.mark.parametrize("deterministic", [False, True])
def test_whether_algorithms_repeat_themselves_is_told(run, deterministic):
    config = experiments.replace(run, deterministic=deterministic)
    assert written(config)["platform"]["deterministic_algorithms"] is deterministic


def test_code(run):
    code = written(run)["code"]
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wsol_utils").rglob("*.py")}
    assert set(code) == modules | {"dodo.py", "notebooks/05_tables.ipynb"}  # the one that was run
    assert code["dodo.py"] == hashlib.sha256((ROOT / "dodo.py").read_bytes()).hexdigest()


def test_lists_are_those_of_layouts():
    assert set(manifest.LISTS) <= set(datasets.READERS)  # of others: what lies beside their folders


@pytest.mark.parametrize(
    ("layout", "lists"),
    [
        ("cub", {"images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt"}),
        ("ilsvrc", {"LOC_synset_mapping.txt", "LOC_train_solution.csv", "LOC_val_solution.csv"}),
        ("tiny_imagenet", {"wnids.txt", "words.txt", "val/val_annotations.txt"}),
    ],
)
def test_data(run, tmp_path, layout, lists):
    LAYOUTS[layout](tmp_path / "data")
    config = experiments.replace(run, layout=layout, data_root=str(tmp_path / "data"))
    table = datasets.READERS[layout](config.root)
    datasets.write_table(table, config.folder / "annotations.csv")
    data = written(config)["data"]
    assert set(data["lists"]) == lists
    for name, entry in data["lists"].items():
        text = (tmp_path / "data" / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    sizes = {
        split: [(config.root / path).stat().st_size for path in rows["path"]] for split, rows in table.groupby("split")
    }
    expected = {split: {"images": len(some), "bytes": sum(some)} for split, some in sizes.items()}
    assert data["photographs"] == expected and list(expected) == ["test", "train"]
    (config.root / table["path"][0]).unlink()  # one that the run passed over
    again = written(config)["data"]["photographs"][table["split"][0]]
    assert again["images"] == expected[table["split"][0]]["images"] - 1


def test_two_manifests_differ_in_their_time_alone(run):
    first, second = written(run, {"seeds": "0,2"}), written(run, {"seeds": "0,2"})
    assert first | {"written": ""} == second | {"written": ""} and list(first) == list(second)


def test_hidden_files_are_not_listed(run):
    (run.folder / ".doit.json").write_text("{}")
    (run.folder / "seed0" / ".gap.safetensors.1.part").write_text("")
    assert not [name for name in written(run)["sha256"] if "/." in f"/{name}"]


def test_outside_a_git_checkout(run, tmp_path, monkeypatch):
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


def test_summary(run, monkeypatch):
    usual = experiments.replace(run, weights="")
    text = manifest.summary(usual)
    assert text.startswith(f"birds: {run.results}/sample/birds/table.md; ")
    assert text.endswith("has no bands for this run")
    folder = reference.folder("sample", "birds")
    metrics = pd.read_csv(run.folder / "metrics.csv").assign(gt_known=70.0)
    several = pd.concat([metrics.assign(rounding="own")] * reference.FEWEST)
    handover.write_csv(reference.bands(several), folder / "bands.csv")
    expected = "5 of 6 figures lie within the bands of results/reference/sample/birds; outside:\n  "
    text, _, outside = manifest.summary(usual).partition(expected)
    assert text and len(outside.splitlines()) == 1 and "gt_known 60.0, 7.0 points below [67.0, 73.0]" in outside
    assert manifest.summary(run).endswith("no bands for this run")  # other weights than the reference's
