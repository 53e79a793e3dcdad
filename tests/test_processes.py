"""Several processes on the CPU do what one alone does; two machines, a process that dies; and SIGKILL for one."""

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import jobs
import pytest
import torch
from click.testing import CliRunner
from layouts_on_disk import ROOT, cub, weights_file
from safetensors.torch import load_file

from wsol_utils import __main__ as commands
from wsol_utils import models, processes
from wsol_utils.maps.predictions import FILES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def server():
    """Where processes are forked, with torch imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'tests'}{os.pathsep}{ROOT}")
        multiprocessing.get_context("forkserver").set_forkserver_preload(["jobs"])
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory):
    return jobs.photographs(tmp_path_factory.mktemp("sixteen") / "photographs", 16)


@pytest.fixture(scope="module")
def done(tmp_path_factory, sixteen):
    """The folders of one process, and of two, that have done the same; seven photographs are shared as four and three.

    The two start as they do for a user.
    """
    seven = jobs.photographs(tmp_path_factory.mktemp("seven") / "photographs", 7)
    folders, threads = {count: tmp_path_factory.mktemp(f"by {count}") for count in (1, 2)}, torch.get_num_threads()
    torch.set_num_threads(1)
    jobs.everything_together(sixteen, seven, folders[1])
    torch.set_num_threads(threads)
    processes.launch(2, "cpu", jobs.everything_together, sixteen, seven, folders[2])
    return folders


def assert_equal(a: Path, b: Path) -> None:
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def said(folder: Path, rank: int = 0) -> dict:
    return json.loads((folder / f"said.{rank}").read_text())


@pytest.mark.fault("SIGKILL in training, at any moment", "the last checkpoint; the run ends with the same bits")
def test_killed_at_any_moment_it_ends_with_the_same_bits(sixteen, tmp_path, done):
    """SIGKILL after random times from the first step on, until a run comes through."""
    path, moments, kills = tmp_path / "killed.safetensors", random.Random(0), 0
    while not path.is_file():
        said, end = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=jobs.reporting, args=(end, jobs.train, sixteen, path))
        process.start()
        assert said.recv() == "started"
        process.join(0.05 + kills * moments.uniform(0.1, 0.4))  # longer and longer, so that it ends
        kills += process.is_alive()
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    assert_equal(path, done[1] / "epochs.safetensors")
    assert kills


# Two processes, one machine.


def test_collective_functions(done):
    assert said(done[1])["sums"] == [1, [1.0, 0.0], [{"rank": 0}]]  # alone, all of them do nothing
    assert [said(done[2], rank)["sums"] for rank in range(2)] == [
        [2, [2.0, 1.0], [{"rank": 0}, {"rank": 1}]], [2, [2.0, 1.0], None]
    ]  # fmt: skip
    assert (processes.rank(), processes.size(), processes.launched()) == (0, 1, False)


def test_a_step_of_two_processes_is_that_of_one(done):
    files = [done[count] / "step.safetensors" for count in (1, 2)]
    one, two = map(load_file, files)
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-10, atol=1e-10)
    first, second = (json.loads(models.read_metadata(file)["history"])[0] for file in files)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-10) and second["accuracy"] == first["accuracy"]


@pytest.mark.parametrize(
    "number, count", list(enumerate([26, 3]))
)  # seven batches, the last one of two; a process has none
def test_two_processes_predict_what_one_does(done, number, count):
    """To the last digit, into the same files; batches are dealt out in turn."""
    for name in FILES:
        assert (done[1] / f"{count}" / name).read_bytes() == (done[2] / f"{count}" / name).read_bytes(), name
    asked = [said(done[2], rank)["asked"][number] for rank in range(2)]
    assert asked == [[i for i in range(count) if i // 4 % 2 == rank] for rank in range(2)]
    assert not list(done[2].glob(".*"))


@pytest.mark.fault("one of several processes that train is killed", "the last checkpoint; all start again from there")
def test_a_process_that_dies_is_started_again_from_the_last_checkpoint(sixteen, tmp_path, done, monkeypatch):
    monkeypatch.setattr(processes, "START", "forkserver")
    processes.launch(2, "cpu", jobs.killed_in_mid_epoch, sixteen, tmp_path / "killed.safetensors", tmp_path / "log")
    assert_equal(tmp_path / "killed.safetensors", done[2] / "epochs.safetensors")
    steps = [len((tmp_path / f"log.{rank}").read_text().splitlines()) for rank in (0, 1)]
    # twelve in all; what was kept before the sixth or seventh is not done again
    assert 12 <= steps[1] <= 13 and 12 <= steps[0] <= 14


def test_an_error_in_a_process_is_one_line_with_its_message(monkeypatch):
    monkeypatch.setattr(processes, "START", "forkserver")
    monkeypatch.setattr(processes, "RESTARTS", 0)
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed: .*ValueError: the remedy is such and such"):
        processes.launch(2, "cpu", jobs.one_fails, "the remedy is such and such")


# Two machines, each with an agent of torchrun.


def test_two_machines_train_by_the_command_line(tmp_path):
    """One process alone, with the same values, finds the network finished."""
    cub(tmp_path / "cub", train=4, test=3)
    weights = weights_file(tmp_path / "small.safetensors", models.SmallVGG(), "features.")
    command = [
        "train", "cub", "--profile", "paper", "--data-root", tmp_path / "cub", "--weights", weights, "--backbone",
        "small_vgg", "--poolings", "wgap", "--results", tmp_path / "results", "-p", "image_size", "32",
        "-p", "resize_size", "36", "-p", "batch_size", "4", "-p", "epochs", "2",
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend",
           "c10d", "--rdzv-endpoint", f"localhost:{port}", "-m", "wsol_utils", *map(str, command)]  # fmt: skip
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    agents = [subprocess.Popen(run, cwd=ROOT, env=environment, **pipes) for _ in range(2)]
    said = [agent.communicate(timeout=1800)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert "".join(said).count("wgap.safetensors is there") == 1  # one of them speaks, and writes
    folder = tmp_path / "results" / "paper" / "cub" / "seed0"
    [path] = folder.iterdir()
    assert path.name == "wgap.safetensors"
    assert len(json.loads(models.read_metadata(path)["history"])) == 2
    before = path.stat().st_mtime_ns
    assert CliRunner().invoke(commands.main, [*map(str, command)]).exit_code == 0
    assert path.stat().st_mtime_ns == before
