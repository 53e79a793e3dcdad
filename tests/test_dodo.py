"""`make reproduce`: doit refuses what cannot work, executes notebooks once, and again only for cause.

One small run is hindered in every way on its road, test by test, and then goes on to its end.
"""

import contextlib
import io
import json
import os
import runpy
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from click.testing import CliRunner
from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain
from layouts_on_disk import NOTEBOOKS, ROAD, ROOT, tiny_imagenet, weights_file
from pages_on_disk import check
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn
from torchvision.ops import box_iou

from wsol_utils import __main__ as commands
from wsol_utils import datasets, models
from wsol_utils.maps.predictions import Predictions

PLOTS = str(ROOT / "wsol_utils" / "figures" / "plots.py")


def make(rule: str, variables: dict[str, str], *options: str) -> subprocess.Popen:
    """Start a rule of the Makefile with this Python, in which whatever it needs is installed."""
    environment = {key: value for key, value in os.environ.items() if key != "WSOL_RESULTS"}
    python = f"VENV_PYTHON={shlex.quote(sys.executable)}"  # below a folder with a space, perhaps
    command = ["make", "--silent", "--old-file=.venv/.installed", python, "INSTALLED=", rule, *options]
    given = [f"{name}={value}" for name, value in variables.items()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *given], cwd=ROOT, env=environment, **pipes)


def until(process: subprocess.Popen, notebook: str) -> list[psutil.Process]:
    """Wait until the runner executes a notebook; the runner, and the kernel that does."""
    text, end = "", time.monotonic() + 1800
    while notebook not in text:
        text += (said := process.stdout.read(1))
        assert said, text  # it has ended
    while True:
        assert process.poll() is None and time.monotonic() < end, text
        children = psutil.Process(process.pid).children(recursive=True)
        found = [next((c for c in children if word in c.cmdline()), None) for word in ("doit", "ipykernel_launcher")]
        if all(found):
            return found
        time.sleep(0.05)


