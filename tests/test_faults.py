"""What goes wrong on the way, really provoked: killed processes, a full disk, no memory, photographs that vanish."""

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import jobs
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from wsol_utils import (
    datasets,
    handover,
    loader,
    metadata,
    models,
    plots,
    preparation,
    sample,
    stages,
    training,
)
from wsol_utils.maps.predictions import Predictions


class Job:
    """A function of `jobs` in a process of its own, forked where `jobs` is imported already; it has begun."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")
        self.said, end = context.Pipe(duplex=False)
        self.process = context.Process(target=jobs.reporting, args=(end, function, *arguments))
        self.process.start()
        end.close()
        assert self.said.recv() == "started"

    def killed(self, after: float, when: Callable[[], bool] = lambda: True) -> bool:
        """SIGKILL so many seconds later, and not before something holds; False if it was through by then."""
        self.process.join(after)
        while self.process.is_alive() and not when():
            time.sleep(0.001)
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def error(self) -> str:
        """The error that it ends with."""
        return self.said.recv()


@pytest.fixture(scope="module", autouse=True)
def server():
    """Where jobs are forked; it has its own path to import from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(jobs.__file__).parent))
        multiprocessing.get_context("forkserver").set_forkserver_preload(["jobs"])
        forkserver.ensure_running()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# SIGKILL.


@pytest.mark.fault("SIGKILL while the sample is rendered", "the rendering that was there; run again, the same bytes")
def test_killed_while_the_sample_is_rendered(tmp_path):
    sample.render(tmp_path / "whole" / "sample", per_class=jobs.FEW)
    expected, kills = contents(tmp_path / "whole" / "sample"), 0
    root = tmp_path / "killed" / "sample"
    for after in (0, 0.3):
        kills += Job(jobs.render, root).killed(after, lambda: any(root.parent.glob(".sample.*.part")))
        assert not root.exists() or contents(root) == expected
    assert kills
    sample.render(root, per_class=jobs.FEW)
    assert contents(root) == expected
    assert sorted(path.name for path in root.parent.iterdir()) == [".sample.lock", "sample"]


@pytest.mark.fault("SIGKILL while predictions are written", "the folder of the pass before, whole; or none")
def test_killed_while_predictions_are_written(tmp_path):
    root, path = jobs.photographs(tmp_path / "photographs", 16), tmp_path / "results" / "predictions"
    jobs.predictions(root, path, passes=1)
    before, left, whole = contents(path), lambda: list(path.parent.glob(".*.part")), 0
    for i in range(4):
        for old in left():
            shutil.rmtree(old)
        assert Job(jobs.predictions, root, path).killed(0.07 * i, left)  # with a pass half written
        assert contents(path) == before or not path.exists()  # pass after pass gives the same
        whole += path.exists()
    assert whole
    jobs.predictions(root, path, passes=1)
    assert contents(path) == before and len(Predictions.load(path).label) == 16


@pytest.mark.fault("SIGKILL while a table is written", "the old table or the new one, whole")
def test_killed_while_a_table_is_written(tmp_path):
    path, seen = tmp_path / "metrics.csv", set()
    for i in range(5):
        assert Job(jobs.tables, path).killed(0.05 * i, path.exists)
        table = handover.read_csv(path)
        assert len(table) == jobs.ROWS and table["n"].nunique() == 1
        seen.add(int(table["n"].iloc[0]))
    assert len(seen) > 1


# A full disk.


def noise(path):
    figure, axis = plots.plt.subplots()
    axis.imshow(np.random.default_rng(0).random((300, 300, 3)), interpolation="nearest")
    plots.save(figure, path)


def many_rows():
    ids = [f"photographs/of/a/class/{i:06d}.jpg" for i in range(3000)]
    return pd.DataFrame(
        {"image_id": ids, "path": ids, "split": "test", "label": 0, "class_name": "c", "width": 90, "height": 90,
         "boxes": [[(1.25, 2.25, 30.5, 40.5)]] * len(ids), "source": "list.txt"}
    )  # fmt: skip


LARGE = {  # more than the 64 KiB that the disk takes
    "network": (lambda path: models.write({"a": torch.zeros(50_000)}, path, {}), "a.safetensors"),
    "table": (lambda path: handover.write_csv(pd.DataFrame({"a": np.arange(40_000)}), path), "a.csv"),
    "picture": (noise, "a.png"),
    "predictions": (jobs.two_megabytes, "predictions"),
    "annotations": (lambda path: datasets.write_table(many_rows(), path), "annotations.csv"),
    "panels of Fig. 4": (lambda path: handover.save_panels(path, [{"image": np.zeros((90, 90, 3))}]), "fig4.npz"),
    "metadata": (lambda path: metadata.write_metadata(path.parent, many_rows()), "image_ids.txt"),
}


@pytest.mark.fault(
    "the disk is full (a limit of 64 KiB) while any file is written", "the old file; file and remedy are named"
)
@pytest.mark.parametrize("what", LARGE)
def test_disk_full(tmp_path, what, small_disk):
    write, name = LARGE[what]
    path = tmp_path / name
    path.write_bytes(b"the old file")
    with pytest.raises(OSError, match=rf"{name} could not be written \(.+\): free some space there, then run again"):
        write(path)
    assert path.read_bytes() == b"the old file" and not list(tmp_path.glob(".*"))
    plots.plt.close("all")


@pytest.mark.fault(
    "the disk is full in training (a limit of 64 KiB)", "the table of annotations; no network is half there"
)
def test_disk_full_in_training(small_cub, small_disk):
    config = small_cub(poolings="gap", epochs=2)
    table, network = preparation.prepare(config), handover.checkpoint(config, 0, "gap")
    before = contents(config.folder)
    message = (
        r"gap\.resume\.pt could not be written \(File too large\): free some space there, then run again; what was f"
    )
    with pytest.raises(OSError, match=message):
        stages.train(config, table, 0, "gap", config.weights)
    assert contents(config.folder) == before and not network.exists()


