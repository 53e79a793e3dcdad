"""`make verify`: a run that is whole passes; every fault in it is named, and nothing is written."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from click.testing import CliRunner
from layouts_on_disk import ROAD, ROOT, cub, ilsvrc, run_road, weights_file

from wsol_utils import __main__ as commands
from wsol_utils import evaluation, experiments, files, handover, manifest, models, protocols, tables
from wsol_utils.runner.verify import measured, read, verify


def make(folder, **others):
    """A finished run on a few images: its results folder."""
    torch.manual_seed(0)
    weights = weights_file(folder / "small.safetensors", models.SmallVGG(), "features.")
    values = {
        "profile": "paper", "data_root": str(folder / "data"), "results": str(folder / "results"),
        "weights": str(weights), "backbone": "small_vgg", "image_size": 48, "resize_size": 52,
        "batch_size": 4, "epochs": 1, "rules": "first_above_mean,otsu", "recombinations": "signed,absolute",
    } | others  # fmt: skip
    run_road(last="05", **values)
    config = experiments.configure(**values)
    (config.folder / "notebooks").mkdir()
    for name in ROAD[:5]:
        executed = {"cells": [], "metadata": {"papermill": {"duration": 1.5}}}
        (config.folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(executed), encoding="utf-8")
    manifest.write(config, {"seeds": "0"})
    return folder / "results"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of two networks on six test images."""
    folder = tmp_path_factory.mktemp("made here")
    cub(folder / "data")
    return make(folder, dataset="cub")


@pytest.fixture
def results(original, tmp_path, monkeypatch):
    """A copy in another place: a test may do with it as it likes. Nobody's editing of the code shows in it."""
    shutil.copytree(original, tmp_path / "moved")
    code = json.loads((original / "paper" / "cub" / "manifest.json").read_text(encoding="utf-8"))["code"]
    monkeypatch.setattr(manifest, "code", lambda notebooks: code)
    return tmp_path / "moved"


@pytest.fixture
def run(results):
    return results / "paper" / "cub"


def lines(run, remarks=False):
    return [finding.text for finding in verify(run) if finding.remark == remarks]


def change(run, name, text):
    """Write a file of a run anew, and make the manifest agree: only computing again can notice."""
    (run / name).write_text(text, encoding="utf-8")
    rewrite(run, lambda content: content["sha256"].update({name: files.sha256(run / name)}))


