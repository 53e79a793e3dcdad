"""`make verify`: a run that is whole passes; every fault in it is named, and nothing is written."""

import json
import shutil

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from layouts_on_disk import ROAD, cub, run_road, weights_file

from wsol_utils import __main__ as commands
from wsol_utils import evaluation, experiments, files, manifest, models, protocols
from wsol_utils.runner.verify import verify


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of two networks, with seed 2, on crops of a validation part: its results folder."""
    folder = tmp_path_factory.mktemp("made here")
    cub(folder / "data", train=5, test=1)
    torch.manual_seed(0)
    weights = weights_file(folder / "small.safetensors", models.SmallVGG(), "features.")
    values = {
        "dataset": "cub", "profile": "paper", "data_root": str(folder / "data"), "results": str(folder / "results"),
        "weights": str(weights), "backbone": "small_vgg", "image_size": 48, "resize_size": 52, "seeds": "2",
        "batch_size": 4, "epochs": 1, "rules": "first_above_mean,otsu", "recombinations": "signed,absolute",
        "protocol": "rethinkingcam", "evaluate_on": "validation",
    }  # fmt: skip
    run_road(last="05", **values)
    config = experiments.configure(**values)
    (config.folder / "notebooks").mkdir()
    for name in ROAD[:5]:
        executed = {"cells": [], "metadata": {"papermill": {"duration": 1.5}}}
        (config.folder / "notebooks" / f"{name}.ipynb").write_text(json.dumps(executed), encoding="utf-8")
    manifest.write(config, {"seeds": "2"})
    return folder / "results"


@pytest.fixture
def results(original, tmp_path):
    """A copy in another place: a test may do with it as it likes."""
    shutil.copytree(original, tmp_path / "moved")
    return tmp_path / "moved"


@pytest.fixture
def run(results):
    return results / "paper" / "cub_validation"


def lines(run):
    return verify(run)[0]


def change(run, name, text):
    """Write a file of a run anew, and make the manifest agree: only computing again can notice."""
    (run / name).write_text(text, encoding="utf-8")
    agree(run, name)


def agree(run, name):
    rewrite(run, lambda content: content["sha256"].update({name: files.sha256(run / name)}))


def rewrite(run, how):
    """Change the manifest's content."""
    content = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    how(content)
    (run / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_whole_run_has_no_findings_wherever_it_lies_and_is_left_as_it_was(results, run, monkeypatch):
    """Every row is computed again, by the run's own conventions: two networks and recombinations, five rules."""
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in results.rglob("*") if path.is_file()}
    asked, usual = [], evaluation.overlaps
    monkeypatch.setattr(
        evaluation, "overlaps", lambda p, k, convention, r: asked.append(convention) or usual(p, k, convention, r)
    )
    assert verify(run) == ([], [])
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in results.rglob("*") if path.is_file()
    }
    assert len(pd.read_csv(run / "metrics.csv")) == 2 * 2 * 5 and len(asked) == 2 * 2
    assert {protocol.frame for protocol in asked} == {protocols.get("rethinkingcam").frame}


@pytest.mark.fault("a byte of a kept prediction flips", "`make verify` names the file; other figures are still checked")
def test_one_byte_of_the_predictions(run):
    path = run / "seed2" / "predictions_wgap_cropped" / "scaled_maps.npy"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    metrics = pd.read_csv(run / "metrics.csv")
    metrics.loc[metrics["pooling"] == "gap", "top1_cls"] += 1
    change(run, "metrics.csv", metrics.to_csv(index=False))
    found = lines(run)
    assert found[0] == "seed2/predictions_wgap_cropped/scaled_maps.npy is not what the run wrote: its checksum differs"
    assert found[1].startswith("no figure of seed2/predictions_wgap_cropped was computed again, for want of its files")
    assert found[2].startswith("metrics.csv: top1_cls of 2, cam, gap, signed, fixed is ")


