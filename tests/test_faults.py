"""What goes wrong on the way, really provoked: killed processes, a full disk, no memory, photographs that vanish."""

import multiprocessing
import resource
import shlex
import shutil
import signal
import subprocess
import sys
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
from layouts_on_disk import cub

from wsol_utils import (
    datasets,
    experiments,
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

FEW = {"things": (2, 1), "birds": (3, 2)}


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
            pass
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
    sample.render(tmp_path / "whole" / "sample", per_class=FEW)
    expected, kills = contents(tmp_path / "whole" / "sample"), 0
    root = tmp_path / "killed" / "sample"
    for after in (0, 0.3):
        kills += Job(jobs.render, root).killed(after, lambda: any(root.parent.glob(".sample.*.part")))
        assert not root.exists() or contents(root) == expected
    assert kills
    sample.render(root, per_class=FEW)
    assert contents(root) == expected
    assert sorted(path.name for path in root.parent.iterdir()) == [".sample.lock", "sample"]


@pytest.mark.fault("SIGKILL while predictions are written", "the folder of the pass before, whole; or none")
def test_killed_while_predictions_are_written(tmp_path):
    root, path = jobs.photographs(tmp_path / "photographs", 16), tmp_path / "results" / "predictions"
    jobs.predictions(root, path, passes=1)
    before, left, whole = contents(path), lambda: list(path.parent.glob(".*.part")), 0
    for i in range(6):
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
    for i in range(8):
        assert Job(jobs.tables, path).killed(0.04 * i, path.exists)
        table = handover.read_csv(path)
        assert len(table) == jobs.ROWS and table["n"].nunique() == 1
        seen.add(int(table["n"].iloc[0]))
    assert len(seen) > 1


# A full disk.

TWO_MB = {
    "network": (lambda path: models.write({"a": torch.zeros(500_000)}, path, {}), "a.safetensors"),
    "table": (lambda path: handover.write_csv(pd.DataFrame({"a": np.arange(400_000)}), path), "a.csv"),
    "picture": (lambda path: plots.save(noise(), path), "a.png"),
    "predictions": (jobs.two_megabytes, "predictions"),
    "annotations": (lambda path: datasets.write_table(many_rows(), path), "annotations.csv"),
    "panels of Fig. 4": (lambda path: handover.save_panels(path, [{"image": np.zeros((900, 900, 3))}]), "fig4.npz"),
    "metadata": (lambda path: metadata.write_metadata(path.parent, many_rows()), "image_ids.txt"),
}


def noise():
    figure, axis = plots.plt.subplots(figsize=(20, 20), dpi=100)
    axis.imshow(np.random.default_rng(0).random((1500, 1500, 3)), interpolation="nearest")
    return figure


def many_rows():
    ids = [f"photographs/of/a/class/{i:06d}.jpg" for i in range(40_000)]
    return pd.DataFrame(
        {"image_id": ids, "path": ids, "split": "test", "label": 0, "class_name": "c", "width": 90, "height": 90,
         "boxes": [[(1.25, 2.25, 30.5, 40.5)]] * len(ids), "source": "list.txt"}
    )  # fmt: skip


@pytest.mark.fault(
    "the disk is full (a limit of 1 MB) while any file is written", "the old file; file and remedy are named"
)
@pytest.mark.parametrize("what", TWO_MB)
def test_disk_full(tmp_path, what):
    write, name = TWO_MB[what]
    path = tmp_path / name
    path.write_bytes(b"the old file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.raises(
            OSError, match=rf"{name} could not be written \(.+\): free some space there, then run again"
        ):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        plots.plt.close("all")
    assert path.read_bytes() == b"the old file" and not list(tmp_path.glob(".*"))
    write(path)
    assert max(file.stat().st_size for file in (path, *path.glob("*"))) > 10**6


IN_A_PLACE_OF_ITS_OWN = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")  # where it may mount a disk


@pytest.mark.fault(
    "the disk is full (one of 1 MB) while predictions are written through memory",
    "no SIGBUS: folder and remedy are named before the first row is written",
)
def test_predictions_on_a_full_disk(tmp_path):
    mounted = f"mount -t tmpfs -o size=1m none {shlex.quote(str(tmp_path))}"
    try:
        subprocess.run([*IN_A_PLACE_OF_ITS_OWN, mounted], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    words = shlex.join([sys.executable, jobs.__file__, "full_disk", str(tmp_path / "predictions")])
    command = f"{mounted} && exec {words}"
    tried = subprocess.run([*IN_A_PLACE_OF_ITS_OWN, command], capture_output=True, text=True)
    assert tried.returncode == 0, tried
    _, said, left = tried.stdout.splitlines()
    assert f"{tmp_path / 'predictions'} could not be written (No space left on device): free some space there" in said
    assert left == "[]"


@pytest.mark.fault("a folder may not be written to", "nothing is written; the folder and the remedy are named")
def test_read_only(tmp_path):
    root, results = jobs.photographs(tmp_path / "photographs", 4), tmp_path / "results"
    results.mkdir(mode=0o555)
    command = [sys.executable, jobs.__file__, "everything", root, results / "deep"]
    tried = subprocess.run(command, preexec_fn=jobs.without_rights, capture_output=True, text=True)
    said = tried.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in said] == ["started", "render", "predictions", "tables"], tried.stderr
    remedy = "could not be written (Permission denied): make its folder writable, or name another one (RESULTS"
    assert all(remedy in line for line in said[1:]) and not list(results.iterdir())


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


@pytest.fixture
def birds(tmp_path):
    """A run on twelve photographs up to its trained network: configuration and table."""
    cub(tmp_path / "data", train=4, test=2)
    config = experiments.configure(
        "cub", "light", data_root=str(tmp_path / "data"), results=str(tmp_path / "results"), backbone="small_vgg",
        image_size=32, resize_size=36, batch_size=4, epochs=1, device="cpu", threads=1, poolings="gap",
    )  # fmt: skip
    config = replace(config, weights="")
    table = preparation.prepare(config)
    stages.finetune(config, stages.network(config, "gap", 2, False), handover.split(config, table, "train"),
                    config.recipe("gap"), handover.checkpoint(config, 0, "gap"), 0, "scratch")  # fmt: skip
    return config, table


SPOILT = {
    "zero bytes": (lambda path: path.write_bytes(b""), r"an image that does not decode"),
    "gone": (lambda path: path.unlink(), r"was there when notebook 01 ran and is missing now; put it back"),
}


@pytest.mark.fault("a photograph is emptied, or vanishes, during a run", "the network; the photograph is named")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("how", SPOILT)
def test_a_photograph_is_spoilt_between_two_notebooks(birds, how, workers):
    config, table = replace(birds[0], workers=workers), birds[1]
    spoil, message = SPOILT[how]
    network, path = (
        handover.checkpoint(config, 0, "gap"),
        handover.prediction_folder(config, 0, "gap", config.conventions),
    )
    before, photograph = network.read_bytes(), config.root / handover.split(config, table, "test")["path"].iloc[2]
    content = photograph.read_bytes()
    spoil(photograph)
    with pytest.raises(datasets.DatasetError, match=rf"{photograph.name}(.|\n)*{message}"):
        stages.predicted(config, table, 0, "gap", False, config.conventions)
    assert network.read_bytes() == before and not path.exists() and not list(path.parent.glob(".*"))
    photograph.write_bytes(content)
    assert len(stages.predicted(config, table, 0, "gap", False, config.conventions).label) == 4


def test_a_photograph_is_spoilt_while_it_is_read(birds, monkeypatch):
    config, table = birds
    real, photograph = datasets.ImageDataset.frame, config.root / handover.split(config, table, "test")["path"].iloc[2]

    def emptied(dataset, index):
        photograph.write_bytes(b"")
        return real(dataset, index)

    monkeypatch.setattr(datasets.ImageDataset, "frame", emptied)
    with pytest.raises(datasets.DatasetError, match=rf"{photograph.name}: an image that does not decode"):
        stages.predicted(config, table, 0, "gap", False, config.conventions)
    assert not handover.prediction_folder(config, 0, "gap", config.conventions).exists()


@pytest.mark.fault('a bad photograph with on_bad_image="skip"', "the run; skipped.csv lists it, n_skipped counts it")
def test_bad_photographs_are_left_out(tmp_path):
    cub(tmp_path / "data", train=2, test=3)
    config = experiments.configure("cub", "light", data_root=str(tmp_path / "data"), results=str(tmp_path / "results"))
    listed = datasets.read_cub(config.root)
    first, other = (config.root / path for path in listed[listed["split"] == "test"]["path"].iloc[[0, 3]])
    first.write_bytes(first.read_bytes()[:200])
    other.unlink()
    with pytest.raises(datasets.DatasetError, match=rf"{first.name}.*2 of 10 are bad"):
        preparation.prepare(config)  # by default
    config = replace(config, on_bad_image="skip")
    table = preparation.prepare(config)
    assert len(table) == 8 and len(handover.split(config, table, "test")) == 4
    left = handover.skipped(config)
    assert left["path"].tolist() == [path.relative_to(config.root).as_posix() for path in (first, other)]
    assert "missing image" in left["reason"].iloc[1] and not left["reason"].str.contains(str(tmp_path)).any()
    rows = pd.DataFrame([["wgap"] * len(handover.METRICS_COLUMNS)], columns=handover.METRICS_COLUMNS)
    assert handover.described(config, rows)["n_skipped"].tolist() == [2]