def rewrite(run, how):
    """Change the manifest's content."""
    content = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    how(content)
    (run / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_whole_run_has_no_findings_wherever_it_lies_and_is_left_as_it_was(results, run):
    before = contents(results)
    assert verify(run) == []
    assert contents(results) == before


def test_crops_several_seeds_and_a_validation_part_are_followed(tmp_path):
    cub(tmp_path / "data", train=5, test=1)
    unusual = {"protocol": "rethinkingcam", "evaluate_on": "validation", "seeds": "2,0", "poolings": "wgap"}
    run = make(tmp_path, dataset="cub", **unusual, recombinations="absolute") / "paper" / "cub_validation"
    assert [finding.text for finding in verify(run) if "another text" not in finding.text] == []
    metrics = pd.read_csv(run / "metrics.csv")
    assert len(metrics) == 10 and set(metrics["seed"]) == {0, 2}
    change(run, "metrics.csv", metrics.assign(threshold_sd=metrics["threshold_sd"] + 1e-6).to_csv(index=False))
    assert lines(run)[-1] == "… and 5 more of this table"


def test_a_network_that_stands_as_it_is(tmp_path):
    """Without a train split there is GAP alone, whatever poolings were asked for."""
    ilsvrc(tmp_path / "data", train=0, test=1, synsets=1000)
    torch.manual_seed(0)
    weights = weights_file(tmp_path / "squeezenet.safetensors", torchvision.models.squeezenet1_1())
    own = {"dataset": "ilsvrc", "backbone": "squeezenet1_1", "weights": str(weights), "recombinations": "absolute"}
    run = make(tmp_path, **own) / "paper" / "ilsvrc"
    assert [finding.text for finding in verify(run) if "another text" not in finding.text] == []
    assert set(pd.read_csv(run / "metrics.csv")["pooling"]) == {"gap"}


def test_every_row_is_computed_again(run):
    """Two networks, two recombinations, five rules: all of metrics.csv, from the predictions."""
    _, config = read(run)
    rows = measured(config, handover.passes(config))
    assert len(rows) == len(pd.read_csv(run / "metrics.csv")) == 2 * 2 * 5


@pytest.mark.parametrize("by_hand", [{"protocol": "rethinkingcam"}, {"candidates": 11}])
def test_the_runs_own_conventions_are_followed(run, by_hand, monkeypatch):
    """Their words come from the manifest's parameters, and with a crop another file of predictions counts."""
    rewrite(run, lambda content: content["parameters"].update(by_hand))
    asked = []
    usual = evaluation.overlaps
    monkeypatch.setattr(
        evaluation, "overlaps", lambda p, k, conventions, r: asked.append(conventions) or usual(p, k, conventions, r)
    )
    text = "\n".join(lines(run))
    assert asked
    assert {protocol.frame for protocol in asked} == {protocols.get(by_hand.get("protocol", "paper")).frame}
    assert {len(protocol.candidates) for protocol in asked} == {by_hand.get("candidates", 21)}
    assert "computed again" in text


@pytest.mark.fault("a byte of a kept prediction flips", "`make verify` names the file; other figures are still checked")
def test_one_byte_of_the_predictions(run):
    path = run / "seed0" / "predictions_wgap" / "scaled_maps.npy"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = lines(run)
    assert found[0] == "seed0/predictions_wgap/scaled_maps.npy is not what the run wrote: its checksum differs"
    assert found[1].startswith("seed0/predictions_wgap: the figures made of it were not checked: it is missing or")
    assert len(found) == 2
    metrics = pd.read_csv(run / "metrics.csv")
    metrics.loc[metrics["pooling"] == "gap", "top1_cls"] += 1
    change(run, "metrics.csv", metrics.to_csv(index=False))
    assert any(text.startswith("metrics.csv: top1_cls of 0, cam, gap, signed, fixed is ") for text in lines(run))


@pytest.mark.parametrize("agreeing", [False, True], ids=["checksum-differs", "checksum-agrees"])
def test_predictions_that_are_cut_off(run, agreeing):
    path = run / "seed0" / "predictions_wgap" / "box.npy"
    path.write_bytes(path.read_bytes()[:-1])
    if agreeing:
        rewrite(run, lambda c: c["sha256"].update({"seed0/predictions_wgap/box.npy": files.sha256(path)}))
    *before, last = lines(run)
    assert last.startswith("seed0/predictions_wgap: the figures made of it were not checked: ")
    assert ("box.npy is missing, cut off or" in last) == agreeing and bool(before) != agreeing


@pytest.mark.fault(
    "a figure of metrics.csv is changed, and its checksum with it", "`make verify` computes it again and names it"
)
@pytest.mark.parametrize("by", [1e-6, 3.0])
def test_one_figure_of_metrics(run, by):
    metrics = pd.read_csv(run / "metrics.csv")
    row = metrics.index[(metrics["pooling"] == "wgap") & (metrics["threshold_rule"] == "otsu")][1]
    right = metrics.at[row, "gt_known"]
    metrics.loc[row, "gt_known"] = wrong = right + by
    change(run, "metrics.csv", metrics.to_csv(index=False))
    found = lines(run)
    assert found[0] == f"metrics.csv: gt_known of 0, cam, wgap, absolute, otsu is {wrong}, computed again {right}"
    assert found[1].startswith("seeds.csv: gt_known_mean of cam, wgap, absolute, otsu is ")


def test_a_difference_of_the_last_bits_is_none(run):
    metrics = pd.read_csv(run / "metrics.csv")
    metrics["threshold"] += 1e-12
    change(run, "metrics.csv", metrics.to_csv(index=False))
    assert lines(run) == []


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (lambda m: m.drop(index=4), " lacks the row 0, cam, gap, absolute, best_fixed"),
        (lambda m: m.assign(seed=[7] + [0] * 19), " has a row 7, cam, gap, signed, fixed, which nothing computes"),
        (lambda m: pd.concat([m, m[:1]]), " has two rows 0, cam, gap, signed, fixed"),
        (lambda m: m.drop(columns="p_value"), " has no column p_value"),
        (lambda m: m.drop(columns="pooling"), " has no column pooling"),
        (lambda m: m.assign(lucky=1), " has a column lucky, which nothing computes"),
        (
            lambda m: m.assign(backbone="vgg16"),
            ": backbone of 0, cam, gap, signed, fixed is vgg16, computed again small_vgg",
        ),
        (
            lambda m: m.assign(uses_ground_truth=True),
            ": uses_ground_truth of 0, cam, gap, signed, fixed is True, computed",
        ),
        (lambda m: m.assign(top1_loc=""), ": top1_loc of 0, cam, gap, signed, fixed is nan, computed again "),
        (lambda m: m.assign(top1_loc="much"), ": top1_loc of 0, cam, gap, signed, fixed is much, computed again "),
    ],
)
def test_metrics_of_another_shape(run, how, expected):
    change(run, "metrics.csv", how(pd.read_csv(run / "metrics.csv")).to_csv(index=False))
    found = lines(run)
    assert any(text.startswith(f"metrics.csv{expected}") for text in found), found