def test_predictions_that_are_cut_off(run):
    path = run / "seed2" / "predictions_wgap_cropped" / "box.npy"
    path.write_bytes(path.read_bytes()[:-1])
    agree(run, path.relative_to(run).as_posix())
    [found] = lines(run)
    assert found.startswith("metrics.csv cannot be computed again: ") and "box.npy is missing, cut off or" in found


@pytest.mark.fault(
    "a figure of metrics.csv is changed, and its checksum with it", "`make verify` computes it again and names it"
)
def test_one_figure_of_metrics(run):
    metrics = pd.read_csv(run / "metrics.csv")
    row = metrics.index[(metrics["pooling"] == "wgap") & (metrics["threshold_rule"] == "otsu")][1]
    right = metrics.at[row, "threshold"]
    for wrong in (right + 1e-12, right + 1e-6):
        metrics.loc[row, "threshold"] = wrong
        change(run, "metrics.csv", metrics.to_csv(index=False))
        found = lines(run)
        assert bool(found) == (wrong - right > 1e-9)  # a difference of the last bits is none
    assert found[0] == f"metrics.csv: threshold of 2, cam, wgap, absolute, otsu is {wrong}, computed again {right}"
    assert found[1].startswith("seeds.csv: threshold_mean of cam, wgap, absolute, otsu is ")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (lambda m: m.drop(index=4), "dataset of 2, cam, gap, absolute, best_fixed is nan, computed again cub"),
        (lambda m: m.drop(columns="p_value"), "p_value of 2, cam, gap, signed, otsu is nan, computed again "),
        (lambda m: m.assign(lucky=1), "lucky of 2, cam, gap, signed, fixed is 1, computed again nan"),
        (lambda m: m.assign(top1_loc="much"), "top1_loc of 2, cam, gap, signed, fixed is much, computed again "),
        (lambda m: pd.concat([m, m[:1]]), "seeds.csv cannot be computed again: two rows for one combination"),
        (lambda m: m.drop(columns="pooling"), "cannot be computed again: "),
    ],
)  # fmt: skip
def test_metrics_of_another_shape(run, how, expected):
    change(run, "metrics.csv", how(pd.read_csv(run / "metrics.csv")).to_csv(index=False))
    found = [text.removeprefix("metrics.csv").removeprefix(": ").strip() for text in lines(run)]
    assert any(text.startswith(expected) for text in found), found


def test_many_differences_are_counted(run):
    metrics = pd.read_csv(run / "metrics.csv")
    change(run, "metrics.csv", metrics.assign(n_images=5).to_csv(index=False))
    found = [text for text in lines(run) if "n_images" in text or text.endswith("metrics.csv")]
    assert len(found) == 6 and found[-1] == "… and 15 more of metrics.csv"


def test_tables_made_of_metrics(run):
    """A figure of each, and a line more of those that are printed."""
    figures = {"seeds.csv": "gt_known_mean", "differences.csv": "left_out", "contributions.csv": "points"}
    for name, column in figures.items():
        table = pd.read_csv(run / name)
        table.loc[0, column] += 1
        change(run, name, table.to_csv(index=False))
    printed = {name: (run / name).read_text(encoding="utf-8") for name in ("table.csv", "table.md")}
    for name, text in printed.items():
        change(run, name, text.replace("82.32", "82.33") + "more\n")
    found = lines(run)
    for name, column in figures.items():
        [one] = [text for text in found if text.startswith(f"{name}: ")]
        assert one.startswith(f"{name}: {column} of ") and "computed again" in one
    for name, text in printed.items():
        number = next(i for i, line in enumerate(text.splitlines(), start=1) if "Ours" in line)
        changed, *_, more = [text for text in found if text.startswith(f"{name}: ")]
        assert changed.startswith(f"{name}: line {number} is ") and "82.33" in changed and "82.32" in changed
        assert more == f"{name}: line {len(text.splitlines()) + 1} is 'more', computed again ''"


