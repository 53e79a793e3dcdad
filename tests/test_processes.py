"""Several processes on the CPU: the same step as one alone, two machines, a process that dies; and SIGKILL for one."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import torch
from layouts_on_disk import ROOT, cub, weights_file
from safetensors.torch import load_file

from wsol_utils import models, processes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory):
    return jobs.photographs(tmp_path_factory.mktemp("sixteen") / "photographs", 16)


def assert_equal(a: Path, b: Path) -> None:
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# Alone.


def test_alone_everything_is_a_no_op():
    assert (processes.rank(), processes.size(), processes.launched()) == (0, 1, False)
    assert processes.gather("mine") == ["mine"]
    values = torch.tensor([1.0])
    processes.add(values)
    processes.wait()
    with processes.group("cpu"):
        assert processes.size() == 1
    assert values.tolist() == [1.0]


@pytest.mark.fault("SIGKILL in training, at any moment", "the last checkpoint; the run ends with the same bits")
def test_killed_at_any_moment_it_ends_with_the_same_bits(sixteen, tmp_path):
    """SIGKILL after random times from the first step on, until a run comes through."""
    jobs.three_epochs(sixteen, tmp_path / "whole.safetensors")
    checkpoint = tmp_path / "killed.safetensors"
    command = [sys.executable, jobs.__file__, "train", str(sixteen), str(checkpoint)]
    moments, kills = random.Random(0), 0
    while not checkpoint.is_file():
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "TQDM_DISABLE": "1"})
        assert process.stdout.readline() == b"started\n"
        try:
            process.wait(0.05 + kills * moments.uniform(0.1, 0.4))  # longer and longer, so that it ends
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
        process.stdout.close()
    assert_equal(checkpoint, tmp_path / "whole.safetensors")
    assert kills


# Two processes, one machine.


def test_collective_functions(tmp_path):
    processes.launch(2, "cpu", jobs.sums, tmp_path / "sums")
    assert (tmp_path / "sums").read_text() == repr((2, [2.0, 1.0], [{"rank": 0}, {"rank": 1}]))


def test_a_step_of_two_processes_is_that_of_one(tmp_path):
    """Seven images: four for the first process, three for the second."""
    root = jobs.photographs(tmp_path / "photographs", 7)
    jobs.one_step(root, tmp_path / "one.safetensors")
    processes.launch(2, "cpu", jobs.one_step, root, tmp_path / "two.safetensors")
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-10, atol=1e-10)
    history = [models.read_metadata(tmp_path / f"{name}.safetensors")["history"] for name in ("one", "two")]
    first, second = (json.loads(text)[0] for text in history)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-10) and second["accuracy"] == first["accuracy"]


@pytest.mark.fault("one of several processes that train is killed", "the last checkpoint; all start again from there")
def test_a_process_that_dies_is_started_again_from_the_last_checkpoint(sixteen, tmp_path):
    processes.launch(2, "cpu", jobs.three_epochs, sixteen, tmp_path / "whole.safetensors")
    processes.launch(2, "cpu", jobs.killed_in_mid_epoch, sixteen, tmp_path / "killed.safetensors", tmp_path / "log")
    assert_equal(tmp_path / "killed.safetensors", tmp_path / "whole.safetensors")
    steps = [len((tmp_path / f"log.{rank}").read_text().splitlines()) for rank in (0, 1)]
    # twelve in all; what was kept before the sixth or seventh is not done again
    assert 12 <= steps[1] <= 13 and 12 <= steps[0] <= 14


def test_an_error_in_a_process_is_one_line_with_its_message(tmp_path):
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed: .*ValueError: the remedy is such and such"):
        processes.launch(2, "cpu", jobs.one_fails, "the remedy is such and such", restarts=0)


def test_a_batch_smaller_than_the_processes(sixteen, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 5)
    with pytest.raises(ValueError, match="batch_size 4 is less than an image for each of 5 processes"):
        jobs.three_epochs(sixteen, tmp_path / "a.safetensors")


# Two machines, each with an agent of torchrun.


def test_two_machines_train_and_predict_by_the_command_line(tmp_path):
    cub(tmp_path / "cub", train=4, test=3)
    weights = weights_file(tmp_path / "small.safetensors", models.SmallVGG(), "features.")
    results = tmp_path / "results"
    values = [
        "cub", "--profile", "paper", "--data-root", tmp_path / "cub", "--weights", weights, "--backbone", "small_vgg",
        "--poolings", "wgap", "--results", results, "-p", "image_size", "32", "-p", "resize_size", "36",
        "-p", "batch_size", "4", "-p", "epochs", "2",
    ]  # fmt: skip

    def both(command: str) -> str:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        run = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "-m", "wsol_utils"]  # fmt: skip
        agents = [
            subprocess.Popen([*run, command, *map(str, values)], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True,
                             env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})
            for _ in range(2)
        ]  # fmt: skip
        said = [agent.communicate(timeout=1800)[0] for agent in agents]
        assert [agent.returncode for agent in agents] == [0, 0], said
        return "".join(said)

    assert both("train").count("wgap.safetensors is trained") == 1  # one of them speaks, and writes
    folder = results / "paper" / "cub" / "seed0"
    checkpoint = folder / "wgap.safetensors"
    epochs = json.loads(models.read_metadata(checkpoint)["history"])
    assert len(epochs) == 2
    assert both("predict").count("predictions_wgap is written") == 1
    before = {path: path.stat().st_mtime_ns for path in (checkpoint, folder / "predictions_wgap")}
    for command in ("train", "predict"):  # one process alone finds them finished
        subprocess.run([sys.executable, "-m", "wsol_utils", command, *map(str, values)], cwd=ROOT, check=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(path.name for path in folder.iterdir()) == ["predictions_wgap", "wgap.safetensors"]