def test_many_differences_are_counted(run):
    metrics = pd.read_csv(run / "metrics.csv")
    change(run, "metrics.csv", metrics.assign(n_images=5).to_csv(index=False))
    found = [text for text in lines(run) if "n_images" in text or text.startswith("…")]
    assert len(found) == 6 and found[-1] == "… and 15 more of this table"


def test_the_iou_of_an_image(run):
    """Changed in the file and in the manifest: it is not what the predictions say."""
    path = run / "seed0" / "recombination.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["iou"][1, 0] += 0.25
    np.savez(path, **arrays)
    rewrite(run, lambda content: content["sha256"].update({"seed0/recombination.npz": files.sha256(path)}))
    found = lines(run)
    assert found[0].startswith("the IoU of the images that are kept for 0, cam, gap, signed, best_fixed are not those")
    assert all(text.startswith(("differences.csv", "…", "contributions.csv")) for text in found[1:])


def test_the_iou_of_the_images_are_missing(run):
    (run / "seed0" / "thresholds.npz").unlink()
    found = lines(run)
    assert found[0] == "seed0/thresholds.npz is missing"
    assert found[1].startswith("the IoU of the images were not checked: ")
    assert found[2].startswith("differences.csv cannot be computed again: ") and len(found) == 3


@pytest.mark.parametrize("name", ["seeds.csv", "differences.csv", "contributions.csv"])
def test_a_table_made_of_metrics(run, name):
    table = pd.read_csv(run / name)
    column = {"seeds.csv": "gt_known_mean", "differences.csv": "left_out", "contributions.csv": "points"}[name]
    table.loc[0, column] += 1
    change(run, name, table.to_csv(index=False))
    [found] = lines(run)
    assert found.startswith(f"{name}: {column} of ") and "computed again" in found


@pytest.mark.parametrize("name", ["table.csv", "table.md"])
def test_a_printed_table(run, name):
    text = (run / name).read_text(encoding="utf-8")
    number = next(i for i, line in enumerate(text.splitlines(), start=1) if "Ours" in line)
    change(run, name, text.replace("82.32", "82.33"))
    [found] = lines(run)
    assert found.startswith(f"{name}: line {number} is ") and "82.33" in found and "82.32" in found
    change(run, name, text + "more\n")
    [found] = lines(run)
    assert found.startswith(f"{name}: line {len(text.splitlines()) + 1} is 'more', computed again ''")