@pytest.mark.fault("a file of a finished run is removed", "`make verify` names it, and the figures that it leaves open")
@pytest.mark.parametrize(
    ("names", "more"),
    [
        (["notebooks/03_cam_recombination.ipynb", "seed2/levels.csv"], None),
        (["metrics.csv"], "no figure was computed again, for want of metrics.csv as the run wrote it"),
        (["seed2/networks.csv"], "no figure was computed again, for want of seed2/networks.csv as the run wrote it"),
    ],
)
def test_a_file_is_missing(run, names, more):
    for name in names:
        (run / name).unlink()
    assert lines(run) == [*(f"{name} is missing" for name in names), *([more] if more else [])]


def test_a_file_more_is_named_and_no_finding(run):
    for name in ("seed2/notes.txt", "seed2/.hidden", "notebooks/05_tables.html"):  # the last a page of the report
        (run / name).write_text("mine")
    assert verify(run) == ([], ["seed2/notes.txt"])


@pytest.mark.fault("the manifest of a run is cut off", "`make verify` says so; the other runs are still checked")
def test_a_manifest_that_is_none(run):
    for text in (
        b"", b'{"parameters": {"data', b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"parameters": {"speed": 9}}',
        b'{"parameters": {"backbone": "vgg61"}}', b'{"parameters": {}}', b'{"parameters": {}, "sha256": 1}',
    ):  # fmt: skip
        (run / "manifest.json").write_bytes(text)
        [found] = lines(run)
        assert found.startswith("manifest.json is damaged, or of another release: "), text[:40]


@pytest.mark.fault(
    "a manifest from elsewhere names files outside its folder", "`make verify` opens none of them and says so"
)
def test_names_that_leave_the_folder(run, monkeypatch):
    (run.parent / "secret.txt").write_text("secret")
    (run / "link").symlink_to(run.parent)
    (run / "circle").symlink_to(run / "circle")
    names = ["../secret.txt", "/etc/hostname", "link/secret.txt", "seed2/../../secret.txt"]
    listed = dict.fromkeys([*names, "circle", "manifest.json"], "0" * 64)  # neither of the last two ends the check
    rewrite(run, lambda content: content["sha256"].update(listed))
    networks = pd.read_csv(run / "seed2" / "networks.csv")  # nor does the table of networks lead elsewhere
    change(run, "seed2/networks.csv", networks.assign(pooling="../../../secret").to_csv(index=False))
    opened, usual = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: opened.append(path) or usual(path))
    found = lines(run)
    for name in names:
        assert f"manifest.json names {name!r}, which is not in the run's folder: not opened" in found
    assert any(line.startswith("circle cannot be read: ") for line in found)
    assert "no figure of seed2/predictions_../../../secret_cropped was computed again" in " ".join(found)
    assert opened and all(path.resolve().is_relative_to(run) for path in opened)


# The command.


def command(results):
    result = CliRunner().invoke(commands.main, ["verify", str(results)])
    return result.exit_code, result.output.splitlines()


def test_command_names_each_run_and_counts(results, run):
    shutil.copytree(run, run.with_name("another"))
    shutil.copytree(run, results / ".reference" / "cub")  # hidden
    shutil.copytree(run, run.with_name("begun"))
    (run.with_name("begun") / "manifest.json").unlink()
    (run / "table.md").unlink()
    (run / "mine.txt").write_text("")
    assert command(results) == (
        1,
        [
            f"{results}/paper/another: all is right",
            f"{results}/paper/begun: findings: 1",
            "  there is no manifest.json: the run was not finished, run it again",
            f"{results}/paper/cub_validation: findings: 1",
            "  table.md is missing",
            "  not in the manifest, so not checked: mine.txt",
            "runs checked: 3, findings: 2",
        ],
    )


def test_command_where_there_is_no_run(tmp_path):
    assert command(tmp_path) == (1, [f"Error: there is no run below {tmp_path}: nothing to verify"])