@pytest.mark.fault("the results folder is read-only", "nothing is written; one line names it and RESULTS")
@pytest.mark.fault("a folder may not be written to", "nothing is written; the folder and the remedy are named")
def test_read_only(tmp_path):
    root, results = jobs.photographs(tmp_path / "photographs", 4), tmp_path / "results"
    results.mkdir(mode=0o555)
    said = Job(jobs.everything, root, results / "deep").error().removeprefix("RuntimeError: ").splitlines()
    refused = [*(f"{name} (PermissionError)" for name in ("render", "predictions", "tables")), "runner (SystemExit)"]
    assert [line.split(":")[0] for line in said] == refused
    remedy = "could not be written (Permission denied): make its folder writable, or name another one (RESULTS"
    assert all(remedy in line for line in said) and not list(results.iterdir())


# Processes that decode, memory, photographs.


@pytest.mark.fault(
    "a process that decodes photographs is killed", "the last checkpoint; the message says what to lower"
)
def test_a_worker_is_killed(tmp_path):
    root = jobs.photographs(tmp_path / "photographs", 16)
    loader = jobs.loader(root, datasets.train_transform(36, 32, 2))
    loader.memory, loader.workers = 0, 1
    torch.manual_seed(0)
    recipe, path = training.Recipe(3, 4, lr=1e-2, head_multiplier=16.0, weight_decay=0.0), tmp_path / "a.safetensors"
    model, real = models.build("small_vgg", 2, "wgap"), training._Run._keep
    here = psutil.Process()

    def then_killed(run, last):
        real(run, last)
        for child in here.children():
            if child.cmdline() == here.cmdline():  # forked, as the loader's workers are
                child.kill()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Run, "_keep", then_killed)
        message = r"a process that decodes photographs died \(.*lower workers \(now 1\), then run again"
        with pytest.raises(RuntimeError, match=message):
            training.fit(model, loader, recipe, path, keep_every=1)
    assert not path.exists() and path.with_suffix(".resume.pt").is_file()
    training.fit(model, loader, recipe, path, keep_every=1)
    torch.manual_seed(0)
    whole = models.build("small_vgg", 2, "wgap")
    training.fit(whole, jobs.loader(root, datasets.train_transform(36, 32, 2)), recipe, tmp_path / "b.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


@pytest.mark.fault("memory runs out on a batch that is too large", "the message names the batch and what to lower")
def test_out_of_memory(tmp_path):
    """In a process that may take 300 MB more than it has."""
    job = Job(jobs.too_large, jobs.photographs(tmp_path / "photographs", 8), tmp_path / "a.safetensors")
    said = job.error()
    assert said.startswith("MemoryError: batches of 8 images do not fit into memory (") and "allocate memory" in said
    assert "lower batch_size or cache_gb, or close other programs, then run again; what was finished is kept" in said
    assert not (tmp_path / "a.safetensors").exists()


def test_memory_of_other_kinds():
    for error in (MemoryError("numpy"), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")):
        with (
            pytest.raises(MemoryError, match=r"batches of 64 images do not fit into memory"),
            loader.enough_memory(64, "batch_size"),
        ):
            raise error
    with pytest.raises(RuntimeError, match="of another kind"), loader.enough_memory(64, "batch_size"):
        raise RuntimeError("of another kind")


@pytest.mark.fault("a photograph is emptied, or vanishes, during a run", "the network; the photograph is named")
def test_a_photograph_is_spoilt_between_two_notebooks(trained):
    config, table = trained
    network = handover.checkpoint(config, 0, "wgap")
    before, photograph = network.read_bytes(), config.root / handover.split(config, table, "test")["path"].iloc[2]
    content = photograph.read_bytes()
    for spoil, message in (
        (lambda: photograph.unlink(), "was there when notebook 01 ran and is missing now; put it back"),
        (lambda: photograph.write_bytes(b""), "an image that does not decode"),
    ):
        spoil()
        with pytest.raises(datasets.DatasetError, match=rf"{photograph.name}(.|\n)*{message}"):
            stages.predicted(config, table, 0, "wgap", False, config.conventions)
        assert network.read_bytes() == before and not list(config.folder.rglob("*predictions*"))
    photograph.write_bytes(content)
    assert len(stages.predicted(config, table, 0, "wgap", False, config.conventions).label) == 4


@pytest.mark.fault('a bad photograph with on_bad_image="skip"', "the run; skipped.csv lists it, n_skipped counts it")
def test_bad_photographs_are_left_out(small_cub):
    config = small_cub()
    listed = datasets.read_cub(config.root)
    first, other = (config.root / path for path in listed[listed["split"] == "test"]["path"].iloc[[0, 3]])
    first.write_bytes(first.read_bytes()[:200])
    other.unlink()
    with pytest.raises(datasets.DatasetError, match=rf"{first.name}.*2 of 14 are bad\); .*unpack"):
        preparation.prepare(config)  # by default
    config = replace(config, on_bad_image="skip")
    table = preparation.prepare(config)
    assert len(table) == 12 and len(handover.split(config, table, "test")) == 2
    left = handover.read_csv(config.folder / "skipped.csv")
    assert left["path"].tolist() == [path.relative_to(config.root).as_posix() for path in (first, other)]
    assert "missing image" in left["reason"].iloc[1] and not left["reason"].str.contains(str(config.root)).any()
    rows = pd.DataFrame([["wgap"] * len(handover.METRICS_COLUMNS)], columns=handover.METRICS_COLUMNS)
    assert handover.described(config, rows)["n_skipped"].tolist() == [2]