@pytest.mark.fault("a file of a finished run is removed", "`make verify` names it, and the figures that it leaves open")
@pytest.mark.parametrize(
    "name", ["metrics.csv", "seed0/levels.csv", "seed0/networks.csv", "notebooks/03_cam_recombination.ipynb"]
)
def test_a_file_is_missing(run, name):
    (run / name).unlink()
    assert lines(run) == [f"{name} is missing"]


def test_without_the_list_of_skipped_photographs_the_other_tables_are_still_checked(run):
    (run / "skipped.csv").unlink()
    text = (run / "table.md").read_text(encoding="utf-8")
    change(run, "table.md", text.replace("82.32", "82.33"))
    missing, metrics, table = lines(run)
    assert missing == "skipped.csv is missing" and table.startswith("table.md: line ")
    assert metrics.startswith("metrics.csv cannot be computed again: ") and "skipped.csv is missing" in metrics


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "pooling,seed\ngap,0\n", "cut o", '\0\n"\n'])
def test_metrics_that_are_no_metrics(run, text):
    change(run, "metrics.csv", text)
    assert lines(run)[0].startswith("metrics.csv ")


def test_missing_predictions_leave_their_figures_open(run):
    (run / "seed0" / "predictions_gap" / "scales.npy").unlink()
    missing, left_open = lines(run)
    assert missing == "seed0/predictions_gap/scales.npy is missing"
    assert left_open.startswith("seed0/predictions_gap: the figures made of it were not checked")


def test_a_file_more_is_a_remark(run):
    (run / "seed0" / "notes.txt").write_text("mine")
    (run / "seed0" / ".hidden").write_text("nobody's")
    assert lines(run) == []
    assert lines(run, remarks=True) == ["not in the manifest, so not checked: seed0/notes.txt"]
    (run / "notebooks" / "05_tables.html").write_text("a page of the report")
    assert lines(run, remarks=True) == ["not in the manifest, so not checked: seed0/notes.txt"]


@pytest.mark.fault("the manifest of a run is cut off", "`make verify` says so; the other runs are still checked")
@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_manifest_that_is_cut_off(run, part):
    data = (run / "manifest.json").read_bytes()
    (run / "manifest.json").write_bytes(data[: int(part * len(data))])
    [found] = lines(run)
    assert found.startswith("manifest.json is cut off, or no JSON (")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (lambda c: c.pop("sha256"), "'sha256' must be there, and hold metrics.csv"),
        (lambda c: c.update(parameters=[]), "'parameters' must be there, and hold dataset and profile"),
        (lambda c: c["sha256"].pop("metrics.csv"), "'sha256' must be there, and hold metrics.csv"),
        (lambda c: c["parameters"].update(speed=9), "parameters that this release does not know, 'speed': verify"),
        (lambda c: c["parameters"].update(backbone="vgg61"), "parameters that make no run: unknown backbone 'vgg61'"),
        (lambda c: c["parameters"].update(dataset=["cub"]), "parameters that make no run: "),
        (lambda c: c["parameters"].update(seeds=[-1]), "parameters that make no run: parameter seeds cannot be"),
    ],
)  # fmt: skip
def test_a_malformed_manifest(run, how, expected):
    rewrite(run, how)
    [found] = lines(run)
    assert found.startswith("manifest.json ") and expected in found


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "[" * 100_000, b"\xff\xfe"], ids=lambda text: str(text[:4]))
def test_a_manifest_of_something_else(run, text):
    (run / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    [found] = lines(run)
    assert found.startswith("manifest.json is ")


@pytest.mark.fault(
    "a manifest from elsewhere names files outside its folder", "`make verify` opens none of them and says so"
)
@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "/etc/hostname", "seed0/../../secret.txt", "..\\secret.txt", "link/secret.txt", "", "a\0b"],
)
def test_names_that_leave_the_folder(run, name, monkeypatch):
    (run.parent / "secret.txt").write_text("secret")
    (run / "link").symlink_to(run.parent)
    rewrite(run, lambda content: content["sha256"].update({name: "0" * 64}))
    opened = []
    usual = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: opened.append(path) or usual(path))
    assert lines(run) == [f"manifest.json names {name!r}, which is not in the run's folder: not opened"]
    assert all(path.resolve().is_relative_to(run) or path.is_relative_to(ROOT) for path in opened) and opened