@contextlib.contextmanager
def loaded(variables: dict[str, str]):
    """What dodo.py defines, in this process; the results are locked meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.delenv("WSOL_RESULTS", raising=False)
        for name in ("TQDM_DISABLE", "OMP_WAIT_POLICY"):
            patch.setenv(name, os.environ.get(name, ""))
        patch.setattr(sys, "argv", ["doit", *(f"{name}={value}" for name, value in variables.items())])
        dodo = runpy.run_path(str(ROOT / "dodo.py"))
        yield dodo
        dodo["LOCK"].release()


def doit(variables: dict[str, str]) -> tuple[int, list[str]]:
    """What `make reproduce` starts, in this process: the exit status, and the lines that were printed."""
    said = io.StringIO()
    with loaded(variables) as dodo, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        dodo["DOIT_CONFIG"]["outfile"] = said
        status = DoitMain(ModuleTaskLoader(dodo)).run(["run"])
    assert "Traceback" not in said.getvalue(), said.getvalue()
    return status, said.getvalue().splitlines()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PROFILE": "light"}, "PROFILE=light needs DATASET=cub, ilsvrc or tiny_imagenet"),
        ({"DATASET": "things", "WORKER": "1"}, "unknown parameter 'worker' (did you mean 'workers'?); choose one of"),
    ],
)
def test_bad_value(tmp_path, variables, message):
    with pytest.raises(SystemExit) as error, loaded(variables | {"RESULTS": str(tmp_path / "results")}):
        pass
    assert str(error.value).startswith(message) and not (tmp_path / "results").exists()


def modified(folder: Path) -> dict[str, int]:
    """When each file of a run was written; the runner's own ones and the report's pages left out."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".html"}  # fmt: skip


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """Of a run whose folders have spaces in their names."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    tiny_imagenet(folder / "the data", train=16, test=2)  # 32 images: one batch of profile `light`
    weights = weights_file(folder / "small vgg.safetensors", models.SmallVGG(), "features.")
    return {
        "PROFILE": "light", "DATASET": "tiny_imagenet", "DATA_ROOT": str(folder / "the data"),
        "WEIGHTS": str(weights), "BACKBONE": "small_vgg", "SEEDS": "3", "RESULTS": str(folder / "my results"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(variables):
    """The results of the data set."""
    return Path(variables["RESULTS"], "light", "tiny_imagenet")


@pytest.fixture(scope="module")
def run(variables, folder):
    """(variables, results of the data set, what was said) of the run that comes to its end."""
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    status, said = doit(variables)
    assert status == 0, said
    after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    assert after == before, "a run changed a file that git tracks, or left one beside them"
    return variables, folder, said


@pytest.mark.fault(
    "two runs at once on the same results", "the first; the second says so in one line and writes nothing"
)
@pytest.mark.fault("a notebook's process is killed, as by the system where memory runs out", "earlier notebooks' files")
def test_two_at_once_and_a_kernel_is_killed(variables, folder):
    process = make("reproduce", variables)
    [_, kernel], running = until(process, "02_finetune_wgap"), folder / "notebooks" / ".running.02_finetune_wgap.ipynb"
    before = modified(folder)
    with pytest.raises(SystemExit, match=r"another run is writing to .*: wait for it, or name another folder by RES"):
        doit(variables)
    while not (running.is_file() and '"execution_count": 1' in running.read_text(encoding="utf-8")):
        assert process.poll() is None
        time.sleep(0.05)
    kernel.kill()
    text, _ = process.communicate(timeout=1800)
    assert process.returncode != 0 and "Traceback" not in text
    assert "02_finetune_wgap.ipynb, its process died (Kernel died), as happens when memory runs out: close" in text
    assert modified(folder) == before and "annotations.csv" in before


@pytest.mark.fault("SIGKILL of the whole run", "the notebooks that were finished: they are not executed again")
def test_the_run_is_killed(variables, folder):
    process = make("reproduce", variables)
    runner, kernel = until(process, "03_cam_recombination")
    runner.kill()
    text, _ = process.communicate()
    kernel.wait(timeout=1800)  # it ends by itself
    assert "01_dataset" not in text and (folder / "seed3" / "gap.safetensors").is_file()
    assert not (folder / "manifest.json").exists()


def test_whole_run(run):
    """It goes on with notebook 03, or 04 if it was killed so late."""
    variables, folder, said = run
    named = [name for name in ["00_overview", *ROAD] if name in " ".join(said)]
    assert named == ROAD[-len(named) :] and ROAD[1] not in named
    assert any("has no bands for this run" in line for line in said)
    executed = [path.stem for path in sorted((folder / "notebooks").glob("*.ipynb"))]
    assert executed == ROAD and (folder.parent / "notebooks" / "00_overview.ipynb").is_file()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["seed"]) == {3} and set(metrics["backbone"]) == {"small_vgg"}
    assert set(metrics["pooling"]) == {"gap", "wgap"}
    names = {"table.md", "table.csv", "fig2.png", "fig3.png", "fig4.png", "manifest.json", "annotations.csv"}
    assert names <= {path.name for path in folder.iterdir()}
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part") or path.name.startswith(".running")]
    assert variables["RESULTS"] not in (folder / "table.md").read_text(encoding="utf-8")


def test_the_figures_are_those_of_the_papers_equations(run):
    """From the stored networks to metrics.csv by Eqs. 1 to 3 and Sec. 4.3, written out here with torch and SciPy alone.

    Whatever a training gives on this processor: a pooling, recombination or rule that is another one is seen.
    """
    variables, folder, _ = run
    table = datasets.read_table(folder / "annotations.csv")
    test = table[table["split"] == "test"].reset_index(drop=True)
    photographs = datasets.ImageDataset(test, variables["DATA_ROOT"], datasets.test_transform(128))
    images, labels, boxes = datasets.collate([photographs[i] for i in range(len(test))])
    measured = pd.read_csv(folder / "metrics.csv").set_index(["pooling", "recombination", "threshold_rule"])
    seed, chosen_by = folder / "seed3", {"fixed": "recombination.npz", "first_above_mean": "thresholds.npz"}
    kept = {rule: np.load(seed / name) for rule, name in chosen_by.items()}
    for pooling in ("gap", "wgap"):
        state = load_file(seed / f"{pooling}.safetensors")
        body = models.SmallVGG().features.eval()
        body.load_state_dict({key[9:]: value for key, value in state.items() if key.startswith("backbone.")})
        with torch.inference_mode():
            F = body(images)  # (B, C, h, w)
        S = torch.softmax(F.flatten(2), dim=2).view_as(F)
        pooled = F.mean(dim=(2, 3)) if pooling == "gap" else (F * S).mean(dim=(2, 3))  # Eq. 1
        logits = pooled @ state["head.weight"].T + state["head.bias"]
        predictions = Predictions.load(seed / f"predictions_{pooling}")
        np.testing.assert_allclose(predictions.logits, logits, rtol=2e-3, atol=2e-3)  # kept in 16 bits
        w = state["head.weight"][labels][:, :, None, None]  # (B, C, 1, 1)
        weights = {"signed": w, "positive": w.clamp(min=0), "absolute": w.abs()}  # Eq. 2, M_p alone, Eq. 3
        for recombination, weight in weights.items():
            maps, stored = (weight * F).sum(dim=1), torch.from_numpy(predictions.maps(recombination))
            np.testing.assert_allclose(stored, maps, atol=1e-3 * float(maps.abs().max()))
            upsampled = nn.functional.interpolate(stored[:, None], size=(128, 128), mode="bilinear")[:, 0].numpy()
            for rule, file in kept.items():
                etas = [0.2 if rule == "fixed" else first_above_mean(one) for one in upsampled]
                found = [box_above(one, eta) for one, eta in zip(upsampled, etas, strict=True)]
                overlap = box_iou(torch.tensor(found).double(), torch.cat(boxes).double()).diagonal().numpy()
                names = zip(file["pooling"], file["recombination"], file["threshold_rule"], strict=True)
                np.testing.assert_allclose(file["iou"][list(names).index((pooling, recombination, rule))], overlap)
                row = measured.loc[pooling, recombination, rule]
                assert row["threshold"] == pytest.approx(np.mean(etas)) and row["n_images"] == len(test)
                assert row["gt_known"] == pytest.approx(100 * np.mean(overlap >= 0.5))
                assert row["top1_cls"] == 100 * (logits.argmax(dim=1) == labels).double().mean()


def first_above_mean(scores):
    """Sec. 4.3 for one map: the first η whose step D of V, the mean on the mask's inner boundary, is above D's mean."""
    if scores.max() <= 0:
        return 0.0
    scores, steps, before = scores / scores.max(), {}, None
    for eta in np.arange(21) / 20:
        mask = scores > np.float32(eta)
        boundary = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)))
        if boundary.any():
            if before is not None:
                steps[eta] = abs(scores[boundary].mean(dtype=np.float64) - before)
            before = scores[boundary].mean(dtype=np.float64)
    return next((eta for eta, step in steps.items() if step > np.mean(list(steps.values()))), 0.0)


def box_above(scores, eta):
    """The half-open box of the largest 8-connected component above η times the maximum."""
    parts, count = ndimage.label(scores > np.float32(eta) * scores.max(), np.ones((3, 3)))
    if scores.max() <= 0 or not count:
        return 0, 0, 0, 0
    rows, columns = np.nonzero(parts == 1 + np.bincount(parts.flat)[1:].argmax())
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_manifest_is_written_last_and_right(run):
    _, folder, _ = run
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    times = modified(folder)
    assert times.pop("manifest.json") >= max(times.values()) and set(manifest["sha256"]) == set(times)
    assert set(manifest["duration_seconds"]) == set(ROAD) and all(v > 0 for v in manifest["duration_seconds"].values())
    assert manifest["seeds"] == [3] and manifest["given"]["seeds"] == "3"


def test_report_opens_from_the_disk_alone(run):
    _, folder, said = run
    index, overview = folder.parent / "index.html", folder.parent / "notebooks" / "00_overview.html"
    assert said[-1] == f"report: {index}"
    found = [overview, *(folder / "notebooks" / f"{name}.html" for name in ROAD)]
    assert sorted(folder.parent.rglob("*.html")) == sorted([index, *found])
    assert all(check(page).all("math") for page in (overview, *found[2:5]))
    page = check(index)
    assert {f"tiny_imagenet/notebooks/{name}.html" for name in ROAD} <= {link["href"] for link in page.all("a")}
    assert "tiny_imagenet (light), small_vgg from small vgg, 4 images" in page.text


CUT_OFF = {"seed3/wgap.safetensors": "02", "seed3/predictions_wgap/scales.npy": "03", "metrics.csv": "05"}


@pytest.mark.fault(
    "a network, predictions or metrics.csv cut off in a finished run",
    "all else; the notebook that wrote it is executed again, and every table is the same to the byte",
)
@pytest.mark.fault("the report cannot be written", "the run: one line says so, and the next run makes the report")
def test_files_that_were_cut_off_are_made_again(run):
    """Another text of the plots executes notebook 02 again too, which finds the network that is whole."""
    variables, folder, _ = run
    tables, before = {path: path.read_bytes() for path in folder.rglob("*.csv")}, modified(folder)
    for name in CUT_OFF:
        content = (folder / name).read_bytes()
        cut = content[: len(content) // 2]
        (folder / name).write_bytes(cut[: cut.rindex(b"\n") + 1] if name.endswith(".csv") else cut)  # whole lines
    record = json.loads((folder.parent / ".doit.json").read_text(encoding="utf-8"))
    record[f"notebooks:tiny_imagenet:{ROAD[1]}"][PLOTS] = [0, 0, "another text than now"]
    (folder.parent / ".doit.json").write_text(json.dumps(record), encoding="utf-8")
    (folder.parent / "index.html").unlink()
    (folder.parent / "index.html").mkdir()
    status, said = doit(variables)
    [line] = [line for line in said if "report" in line and "taskid" not in line]
    assert status != 0 and line.startswith("the run is complete, but its report could not be made: ")
    assert [name[:2] for name in ROAD if name in " ".join(said)] == list(CUT_OFF.values())
    assert {path: path.read_bytes() for path in folder.rglob("*.csv")} == tables
    assert modified(folder)["seed3/gap.safetensors"] == before["seed3/gap.safetensors"]
    (folder.parent / "index.html").rmdir()


def test_make_finds_the_run_finished_and_verifies_it(run):
    variables, folder, _ = run
    before = modified(folder)
    assert doit(variables | {"CHECKPOINT_STEPS": ""}) == (0, [f"report: {folder.parent / 'index.html'}"])
    assert modified(folder) == before and (folder.parent / "index.html").is_file()
    printed, _ = make("verify", {"RESULTS": variables["RESULTS"]}, "--dry-run").communicate()
    _, *words = shlex.split(printed)
    assert words == ["-m", "wsol_utils", "verify", variables["RESULTS"]]
    verified = CliRunner().invoke(commands.main, words[2:])
    assert verified.exit_code == 0 and verified.output.splitlines()[-1] == "runs checked: 1, findings: 0"


def test_a_change_of_a_module_executes_the_notebooks_that_import_it(run):
    variables, _, _ = run
    with loaded(variables) as dodo:
        tasks = {"00_overview": dodo["task_overview"](), **dict(zip(ROAD, dodo["task_notebooks"](), strict=True))}

    def executed(module: str) -> list[str]:
        path = str(ROOT / "wsol_utils" / f"{module}.py")
        return [name[:2] for name, task in tasks.items() if path in task["file_dep"]]

    sources = {name: (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8") for name in tasks}
    assert executed("figures/plots") == [name[:2] for name, source in sources.items() if "plots." in source]
    assert executed("figures/tables") == ["02", "03", "04", "05"]  # beside 05, what is compared with the reference
    assert executed("experiment/stages") == ["02", "03"] and executed("scores/external/masks") == ["04"]
    assert not executed("runner/verify") and not executed("own_pictures/explorer")


@pytest.mark.fault(
    "a notebook fails half-way", "earlier files; notebook, cell, cause and remedy are named; no manifest"
)
def test_notebook_that_fails_is_named_with_its_remedy_and_leaves_no_manifest(run):
    """The last test: what it leaves is no whole run any more."""
    variables, folder, _ = run
    status, said = doit(variables | {"DATA_ROOT": str(folder / "nowhere")})
    text = "\n".join(said)
    assert status != 0
    assert "01_dataset_preparation.ipynb, cell " in text and "nowhere/wnids.txt: no such folder" in text
    assert "DATA_ROOT must be the folder that holds wnids.txt" in text and "02_finetune_wgap" not in text
    assert not (folder / "manifest.json").exists()