def test_a_pooling_in_metrics_is_no_way_out(run):
    """Without the list of networks their names come from metrics.csv: only what the manifest lists is opened."""
    (run / "seed0" / "networks.csv").unlink()
    metrics = pd.read_csv(run / "metrics.csv")
    change(run, "metrics.csv", metrics.assign(pooling="../../../secret").to_csv(index=False))
    text = "seed0/predictions_../../../secret: the figures made of it were not checked: it is missing or damaged"
    assert any(found.startswith(text) for found in lines(run))


def test_other_versions_and_other_code_are_remarks(run):
    def older(content):
        content["versions"]["torch"] = "1.0"
        content["packages"]["torch"] = "1.0"
        content["code"]["wsol_utils/boxes/largest.py"] = "0" * 64

    rewrite(run, older)
    assert lines(run) == []
    versions, code = lines(run, remarks=True)
    assert versions == f"other versions: torch 1.0 (here {manifest.versions()['torch']})"
    assert code == "another text here than when the run was made: wsol_utils/boxes/largest.py"


def test_a_manifest_of_an_earlier_release_is_enough(run):
    rewrite(run, lambda content: [content.pop(name) for name in ("packages", "code", "data", "platform", "command")])
    assert verify(run) == []


def test_tables_follow_the_published_ones(run, tmp_path, monkeypatch):
    """A doubt that another release adds shows in table.md."""
    shutil.copytree(tables.PUBLISHED, tmp_path / "published")
    path = tmp_path / "published" / "table1_cub.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("82.32", "82.30"), encoding="utf-8")
    monkeypatch.setattr(tables, "PUBLISHED", tmp_path / "published")
    assert [text.partition(":")[0] for text in lines(run)] == ["table.csv", "table.md"]


# The command.


def command(results):
    result = CliRunner().invoke(commands.main, ["verify", str(results)])
    return result.exit_code, result.output.splitlines()


def test_command_where_all_is_right(results):
    assert command(results) == (0, [f"{results}/paper/cub: all is right", "runs checked: 1, findings: 0"])


def test_command_names_each_run_and_counts(results, run):
    shutil.copytree(run, run.with_name("another"))
    shutil.copytree(run, results / ".reference" / "cub")  # hidden
    (run / "table.md").unlink()
    (run / "mine.txt").write_text("")
    assert command(results) == (
        1,
        [
            f"{results}/paper/another: all is right",
            f"{results}/paper/cub: findings: 1",
            "  table.md is missing",
            "  remark: not in the manifest, so not checked: mine.txt",
            "runs checked: 2, findings: 1",
        ],
    )


def test_command_on_a_run_that_was_not_finished(results, run):
    (run / "manifest.json").unlink()
    code, [first, second, last] = command(results)
    assert code == 1 and first.endswith("cub: findings: 1") and last == "runs checked: 1, findings: 1"
    assert second == "  there is no manifest.json: the run was not finished, run it again"


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_command_where_there_is_no_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert command(tmp_path / name) == (1, [f"Error: there is no run below {tmp_path / name}: nothing to verify"])


def test_make_verify(results, run):
    """The rule of the Makefile, with this Python in the place of the environment's."""
    environment = {key: value for key, value in os.environ.items() if key != "WSOL_RESULTS"}
    make = [
        "make",
        "--silent",
        "--old-file=.venv/.installed",
        f"VENV_PYTHON={shlex.quote(sys.executable)}",
        "INSTALLED=",
    ]
    (run / "table.md").write_text("changed")
    spaced = results.rename(results.with_name("my results"))
    finished = subprocess.run(
        [*make, "verify", f"RESULTS={spaced}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert finished.returncode != 0 and "Traceback" not in finished.stderr
    assert finished.stdout.splitlines()[-1] == "runs checked: 1, findings: 2"
